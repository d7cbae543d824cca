// Package wire is IMAP's codec (RFC 3501, section 9): it frames commands with
// their literals, parses arguments, and writes responses. It knows no mailbox
// and no session.
//
// Framing is separate from parsing, and purely syntactic: a line that ends with
// {n} or {n+} is followed by n bytes of literal, whatever the line means. So
// the bytes of a literal can never run as a command, however a command is
// refused (RFC 7888, section 3: the receiver must check the end of every line).
package wire

import (
	"bytes"
	"errors"
	"io"
	"sync"
)

// ErrTooLong says that a line was longer than its limit. The rest of the line
// has not been read: the connection must be closed.
var ErrTooLong = errors.New("read line: longer than its limit")

// firstRead is the size of the buffer that a connection keeps while it waits.
// It holds most commands whole.
const firstRead = 64

// Buffers is a pool of byte slices of one capacity.
type Buffers struct {
	pool sync.Pool
	size int
}

// NewBuffers makes a pool of slices with at least size bytes of capacity.
func NewBuffers(size int) *Buffers { return &Buffers{size: size} }

// Get returns a slice of length 0.
func (b *Buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return (*p)[:0]
	}
	return make([]byte, 0, b.size)
}

// Put takes a slice back; one that has grown to more than twice the pool's size
// is left to the garbage collector.
func (b *Buffers) Put(p []byte) {
	if cap(p) < b.size || cap(p) > 2*b.size {
		return
	}
	b.pool.Put(&p)
}

// Reader reads lines and literals from a connection. While it waits for a
// command (Wait) it holds no buffer but a few bytes of its own.
type Reader struct {
	src   io.Reader
	pool  *Buffers
	buf   []byte // from pool, or nil
	r     int    // buf[r:] is unread
	first [firstRead]byte
}

// NewReader makes a Reader whose buffers come from pool.
func NewReader(src io.Reader, pool *Buffers) *Reader { return &Reader{src: src, pool: pool} }

// Buffered returns how many bytes have been received and not been read.
func (r *Reader) Buffered() int { return len(r.buf) - r.r }

// TakeBuffered returns what has been received and not been read, as a copy.
func (r *Reader) TakeBuffered() []byte {
	out := bytes.Clone(r.buf[r.r:])
	r.release()
	return out
}

func (r *Reader) release() {
	if r.buf != nil {
		r.pool.Put(r.buf)
	}
	r.buf, r.r = nil, 0
}

// Wait blocks until at least one byte can be read. It gives the buffer back first.
func (r *Reader) Wait() error {
	if r.Buffered() > 0 {
		return nil
	}
	r.release()
	n, err := r.src.Read(r.first[:])
	for n == 0 && err == nil {
		n, err = r.src.Read(r.first[:])
	}
	if n > 0 {
		r.buf = append(r.pool.Get(), r.first[:n]...)
		return nil
	}
	return err
}

func (r *Reader) fill() error {
	if r.buf == nil {
		r.buf = r.pool.Get()
	}
	if r.r == len(r.buf) {
		r.buf, r.r = r.buf[:0], 0
	} else if len(r.buf) == cap(r.buf) {
		n := copy(r.buf, r.buf[r.r:])
		r.buf, r.r = r.buf[:n], 0
	}
	n, err := r.src.Read(r.buf[len(r.buf):cap(r.buf)])
	r.buf = r.buf[:len(r.buf)+n]
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// ReadLine appends one line to dst, ended by CRLF in dst also when only LF came.
// At most max bytes are read before the LF, else ErrTooLong.
func (r *Reader) ReadLine(dst []byte, max int) ([]byte, error) {
	start := len(dst)
	for {
		if r.Buffered() == 0 {
			if err := r.fill(); err != nil {
				if err == io.EOF && len(dst) > start {
					err = io.ErrUnexpectedEOF
				}
				return dst, err
			}
		}
		chunk := r.buf[r.r:]
		nl := bytes.IndexByte(chunk, '\n')
		if nl >= 0 {
			chunk = chunk[:nl]
		}
		if len(dst)-start+len(chunk) > max {
			return dst, ErrTooLong
		}
		dst = append(dst, chunk...)
		r.r += len(chunk)
		if nl >= 0 {
			r.r++
			if len(dst) > start && dst[len(dst)-1] == '\r' {
				dst = dst[:len(dst)-1]
			}
			return append(dst, '\r', '\n'), nil
		}
	}
}

// ReadFull appends exactly n bytes to dst.
func (r *Reader) ReadFull(dst []byte, n int) ([]byte, error) {
	for n > 0 {
		if r.Buffered() == 0 {
			if err := r.fill(); err != nil {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return dst, err
			}
		}
		take := min(n, r.Buffered())
		dst = append(dst, r.buf[r.r:r.r+take]...)
		r.r += take
		n -= take
	}
	return dst, nil
}

// Read reads what is buffered, else straight from the connection.
func (r *Reader) Read(p []byte) (int, error) {
	if r.Buffered() == 0 {
		return r.src.Read(p)
	}
	n := copy(p, r.buf[r.r:])
	r.r += n
	return n, nil
}

// Discard reads and drops n bytes.
func (r *Reader) Discard(n int64) error {
	for n > 0 {
		if r.Buffered() == 0 {
			if err := r.fill(); err != nil {
				return err
			}
		}
		take := min(n, int64(r.Buffered()))
		r.r += int(take)
		n -= take
	}
	return nil
}

// Literal is what announces a literal at the end of a line.
type Literal struct {
	Size int64 // bytes; math.MaxInt64 for anything that does not fit
	Sync bool  // the client waits for a continuation request before it sends
}

// maxLiteralDigits keeps the size from overflowing; a longer number counts as
// the largest size.
const maxLiteralDigits = 18

// LineLiteral reports whether a line (with or without its CRLF) announces a literal.
func LineLiteral(line []byte) (Literal, bool) {
	line = bytes.TrimSuffix(line, []byte("\r\n"))
	line, ok := bytes.CutSuffix(line, []byte("}"))
	if !ok {
		return Literal{}, false
	}
	line, nonSync := bytes.CutSuffix(line, []byte("+"))
	i := len(line)
	for i > 0 && line[i-1] >= '0' && line[i-1] <= '9' {
		i--
	}
	if i == len(line) || i == 0 || line[i-1] != '{' {
		return Literal{}, false
	}
	digits := bytes.TrimLeft(line[i:], "0")
	lit := Literal{Size: 1<<63 - 1, Sync: !nonSync}
	if len(digits) <= maxLiteralDigits {
		lit.Size = 0
		for _, c := range digits {
			lit.Size = lit.Size*10 + int64(c-'0')
		}
	}
	return lit, true
}
