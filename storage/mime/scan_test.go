package mime

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/cockroachdb/datadriven"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// fataler is what fataler and rapid.T have in common.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// mustScan scans raw and checks everything that holds for any message.
func mustScan(t fataler, raw []byte) (*Message, Summary) {
	t.Helper()
	m, err := Scan(bytes.NewReader(raw))
	if err != nil {
		t.Fatalf("scan: %v", err)
	}
	if m.Size != int64(len(raw)) || m.Root.Header != 0 || m.Root.End != m.Size {
		t.Fatalf("size %d, root [%d,%d): message has %d bytes", m.Size, m.Root.Header, m.Root.End, len(raw))
	}
	checkPart(t, raw, m.Root, 0, m.Size)
	s := m.Summary()
	if err := checkGrammar(s.Envelope, (*grammar).envelope); err != nil {
		t.Fatalf("envelope %v", err)
	}
	if err := checkGrammar(s.BodyStructure, (*grammar).bodyStructure); err != nil {
		t.Fatalf("bodystructure %v", err)
	}
	if err := checkGrammar(s.AppendBody(nil), (*grammar).body); err != nil {
		t.Fatalf("body %v", err)
	}
	encoded := s.Append(nil)
	again, err := ParseSummary(encoded)
	if err != nil {
		t.Fatalf("parse own summary: %v", err)
	}
	if d := cmp.Diff(s, again, cmp.AllowUnexported(Summary{}, cut{})); d != "" {
		t.Fatalf("summary changed by its codec (-before +after):\n%s", d)
	}
	checkSections(t, &again, raw)
	return m, s
}

// checkPart checks that p is inside [from, to), its children in order inside its body, and its lines counted right.
func checkPart(t fataler, raw []byte, p *Part, from, to int64) {
	t.Helper()
	if p.Header < from || p.Body < p.Header || p.End < p.Body || p.End > to {
		t.Fatalf("part [%d,%d,%d) is not inside [%d,%d)", p.Header, p.Body, p.End, from, to)
	}
	if got := int64(bytes.Count(raw[p.Body:p.End], []byte{'\n'})); got != p.Lines {
		t.Fatalf("part [%d,%d): %d lines counted, has %d", p.Body, p.End, p.Lines, got)
	}
	at := p.Body
	for _, c := range p.Children {
		checkPart(t, raw, c, at, p.End)
		at = c.End
	}
}

// checkSections checks that every part is found under its own number, and that ListHeaders answers as the header does.
func checkSections(t fataler, s *Summary, raw []byte) {
	t.Helper()
	for i := range s.Parts {
		path := partNumber(s, i)
		if path == nil {
			continue
		}
		if got, ok := s.Find(path); !ok || got != i {
			t.Fatalf("find %v: got %d, %v, want %d", path, got, ok, i)
		}
		for kind := SectionWhole; kind <= SectionMIME; kind++ {
			if off, n, ok := s.Locate(path, kind); ok && (off < 0 || n < 0 || off+n > s.Size()) {
				t.Fatalf("locate %v %d: [%d,+%d) of %d", path, kind, off, n, s.Size())
			}
		}
	}
	names := []string{"From", "SUBJECT", "Content-Type", "x-label"}
	if got, ok := s.HeaderFields(names); ok && s.HeaderLen() <= maxHeaderBytes {
		want := FilterHeader(raw[:s.HeaderLen()], names, false)
		if !bytes.Equal(got, want) {
			t.Fatalf("header fields: got %q, want %q", got, want)
		}
	}
}

// partNumber returns a part's section number; nil for a multipart that is a message, which has none of its own.
func partNumber(s *Summary, index int) []int {
	var path []int
	at, whole := 0, true
	for {
		p := s.Parts[at]
		if whole && p.Kind != KindMultipart {
			path, whole = append(path, 1), false
		}
		if at == index {
			if whole {
				return nil
			}
			return path
		}
		n := 1
		for at++; index >= s.after(at); n++ {
			at = s.after(at)
		}
		if whole = p.Kind == KindMessage; !whole {
			path = append(path, n)
		}
	}
}

