package mime

import (
	"bytes"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// example has the structure of the one in RFC 3501 section 6.4.5, with parts of its own.
const example = "Subject: outer\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" +
	"--b\r\nContent-Type: text/plain\r\n\r\none\r\n" +
	"--b\r\nContent-Type: message/rfc822\r\n\r\n" +
	"Subject: two\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n" +
	"--c\r\nX: 1\r\n\r\ntwo.one\r\n--c\r\nContent-Type: message/rfc822\r\n\r\nSubject: two.two\r\n\r\ntwo.two text\r\n--c--\r\n" +
	"--b--\r\n"

func TestLocate(t *testing.T) {
	_, s := mustScan(t, []byte(example))
	inner := "--c\r\nX: 1\r\n\r\ntwo.one\r\n--c\r\nContent-Type: message/rfc822\r\n\r\nSubject: two.two\r\n\r\ntwo.two text\r\n--c--"
	innerHeader := "Subject: two\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n"
	const none = "(none)"
	for _, c := range []struct {
		path []int
		kind SectionKind
		want string
	}{
		{nil, SectionWhole, example},
		{nil, SectionHeader, "Subject: outer\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"},
		{nil, SectionText, example[strings.Index(example, "--b"):]},
		{nil, SectionMIME, none},
		{[]int{1}, SectionWhole, "one"},
		{[]int{1}, SectionMIME, "Content-Type: text/plain\r\n\r\n"},
		{[]int{1}, SectionHeader, none},
		{[]int{1}, SectionText, none},
		{[]int{1, 1}, SectionWhole, none},
		{[]int{2}, SectionWhole, innerHeader + inner},
		{[]int{2}, SectionMIME, "Content-Type: message/rfc822\r\n\r\n"},
		{[]int{2}, SectionHeader, innerHeader},
		{[]int{2}, SectionText, inner},
		{[]int{2, 1}, SectionWhole, "two.one"},
		{[]int{2, 1}, SectionMIME, "X: 1\r\n\r\n"},
		{[]int{2, 2}, SectionWhole, "Subject: two.two\r\n\r\ntwo.two text"},
		{[]int{2, 2}, SectionHeader, "Subject: two.two\r\n\r\n"},
		{[]int{2, 2}, SectionText, "two.two text"},
		{[]int{2, 2, 1}, SectionWhole, "two.two text"},
		{[]int{2, 2, 1}, SectionMIME, "Subject: two.two\r\n\r\n"},
		{[]int{2, 2, 2}, SectionWhole, none},
		{[]int{2, 2, 1, 1}, SectionWhole, none},
		{[]int{2, 3}, SectionWhole, none},
		{[]int{3}, SectionWhole, none},
		{[]int{0}, SectionWhole, none},
		{[]int{-1}, SectionWhole, none},
	} {
		off, n, ok := s.Locate(c.path, c.kind)
		got := none
		if ok {
			got = example[off : off+n]
		}
		if got != c.want {
			t.Errorf("locate %v %d: got %q, want %q", c.path, c.kind, got, c.want)
		}
	}
}

func TestLocateRootMessage(t *testing.T) {
	raw := "Content-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\ntext"
	_, s := mustScan(t, []byte(raw))
	for _, c := range []struct {
		path []int
		kind SectionKind
		want string
	}{
		{nil, SectionText, "Subject: in\r\n\r\ntext"},
		{nil, SectionHeader, "Content-Type: message/rfc822\r\n\r\n"},
		{[]int{1}, SectionHeader, "Subject: in\r\n\r\n"},
		{[]int{1}, SectionMIME, "Content-Type: message/rfc822\r\n\r\n"},
		{[]int{1, 1}, SectionWhole, "text"},
	} {
		off, n, ok := s.Locate(c.path, c.kind)
		if !ok || raw[off:off+n] != c.want {
			t.Errorf("locate %v %d: got [%d,+%d) %v, want %q", c.path, c.kind, off, n, ok, c.want)
		}
	}
}

func TestFilterHeader(t *testing.T) {
	const header = "From: a\r\nsubject : b\r\n\tc\r\nX-1: d\r\njunk\r\nFROM: e\r\n\r\nFrom: body\r\n"
	for _, c := range []struct {
		header string
		names  []string
		not    bool
		want   string
	}{
		{header, []string{"from"}, false, "From: a\r\nFROM: e\r\n\r\n"},
		{header, []string{"SUBJECT", "x-1", "none"}, false, "subject : b\r\n\tc\r\nX-1: d\r\n\r\n"},
		{header, []string{"from", "Subject"}, true, "X-1: d\r\njunk\r\n\r\n"},
		{header, nil, false, "\r\n"},
		{"", nil, true, "\r\n"},
		{"From: unfinished", []string{"From"}, false, "From: unfinished\r\n\r\n"},
		{"A: 1\nB: 2\n\n", []string{"b"}, false, "B: 2\n\r\n"},
	} {
		if got := string(FilterHeader([]byte(c.header), c.names, c.not)); got != c.want {
			t.Errorf("filter %q by %q, not %v: got %q, want %q", c.header, c.names, c.not, got, c.want)
		}
	}
}

// TestFieldListInSteps: many choices of one header, read and copied in steps of any size, and from any place on, are
// what a plain reading gives.
func TestFieldListInSteps(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	pool := []string{"A", "b", "C-d", "From", "none"}
	var l FieldList
	for range 300 {
		var header strings.Builder
		var fields []field
		for range rng.IntN(12) {
			name := pool[rng.IntN(4)]
			raw := []string{name + ": x\r\n", strings.ToUpper(name) + " :y\n\tz\r\n", "junk\r\n"}[rng.IntN(3)]
			if raw == "junk\r\n" {
				name = ""
			}
			fields = append(fields, field{raw: []byte(raw), name: []byte(name)})
			header.WriteString(raw)
		}
		ending := []string{"\r\nA: of the body\r\n", "", "From: unfinished"}[rng.IntN(3)]
		if header.WriteString(ending); ending == "From: unfinished" {
			fields = append(fields, field{raw: []byte(ending + "\r\n"), name: []byte("From")})
		}
		var names FieldNames
		var choices []*FieldChoice
		var wants []string
		for range 1 + rng.IntN(4) {
			chosen, not := pool[:rng.IntN(len(pool)+1)], rng.IntN(2) == 0
			choices = append(choices, names.Choose(chosen, not))
			want := ""
			for _, f := range fields {
				if slices.Contains(chosen, string(f.name)) != not {
					want += string(f.raw)
				}
			}
			wants = append(wants, want+"\r\n")
		}
		l.Begin(&names, []byte(header.String()))
		for step := 1 + rng.IntN(20); l.Read(step); {
		}
		for i, c := range choices {
			if got := l.Len(c); got != int64(len(wants[i])) {
				t.Fatalf("%q, choice %+v: %d bytes, want %d", header.String(), c, got, len(wants[i]))
			}
			skip := rng.IntN(len(wants[i]))
			var got []byte
			l.Choose(c, int64(skip))
			for done := false; !done; {
				var n int
				dst := make([]byte, 1+rng.IntN(10))
				n, done = l.Copy(dst, 1+rng.IntN(3))
				got = append(got, dst[:n]...)
			}
			if string(got) != wants[i][skip:] {
				t.Fatalf("%q, choice %+v from %d on: got %q, want %q", header.String(), c, skip, got, wants[i][skip:])
			}
		}
	}
}

func TestHeaderFields(t *testing.T) {
	_, s := mustScan(t, []byte("Received: by x\r\nFrom: a@b\r\nList-ID: <l>\r\n\r\n"))
	got, ok := s.HeaderFields([]string{"LIST-ID", "Subject"})
	if want := "List-ID: <l>\r\n\r\n"; !ok || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, ok, want)
	}
	if _, ok := s.HeaderFields([]string{"from", "received"}); ok {
		t.Error("received is not kept, but was served")
	}
}

