package mime

import (
	"bufio"
	"io"
	"strings"

	"github.com/emersion/go-message/charset"
)

// TextReader returns a part's body as UTF-8 for searching: body as stored, its Content-Transfer-Encoding and charset as
// Span has them. With an unknown charset, none or
// US-ASCII the bytes come as they are, also those that are not UTF-8. It reads to the end whatever comes; its
// errors are body's own.
func TextReader(body io.Reader, encoding, charsetName string) io.Reader {
	r := DecodedReader(body, encoding)
	if isPlainCharset(charsetName) {
		return r
	}
	text, err := charset.Reader(charsetName, r)
	if err != nil {
		return r
	}
	return text
}

// isPlainCharset knows the charsets that need no conversion. What calls itself ASCII and has bytes beyond it is most
// often UTF-8.
func isPlainCharset(name string) bool {
	switch strings.ToLower(name) {
	case "", "us-ascii", "ascii", "utf-8", "utf8":
		return true
	}
	return false
}

// DecodedReader undoes a Content-Transfer-Encoding leniently: what is not valid in base64 is skipped, in
// quoted-printable it stays as it is, and an unknown encoding is none.
func DecodedReader(body io.Reader, encoding string) io.Reader {
	switch strings.ToLower(encoding) {
	case "base64":
		return &base64Reader{r: bufio.NewReader(body)}
	case "quoted-printable":
		return &quotedReader{r: bufio.NewReader(body)}
	}
	return body
}

// base64Reader decodes RFC 2045 section 6.8, ignoring all bytes outside of the alphabet. Padding ends a quantum, so
// that encoded texts put one after another come out whole.
type base64Reader struct {
	r       *bufio.Reader
	bits    uint32
	count   int // six-bit groups in bits
	out     [3]byte
	pending []byte // of out: decoded, not handed over yet
	err     error  // after pending
}

func (b *base64Reader) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(b.pending) > 0 {
			k := copy(p[n:], b.pending)
			b.pending = b.pending[k:]
			n += k
			continue
		}
		if b.err != nil {
			return n, b.err
		}
		c, err := b.r.ReadByte()
		if err != nil {
			b.err = err
			b.flush()
			continue
		}
		if c == '=' {
			b.flush()
		} else if v := base64Value(c); v >= 0 {
			b.bits = b.bits<<6 | uint32(v)
			if b.count++; b.count == 4 {
				b.flush()
			}
		}
	}
	return n, nil
}

// flush makes the whole bytes of the quantum at hand pending.
func (b *base64Reader) flush() {
	bits := b.bits << (6 * (4 - b.count))
	b.out = [3]byte{byte(bits >> 16), byte(bits >> 8), byte(bits)}
	b.pending = b.out[:max(b.count-1, 0)]
	b.bits, b.count = 0, 0
}

func base64Value(c byte) int {
	switch {
	case c >= 'A' && c <= 'Z':
		return int(c - 'A')
	case c >= 'a' && c <= 'z':
		return int(c-'a') + 26
	case c >= '0' && c <= '9':
		return int(c-'0') + 52
	case c == '+':
		return 62
	case c == '/':
		return 63
	}
	return -1
}

// quotedReader decodes RFC 2045 section 6.7. It does not drop white space at the ends of lines: a search does not mind.
type quotedReader struct {
	r *bufio.Reader
}

func (q *quotedReader) Read(p []byte) (n int, err error) {
	for n < len(p) {
		c, err := q.r.ReadByte()
		if err != nil {
			return n, err
		}
		if c != '=' {
			p[n] = c
			n++
			continue
		}
		next, _ := q.r.Peek(2) // shorter at the end; its error comes back with the next byte
		if len(next) == 2 {
			if b, ok := unhex(next[0], next[1]); ok {
				p[n] = b
				n++
				_, _ = q.r.Discard(2)
				continue
			}
		}
		if skip := softBreak(next); skip > 0 {
			_, _ = q.r.Discard(skip)
			continue
		}
		p[n] = c
		n++
	}
	return n, nil
}

// softBreak returns the length of the line break that b begins with.
func softBreak(b []byte) int {
	switch {
	case len(b) > 0 && b[0] == '\n':
		return 1
	case len(b) > 1 && b[0] == '\r' && b[1] == '\n':
		return 2
	}
	return 0
}
