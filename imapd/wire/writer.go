package wire

import (
	"fmt"
	"io"
	"strconv"
	"sync"
)

// FlushBytes is how much a Writer gathers before it should be flushed.
const FlushBytes = 32 << 10

// spillBytes is how much a Writer gathers at most: inside of a response that is
// longer it sends what it has. Records alone stay below it, so that nothing is
// sent while one is read.
const spillBytes = 2 * FlushBytes

// WriterBufferBytes is the size of buffer that a Writer wants from its pool: a
// response that crosses FlushBytes still fits.
const WriterBufferBytes = FlushBytes + 4<<10

// maxQuotedBytes is the longest string that is sent quoted.
const maxQuotedBytes = 1000

// Writer gathers responses. Nothing is sent before Flush, FlushIfFull, a body
// that is copied through or a response that grows beyond spillBytes; then the
// first error sticks. Between commands it holds no buffer. Only Interject may be
// called by others than its owner.
type Writer struct {
	dst  io.Writer
	pool *Buffers
	buf  []byte
	err  error

	sending sync.Mutex // guards writes to dst and inside
	inside  bool       // what was sent last ends inside of a response
}

// NewWriter makes a Writer whose buffers come from pool.
func NewWriter(dst io.Writer, pool *Buffers) *Writer { return &Writer{dst: dst, pool: pool} }

func (w *Writer) room() {
	if w.buf == nil {
		w.buf = w.pool.Get()
	}
	if len(w.buf) >= spillBytes {
		w.send(true)
	}
}

// Str adds s as it is.
func (w *Writer) Str(s string) *Writer {
	for ; len(s) > FlushBytes; s = s[FlushBytes:] {
		w.room()
		w.buf = append(w.buf, s[:FlushBytes]...)
	}
	w.room()
	w.buf = append(w.buf, s...)
	return w
}

// Raw adds b as it is.
func (w *Writer) Raw(b []byte) *Writer {
	for ; len(b) > FlushBytes; b = b[FlushBytes:] {
		w.room()
		w.buf = append(w.buf, b[:FlushBytes]...)
	}
	w.room()
	w.buf = append(w.buf, b...)
	return w
}

// Byte adds one byte.
func (w *Writer) Byte(c byte) *Writer {
	w.room()
	w.buf = append(w.buf, c)
	return w
}

// Uint adds a number.
func (w *Writer) Uint(n uint64) *Writer {
	w.room()
	w.buf = strconv.AppendUint(w.buf, n, 10)
	return w
}

// CRLF ends a line.
func (w *Writer) CRLF() *Writer { return w.Str("\r\n") }

// Append lets fn append to the buffer.
func (w *Writer) Append(fn func(dst []byte) []byte) *Writer {
	w.room()
	w.buf = fn(w.buf)
	return w
}

// String adds s as a quoted string, or as a literal where it must be one.
func (w *Writer) String(s string) *Writer {
	if !quotable(s) {
		return w.LiteralSize(int64(len(s))).Str(s)
	}
	w.Byte('"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			w.buf = append(w.buf, '\\')
		}
		w.buf = append(w.buf, s[i])
	}
	return w.Byte('"')
}

// quotable reports whether s may be quoted: 7-bit, no NUL, CR or LF.
func quotable(s string) bool {
	if len(s) > maxQuotedBytes {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c == 0 || c == '\r' || c == '\n' || c >= 0x80 {
			return false
		}
	}
	return true
}

// AString adds s as an atom where it can be one. NIL in any case is quoted:
// old parsers take it for no value.
func (w *Writer) AString(s string) *Writer {
	if s == "" || len(s) == 3 && s[0]|0x20 == 'n' && s[1]|0x20 == 'i' && s[2]|0x20 == 'l' {
		return w.String(s)
	}
	for i := range len(s) {
		if !IsAtomChar(s[i]) {
			return w.String(s)
		}
	}
	return w.Str(s)
}

// Mailbox adds a UTF-8 mailbox name in modified UTF-7.
func (w *Writer) Mailbox(name string) *Writer { return w.AString(EncodeUTF7(name)) }

// LiteralSize announces a literal of n bytes, which must follow.
func (w *Writer) LiteralSize(n int64) *Writer {
	return w.Byte('{').Uint(uint64(n)).Str("}\r\n")
}

// Words adds a parenthesised list of words as they are.
func (w *Writer) Words(words []string) *Writer {
	w.Byte('(')
	for i, s := range words {
		if i > 0 {
			w.Byte(' ')
		}
		w.Str(s)
	}
	return w.Byte(')')
}

// Full reports whether it is time to flush.
func (w *Writer) Full() bool { return len(w.buf) >= FlushBytes }

// FlushIfFull sends what was gathered when it is much. It is called between two
// responses.
func (w *Writer) FlushIfFull() error {
	if !w.Full() {
		return w.err
	}
	return w.send(false)
}

func (w *Writer) send(inside bool) error {
	w.sending.Lock()
	defer w.sending.Unlock()
	w.inside = inside
	if w.err == nil && len(w.buf) > 0 {
		_, w.err = w.dst.Write(w.buf)
	}
	w.buf = w.buf[:0]
	return w.err
}

// Interject sends a line at once, unless what was sent last ends inside of a
// response. Any goroutine may call it. An error is left to the owner's writes.
func (w *Writer) Interject(line string) {
	w.sending.Lock()
	defer w.sending.Unlock()
	if !w.inside {
		io.WriteString(w.dst, line)
	}
}

// Flush sends all and gives the buffer back. It is called between two responses.
func (w *Writer) Flush() error {
	err := w.send(false)
	if w.buf != nil {
		w.pool.Put(w.buf)
		w.buf = nil
	}
	return err
}

// CopyAt adds n bytes of src from off, sending whenever the buffer is full. On
// an error of src the promised bytes cannot be sent: the error sticks, and the
// connection must be closed.
func (w *Writer) CopyAt(src io.ReaderAt, off, n int64) error {
	w.room()
	for n > 0 && w.err == nil {
		if w.Full() {
			w.send(true)
			continue
		}
		take := min(n, int64(FlushBytes-len(w.buf)))
		start := len(w.buf)
		w.grow(int(take))
		got, err := src.ReadAt(w.buf[start:], off)
		if int64(got) < take {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			w.buf = w.buf[:start]
			w.err = fmt.Errorf("read body at %d: %w", off, err)
			return w.err
		}
		off += take
		n -= take
	}
	return w.err
}

func (w *Writer) grow(n int) {
	if cap(w.buf)-len(w.buf) < n {
		next := make([]byte, len(w.buf), len(w.buf)+n)
		copy(next, w.buf)
		w.buf = next
	}
	w.buf = w.buf[:len(w.buf)+n]
}

// Fail ends the stream with an error, in the middle of a response.
func (w *Writer) Fail(err error) error {
	if w.err == nil {
		w.err = err
	}
	return w.err
}

// Err returns the first error.
func (w *Writer) Err() error { return w.err }