func TestTextReader(t *testing.T) {
	for _, c := range []struct{ body, encoding, charset, want string }{
		{"plain", "7bit", "", "plain"},
		{"gr\xe4n", "8bit", "ISO-8859-1", "grän"},
		{"gr\xc3\xa4n", "8bit", "us-ascii", "grän"},
		{"gr\xe4n", "x-unknown", "x-unknown", "gr\xe4n"},
		{"gr=C3=A4n=20=\r\nx=\ny=zz=4=", "Quoted-Printable", "utf-8", "grän xy=zz=4="},
		{"aGVs\r\nbG8=d29ybGQ=", "base64", "", "helloworld"},
		{"a!G-V:s b\x00G8", "BASE64", "", "hello"},
		{"aGVsbG8gd29ybGQh", "base64", "", "hello world!"},
		{"YQ", "base64", "", "a"},
		{"Y", "base64", "", ""},
		{"8NLJ18XU", "base64", "koi8-r", "Привет"},
	} {
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"whole":  func(r io.Reader) io.Reader { return r },
			"1 byte": iotest.OneByteReader,
		} {
			r := TextReader(wrap(strings.NewReader(c.body)), c.encoding, c.charset)
			got, err := io.ReadAll(wrap(r))
			if err != nil || string(got) != c.want {
				t.Errorf("%s: %q, %s, %q: got %q, %v, want %q", name, c.body, c.encoding, c.charset, got, err, c.want)
			}
		}
	}
}

func TestParseSummaryRefuses(t *testing.T) {
	_, s := mustScan(t, []byte(example))
	whole := s.Append(nil)
	for n := range len(whole) {
		if _, err := ParseSummary(whole[:n]); err == nil {
			t.Fatalf("accepted the first %d of %d bytes", n, len(whole))
		}
	}
	for name, b := range map[string][]byte{
		"longer":  append(bytes.Clone(whole), 0),
		"version": append([]byte{2}, whole[1:]...),
	} {
		if _, err := ParseSummary(b); err == nil {
			t.Errorf("accepted: %s", name)
		}
	}
}
