package lmtpd

import (
	"bytes"
	"io"
	"strings"
)

// headerFilter passes a message on without the Return-Path fields of its
// header section: RFC 5321, section 4.4, lets final delivery remove them, and a
// delivered message has exactly one. White space before the colon is obsolete
// but legal (RFC 5322, section 4.5): storage/mime and clients read such a field
// too. Nothing else is changed. It looks at most startBytesMax bytes ahead, so
// lines may have any length.
type headerFilter struct {
	to   io.Writer
	held []byte // the beginning of a line, not decided yet
	mode filterMode
	drop bool // the field that the current line belongs to is removed
}

type filterMode int

const (
	lineStart filterMode = iota
	insideLine
	pastHeader
)

const (
	returnPath = "return-path"
	// startBytesMax is how long a line may be (RFC 5322, section 2.1.1): what has
	// no colon up to there is no field.
	startBytesMax = 998
)

// Write implements io.Writer.
func (f *headerFilter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		var err error
		switch f.mode {
		case pastHeader:
			_, err = f.to.Write(p)
			p = nil
		case insideLine:
			end := bytes.IndexByte(p, '\n') + 1
			if end == 0 {
				end = len(p)
			} else {
				f.mode = lineStart
			}
			err = f.pass(p[:end])
			p = p[end:]
		case lineStart:
			f.held = append(f.held, p[0])
			p = p[1:]
			err = f.decide()
		}
		if err != nil {
			return n - len(p), err
		}
	}
	return n, nil
}

// decide looks at the beginning of a line.
func (f *headerFilter) decide() error {
	l := string(f.held)
	switch {
	case l == "\r":
		return nil
	case l == "\n" || l == "\r\n":
		f.mode, f.drop = pastHeader, false
	case l[0] == ' ' || l[0] == '\t':
		f.mode = insideLine // a folded line goes where its field went
	default:
		is, open := beginsReturnPath(l)
		if open && len(l) < startBytesMax {
			return nil // not long enough to tell
		}
		f.mode, f.drop = insideLine, is
		if l[len(l)-1] == '\n' {
			f.mode = lineStart
		}
	}
	return f.release()
}

// beginsReturnPath reports whether a line that begins with l is a Return-Path
// field. open means that more of the line has to be seen.
func beginsReturnPath(l string) (is, open bool) {
	n := min(len(l), len(returnPath))
	if !strings.EqualFold(l[:n], returnPath[:n]) {
		return false, false
	}
	after := strings.TrimLeft(l[n:], " \t")
	return strings.HasPrefix(after, ":"), after == ""
}

// Flush passes on what was held back when the message ends. It is no field, so
// what became of the field before it does not matter.
func (f *headerFilter) Flush() error {
	f.drop = false
	return f.release()
}

func (f *headerFilter) release() error {
	h := f.held
	f.held = f.held[:0]
	if len(h) == 0 {
		return nil
	}
	return f.pass(h)
}

func (f *headerFilter) pass(p []byte) error {
	if f.drop {
		return nil
	}
	_, err := f.to.Write(p)
	return err
}
