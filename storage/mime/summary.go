package mime

// Summary is what is stored beside a message's record, for ever: everything that FETCH answers without opening the
// message. ENVELOPE, BODYSTRUCTURE and BODY are in IMAP wire form and may hold literals.
type Summary struct {
	Envelope       []byte // RFC 3501 section 7.4.2, with its parentheses
	BodyStructure  []byte // likewise, with extension data; see AppendBody
	ListHeaders    []byte // the root's fields for which CoversHeader is true, as they stand, in order; no empty line
	ListHeadersCut bool   // ListHeaders lacks some: serve from the message's header
	Parts          []Span // never empty; in the order of the message, a part before its children

	cuts []cut
}

// Span is where a part is, and what a search needs to read it. Header, Body and End are offsets in bytes from the start
// of the message: the header is [Header, Body), empty line included, the body is [Body, End).
type Span struct {
	Kind              Kind
	Children          int // parts directly inside; those of a KindMessage are one, the message
	Header, Body, End int64
	Lines             int64 // LFs in the body

	Type, Subtype string // lower case
	Encoding      string // lower case
	Charset       string // of a text; "" when not given
}

// Summary returns what is to be stored of m.
func (m *Message) Summary() Summary {
	w := structureWriter{}
	w.part(m.Root)
	return Summary{
		Envelope:      m.Root.Envelope.appendWire(nil),
		BodyStructure: w.out, cuts: w.cuts,
		ListHeaders: m.listHeaders, ListHeadersCut: m.listHeadersCut,
		Parts: appendSpans(nil, m.Root),
	}
}

func appendSpans(dst []Span, p *Part) []Span {
	s := Span{
		Kind: p.Kind, Children: len(p.Children), Header: p.Header, Body: p.Body, End: p.End, Lines: p.Lines,
		Type: p.Type, Subtype: p.Subtype, Encoding: p.Encoding,
	}
	if p.Type == "text" {
		charset, _ := p.Param("charset")
		s.Charset = charset[:min(len(charset), maxTokenBytes)]
	}
	dst = append(dst, s)
	for _, c := range p.Children {
		dst = appendSpans(dst, c)
	}
	return dst
}

// Size is the message's size in octets, RFC822.SIZE.
func (s *Summary) Size() int64 { return s.Parts[0].End }

// HeaderLen is the length of the message's header in octets, empty line included.
func (s *Summary) HeaderLen() int64 { return s.Parts[0].Body }

// AppendBody appends BODY, the structure without extension data.
func (s *Summary) AppendBody(dst []byte) []byte {
	rest := s.BodyStructure
	for _, c := range s.cuts {
		dst = append(dst, rest[:c.gap]...)
		rest = rest[c.gap+c.n:]
	}
	return append(dst, rest...)
}

// HeaderFields returns BODY[HEADER.FIELDS (names)], or ok false when the message's header must be read for it.
func (s *Summary) HeaderFields(names []string) (lines []byte, ok bool) {
	if s.ListHeadersCut || !CoversHeader(names) {
		return nil, false
	}
	return FilterHeader(s.ListHeaders, names, false), true
}

// SectionKind is what a section specification ends with (RFC 3501 section 6.4.5).
type SectionKind uint8

// The section kinds.
const (
	SectionWhole  SectionKind = iota // BODY[], BODY[1.2]
	SectionHeader                    // HEADER: of the message, or of an embedded one
	SectionText                      // TEXT: likewise
	SectionMIME                      // MIME: of a part
)

// Locate returns the byte range of a section; ok is false when the message has no such section. A nil path is the
// message itself.
func (s *Summary) Locate(path []int, kind SectionKind) (off, n int64, ok bool) {
	if len(path) == 0 {
		root := &s.Parts[0]
		switch kind {
		case SectionWhole:
			return 0, root.End, true
		case SectionMIME:
			return 0, 0, false
		}
		return root.section(kind)
	}
	i, ok := s.Find(path)
	if !ok {
		return 0, 0, false
	}
	p := &s.Parts[i]
	switch kind {
	case SectionWhole:
		return p.Body, p.End - p.Body, true
	case SectionMIME:
		return p.Header, p.Body - p.Header, true
	}
	if p.Kind != KindMessage {
		return 0, 0, false
	}
	return s.Parts[i+1].section(kind)
}

func (p *Span) section(kind SectionKind) (off, n int64, ok bool) {
	if kind == SectionHeader {
		return p.Header, p.Body - p.Header, true
	}
	return p.Body, p.End - p.Body, true
}

// Find returns the index in Parts of the part with that number. What is not a multipart has itself as part 1, when it
// is the message or the message in a message/rfc822 part.
func (s *Summary) Find(path []int) (index int, ok bool) {
	i, whole := 0, true // whole: Parts[i] is a message, not the part that was asked for
	for _, number := range path {
		if !whole && s.Parts[i].Kind == KindMessage {
			i, whole = i+1, true
		}
		switch {
		case s.Parts[i].Kind == KindMultipart:
			if number < 1 || number > s.Parts[i].Children {
				return 0, false
			}
			for i++; number > 1; number-- {
				i = s.after(i)
			}
		case !whole || number != 1:
			return 0, false
		}
		whole = false
	}
	return i, true
}

// after returns the index of the part that follows part i and all inside it.
func (s *Summary) after(i int) int {
	for open := 1; open > 0; i++ {
		open += s.Parts[i].Children - 1
	}
	return i
}
