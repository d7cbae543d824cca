package wire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestLineLiteral(t *testing.T) {
	tests := []struct {
		line string
		want Literal
		ok   bool
	}{
		{"a LOGIN {5}\r\n", Literal{5, true}, true},
		{"a LOGIN {5+}\r\n", Literal{5, false}, true},
		{"{0}", Literal{0, true}, true},
		{"{0007+}", Literal{7, false}, true},
		{"{99999999999999999999999}", Literal{1<<63 - 1, true}, true},
		{"{4294967295}", Literal{4294967295, true}, true},
		{`"{5}"`, Literal{}, false},
		{"{}", Literal{}, false},
		{"{+}", Literal{}, false},
		{"5}", Literal{}, false},
		{"{-5}", Literal{}, false},
		{"{5} ", Literal{}, false},
	}
	for _, tt := range tests {
		got, ok := LineLiteral([]byte(tt.line))
		if got != tt.want || ok != tt.ok {
			t.Errorf("LineLiteral(%q) = %v, %v, want %v, %v", tt.line, got, ok, tt.want, tt.ok)
		}
	}
}

func TestReaderLines(t *testing.T) {
	in := "a NOOP\r\nb X\nrest of literal" + strings.Repeat("x", 9000) + "\r\n"
	for _, src := range []io.Reader{strings.NewReader(in), iotest.OneByteReader(strings.NewReader(in)), iotest.DataErrReader(strings.NewReader(in))} {
		r := NewReader(src, NewBuffers(256))
		if err := r.Wait(); err != nil {
			t.Fatal(err)
		}
		var lines []string
		for range 2 {
			line, err := r.ReadLine(nil, 100)
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, string(line))
		}
		if diff := cmp.Diff([]string{"a NOOP\r\n", "b X\r\n"}, lines); diff != "" {
			t.Error(diff)
		}
		if lit, err := r.ReadFull(nil, 15); err != nil || string(lit) != "rest of literal" {
			t.Errorf("ReadFull = %q, %v", lit, err)
		}
		if _, err := r.ReadLine(nil, 8000); !errors.Is(err, ErrTooLong) {
			t.Errorf("ReadLine of a long line = %v, want ErrTooLong", err)
		}
	}
	r := NewReader(strings.NewReader("half"), NewBuffers(64))
	if _, err := r.ReadLine(nil, 100); err != io.ErrUnexpectedEOF {
		t.Errorf("ReadLine of half a line = %v", err)
	}
}

func TestDecoder(t *testing.T) {
	d := NewDecoder([]byte("t1 LOGIN {3}\r\nfoo \"b\\\"r\" (\\Seen $Junk) 1:*,7 INBOX {5+}\r\nhello 17-Jul-1996 \" 1-Feb-1994 02:44:25 -0700\"\r\n"))
	got := []any{d.Tag(), func() string { d.SP(); return d.Keyword() }()}
	d.SP()
	got = append(got, d.AString())
	d.SP()
	got = append(got, d.AString())
	d.SP()
	got = append(got, d.FlagList())
	d.SP()
	got = append(got, d.Set())
	d.SP()
	got = append(got, d.Mailbox())
	d.SP()
	got = append(got, d.String())
	d.SP()
	got = append(got, d.Date().Format("2006-01-02"))
	d.SP()
	got = append(got, d.DateTime().UTC().Format("2006-01-02T15:04:05"))
	d.End()
	want := []any{"t1", "LOGIN", "foo", `b"r`, []string{`\Seen`, "$Junk"}, Set{{1, 0}, {7, 7}}, "INBOX", "hello", "1996-07-17", "1994-02-01T09:44:25"}
	if diff := cmp.Diff(want, got); diff != "" || d.Err() != nil {
		t.Error(d.Err(), diff)
	}
}

func TestDecoderRefuses(t *testing.T) {
	for _, tt := range []struct {
		text  string
		parse func(d *Decoder)
	}{
		{"", func(d *Decoder) { d.Atom() }},
		{`"abc`, func(d *Decoder) { _ = d.String() }},
		{`"a\x"`, func(d *Decoder) { _ = d.String() }},
		{"{5}\r\nabc", func(d *Decoder) { _ = d.String() }},
		{"{3}\r\na\x00c", func(d *Decoder) { _ = d.String() }},
		{"0", func(d *Decoder) { d.Set() }},
		{"1:", func(d *Decoder) { d.Set() }},
		{"1,", func(d *Decoder) { d.Set() }},
		{"4294967296", func(d *Decoder) { d.Number() }},
		{"99999999999999999999", func(d *Decoder) { d.Number64() }},
		{"(a", func(d *Decoder) { d.FlagList() }},
		{"(a{b)", func(d *Decoder) { d.FlagList() }},
		{"(a", func(d *Decoder) { d.List(func() { d.Atom() }); d.End() }},
		{"a b", func(d *Decoder) { d.Atom(); d.End() }},
		{"\"17-Jul-1996 02:44:61 -0700\"", func(d *Decoder) { d.DateTime() }},
		{"\"17-Jul-1996 02:44:600-0700\"", func(d *Decoder) { d.DateTime() }},
		{"\"17-Jul-1996 02:60:60 -0700\"", func(d *Decoder) { d.DateTime() }},
		{"32-Jan-2020", func(d *Decoder) { d.Date() }},
		{"&AAA", func(d *Decoder) { d.Mailbox() }},
		{"+x", func(d *Decoder) { d.Tag() }},
		{"x y", func(d *Decoder) { d.Atom(); d.End() }},
	} {
		d := NewDecoder([]byte(tt.text))
		tt.parse(d)
		if d.Err() == nil {
			t.Errorf("parse %q: no error", tt.text)
		}
	}
}