func TestGolden(t *testing.T) {
	datadriven.Walk(t, "testdata/golden", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "message":
				return describe(t, goldenBytes(d))
			case "encode":
				_, s := mustScan(t, goldenBytes(d))
				return hex.Dump(s.Append(nil))
			case "addresses":
				var list []Address
				parseAddresses(d.Input, func(a Address) { list = append(list, a) })
				return string(appendAddresses(nil, list)) + "\n"
			case "decode":
				return DecodeHeader(d.Input) + "\n"
			case "type":
				typ, subtype, params := parseContentType(d.Input)
				return fmt.Sprintf("%s/%s %q\n", typ, subtype, params)
			case "disposition":
				word, params := parseDisposition(d.Input)
				return fmt.Sprintf("%q %q %q\n", word, params, DecodedParams([]byte(d.Input)))
			}
			d.Fatalf(t, "unknown command %q", d.Cmd)
			return ""
		})
	})
}

// goldenBytes makes a message of a golden file's text: a line "." is empty, \0 \xNN are bytes, and lines end with CRLF
// or, with the argument lf, with LF. The argument cut drops the last line end.
func goldenBytes(d *datadriven.TestData) []byte {
	if d.Input == "" {
		return nil
	}
	lineEnd := "\r\n"
	if d.HasArg("lf") {
		lineEnd = "\n"
	}
	var out strings.Builder
	for line := range strings.Lines(d.Input + "\n") {
		line = strings.TrimSuffix(line, "\n")
		if line == "." {
			line = ""
		}
		line = strings.NewReplacer(`\0`, "\x00", `\xE4`, "\xe4", `\t`, "\t", `\s`, " ").Replace(line)
		out.WriteString(line + lineEnd)
	}
	text := out.String()
	if d.HasArg("cut") {
		text = strings.TrimSuffix(text, lineEnd)
	}
	return []byte(text)
}

func describe(t *testing.T, raw []byte) string {
	t.Helper()
	_, s := mustScan(t, raw)
	var b strings.Builder
	show := func(name string, wire []byte) {
		text := strings.ReplaceAll(string(wire), "}\r\n", "}!")
		fmt.Fprintf(&b, "%s %s\n", name, strings.Trim(fmt.Sprintf("%+q", text), `"`))
	}
	unquote := func(name string, wire []byte) {
		if bytes.ContainsFunc(wire, func(r rune) bool { return r < ' ' || r > '~' }) {
			show(name, wire)
			return
		}
		fmt.Fprintf(&b, "%s %s\n", name, wire)
	}
	unquote("envelope", s.Envelope)
	unquote("structure", s.BodyStructure)
	unquote("body", s.AppendBody(nil))
	for i, p := range s.Parts {
		number := "-"
		if path := partNumber(&s, i); path != nil {
			number = strings.Trim(strings.ReplaceAll(fmt.Sprint(path), " ", "."), "[]")
		}
		content := raw[p.Body:p.End]
		more := ""
		if len(content) > 32 {
			content, more = content[:32], "..."
		}
		fmt.Fprintf(&b, "part %s [%d,%d,%d) %s/%s lines %d: %+q%s\n",
			number, p.Header, p.Body, p.End, p.Type, p.Subtype, p.Lines, content, more)
	}
	fmt.Fprintf(&b, "size %d header %d list headers %d\n", s.Size(), s.HeaderLen(), len(s.ListHeaders))
	return b.String()
}

