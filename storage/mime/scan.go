package mime

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// windowBytes is the scanner's buffer. A boundary line, trailing white space included, must fit.
const windowBytes = 32 << 10

// maxEmptyReads bounds how often a reader may return nothing without an error.
const maxEmptyReads = 100

// Scan reads a whole message in one pass, in linear time and with bounded memory. The error is only ever r's own: any
// bytes at all are a message.
func Scan(r io.Reader) (*Message, error) {
	return newScanner(r).scan()
}

func newScanner(r io.Reader) *scanner {
	return &scanner{
		window: window{r: r, buf: make([]byte, windowBytes)}, lineStart: true,
		msg: &Message{}, left: maxTextBytes, open: map[string]int{},
	}
}

func (s *scanner) scan() (*Message, error) {
	s.msg.Root = s.push(0, false)
	if err := s.run(); err != nil {
		return nil, fmt.Errorf("scan message at byte %d: %w", s.off+int64(s.end-s.start), err)
	}
	for len(s.stack) > 0 {
		s.pop(s.off)
	}
	s.msg.Size = s.off
	return s.msg, nil
}

// frame is a part that is not at its end yet. The stack holds the innermost last.
type frame struct {
	part      *Part
	inHeader  bool
	digest    bool   // its Content-Type default is message/rfc822 (RFC 2046 section 5.1.5)
	boundary  string // of a multipart whose close delimiter has not been seen, else ""
	shadows   int    // the frame further out with the same boundary, or -1
	linesBody int64  // LFs of the message before the part's body
}

// window is what was read of the message and not looked at yet.
type window struct {
	r          io.Reader
	buf        []byte
	start, end int // the unread part of buf
	searched   int // bytes of it known to hold no LF
	eof        bool
}

type scanner struct {
	window
	work int64 // bytes and frames looked at or moved so far; TestScanIsLinear holds it

	off       int64 // offset in the message of the window's first byte
	lines     int64 // LFs before off
	breakLen  int64 // length of the line break just before off
	lineStart bool  // off begins a line
	lastCR    bool  // the byte before off is CR

	msg       *Message
	stack     []frame
	open      map[string]int // the innermost frame with each boundary
	parts     int            // created so far
	full      bool           // maxParts reached: boundaries mean nothing any more
	header    []byte
	headerCut bool
	left      allowance
}

func (s *scanner) run() error {
	for {
		if !s.stack[len(s.stack)-1].inHeader {
			if len(s.open) == 0 || s.full {
				return s.drain()
			}
			s.skipLines()
		}
		line, err := s.line()
		if err != nil {
			return err
		}
		if len(line) == 0 {
			return nil
		}
		s.take(line)
	}
}

// take consumes one line, or a piece of one that is longer than the window.
func (s *scanner) take(line []byte) {
	if s.lineStart && len(s.open) > 0 && !s.full && len(line) > 2 && line[0] == '-' && line[1] == '-' {
		if i, closing, ok := s.match(line); ok && s.delimit(i, closing) {
			s.advance(line)
			if !closing {
				s.push(s.off, s.isDigest(i))
			}
			return
		}
	}
	top := &s.stack[len(s.stack)-1]
	first := s.lineStart
	s.advance(line)
	if !top.inHeader {
		return
	}
	if first && isEmptyLine(line) {
		s.endHeader(s.off, s.lines)
		return
	}
	if room := maxHeaderBytes - len(s.header); len(line) > room {
		s.headerCut = true
	} else if !s.headerCut {
		s.header = append(s.header, line...)
		s.work += int64(len(line))
	}
}

// match finds the innermost open multipart whose delimiter this line is. The whole line must be the delimiter, white
// space at its end aside (RFC 2046 section 5.1.1): so a boundary that begins with another one is never mistaken for it.
// It does not go through what is open: a message may have millions of lines that begin with two hyphens.
func (s *scanner) match(line []byte) (index int, closing, ok bool) {
	if line[len(line)-1] != '\n' && !s.eof {
		return 0, false, false
	}
	s.work += int64(len(line))
	text := bytes.TrimRight(line[2:], " \t\r\n")
	if len(text) == 0 || len(text) > maxBoundaryBytes+2 {
		return 0, false, false
	}
	index, ok = s.open[string(text)]
	if shorter, hyphens := bytes.CutSuffix(text, []byte("--")); hyphens {
		if i, found := s.open[string(shorter)]; found && (!ok || i > index) {
			return i, true, true
		}
	}
	return index, false, ok
}