// Spaces before ")", behind "(" and at the end separate nothing; elsewhere many
// are one.
func TestDecoderSpaces(t *testing.T) {
	for _, text := range []string{"a (b c) d", "a  (b c) d", "a ( b c) d", "a (b c ) d", "a (b  c)  d", "a (b c) d ", "a   (   b   c   )   d   ", "a (b c) d  \r\n"} {
		d := NewDecoder([]byte(text))
		got := []string{d.Atom()}
		d.SP()
		d.List(func() { got = append(got, d.Atom()) })
		more := d.Try(' ')
		got = append(got, d.Atom())
		again := d.Try(' ')
		end := d.AtEnd()
		d.End()
		if strings.Join(got, "") != "abcd" || !more || again || !end || d.Err() != nil {
			t.Errorf("%q: got %q, %v, %v, %v, %v", text, got, more, again, end, d.Err())
		}
	}
	for _, text := range []string{"()", "( )", "(   ) \r\n"} {
		d := NewDecoder([]byte(text))
		d.List(func() { t.Errorf("%q has a member", text) })
		if d.End(); d.Err() != nil {
			t.Errorf("%q: %v", text, d.Err())
		}
	}
	d := NewDecoder([]byte("\" a \"  {3}\r\n c  \r\n"))
	a := d.String()
	d.SP()
	b := d.String()
	if d.End(); a != " a " || b != " c " || d.Err() != nil {
		t.Errorf("spaces in strings: %q, %q, %v", a, b, d.Err())
	}
}

// A string that is no mailbox name is no error of syntax.
func TestDecoderNames(t *testing.T) {
	for _, text := range []string{"&AAA", "bad&name", "&-&AGE-", "\"caf\xe9\"", "\"caf\xc3\xa9\""} {
		d := NewDecoder([]byte(text + " more"))
		d.Mailbox()
		d.SP()
		more := d.Atom()
		var name *NameError
		if d.End(); d.Failed() || !errors.As(d.Err(), &name) || more != "more" {
			t.Errorf("%q: %v, then %q", text, d.Err(), more)
		}
	}
	d := NewDecoder([]byte("&AAA )"))
	d.Mailbox()
	d.End()
	var syntax *SyntaxError
	if !errors.As(d.Err(), &syntax) {
		t.Errorf("a wrong name, and wrong syntax behind it: %v, want the syntax", d.Err())
	}
}

func TestLeapSecond(t *testing.T) {
	for in, want := range map[string]string{
		"30-Jun-2015 23:59:60 +0000": "2015-06-30T23:59:59Z",
		"31-Dec-2016 18:59:60 -0500": "2016-12-31T23:59:59Z",
		" 1-Jan-2017 00:59:60 +0100": "2016-12-31T23:59:59Z",
	} {
		d := NewDecoder([]byte(`"` + in + `"`))
		if got := d.DateTime().UTC().Format(time.RFC3339); got != want || d.Err() != nil {
			t.Errorf("%s: got %s, %v, want %s", in, got, d.Err(), want)
		}
	}
}

func TestSetResolve(t *testing.T) {
	tests := []struct {
		in   string
		star uint32
		want Set
	}{
		{"5:3,1", 10, Set{{1, 1}, {3, 5}}},
		{"1:2,3,4:*", 6, Set{{1, 6}}},
		{"12:*", 10, Set{{10, 12}}},
		{"*", 0, Set{}},
		{"1:*", 0, Set{{1, 1}}},
		{"4294967295:*,1", 4294967295, Set{{1, 1}, {4294967295, 4294967295}}},
	}
	for _, tt := range tests {
		d := NewDecoder([]byte(tt.in))
		if diff := cmp.Diff(tt.want, d.Set().Resolve(tt.star)); diff != "" {
			t.Errorf("%q with * = %d: %s", tt.in, tt.star, diff)
		}
	}
	s := Set{{3, 5}, {9, 9}}
	for n, want := range map[uint32]bool{2: false, 3: true, 5: true, 6: false, 9: true, 10: false} {
		if s.Contains(n) != want {
			t.Errorf("Contains(%d) = %v", n, !want)
		}
	}
	if got := string(AppendNums(nil, []uint32{1, 2, 3, 7, 6, 9, 10})); got != "1:3,7,6,9:10" {
		t.Errorf("AppendNums = %s", got)
	}
}