// TestScanReads shows that what a reader returns at once makes no difference.
func TestScanReads(t *testing.T) {
	raw := bigMessage(3000)
	want, err := Scan(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]io.Reader{
		"one byte": iotest.OneByteReader(bytes.NewReader(raw)),
		"half":     iotest.HalfReader(bytes.NewReader(raw)),
		"with eof": iotest.DataErrReader(bytes.NewReader(raw)),
	} {
		got, err := Scan(r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d := cmp.Diff(want, got, cmp.AllowUnexported(Message{})); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// TestScanLines puts messages together from the lines that mean something to the scanner, which no fuzzer finds soon.
func TestScanLines(t *testing.T) {
	lines := rapid.SampledFrom([]string{
		"", "", "", "text", "--", "--a", "--a", "--a--", "--b", "--b ", "--b--", "--ab", "--ab--", "--a--x", "-", " ",
		"Content-Type: multipart/mixed; boundary=a", "Content-Type: multipart/digest; boundary=b",
		"Content-Type: multipart/mixed; boundary=ab", "Content-Type: multipart/x; boundary=a--",
		"Content-Type: message/rfc822", "Content-Type: message/global", "Content-Type: text/html", "Subject: s",
	})
	rapid.Check(t, func(t *rapid.T) {
		var raw strings.Builder
		for _, line := range rapid.SliceOfN(lines, 0, 40).Draw(t, "lines") {
			raw.WriteString(line + rapid.SampledFrom([]string{"\r\n", "\r\n", "\n", "\r\r\n", ""}).Draw(t, "end"))
		}
		m, _ := mustScan(t, []byte(raw.String()))
		slow, err := Scan(iotest.OneByteReader(strings.NewReader(raw.String())))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(m, slow, cmp.AllowUnexported(Message{})); d != "" {
			t.Fatalf("byte by byte (-whole +bytes):\n%s", d)
		}
	})
}

func TestScanReaderError(t *testing.T) {
	cause := errors.New("disk on fire")
	_, err := Scan(io.MultiReader(strings.NewReader("Subject: x\r\n\r\n"), iotest.ErrReader(cause)))
	if !errors.Is(err, cause) {
		t.Errorf("got %v, want one that wraps %v", err, cause)
	}
}

func TestScanLongLines(t *testing.T) {
	long := strings.Repeat("x", 3*windowBytes)
	raw := "Content-Type: multipart/mixed; boundary=b\r\nX-Long: " + long + "\r\n\r\n--b\r\n\r\n" + long + "\r\n--b\r\n\r\n--b" +
		long + "\r\n" + strings.Repeat("y", windowBytes-3) + "\r\n--b--\r\n"
	m, _ := mustScan(t, []byte(raw))
	if len(m.Root.Children) != 2 {
		t.Fatalf("got %d parts, want 2", len(m.Root.Children))
	}
	if got := m.Root.Children[0].End - m.Root.Children[0].Body; got != int64(len(long)) {
		t.Errorf("first part has %d bytes, want %d", got, len(long))
	}
}

func TestScanLimits(t *testing.T) {
	t.Run("depth", func(t *testing.T) {
		nested := strings.Repeat("Content-Type: message/rfc822\r\n\r\n", 10_000)
		m, _ := mustScan(t, []byte(nested))
		p, depth := m.Root, 1
		for ; len(p.Children) > 0; p = p.Children[0] {
			depth++
		}
		if depth != maxDepth+1 || p.Type != "application" {
			t.Errorf("depth %d ends with %s/%s", depth, p.Type, p.Subtype)
		}
	})
	t.Run("parts", func(t *testing.T) {
		many := "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("--b\r\n\r\nx\r\n", 100_000) + "--b--\r\n"
		m, s := mustScan(t, []byte(many))
		if len(s.Parts) != maxParts {
			t.Fatalf("got %d parts, want %d", len(s.Parts), maxParts)
		}
		if last := m.Root.Children[maxParts-2]; last.End != m.Size {
			t.Errorf("last part ends at %d, message at %d", last.End, m.Size)
		}
	})
	t.Run("header", func(t *testing.T) {
		header := strings.Repeat("X-Filler: "+strings.Repeat("f", 68)+"\r\n", 4000) + "Subject: too late\r\n\r\n"
		m, s := mustScan(t, []byte(header+"text\r\n"))
		if m.Root.Body != int64(len(header)) || m.Root.Envelope.Subject.Set || !s.ListHeadersCut {
			t.Errorf("body at %d, subject %v, cut %v", m.Root.Body, m.Root.Envelope.Subject, s.ListHeadersCut)
		}
	})
	t.Run("list headers", func(t *testing.T) {
		_, s := mustScan(t, []byte("Subject: s\r\n"+strings.Repeat("References: "+strings.Repeat("r", 900)+"\r\n", 20)))
		if len(s.ListHeaders) > maxListHeaders || !s.ListHeadersCut {
			t.Errorf("%d bytes, cut %v", len(s.ListHeaders), s.ListHeadersCut)
		}
		if _, ok := s.HeaderFields([]string{"subject"}); ok {
			t.Error("served from a cut list")
		}
	})
	t.Run("text", func(t *testing.T) {
		part := "--b\r\nContent-Description: " + strings.Repeat("d", 15<<10) + "\r\n\r\n"
		to := "To: " + strings.Repeat("a,", 30<<10) + "\r\n"
		_, s := mustScan(t, []byte(strings.Repeat(to, 100)+
			"Content-Type: multipart/mixed; boundary=b\r\n\r\n"+strings.Repeat(part, 500)))
		if n := len(s.Append(nil)); n > 2<<20 {
			t.Errorf("summary has %d bytes", n)
		}
	})
}

func bigMessage(lines int) []byte {
	var b bytes.Buffer
	b.WriteString("From: Ann <ann@example.org>\r\nTo: Bob <bob@example.com>\r\nSubject: a file\r\n" +
		"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"=_frontier\"\r\n\r\n" +
		"--=_frontier\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nHere it is.\r\n-- \r\nAnn\r\n" +
		"--=_frontier\r\nContent-Type: application/pdf; name=a.pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n")
	line := strings.Repeat("QUJDRA==", 10)[:76] + "\r\n"
	for range lines {
		b.WriteString(line)
	}
	b.WriteString("--=_frontier--\r\n")
	return b.Bytes()
}

func BenchmarkScan(b *testing.B) {
	raw := bigMessage(75_000 / 78)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Scan(bytes.NewReader(raw)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseSummary(b *testing.B) {
	m, err := Scan(bytes.NewReader(bigMessage(100)))
	if err != nil {
		b.Fatal(err)
	}
	s := m.Summary()
	encoded := s.Append(nil)
	b.ReportAllocs()
	b.ReportMetric(float64(len(encoded)), "bytes")
	for b.Loop() {
		if _, err := ParseSummary(encoded); err != nil {
			b.Fatal(err)
		}
	}
}

// TestScanNestedBoundaries: the innermost open multipart with a boundary has its delimiters; when it is closed, the
// next one further out has them.
func TestScanNestedBoundaries(t *testing.T) {
	part := func(boundary string) string {
		return "Content-Type: multipart/mixed; boundary=" + boundary + "\r\n\r\n--" + boundary + "\r\n"
	}
	for _, tt := range []struct{ raw, want string }{
		{part("b") + part("b") + "\r\nx\r\n--b\r\n\r\ny\r\n--b--\r\n--b\r\n\r\nz\r\n--b--\r\n", "((..).)"},
		{part("b") + part("c") + part("b") + "\r\nx\r\n--c\r\n\r\ny\r\n--b\r\n\r\nz\r\n", "(((.).).)"},
		{part("b") + part("b--") + "\r\nx\r\n--b--\r\n\r\ny\r\n--b----\r\n--b--\r\n", "((..))"},
		{part("b--") + part("b") + "\r\nx\r\n--b--\r\n--b--\r\n\r\ny\r\n--b----\r\n", "((.).)"},
	} {
		var shape func(p *Part) string
		shape = func(p *Part) string {
			if len(p.Children) == 0 {
				return "."
			}
			out := "("
			for _, c := range p.Children {
				out += shape(c)
			}
			return out + ")"
		}
		m, _ := mustScan(t, []byte(tt.raw))
		if got := shape(m.Root); got != tt.want {
			t.Errorf("%q: %s, want %s", tt.raw, got, tt.want)
		}
	}
}
