package imapd

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"

	"mailnode/storage"
	"mailnode/storage/mime"
)

const (
	// searchPieceBytes is how much of a body is read, and searched, in one turn.
	searchPieceBytes = 64 << 10
	// searchChunkBytes is how much decoded text is searched before the keys are looked at.
	searchChunkBytes = 16 << 10
)

// candidate is a message that a SEARCH looks at.
type candidate struct {
	storage.Message
	index   int   // in the view
	read    stage // how far
	verdict truth
	summary *mime.Summary // while it is looked at
	sent    sentDate
}

// sentDate is what the first Date field says.
type sentDate struct {
	seen, known bool
	at          time.Time
}

// listed reports whether the summary's list of fields has been read and is whole.
func (m *candidate) listed() bool { return m.read >= readSummary && !m.summary.ListHeadersCut }

// begin forgets the texts of the message before.
func (s *searching) begin() {
	s.sources.each(func(src *source) { src.finder.Reset() })
}

// readFields searches the fields of the message's own header.
func (s *searching) readFields(m *candidate, header []byte) {
	for f := range mime.Fields(header) {
		name := strings.ToLower(f.Name)
		if name == "date" && !m.sent.seen {
			m.sent.seen = true
			m.sent.at, m.sent.known = mime.ParseDate(string(f.Value))
		}
		src := s.sources.fields[name]
		if src == nil && s.sources.header == nil {
			continue
		}
		forms := fieldForms(name, f.Value)
		if src != nil {
			src.write(forms)
		}
		s.sources.header.writeField(f, forms)
	}
}

// fieldForms returns the texts as which a field's value can be found: as it stands, unfolded and decoded; with single
// spaces; its addresses without comments and quotes (RFC 3501, section 6.4.4: FROM is about the envelope); its
// parameters, put together and decoded.
func fieldForms(name string, value []byte) []string {
	value = bytes.TrimRight(value, "\r\n")
	plain := mime.DecodeHeader(string(value)) + string(value[len(bytes.TrimRight(value, " \t")):])
	forms := []string{plain}
	if spaced := strings.Join(strings.Fields(plain), " "); spaced != plain {
		forms = append(forms, spaced)
	}
	switch {
	case mime.IsAddressField(name):
		forms = append(forms, mime.Addresses(value)...)
	case hasParams(name):
		for _, p := range mime.DecodedParams(value) {
			forms = append(forms, p.Name+"="+p.Value)
		}
	}
	return forms
}

func hasParams(name string) bool { return name == "content-type" || name == "content-disposition" }

func (src *source) write(texts []string) {
	for _, t := range texts {
		src.finder.WriteText(t)
	}
}

// writeField searches a whole field, its name included. A line that is no field has none.
func (src *source) writeField(f mime.Field, forms []string) {
	if src == nil {
		return
	}
	if f.Name == "" {
		src.write(forms)
		return
	}
	src.finder.WriteText(f.Name + ": " + forms[0])
	blank := f.Value[:len(f.Value)-len(bytes.TrimLeft(f.Value, " \t"))]
	if string(blank) != " " {
		src.finder.WriteText(f.Name + ":" + string(blank) + forms[0]) // as it stands
	}
	src.write(forms[1:])
}

// bodySearch looks into an opened message. Its turn is held but while the disk is read.
type bodySearch struct {
	*searching
	m     *candidate
	body  storage.BodyReader
	found int // words, when the keys were looked at last
}

// run reads on until the message is decided.
func (b *bodySearch) run() error {
	root := &b.m.summary.Parts[0]
	header, err := b.readHeader(root)
	if err != nil {
		return err
	}
	b.begin()
	b.readFields(b.m, header)
	b.m.read = readHeader
	if b.decide() || b.sources.body == nil {
		return nil
	}
	for i := range b.m.summary.Parts {
		if err := b.readPart(i); err != nil || b.m.verdict != unknown {
			return err
		}
	}
	b.m.read = readBody
	b.decide()
	return nil
}

// readHeader reads the header of a part, for another turn.
func (b *bodySearch) readHeader(p *mime.Span) ([]byte, error) {
	header := make([]byte, min(p.Body-p.Header, headerBytesMax))
	return header, b.readAt(header, p.Header)
}

// readAt fills buf from the disk, and waits for another turn.
func (b *bodySearch) readAt(buf []byte, off int64) error {
	b.turn.give()
	if n, err := b.body.ReadAt(buf, off); n < len(buf) {
		return fmt.Errorf("read UID %d at byte %d: %w", b.m.UID, off, err)
	}
	return b.turn.take(b.ctx)
}

// readPart searches a part's header, and its text if it has any.
func (b *bodySearch) readPart(i int) error {
	p := &b.m.summary.Parts[i]
	if i > 0 && p.Body > p.Header {
		header, err := b.readHeader(p)
		if err != nil {
			return err
		}
		isMessage := b.m.summary.Parts[i-1].Kind == mime.KindMessage
		b.readPartFields(header, isMessage)
		if b.decideIfNew() {
			return nil
		}
	}
	if p.Kind != mime.KindLeaf || p.Type != "text" && p.Type != "message" {
		return nil
	}
	raw := &pieceReader{bodySearch: b, off: p.Body, end: p.End}
	return b.readText(mime.TextReader(raw, p.Encoding, p.Charset))
}

// readPartFields searches the header of a part, which TEXT sees, or of an embedded message, which BODY sees as well.
// Of a part's header BODY sees what it is called.
func (b *bodySearch) readPartFields(header []byte, isMessage bool) {
	body := b.sources.body
	for f := range mime.Fields(header) {
		name := strings.ToLower(f.Name)
		forms := fieldForms(name, f.Value)
		b.sources.header.writeField(f, forms)
		if isMessage {
			body.writeField(f, forms)
			continue
		}
		if hasParams(name) {
			for _, p := range mime.DecodedParams(f.Value) {
				if p.Name == "name" || p.Name == "filename" {
					body.finder.WriteText(p.Value)
				}
			}
		}
	}
}

// readText searches a text, in UTF-8, to its end or until the message is decided.
func (b *bodySearch) readText(text io.Reader) error {
	finder := b.sources.body.finder
	defer finder.End()
	if b.chunk == nil {
		b.chunk = make([]byte, searchChunkBytes)
	}
	for {
		n, err := text.Read(b.chunk)
		finder.Write(b.chunk[:n])
		if b.decideIfNew() || err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// decide looks at the keys, and reports whether they are decided.
func (b *bodySearch) decide() bool {
	b.m.verdict = b.keys.match(b.m, b.values)
	return b.m.verdict != unknown
}

// decideIfNew does so if another word was found.
func (b *bodySearch) decideIfNew() bool {
	found := b.sources.body.finder.Count()
	if b.sources.header != nil {
		found += b.sources.header.finder.Count()
	}
	if found == b.found {
		return false
	}
	b.found = found
	return b.decide()
}

// pieceReader reads a stretch of a body piece by piece, a turn for each.
type pieceReader struct {
	*bodySearch
	off, end int64
	rest     []byte // of the present piece
}

func (r *pieceReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		n := min(r.end-r.off, searchPieceBytes)
		if n == 0 {
			return 0, io.EOF
		}
		if r.piece == nil {
			r.piece = make([]byte, searchPieceBytes)
		}
		r.rest = r.piece[:n]
		if err := r.readAt(r.rest, r.off); err != nil {
			r.rest = nil
			return 0, err
		}
		r.off += n
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
