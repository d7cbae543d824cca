package mime

import "strings"

// Mark tells an address from the two ends of a group (RFC 3501 section 7.4.2).
type Mark uint8

// The marks.
const (
	MarkAddress    Mark = iota
	MarkGroupStart      // Mailbox is the group's name
	MarkGroupEnd
)

// Address is one address of a header field, quoting removed, encoded words as they stand.
type Address struct {
	Mark    Mark
	Name    string // display name, or the comment that stands for it
	Route   string // obsolete source route, "@a,@b"
	Mailbox string // local part
	Host    string // "" when the address has none
}

// addressReader reads an address list (RFC 5322 section 3.4, obsolete forms included) from left to right, each byte
// once. It accepts everything and keeps what it can make sense of.
type addressReader struct {
	s    string
	emit func(Address)

	inGroup bool
	angle   *Address // the address in angle brackets of the item at hand
	comment string

	text       []byte // words of the item at hand
	space      bool   // white space since the last word
	wordStart  int    // in text: where the last word begins; dotted words are one
	quoted     bool   // text has a quoted string
	spaced     bool   // text has white space outside of quotes
	at         int    // in text: the last @ outside of quotes, -1 without one
	localStart int    // in text: the local part before that @
	localEnd   int
}

// IsAddressField reports whether a field holds an address list (RFC 5322 section 3.6), by its lower-case name.
func IsAddressField(name string) bool {
	switch name {
	case "from", "sender", "reply-to", "to", "cc", "bcc":
		return true
	}
	return false
}

// Addresses returns the addresses of a field's value for comparing: "name <local@domain>" without quotes, comments and
// folds, the name in UTF-8, or what there is of that. The name of a group stands before its members.
func Addresses(value []byte) []string {
	var list []string
	parseAddresses(unfold(value[:min(len(value), maxAddressBytes)]), func(a Address) {
		spec := a.Mailbox
		if a.Host != "" {
			spec += "@" + a.Host
		}
		switch {
		case a.Mark == MarkGroupEnd:
		case a.Mark == MarkGroupStart:
			list = append(list, DecodeHeader(a.Mailbox))
		case a.Name == "":
			list = append(list, spec)
		default:
			list = append(list, DecodeHeader(a.Name)+" <"+spec+">")
		}
	})
	return list
}

// parseAddresses hands the addresses of an unfolded value to emit.
func parseAddresses(value string, emit func(Address)) {
	r := addressReader{s: value, emit: emit}
	r.reset()
	for len(r.s) > 0 {
		r.step()
	}
	r.flush()
	r.endGroup()
}

func (r *addressReader) reset() {
	r.text, r.space, r.quoted, r.spaced, r.angle, r.comment = r.text[:0], false, false, false, nil, ""
	r.wordStart, r.at = 0, -1
}

func (r *addressReader) step() {
	switch c := r.s[0]; c {
	case ' ', '\t', '\r', '\n':
		r.space = len(r.text) > 0
		r.s = r.s[1:]
	case '(':
		text, n := readComment(r.s)
		if text = strings.Trim(text, " \t"); text != "" {
			r.comment = text
		}
		r.s = r.s[n:]
		r.space = len(r.text) > 0
	case '"':
		r.separate(c)
		text, n := readQuoted(r.s)
		r.text = append(r.text, text...)
		r.quoted = true
		r.s = r.s[n:]
	case ',', ';':
		r.flush()
		if c == ';' {
			r.endGroup()
		}
		r.s = r.s[1:]
	case '<':
		if r.angle != nil {
			r.flush()
		}
		if name, n := angleGroup(r.s[1:]); n > 0 {
			r.startGroup(name)
			r.s = r.s[1+n:]
			return
		}
		name := strings.Trim(string(r.text), " \t")
		r.s = r.s[1:]
		a := r.readAngle()
		a.Name = name
		r.text, r.angle, r.at, r.space = r.text[:0], &a, -1, false
	case ':':
		if r.angle == nil && r.at < 0 {
			r.startGroup(strings.Trim(string(r.text), " \t"))
			r.s = r.s[1:]
			return
		}
		r.word()
	case '>':
		if len(r.text) == 0 || r.at >= 0 { // closes what angleGroup opened, or nothing
			r.s = r.s[1:]
			return
		}
		r.word()
	case '@':
		r.localStart, r.localEnd = r.wordStart, len(r.text)
		r.separate(c)
		r.at = len(r.text)
		r.text = append(r.text, '@')
		r.s = r.s[1:]
	case '[':
		if r.at >= 0 && r.at == len(r.text)-1 {
			r.text, r.s = appendLiteralDomain(r.text, r.s)
			return
		}
		r.word()
	default:
		r.word()
	}
}

// word takes bytes up to the next one with a meaning. The first has none here.
func (r *addressReader) word() {
	r.separate(r.s[0])
	if r.s[0] == '\\' && len(r.s) > 1 {
		r.text = append(r.text, r.s[1])
		r.s = r.s[2:]
		return
	}
	n := strings.IndexAny(r.s[1:], " \t\r\n()\",;<>:@[\\") + 1
	if n == 0 {
		n = len(r.s)
	}
	r.text = append(r.text, r.s[:n]...)
	r.s = r.s[n:]
}

