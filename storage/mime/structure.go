package mime

import "strconv"

// structureWriter writes BODYSTRUCTURE, and notes which stretches of it BODY does not have: extension data never holds
// another part, so BODY is what is left without them.
type structureWriter struct {
	out    []byte
	cuts   []cut
	cutEnd int // in out: the end of the last cut
}

// cut is a stretch of BodyStructure: n bytes, gap bytes after the end of the one before.
type cut struct{ gap, n int }

func (w *structureWriter) part(p *Part) {
	w.out = append(w.out, '(')
	if p.Kind == KindMultipart {
		for _, c := range p.Children {
			w.part(c)
		}
		w.space()
		w.out = appendString(w.out, p.Subtype)
		from := len(w.out)
		w.space()
		w.params(p.Params)
		w.extension(p, from)
		w.out = append(w.out, ')')
		return
	}
	w.out = appendString(w.out, p.Type)
	w.space()
	w.out = appendString(w.out, p.Subtype)
	w.space()
	w.params(shownParams(p))
	for _, s := range [...]string{p.ID, p.Description} {
		w.space()
		w.out = appendNString(w.out, s)
	}
	w.space()
	w.out = appendString(w.out, p.Encoding)
	w.number(p.End - p.Body)
	switch {
	case p.Kind == KindMessage && p.Subtype == "rfc822":
		// RFC 3501's grammar knows no other message with an envelope and a body: message/global is a basic part.
		inner := p.Children[0]
		w.space()
		w.out = inner.Envelope.appendWire(w.out)
		w.space()
		w.part(inner)
		w.number(p.Lines)
	case p.Type == "text":
		w.number(p.Lines)
	}
	from := len(w.out)
	w.space()
	w.out = appendNString(w.out, p.MD5)
	w.extension(p, from)
	w.out = append(w.out, ')')
}

// shownParams adds the default charset to a text without one (RFC 2045 section 5.2), as Dovecot does.
func shownParams(p *Part) []Param {
	if _, ok := p.Param("charset"); ok || p.Type != "text" {
		return p.Params
	}
	return append(p.Params[:len(p.Params):len(p.Params)], Param{"charset", "us-ascii"})
}

// extension writes the last three extension fields; all of them began at from.
func (w *structureWriter) extension(p *Part, from int) {
	w.space()
	if p.Disposition.Word == "" {
		w.out = append(w.out, "NIL"...)
	} else {
		w.out = append(w.out, '(')
		w.out = appendString(w.out, p.Disposition.Word)
		w.space()
		w.params(p.Disposition.Params)
		w.out = append(w.out, ')')
	}
	w.space()
	if len(p.Language) == 0 {
		w.out = append(w.out, "NIL"...)
	} else {
		w.out = append(w.out, '(')
		for i, tag := range p.Language {
			if i > 0 {
				w.space()
			}
			w.out = appendString(w.out, tag)
		}
		w.out = append(w.out, ')')
	}
	w.space()
	w.out = appendNString(w.out, p.Location)
	w.cuts = append(w.cuts, cut{gap: from - w.cutEnd, n: len(w.out) - from})
	w.cutEnd = len(w.out)
}

func (w *structureWriter) params(params []Param) {
	if len(params) == 0 {
		w.out = append(w.out, "NIL"...)
		return
	}
	w.out = append(w.out, '(')
	for i, p := range params {
		if i > 0 {
			w.space()
		}
		w.out = appendString(w.out, p.Name)
		w.space()
		w.out = appendString(w.out, p.Value)
	}
	w.out = append(w.out, ')')
}

func (w *structureWriter) space() { w.out = append(w.out, ' ') }

func (w *structureWriter) number(n int64) {
	w.space()
	w.out = strconv.AppendInt(w.out, n, 10)
}
