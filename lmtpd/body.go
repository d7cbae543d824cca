package lmtpd

import (
	"bufio"
	"errors"
	"io"
)

// body reads one message up to the line that holds a dot, and undoes the dot
// stuffing (RFC 5321, section 4.5.2). Only CRLF begins a line and only
// CRLF "." CRLF ends the message: a lone LF or CR is content, kept byte for
// byte. To normalise it would store something else than the sender's MTA
// signed and logged; to take it for a line end is how mail gets smuggled in
// (RFC 5321, section 2.3.8).
//
// A line may have any length.
type body struct {
	in    *bufio.Reader
	start bool   // the next byte is the first of a line
	cr    bool   // the last byte was CR
	rest  []byte // of in's buffer, not given away yet
	err   error
}

func newBody(in *bufio.Reader) *body { return &body{in: in, start: true} }

// Read implements io.Reader; io.EOF is the final dot, io.ErrUnexpectedEOF a
// client that hung up before it.
func (b *body) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		if len(b.rest) == 0 {
			if b.err != nil || n > 0 && b.in.Buffered() == 0 {
				break // what we have is worth more than waiting
			}
			b.fill()
			continue
		}
		m := copy(p[n:], b.rest)
		b.rest = b.rest[m:]
		n += m
	}
	if n == 0 && len(p) > 0 {
		return 0, b.err
	}
	return n, nil
}

// fill takes a line, or a buffer full of one.
func (b *body) fill() {
	f, err := b.in.ReadSlice('\n')
	if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		b.err = err
		return
	}
	atStart := b.start
	n := len(f)
	b.start = f[n-1] == '\n' && (n > 1 && f[n-2] == '\r' || n == 1 && b.cr)
	b.cr = f[n-1] == '\r'
	if atStart && f[0] == '.' {
		if string(f) == ".\r\n" {
			b.err = io.EOF
			return
		}
		f = f[1:]
	}
	b.rest = f
}
