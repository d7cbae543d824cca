package mime

import (
	"bytes"
	"errors"
	"io"
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
		parseContentType(value)
		parseDisposition(value)
	})
}

// TestHostileFields runs what could make a parser go over the same bytes again and again; each would take minutes.
func TestHostileFields(t *testing.T) {
	for _, unit := range []string{
		"<@,", "<@a:", `"`, `\`, "(", "(a)", "=?a?q?", "=?a?b?=", "[", "@[", "<[", ":", ";", "=;", `a="`, ") ", " )", "=?utf-8?q?a?= ",
	} {
		s := strings.Repeat(unit, maxAddressBytes*4/len(unit))
		parseAddresses(s, func(Address) {})
		parseContentType("a/b;" + s)
		parseContentType(s)
		DecodeHeader(s)
	}
}
