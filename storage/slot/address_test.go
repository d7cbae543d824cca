package slot

import (
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	long := strings.Repeat("a", MaxAddressLen-len("@example.org"))
	for _, c := range []struct{ in, want string }{ // want "": refused
		{`u1@example.org`, `u1@example.org`},
		{`U1@Example.ORG`, `u1@example.org`},
		{`"U1"@example.org`, `u1@example.org`},
		{`"u1+foo"@example.org`, `u1+foo@example.org`},
		{`"\u\1"@example.org`, `u1@example.org`},
		{`"U1+Foo Bar"@example.org`, `"u1+foo bar"@example.org`},
		{`"u1\ x"@example.org`, `"u1 x"@example.org`},
		{`"a@b"@example.org`, `"a@b"@example.org`},
		{`"a\"b\\c"@example.org`, `"a\"b\\c"@example.org`},
		{`"<>"@example.org`, `"<>"@example.org`},
		{`" "@example.org`, `" "@example.org`},
		{`jürgen@example.org`, `jürgen@example.org`},
		{`"JÜRGEN"@example.org`, `jürgen@example.org`},
		{`u1@[192.0.2.1]`, `u1@[192.0.2.1]`},
		// Not legal without quotes, but seen, and never ambiguous.
		{`a..b@example.org`, `a..b@example.org`},
		{`".a."@example.org`, `.a.@example.org`},
		{`a(b@example.org`, `"a(b"@example.org`},
		{`a,b@example.org`, `"a,b"@example.org`},
		{long + `@example.org`, long + `@example.org`},

		{``, ``}, {`u1`, ``}, {`@example.org`, ``}, {`u1@`, ``}, {`""@example.org`, ``},
		{`u 1@example.org`, ``}, {`a@b@example.org`, ``}, {`a"b@example.org`, ``}, {`a\b@example.org`, ``}, {`<u1@example.org>`, ``},
		{`"u1@example.org`, ``}, {`"u1\"@example.org`, ``}, {`"u1"x@example.org`, ``}, {`"u"1"@example.org`, ``}, {`u1"@example.org`, ``},
		{"\"u\t1\"@example.org", ``}, {"\"u\\\x001\"@example.org", ``}, {"u\xff@example.org", ``}, {"\"u\\\xff\"@example.org", ``},
		{`u1@exa mple.org`, ``}, {`u1@"example.org"`, ``}, {"u1@example\n.org", ``}, {`u1@example.org>`, ``},
		{long + `x@example.org`, ``},
		{long[1:] + `,@example.org`, ``}, // too long with its quotes
	} {
		got, err := ParseAddress(c.in)
		if string(got) != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%q: got %q, %v, want %q", c.in, got, err, c.want)
		}
	}
}

func TestWithoutDetail(t *testing.T) {
	for in, want := range map[string]string{
		`u1+foo@example.org`:         `u1@example.org`,
		`u1+foo+bar@example.org`:     `u1@example.org`,
		`"u1+foo bar"@example.org`:   `u1@example.org`,
		`"u1+a@b"@example.org`:       `u1@example.org`,
		`"u1+"@example.org`:          `u1@example.org`,
		`"john smith+x"@example.org`: `"john smith"@example.org`,
		`u1@example.org`:             ``,
		`+foo@example.org`:           ``,
		`u1@ex+ample.org`:            ``,
	} {
		a, err := ParseAddress(in)
		if err != nil {
			t.Fatal(err)
		}
		got, found := a.WithoutDetail()
		if found != (want != "") || found && string(got) != want || !found && got != a {
			t.Errorf("%q: got %q, %v, want %q", in, got, found, want)
		}
	}
}

// FuzzAddress: what is accepted is normal, within its length, and has one line.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{`u1@example.org`, `"u1+foo bar"@example.org`, `"\""@d`, `"a@b"@d`, "ſK@d", "İ+x@d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if again, err := ParseAddress(string(a)); err != nil || again != a {
			t.Fatalf("%q: %q becomes %q, %v", s, a, again, err)
		}
		if len(a) > MaxAddressLen || strings.ContainsFunc(string(a), isControl) {
			t.Fatalf("%q: %q", s, a)
		}
		if b, found := a.WithoutDetail(); found {
			if again, err := ParseAddress(string(b)); err != nil || again != b {
				t.Fatalf("%q without detail: %q becomes %q, %v", s, b, again, err)
			}
		}
	})
}
