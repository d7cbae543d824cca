package mime

import (
	"bytes"
	"strings"
)

// readFields fills the innermost part from the header that was collected for it.
func (s *scanner) readFields(top *frame) {
	p := top.part
	isRoot, isMessage := len(s.stack) == 1, s.isMessage()
	if isMessage {
		p.Envelope = &Envelope{}
	}
	if isRoot {
		s.msg.listHeadersCut = s.headerCut
	}
	var seen contentFields
	for f, rest, ok := nextField(s.header); ok; f, rest, ok = nextField(rest) {
		if s.headerCut && len(rest) == 0 {
			break // its end may be among the bytes that were not kept
		}
		if f.name == nil || len(f.name) > 64 {
			continue
		}
		name := string(bytes.ToLower(f.name))
		if isRoot && isListHeader(name) {
			s.msg.keepListHeader(f.raw)
		}
		if strings.HasPrefix(name, "content-") {
			s.readContentField(p, &seen, name, f.value)
		} else if isMessage {
			p.Envelope.read(&s.left, name, f.value)
		}
	}
	if isMessage {
		p.Envelope.setDefaults()
	}
	if p.Type == "" {
		p.Type, p.Subtype = "text", "plain"
		if top.digest && !seen.contentType {
			p.Type, p.Subtype = "message", "rfc822" // RFC 2046 section 5.1.5
		}
	}
	if p.Encoding == "" {
		p.Encoding = "7bit" // RFC 2045 section 6.1
	}
}

// contentFields remembers which fields a header had: of two equal ones the first counts.
type contentFields struct{ contentType, disposition, language bool }

func (s *scanner) readContentField(p *Part, seen *contentFields, name string, raw []byte) {
	if len(raw) > maxFieldBytes {
		raw = raw[:maxFieldBytes]
	}
	switch name {
	case "content-type":
		if !seen.contentType {
			seen.contentType = true
			typ, subtype, params := parseContentType(unfold(raw))
			if len(typ)+len(subtype) <= 2*maxTokenBytes {
				p.Type, p.Subtype, p.Params = typ, subtype, s.left.params(params)
			}
		}
	case "content-disposition":
		if !seen.disposition {
			seen.disposition = true
			word, params := parseDisposition(unfold(raw))
			if p.Disposition.Word = s.left.text(word); p.Disposition.Word != "" {
				p.Disposition.Params = s.left.params(params)
			}
		}
	case "content-language":
		if !seen.language {
			seen.language = true
			for _, tag := range parseLanguages(unfold(raw)) {
				if s.left.take(len(tag)) {
					p.Language = append(p.Language, tag)
				}
			}
		}
	case "content-transfer-encoding":
		if p.Encoding == "" {
			p.Encoding = parseEncoding(unfold(raw))
		}
	case "content-id":
		s.keep(&p.ID, raw)
	case "content-description":
		s.keep(&p.Description, raw)
	case "content-md5":
		s.keep(&p.MD5, raw)
	case "content-location":
		s.keep(&p.Location, raw)
	}
}

// keep sets an empty string to a field's text.
func (s *scanner) keep(to *string, raw []byte) {
	if *to == "" {
		*to = s.left.text(unfold(raw))
	}
}
