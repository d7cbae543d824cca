package mime

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// hostile makes messages of about n bytes that could make a scanner go over the
// same bytes again and again, or keep all of them.
func hostile() map[string]func(n int) string {
	repeat := func(head, unit string) func(n int) string {
		return func(n int) string { return head + strings.Repeat(unit, max(n-len(head), 0)/len(unit)) }
	}
	nested := func(n int) string { // multiparts in multiparts, each with a boundary that begins with the one above
		var b strings.Builder
		for i := 0; b.Len() < n; i++ {
			name := strings.Repeat("a", 1+i%900)
			fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=%s\r\n\r\n--%s\r\n", name, name)
		}
		return b.String()
	}
	stem := strings.Repeat("a", 900)
	open := func(unit string) func(n int) string { // 45 open multiparts, then lines that nearly are delimiters
		var b strings.Builder
		for i := range 45 {
			fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=%s%d\r\n\r\n--%s%d\r\n", stem, i, stem, i)
		}
		return repeat(b.String()+"\r\n", unit)
	}
	return map[string]func(n int) string{
		"nested multiparts":     nested,
		"nested messages":       repeat("", "Content-Type: message/rfc822\r\n\r\n"),
		"parts":                 repeat("Content-Type: multipart/mixed; boundary=b\r\n\r\n", "--b\r\n\r\n"),
		"digests":               repeat("Content-Type: multipart/digest; boundary=b\r\n\r\n", "--b\r\n\r\n\r\n"),
		"closed parts":          repeat("Content-Type: multipart/mixed; boundary=b\r\n\r\n", "--b--\r\n"),
		"dashes":                open("--\r\n"),
		"nearly boundaries":     open("--" + stem + "x\r\n"),
		"boundary without end":  open("--" + strings.Repeat("a", 100_000)),
		"header of fields":      repeat("", "X-Filler: ffff\r\n"),
		"header of one field":   repeat("Subject: ", "s"),
		"header without colons": repeat("", "x\r\n"),
		"folds":                 repeat("Subject: s", "\r\n s"),
		"empty folds":           repeat("To: s", "\r\n "),
		"addresses":             repeat("To: ", "a@b, "),
		"groups":                repeat("To: ", "a: b@c; "),
		"comments":              repeat("To: ", "("),
		"quotes":                repeat("Content-Type: text/plain; a=", `"\`),
		"parameters":            repeat("Content-Type: text/plain", "; a=b"),
		"languages":             repeat("Content-Language: en", ", en"),
		"encoded words":         repeat("Subject: ", "=?utf-8?q?a?= "),
		"NULs":                  repeat("", "\x00"),
		"CRs":                   repeat("", "\r"),
		"LFs":                   repeat("x: y\n", "\n"),
		"8-bit":                 repeat("Subject: \xff", "\xff\xfe"),
	}
}

// allocated returns the bytes that fn allocates, in all.
func allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestScanIsLinear: each byte is looked at and moved a few times, however many
// there are (a scanner that goes back would do so thousands of times at 4 MiB),
// and memory is bounded.
func TestScanIsLinear(t *testing.T) {
	const size, perByteMax, memoryMax = 4 << 20, 8, 16 << 20
	for name, make := range hostile() {
		t.Run(name, func(t *testing.T) {
			raw := []byte(make(size))
			s := newScanner(bytes.NewReader(raw))
			n := allocated(func() {
				if _, err := s.scan(); err != nil {
					t.Fatal(err)
				}
			})
			if n > memoryMax {
				t.Errorf("%d bytes of message take %d bytes of memory, at most %d", len(raw), n, memoryMax)
			}
			if s.work < int64(len(raw)) || s.work > perByteMax*int64(len(raw)) {
				t.Errorf("%d bytes of message: %d bytes looked at, want 1 to %d times as many", len(raw), s.work, perByteMax)
			}
		})
	}
}
