package mime

import (
	"bytes"
	"iter"
	"strings"
)

// field is one header field as it stands: its lines with their line breaks.
type field struct {
	raw   []byte
	name  []byte // nil for a line that is no field
	value []byte // after the colon, still folded
}

// nextField cuts the first field off a header. ok is false at the end: at the empty line or without bytes.
func nextField(header []byte) (f field, rest []byte, ok bool) {
	n := lineLen(header)
	if n == 0 || isEmptyLine(header[:n]) {
		return field{}, nil, false
	}
	first := header[:n]
	for n < len(header) && (header[n] == ' ' || header[n] == '\t') {
		n += lineLen(header[n:])
	}
	f.raw, rest = header[:n], header[n:]
	colon := bytes.IndexByte(first, ':')
	if colon <= 0 {
		return f, rest, true
	}
	// White space before the colon is obsolete but alive (RFC 5322 section 4.5); inside, it is no name
	// ("From someone Mon Jan 1 10:00").
	name := bytes.TrimRight(f.raw[:colon], " \t")
	if len(name) == 0 || bytes.ContainsAny(name, " \t") {
		return f, rest, true
	}
	f.name, f.value = name, f.raw[colon+1:]
	return f, rest, true
}

func lineLen(b []byte) int {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return i + 1
	}
	return len(b)
}

// Field is one field of a header.
type Field struct {
	Name  string // as it stands; "" for a line that is no field
	Value []byte // behind the colon, folded, with its line break; for what is no field, the line
}

// Fields goes through the fields of a header in their order, up to the empty line.
func Fields(header []byte) iter.Seq[Field] {
	return func(yield func(Field) bool) {
		for f, rest, ok := nextField(header); ok; f, rest, ok = nextField(rest) {
			out := Field{Name: string(f.name), Value: f.value}
			if f.name == nil {
				out.Value = f.raw
			}
			if !yield(out) {
				return
			}
		}
	}
}

// unfold returns a field's value on one line, without white space at its ends. The white space that a fold begins with
// becomes one space.
func unfold(value []byte) string {
	value = bytes.Trim(value, " \t\r\n")
	if bytes.IndexByte(value, '\n') < 0 {
		return string(value)
	}
	out := make([]byte, 0, len(value))
	for {
		i := bytes.IndexByte(value, '\n')
		if i < 0 {
			return string(append(out, value...))
		}
		out = append(out, bytes.TrimSuffix(value[:i], []byte{'\r'})...)
		value = value[i+1:]
		if len(value) > 0 && value[0] == '\t' {
			out = append(out, ' ')
			value = value[1:]
		}
	}
}

// FilterHeader returns the lines of the fields named, in the order of the message, or with not all lines but these, and
// then an empty line, as BODY[HEADER.FIELDS (...)] wants them (RFC 3501 section 6.4.5). header may be a whole header or
// Summary.ListHeaders. Names match in any case.
func FilterHeader(header []byte, names []string, not bool) []byte {
	var n FieldNames
	c := n.Choose(names, not)
	var l FieldList
	l.Begin(&n, header)
	l.Read(len(header))
	out := make([]byte, l.Len(c))
	l.Choose(c, 0)
	l.Copy(out, len(header)+1)
	return out
}

func appendLower(dst, name []byte) []byte {
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		dst = append(dst, c)
	}
	return dst
}

// CoversHeader reports whether Summary.ListHeaders has every field of these names that a message has, so that
// FilterHeader need not be given the whole header. It says nothing when Summary.ListHeadersCut is set.
func CoversHeader(names []string) bool {
	for _, n := range names {
		if !isListHeader(strings.ToLower(n)) {
			return false
		}
	}
	return true
}

// isListHeader knows the fields that clients ask for when they show a list of messages, by lower-case name. Received
// and DKIM-Signature are not among them: they are long, and nobody lists them. Adding a name here changes what an
// already stored summary promises: raise the codec's version with it.
func isListHeader(name string) bool {
	switch name {
	case "from", "to", "cc", "bcc", "reply-to", "sender", "subject", "date", "message-id", "in-reply-to", "references",
		"newsgroups", "content-type", "content-transfer-encoding", "content-disposition", "mime-version",
		"list-id", "list-post", "list-unsubscribe", "x-priority", "priority", "importance",
		"x-spam-flag", "x-spam-status", "delivered-to", "return-path",
		"disposition-notification-to", "mail-followup-to", "x-mailer", "user-agent", "precedence", "auto-submitted",
		"x-mozilla-draft-info", "x-label":
		return true
	}
	return false
}

// keepListHeader adds a root field to what is kept for lists, whole or not at all.
func (m *Message) keepListHeader(raw []byte) {
	if len(m.listHeaders)+len(raw) > maxListHeaders {
		m.listHeadersCut = true
		return
	}
	m.listHeaders = append(m.listHeaders, raw...)
}
