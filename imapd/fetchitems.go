package imapd

import (
	"slices"
	"strconv"

	"github.com/emersion/go-imap/v2"

	"mailnode/storage/mime"
)

// fetchPlan is what one FETCH asks for.
type fetchPlan struct {
	uid, flags, internalDate, size, envelope, body, structure bool
	sections                                                  []section
	names                                                     mime.FieldNames // of all sections
}

// section is one BODY[...] item, or one of its old names.
type section struct {
	imap.FetchItemBodySection
	kind  mime.SectionKind
	label string // what the response calls it
	// fields: HEADER.FIELDS or HEADER.FIELDS.NOT with these names.
	fields []string
	not    bool
	choice *mime.FieldChoice // of fields
}

const (
	maxSections     = 200 // of one FETCH
	maxPartDepth    = 100
	maxHeaderFields = 500
)

// partialBytes is how many bytes of the section are wanted at most, 0 for all;
// the label has only where they begin.
func (s *section) partialBytes() int64 {
	if s.Partial == nil {
		return 0
	}
	return s.Partial.Size
}

// needsSummary reports whether a record alone cannot answer.
func (p *fetchPlan) needsSummary() bool {
	return p.envelope || p.body || p.structure || len(p.sections) > 0
}

// needsBody reports whether a message's body has to be opened whatever its summary
// holds.
func (p *fetchPlan) needsBody() bool {
	return slices.ContainsFunc(p.sections, func(s section) bool { return !s.listed() })
}

// listed reports whether the summary usually has it.
func (s *section) listed() bool {
	return s.fields != nil && !s.not && len(s.Part) == 0 && mime.CoversHeader(s.fields)
}

// marks reports whether reading sets \Seen (RFC 3501, section 6.4.5).
func (p *fetchPlan) marks() bool {
	return slices.ContainsFunc(p.sections, func(s section) bool { return !s.Peek })
}

func parseFetchItems(cmd *command) *fetchPlan {
	p := &fetchPlan{}
	if cmd.Peek() == '(' {
		items := 0
		cmd.List(func() { p.item(cmd); items++ })
		if items == 0 {
			cmd.Fail("at least one FETCH item") // RFC 3501, section 9: msg-att cannot be empty either
		}
		return p
	}
	switch {
	case cmd.TryWord("ALL"):
		p.flags, p.internalDate, p.size, p.envelope = true, true, true, true
	case cmd.TryWord("FAST"):
		p.flags, p.internalDate, p.size = true, true, true
	case cmd.TryWord("FULL"):
		p.flags, p.internalDate, p.size, p.envelope, p.body = true, true, true, true, true
	default:
		p.item(cmd)
	}
	return p
}

func (p *fetchPlan) item(cmd *command) {
	switch name := cmd.FetchKeyword(); name {
	case "UID":
		p.uid = true
	case "FLAGS":
		p.flags = true
	case "INTERNALDATE":
		p.internalDate = true
	case "RFC822.SIZE":
		p.size = true
	case "ENVELOPE":
		p.envelope = true
	case "BODYSTRUCTURE":
		p.structure = true
	case "RFC822":
		p.add(cmd, section{label: name})
	case "RFC822.HEADER":
		s := section{label: name, kind: mime.SectionHeader}
		s.Peek = true
		p.add(cmd, s)
	case "RFC822.TEXT":
		p.add(cmd, section{label: name, kind: mime.SectionText})
	case "BODY", "BODY.PEEK":
		if cmd.Peek() == '[' {
			p.add(cmd, p.section(cmd, name == "BODY.PEEK"))
		} else if name == "BODY" {
			p.body = true
		} else {
			cmd.Fail("[ after BODY.PEEK")
		}
	default:
		cmd.Fail("a FETCH item, not %s", name)
	}
}

// add takes a section in, once however often it is asked for.
func (p *fetchPlan) add(cmd *command, s section) {
	for i := range p.sections {
		if old := &p.sections[i]; old.label == s.label && old.partialBytes() == s.partialBytes() {
			old.Peek = old.Peek && s.Peek
			return
		}
	}
	if len(p.sections) == maxSections {
		cmd.Fail("at most %d sections", maxSections)
		return
	}
	// What is filtered out of the same header stands together, so that the header is read
	// once. Clients do not mind the order (RFC 3501, section 7.4.2).
	at := len(p.sections)
	for i := at; i > 0 && s.fields != nil; i-- {
		if s.sameHeader(&p.sections[i-1]) {
			at = i
			break
		}
	}
	p.sections = slices.Insert(p.sections, at, s)
}