// enter opens the innermost frame as a multipart.
func (s *scanner) enter(boundary string) {
	i := len(s.stack) - 1
	s.stack[i].boundary, s.stack[i].shadows = boundary, -1
	if out, ok := s.open[boundary]; ok {
		s.stack[i].shadows = out
	}
	s.open[boundary] = i
}

// leave closes the multipart of a frame, if it is open; those further in are closed.
func (s *scanner) leave(f *frame) {
	if f.boundary == "" {
		return
	}
	delete(s.open, f.boundary)
	if f.shadows >= 0 {
		s.open[f.boundary] = f.shadows
	}
	f.boundary = ""
}

// delimit ends every part inside the multipart at stack index i, before the line at off. It refuses, and ends nothing,
// when a further part would be one too many.
func (s *scanner) delimit(i int, closing bool) bool {
	if !closing && s.parts >= maxParts {
		s.full = true
		return false
	}
	// The line break before a delimiter belongs to it (RFC 2046 section 5.1.1).
	for len(s.stack) > i+1 {
		s.pop(s.off - s.breakLen)
	}
	if closing {
		s.leave(&s.stack[i])
	}
	return true
}

func (s *scanner) isDigest(i int) bool {
	return s.stack[i].part.Subtype == "digest"
}

// push begins a part at offset at, as a child of the innermost open one.
func (s *scanner) push(at int64, digest bool) *Part {
	p := &Part{Extent: Extent{at, at, at}}
	if n := len(s.stack); n > 0 {
		parent := s.stack[n-1].part
		parent.Children = append(parent.Children, p)
	}
	s.parts++
	s.header, s.headerCut = s.header[:0], false
	s.stack = append(s.stack, frame{part: p, inHeader: true, digest: digest})
	return p
}

// pop ends the innermost part at offset at, or a little later where that would cut what it holds already.
func (s *scanner) pop(at int64) {
	s.work++
	depth := len(s.stack)
	top := &s.stack[depth-1]
	p := top.part
	if top.inHeader {
		at := max(at, p.Header)
		s.endHeader(at, s.linesBefore(at))
		if len(s.stack) > depth { // an embedded message, ended by the caller's next turn
			return
		}
		top = &s.stack[depth-1]
	}
	p.End = max(at, p.Body)
	if n := len(p.Children); n > 0 {
		p.End = max(p.End, p.Children[n-1].End)
	} else if p.Kind == KindMultipart {
		// RFC 3501's grammar wants at least one part. Like Dovecot, show an empty text.
		p.Children = []*Part{{Extent: Extent{p.End, p.End, p.End}, Type: "text", Subtype: "plain", Encoding: "7bit"}}
	}
	p.Lines = s.linesBefore(p.End) - top.linesBody
	s.leave(top)
	s.stack = s.stack[:depth-1]
}

// linesBefore returns the LFs before at, which is off or the beginning of the line break before it.
func (s *scanner) linesBefore(at int64) int64 {
	if at < s.off {
		return s.lines - 1
	}
	return s.lines
}

// endHeader makes the innermost part what its header says it is; its body begins at offset at, after so many lines.
func (s *scanner) endHeader(at, lines int64) {
	depth := len(s.stack)
	top := &s.stack[depth-1]
	p := top.part
	top.inHeader, top.linesBody, p.Body = false, lines, at
	s.readFields(top)
	switch {
	case p.Type == "multipart":
		boundary, _ := p.Param("boundary")
		b := strings.TrimRight(boundary, " \t\r\n")
		if len(b) == 0 || len(b) > maxBoundaryBytes {
			// Nothing can be found in it: RFC 2045 section 5.2 says to show text.
			p.Type, p.Subtype, p.Params = "text", "plain", nil
			return
		}
		if depth > maxDepth || s.full {
			p.Type, p.Subtype, p.Params = "application", "octet-stream", nil
			return
		}
		p.Kind = KindMultipart
		s.enter(b)
	case p.Type == "message" && (p.Subtype == "rfc822" || p.Subtype == "global"):
		if depth > maxDepth || s.full || s.parts >= maxParts {
			p.Type, p.Subtype, p.Params = "application", "octet-stream", nil
			return
		}
		p.Kind = KindMessage
		s.push(at, false)
	}
}

// isMessage reports whether the innermost part is a message, so that its header has an envelope.
func (s *scanner) isMessage() bool {
	n := len(s.stack)
	return n == 1 || s.stack[n-2].part.Kind == KindMessage
}

func isEmptyLine(line []byte) bool {
	return len(line) == 1 && line[0] == '\n' || len(line) == 2 && line[0] == '\r' && line[1] == '\n'
}