// separate puts a space between two words that had white space between them. Around dots it does not part words
// (RFC 5322 section 4.4, obs-local-part).
func (r *addressReader) separate(next byte) {
	if !r.space {
		return
	}
	r.space, r.spaced = false, true
	dotted := next == '.' || next == '@' || r.text[len(r.text)-1] == '.'
	r.text = append(r.text, ' ')
	if !dotted {
		r.wordStart = len(r.text)
	}
}

// flush ends the item at hand.
func (r *addressReader) flush() {
	a := Address{}
	switch {
	case r.angle != nil:
		a = *r.angle
	case r.at >= 0:
		a = r.bareAddress()
	case len(r.text) == 0:
		r.reset()
		return
	case r.spaced || r.quoted:
		a.Name = string(r.text)
	default:
		a.Mailbox = string(r.text)
	}
	if a.Name == "" {
		a.Name = r.comment
	}
	r.emit(a)
	r.reset()
}

// bareAddress reads the words at hand as local@host; words before it are its name.
func (r *addressReader) bareAddress() Address {
	a := Address{
		Name:    strings.Trim(string(r.text[:r.localStart]), " \t"),
		Mailbox: string(r.text[r.localStart:r.localEnd]),
	}
	if !r.quoted {
		a.Mailbox = closeDots(a.Mailbox)
	}
	host := closeDots(strings.TrimLeft(string(r.text[r.at+1:]), " "))
	a.Host, _, _ = strings.Cut(host, " ")
	return a
}

func closeDots(s string) string {
	if !strings.Contains(s, " ") {
		return s
	}
	return strings.ReplaceAll(strings.ReplaceAll(s, " .", "."), ". ", ".")
}

// startGroup begins a group. In another one there are none (RFC 5322 section 3.4): its members are the outer one's.
func (r *addressReader) startGroup(name string) {
	if !r.inGroup {
		r.inGroup = true
		r.emit(Address{Mark: MarkGroupStart, Mailbox: name})
	}
	r.reset()
}

// angleGroup recognises a whole group that some senders put in angle brackets: "<undisclosed-recipients:;>". n is the
// length of its name with the colon, 0 when s begins with something else, such as the address "mailto:a@b".
func angleGroup(s string) (name string, n int) {
	colon := strings.IndexAny(s, ":@,;<>\"([\\")
	if colon < 0 || s[colon] != ':' || strings.Trim(s[:colon], " \t\r\n") == "" {
		return "", 0
	}
	members := s[colon+1:]
	end := strings.IndexAny(members, ";<>")
	if end < 0 {
		end = len(members)
	}
	closed := end < len(members) && members[end] != '>'
	if !closed && strings.Trim(members[:end], " \t\r\n") != "" {
		return "", 0
	}
	return strings.Trim(s[:colon], " \t\r\n"), colon + 1
}

func (r *addressReader) endGroup() {
	if r.inGroup {
		r.inGroup = false
		r.emit(Address{Mark: MarkGroupEnd})
	}
}

// readAngle reads what is between angle brackets, with the closing one. Where that is missing, the address ends at the
// comma or semicolon.
func (r *addressReader) readAngle() (a Address) {
	r.s = strings.TrimLeft(r.s, " \t\r\n")
	if strings.HasPrefix(r.s, "@") {
		end := strings.IndexAny(r.s, ":;<>") // a route has none of these but the colon at its end
		if end >= 0 && r.s[end] == ':' {
			a.Route = strings.Join(strings.Fields(r.s[:end]), "")
			r.s = r.s[end+1:]
		}
	}
	var text []byte
	at := -1
	for len(r.s) > 0 {
		switch c := r.s[0]; c {
		case '>', ',', ';':
			if c == '>' {
				r.s = r.s[1:]
			}
			a.setSpec(text, at)
			return a
		case ' ', '\t', '\r', '\n':
			r.s = r.s[1:]
		case '(':
			_, n := readComment(r.s)
			r.s = r.s[n:]
		case '"':
			quoted, n := readQuoted(r.s)
			text = append(text, quoted...)
			r.s = r.s[n:]
		case '[':
			text, r.s = appendLiteralDomain(text, r.s)
		default:
			if c == '@' {
				at = len(text)
			}
			text = append(text, c)
			r.s = r.s[1:]
		}
	}
	a.setSpec(text, at)
	return a
}

func (a *Address) setSpec(text []byte, at int) {
	if at < 0 {
		a.Mailbox = string(text)
		return
	}
	a.Mailbox, a.Host = string(text[:at]), string(text[at+1:])
}

// appendLiteralDomain copies "[...]" from the beginning of s; colons and dots have no meaning in it.
func appendLiteralDomain(dst []byte, s string) (text []byte, rest string) {
	n := strings.IndexAny(s, "],;> ")
	switch {
	case n < 0:
		n = len(s)
	case s[n] == ']':
		n++
	}
	return append(dst, s[:n]...), s[n:]
}