// sameHeader reports whether two sections are fields out of the same bytes.
func (s *section) sameHeader(o *section) bool {
	return o.fields != nil && s.listed() == o.listed() && slices.Equal(s.Part, o.Part)
}

// section parses section-spec and partial (RFC 3501, section 9).
func (p *fetchPlan) section(cmd *command, peek bool) section {
	s := section{}
	s.Peek = peek
	cmd.Expect('[')
	label := []byte("BODY[")
	for c := cmd.Peek(); c >= '0' && c <= '9' && cmd.Err() == nil; c = cmd.Peek() {
		n := cmd.Number()
		if n == 0 || len(s.Part) == maxPartDepth {
			cmd.Fail("a part number")
		}
		s.Part = append(s.Part, int(n))
		label = strconv.AppendUint(label, uint64(n), 10)
		if !cmd.Try('.') {
			break
		}
		label = append(label, '.')
		if c := cmd.Peek(); c == ']' {
			cmd.Fail("a part number or a section name")
		}
	}
	if c := cmd.Peek(); c != ']' && (len(s.Part) == 0 || label[len(label)-1] == '.') {
		label = p.sectionText(cmd, &s, label)
	}
	cmd.Expect(']')
	label = append(label, ']')
	if cmd.Try('<') {
		off := cmd.Number()
		cmd.Expect('.')
		n := cmd.Number()
		if n == 0 {
			cmd.Fail("a length above 0")
		}
		cmd.Expect('>')
		s.Partial = &imap.SectionPartial{Offset: int64(off), Size: int64(n)}
		label = append(label, '<')
		label = strconv.AppendUint(label, uint64(off), 10)
		label = append(label, '>')
	}
	s.label = string(label)
	return s
}

// sectionText parses section-text and returns the label with it.
func (p *fetchPlan) sectionText(cmd *command, s *section, label []byte) []byte {
	name := cmd.FetchKeyword()
	label = append(label, name...)
	switch name {
	case "HEADER":
		s.kind, s.Specifier = mime.SectionHeader, imap.PartSpecifierHeader
	case "TEXT":
		s.kind, s.Specifier = mime.SectionText, imap.PartSpecifierText
	case "MIME":
		s.kind, s.Specifier = mime.SectionMIME, imap.PartSpecifierMIME
		if len(s.Part) == 0 {
			cmd.Fail("a part number before MIME")
		}
	case "HEADER.FIELDS", "HEADER.FIELDS.NOT":
		s.kind, s.Specifier = mime.SectionHeader, imap.PartSpecifierHeader
		s.not = name == "HEADER.FIELDS.NOT"
		cmd.SP()
		s.fields = []string{}
		cmd.List(func() { s.fields = append(s.fields, cmd.AString()) })
		if len(s.fields) == 0 || len(s.fields) > maxHeaderFields {
			cmd.Fail("1 to %d header fields", maxHeaderFields)
		}
		s.choice = p.names.Choose(s.fields, s.not)
		label = append(label, " ("...)
		for i, f := range s.fields {
			if i > 0 {
				label = append(label, ' ')
			}
			label = appendFieldName(label, f)
		}
		label = append(label, ')')
	default:
		cmd.Fail("a section name, not %s", name)
	}
	return label
}

// appendFieldName appends a field name as it can stand in a response. What is
// no atom is quoted, what cannot be quoted is dropped to "?": no header has it.
func appendFieldName(dst []byte, f string) []byte {
	atom, quotable := f != "", true
	for i := range len(f) {
		c := f[i]
		atom = atom && (c > ' ' && c < 0x7f && c != '(' && c != ')' && c != '{' && c != '%' && c != '*' && c != '"' && c != '\\' && c != ']')
		quotable = quotable && c >= ' ' && c < 0x7f && c != '"' && c != '\\'
	}
	switch {
	case atom:
		return append(dst, f...)
	case quotable:
		dst = append(dst, '"')
		dst = append(dst, f...)
		return append(dst, '"')
	}
	return append(dst, `"?"`...)
}
