package mime

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// summaryVersion is the first byte of an encoded Summary. Summaries are stored for ever: a new version must go on
// reading the old ones.
const summaryVersion = 1

// ErrSummary is what ParseSummary's errors wrap.
var ErrSummary = errors.New("no valid message summary")

const flagListHeadersCut = 1

// spanBytesMin is the length of the shortest encoded Span.
const spanBytesMin = 10

// Append appends the encoded summary to dst: the version, flags, the four texts with their lengths, then the parts.
// Numbers are uvarints, and offsets are kept as distances.
func (s *Summary) Append(dst []byte) []byte {
	var flags uint64
	if s.ListHeadersCut {
		flags |= flagListHeadersCut
	}
	dst = append(dst, summaryVersion)
	dst = binary.AppendUvarint(dst, flags)
	dst = appendText(dst, s.Envelope)
	dst = appendText(dst, s.BodyStructure)
	dst = appendText(dst, s.ListHeaders)
	dst = binary.AppendUvarint(dst, uint64(len(s.cuts)))
	for _, c := range s.cuts {
		dst = binary.AppendUvarint(dst, uint64(c.gap))
		dst = binary.AppendUvarint(dst, uint64(c.n))
	}
	dst = binary.AppendUvarint(dst, uint64(len(s.Parts)))
	before := int64(0)
	for i := range s.Parts {
		p := &s.Parts[i]
		dst = append(dst, byte(p.Kind))
		for _, n := range [...]int64{
			int64(p.Children), p.Header - before, p.Body - p.Header, p.End - p.Body, p.Lines,
		} {
			dst = binary.AppendUvarint(dst, uint64(n))
		}
		for _, t := range [...]string{p.Type, p.Subtype, p.Encoding, p.Charset} {
			dst = appendText(dst, t)
		}
		before = p.Header
	}
	return dst
}

func appendText[T string | []byte](dst []byte, t T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(t)))
	return append(dst, t...)
}

// ParseSummary reads what Append wrote. The byte slices of the result share b. Any other input is an error that wraps
// ErrSummary; a summary that comes back without one can be used with every method.
func ParseSummary(b []byte) (Summary, error) {
	s := Summary{}
	r := summaryReader{b: b}
	if len(b) == 0 {
		return s, fmt.Errorf("parse summary: %w: empty", ErrSummary)
	}
	if b[0] != summaryVersion {
		return s, fmt.Errorf("parse summary: %w: version %d", ErrSummary, b[0])
	}
	r.b = b[1:]
	s.ListHeadersCut = r.number()&flagListHeadersCut != 0
	s.Envelope, s.BodyStructure, s.ListHeaders = r.text(), r.text(), r.text()
	s.cuts = r.cuts(len(s.BodyStructure))
	s.Parts = r.parts()
	if len(r.b) != 0 {
		r.bad = true
	}
	if r.bad || !wellNested(s.Parts) {
		return Summary{}, fmt.Errorf("parse summary: %w: %d bytes, version %d", ErrSummary, len(b), b[0])
	}
	return s, nil
}

// summaryReader takes an encoded summary apart; bad says that it is none.
type summaryReader struct {
	b   []byte
	bad bool
}

// number returns the next number, at most 1<<62-1, so that two of them can be added.
func (r *summaryReader) number() int64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v >= 1<<62 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return int64(v)
}

// count returns the next number if so many things of at least size bytes can follow.
func (r *summaryReader) count(size int) int {
	n := r.number()
	if n > int64(len(r.b)/size) {
		r.bad, r.b = true, nil
		return 0
	}
	return int(n)
}

// text returns nil for an empty text.
func (r *summaryReader) text() []byte {
	n := r.count(1)
	if n == 0 {
		return nil
	}
	t := r.b[:n:n]
	r.b = r.b[n:]
	return t
}

func (r *summaryReader) cuts(left int) []cut {
	n := r.count(2)
	if n == 0 {
		return nil
	}
	cuts := make([]cut, n)
	for i := range cuts {
		gap, n := r.number(), r.number()
		if gap+n > int64(left) {
			r.bad = true
			return nil
		}
		left -= int(gap + n)
		cuts[i] = cut{int(gap), int(n)}
	}
	return cuts
}

func (r *summaryReader) parts() []Span {
	parts := make([]Span, r.count(spanBytesMin))
	before := int64(0)
	for i := range parts {
		if len(r.b) == 0 {
			r.bad = true
			return nil
		}
		p := &parts[i]
		p.Kind, r.b = Kind(r.b[0]), r.b[1:]
		p.Children = r.count(spanBytesMin)
		p.Header = before + r.number()
		p.Body = p.Header + r.number()
		p.End = p.Body + r.number()
		p.Lines = r.number()
		p.Type, p.Subtype = intern(r.text()), intern(r.text())
		p.Encoding, p.Charset = intern(r.text()), intern(r.text())
		if p.Body < p.Header || p.End < p.Body {
			r.bad = true
			return nil
		}
		before = p.Header
	}
	return parts
}

// intern returns b as a string, without an allocation for what nearly every message has.
func intern(b []byte) string {
	switch string(b) {
	case "":
		return ""
	case "text":
		return "text"
	case "plain":
		return "plain"
	case "html":
		return "html"
	case "multipart":
		return "multipart"
	case "alternative":
		return "alternative"
	case "mixed":
		return "mixed"
	case "related":
		return "related"
	case "application":
		return "application"
	case "7bit":
		return "7bit"
	case "8bit":
		return "8bit"
	case "base64":
		return "base64"
	case "quoted-printable":
		return "quoted-printable"
	case "utf-8":
		return "utf-8"
	case "UTF-8":
		return "UTF-8"
	case "us-ascii":
		return "us-ascii"
	}
	return string(b)
}

// wellNested reports whether parts is one tree with every part inside its parent's body, which is what Locate relies on.
func wellNested(parts []Span) bool {
	type open struct {
		body, end int64
		children  int
	}
	if len(parts) == 0 || parts[0].Header != 0 {
		return false
	}
	stack := []open{{0, parts[0].End, 1}}
	for i := range parts {
		p := &parts[i]
		for len(stack) > 0 && stack[len(stack)-1].children == 0 {
			stack = stack[:len(stack)-1]
		}
		if len(stack) == 0 {
			return false
		}
		parent := &stack[len(stack)-1]
		parent.children--
		if p.Header < parent.body || p.End > parent.end {
			return false
		}
		parent.body = p.End // the next one begins after it
		switch p.Kind {
		case KindLeaf:
			if p.Children != 0 {
				return false
			}
		case KindMultipart:
			if p.Children == 0 {
				return false
			}
		case KindMessage:
			if p.Children != 1 {
				return false
			}
		default:
			return false
		}
		stack = append(stack, open{p.Body, p.End, p.Children})
	}
	for _, o := range stack {
		if o.children != 0 {
			return false
		}
	}
	return true
}
