package mime

import (
	"bytes"
	"strconv"
)

// Text is a header field's unfolded text. RFC 3501 section 7.4.2 tells an absent field (NIL) from an empty one ("").
type Text struct {
	Value string
	Set   bool
}

// Envelope is what ENVELOPE shows of a message's header.
type Envelope struct {
	Date, Subject, InReplyTo, MessageID Text
	From, Sender, ReplyTo, To, Cc, Bcc  []Address
}

// read takes one field into the envelope, if it belongs there.
func (e *Envelope) read(left *allowance, name string, raw []byte) {
	switch name {
	case "date":
		e.Date.read(left, raw)
	case "subject":
		e.Subject.read(left, raw)
	case "in-reply-to":
		e.InReplyTo.read(left, raw)
	case "message-id":
		e.MessageID.read(left, raw)
	case "from":
		e.From = readAddresses(e.From, left, raw)
	case "sender":
		e.Sender = readAddresses(e.Sender, left, raw)
	case "reply-to":
		e.ReplyTo = readAddresses(e.ReplyTo, left, raw)
	case "to":
		e.To = readAddresses(e.To, left, raw)
	case "cc":
		e.Cc = readAddresses(e.Cc, left, raw)
	case "bcc":
		e.Bcc = readAddresses(e.Bcc, left, raw)
	}
}

// setDefaults makes From stand for a missing or empty Sender and Reply-To (RFC 3501 section 7.4.2).
func (e *Envelope) setDefaults() {
	if len(e.Sender) == 0 {
		e.Sender = e.From
	}
	if len(e.ReplyTo) == 0 {
		e.ReplyTo = e.From
	}
}

// read sets t from the first such field.
func (t *Text) read(left *allowance, raw []byte) {
	if t.Set {
		return
	}
	if len(raw) > maxFieldBytes {
		raw = raw[:maxFieldBytes]
	}
	t.Set = true
	t.Value = left.text(unfold(raw))
}

// readAddresses appends the addresses of one field. A group that does not fit as a whole is closed all the same.
func readAddresses(to []Address, left *allowance, raw []byte) []Address {
	if len(raw) > maxAddressBytes {
		raw = raw[:maxAddressBytes]
		if i := bytes.LastIndexByte(raw, ','); i >= 0 {
			raw = raw[:i] // no half address
		}
	}
	open := false
	parseAddresses(unfold(raw), func(a Address) {
		switch {
		case a.Mark == MarkGroupEnd:
			if open {
				to, open = append(to, a), false
			}
		case left.take(len(a.Name) + len(a.Route) + len(a.Mailbox) + len(a.Host)):
			to = append(to, a)
			open = open || a.Mark == MarkGroupStart
		}
	})
	return to
}

// appendWire appends the envelope as RFC 3501's grammar has it.
func (e *Envelope) appendWire(dst []byte) []byte {
	dst = append(dst, '(')
	dst = e.Date.appendWire(dst)
	dst = append(dst, ' ')
	dst = e.Subject.appendWire(dst)
	for _, list := range [...][]Address{e.From, e.Sender, e.ReplyTo, e.To, e.Cc, e.Bcc} {
		dst = append(dst, ' ')
		dst = appendAddresses(dst, list)
	}
	dst = append(dst, ' ')
	dst = e.InReplyTo.appendWire(dst)
	dst = append(dst, ' ')
	dst = e.MessageID.appendWire(dst)
	return append(dst, ')')
}

func (t Text) appendWire(dst []byte) []byte {
	if !t.Set {
		return append(dst, "NIL"...)
	}
	return appendString(dst, t.Value)
}

func appendAddresses(dst []byte, list []Address) []byte {
	if len(list) == 0 {
		return append(dst, "NIL"...)
	}
	dst = append(dst, '(')
	for _, a := range list {
		switch a.Mark {
		case MarkGroupStart:
			dst = append(dst, "(NIL NIL "...)
			dst = appendString(dst, a.Mailbox)
			dst = append(dst, " NIL)"...)
		case MarkGroupEnd:
			dst = append(dst, "(NIL NIL NIL NIL)"...)
		default:
			dst = append(dst, '(')
			dst = appendNString(dst, a.Name)
			dst = append(dst, ' ')
			dst = appendNString(dst, a.Route)
			dst = append(dst, ' ')
			// Never NIL: that would be a group.
			dst = appendString(dst, a.Mailbox)
			dst = append(dst, ' ')
			dst = appendString(dst, a.Host)
			dst = append(dst, ')')
		}
	}
	return append(dst, ')')
}

// appendNString appends NIL for "", else a string.
func appendNString(dst []byte, s string) []byte {
	if s == "" {
		return append(dst, "NIL"...)
	}
	return appendString(dst, s)
}

// appendString appends s as a quoted string if it is short and printable, else as a literal. NUL can be in neither
// (RFC 3501 section 9, CHAR8) and is left out.
func appendString(dst []byte, s string) []byte {
	begin := len(dst)
	dst = append(dst, '"')
	for i := range len(s) {
		c := s[i]
		if len(s) >= maxQuotedBytes || (c < ' ' && c != '\t') || c >= 0x7f {
			return appendLiteral(dst[:begin], s)
		}
		if c == '"' || c == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, c)
	}
	return append(dst, '"')
}

func appendLiteral(dst []byte, s string) []byte {
	n := 0
	for i := range len(s) {
		if s[i] != 0 {
			n++
		}
	}
	dst = append(dst, '{')
	dst = strconv.AppendInt(dst, int64(n), 10)
	dst = append(dst, "}\r\n"...)
	for i := range len(s) {
		if s[i] != 0 {
			dst = append(dst, s[i])
		}
	}
	return dst
}