func TestUTF7(t *testing.T) {
	for name, want := range map[string]string{
		"INBOX": "INBOX", "Entwürfe": "Entw&APw-rfe", "A&B": "A&-B", "台北": "&U,BTFw-", "~peter/mail/台北/日本語": "~peter/mail/&U,BTFw-/&ZeVnLIqe-",
		"😀": "&2D3eAA-", "\tx": "&AAk-x",
	} {
		if got := EncodeUTF7(name); got != want {
			t.Errorf("EncodeUTF7(%q) = %q, want %q", name, got, want)
		}
		if got, err := DecodeUTF7(want); err != nil || got != name {
			t.Errorf("DecodeUTF7(%q) = %q, %v", want, got, err)
		}
	}
	for _, bad := range []string{"&", "&A", "&AGE-", "&U,BTFw-&ZeVnLIqe-", "ü", "a\x01", "&2D0-", "&3gDYPQ-", "&AP=-", "&//8", "&APx-"} {
		if got, err := DecodeUTF7(bad); err == nil {
			t.Errorf("DecodeUTF7(%q) = %q, want an error", bad, got)
		}
	}
}

func TestUTF7RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.String().Filter(utf8.ValidString).Draw(t, "name")
		enc := EncodeUTF7(name)
		if got, err := DecodeUTF7(enc); err != nil || got != name {
			t.Fatalf("%q became %q, then %q, %v", name, enc, got, err)
		}
	})
}

// TestWriterStrings reads back what was written.
func TestWriterStrings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Filter(func(s string) bool { return !strings.Contains(s, "\x00") }).Draw(t, "s")
		var out bytes.Buffer
		w := NewWriter(&out, NewBuffers(WriterBufferBytes))
		w.String(s).Byte(' ').AString(s).CRLF()
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		d := NewDecoder(out.Bytes())
		one := d.String()
		d.SP()
		two := d.AString()
		d.End()
		if d.Err() != nil || one != s || two != s {
			t.Fatalf("%q was written as %q, read as %q and %q, %v", s, out.String(), one, two, d.Err())
		}
	})
}

func TestWriterCopyAt(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789"), 20_000)
	var out bytes.Buffer
	w := NewWriter(&out, NewBuffers(WriterBufferBytes))
	w.Str("head ")
	if err := w.CopyAt(bytes.NewReader(body), 3, int64(len(body)-3)); err != nil {
		t.Fatal(err)
	}
	w.Str(" tail").Flush()
	if got, want := out.String(), "head "+string(body[3:])+" tail"; got != want {
		t.Errorf("%d bytes came out, want %d", len(got), len(want))
	}
	if err := w.CopyAt(bytes.NewReader(body), 0, int64(len(body)+1)); err == nil || w.Err() == nil {
		t.Error("a body that is too short: no error that sticks")
	}
}

// FuzzDecoder: whatever comes, framing ends, limits hold, parsing does not panic.
func FuzzDecoder(f *testing.F) {
	for _, s := range []string{"a LOGIN {3}\r\nfoo {3+}\r\nbar\r\n", "a FETCH 1:*,3 (BODY[1.2.HEADER.FIELDS (A B)]<1.2>)\r\n",
		"a SEARCH CHARSET UTF-8 OR (NOT 1:2) \"x\\\"\" 1-Feb-1994\r\n", "a APPEND &U,BTFw- (\\Seen) \"17-Jul-1996 02:44:25 -0700\" {5}\r\n", "{99999999999}\r\n", "\r\n", "(((((("} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		const limit = 512
		r := NewReader(iotest.HalfReader(bytes.NewReader(in)), NewBuffers(64))
		text, err := r.ReadLine(nil, limit)
		for err == nil {
			lit, ok := LineLiteral(text)
			if !ok || lit.Size > limit {
				break
			}
			if text, err = r.ReadFull(text, int(lit.Size)); err == nil {
				text, err = r.ReadLine(text, limit)
			}
			if len(text) > len(in)+2*limit {
				t.Fatalf("%d bytes framed of %d", len(text), len(in))
			}
		}
		for _, text := range [][]byte{text, in} {
			for _, parse := range []func(d *Decoder){
				func(d *Decoder) { d.AString(); d.SP(); d.Mailbox() },
				func(d *Decoder) { d.Set().Resolve(7).Contains(3); d.SP(); d.FetchKeyword() },
				func(d *Decoder) { d.FlagList(); d.SP(); d.DateTime(); d.AtLiteralEnd() },
				func(d *Decoder) { d.List(func() { d.Date(); d.SP(); d.Number() }) },
				func(d *Decoder) { d.ListMailbox(); d.SP(); _ = d.String(); d.End() },
			} {
				d := NewDecoder(text)
				d.Tag()
				d.SP()
				d.Keyword()
				d.SP()
				parse(d)
				if d.pos > len(text) {
					t.Fatalf("position %d beyond %d", d.pos, len(text))
				}
			}
		}
	})
}
