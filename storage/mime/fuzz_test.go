package mime

import (
	"bytes"
	"errors"
	"io"
	mediatype "mime"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/cockroachdb/datadriven"
)

// addGolden makes seeds of all golden messages.
func addGolden(f *testing.F, add func(raw []byte)) {
	f.Helper()
	t := &testing.T{}
	datadriven.RunTest(t, "testdata/golden/messages", func(_ *testing.T, d *datadriven.TestData) string {
		add(goldenBytes(d))
		return d.Expected
	})
}

func FuzzScan(f *testing.F) {
	addGolden(f, func(raw []byte) { f.Add(raw) })
	f.Add([]byte("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: message/rfc822\r\n--b"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, s := mustScan(t, raw)
		header := raw[:s.HeaderLen()]
		for f, rest, ok := nextField(header); ok; f, rest, ok = nextField(rest) {
			if text := DecodeHeader(string(f.value)); !utf8.ValidString(text) {
				t.Fatalf("decoded %q to %q", f.value, text)
			}
		}
		for i := range s.Parts {
			p := &s.Parts[i]
			body := bytes.NewReader(raw[p.Body:p.End])
			if _, err := io.Copy(io.Discard, TextReader(body, p.Encoding, p.Charset)); err != nil {
				t.Fatalf("text of part %d: %v", i, err)
			}
		}
	})
}

func FuzzParseSummary(f *testing.F) {
	addGolden(f, func(raw []byte) {
		m, err := Scan(bytes.NewReader(raw))
		if err != nil {
			f.Fatal(err)
		}
		s := m.Summary()
		f.Add(s.Append(nil))
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSummary(b)
		if err != nil {
			if !errors.Is(err, ErrSummary) {
				t.Fatalf("error %v is no ErrSummary", err)
			}
			return
		}
		s.AppendBody(nil)
		s.HeaderFields([]string{"subject"})
		for _, path := range [][]int{nil, {1}, {0}, {-1}, {2}, {1, 1}, {1, 2, 1}} {
			for kind := SectionWhole; kind <= SectionMIME; kind++ {
				if off, n, ok := s.Locate(path, kind); ok && (off < 0 || n < 0 || off+n > s.Size()) {
					t.Fatalf("locate %v %d: [%d,+%d) of %d", path, kind, off, n, s.Size())
				}
			}
		}
		again, err := ParseSummary(s.Append(nil))
		if err != nil || again.Size() != s.Size() {
			t.Fatalf("parse again: %v", err)
		}
	})
}

func FuzzAddresses(f *testing.F) {
	f.Add(`A Group: "x" <a@b>, c@d (e);, <@r:f@g>`)
	f.Add("<@,<@,<@(\\")
	f.Fuzz(func(t *testing.T, value string) {
		var list []Address
		parseAddresses(value, func(a Address) { list = append(list, a) })
		if err := checkGrammar(appendAddresses(nil, list), (*grammar).addresses); err != nil {
			t.Fatal(err)
		}
		for _, a := range Addresses([]byte(value)) {
			if !utf8.ValidString(a) && utf8.ValidString(value) {
				t.Fatalf("address %q of %q", a, value)
			}
		}
	})
}

// FuzzParams compares with the standard library where that reads a value at all.
func FuzzParams(f *testing.F) {
	f.Add(`text/plain; name*1=b; name*0*=utf-8'en'%C3%A9; charset*0=iso; charset*1="-8859-1"; a*2=x`)
	f.Add(`attachment; filename*=utf-8''%c3%a4; filename=x; b*0="1"; b*1*=%41; c*0*=us-ascii''%2A; c*1=%`)
	f.Fuzz(func(t *testing.T, value string) {
		parseContentType(value)
		parseDisposition(value)
		params := DecodedParams([]byte(value))
		length := 0
		for _, p := range params {
			length += len(p.Name) + len(p.Value)
			if !utf8.ValidString(p.Value) && utf8.ValidString(value) {
				t.Fatalf("%q: decoded %q", value, p)
			}
		}
		if length > 4*len(value) {
			t.Fatalf("%q: %d bytes of parameters", value, length)
		}
		brokenEscape := regexp.MustCompile(`%([0-9A-Fa-f]?([^0-9A-Fa-f]|$))`)
		if strings.ContainsAny(value, "\\\r\n(") || strings.Contains(value, "=?") || brokenEscape.MatchString(value) {
			return // the library has ideas of its own
		}
		_, rest := cutParams(value)
		if slices.ContainsFunc(parseParams(rest), func(p Param) bool {
			return strings.HasSuffix(p.Name, "*0*") && strings.Count(p.Value, "'") < 2
		}) {
			return // no charset: it drops such a piece
		}
		_, oracle, err := mediatype.ParseMediaType(value)
		if err != nil {
			return
		}
		for name, want := range oracle {
			if name != "" && want != "" && utf8.ValidString(want) && !slices.Contains(params, Param{name, want}) {
				t.Fatalf("%q: %s is %q in %q", value, name, want, params)
			}
		}
	})
}

// TestHostileFields runs what could make a parser go over the same bytes again and again; each would take minutes.
func TestHostileFields(t *testing.T) {
	for _, unit := range []string{
		"<@,", "<@a:", `"`, `\`, "(", "(a)", "=?a?q?", "=?a?b?=", "[", "@[", "<[", ":", ";", "=;", `a="`, ") ", " )", "=?utf-8?q?a?= ",
		"<a:", "<a:>", ">", "a*0=b;", "a*0*=''%41;", "a*=;", "('",
	} {
		s := strings.Repeat(unit, maxAddressBytes*4/len(unit))
		parseAddresses(s, func(Address) {})
		parseContentType("a/b;" + s)
		parseContentType(s)
		parseDisposition(s)
		DecodedParams([]byte("a;" + s))
		Addresses([]byte(s))
		DecodeHeader(s)
	}
}
