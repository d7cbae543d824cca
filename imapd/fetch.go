package imapd

import (
	"errors"
	"fmt"
	"slices"

	"mailnode/imapd/wire"
	"mailnode/storage"
	"mailnode/storage/mime"
)

// fetchBatch is how many messages with bodies are marked \Seen at once, and how
// many without bodies have their summaries read at once.
const (
	fetchBatch     = 32
	fetchListBatch = 256
)

// summariesMax is how many bytes of summaries are read at once, and one more.
const summariesMax = 256 << 10

const (
	// headerBytesMax is how much of a header is filtered for HEADER.FIELDS when the
	// summary does not have it.
	headerBytesMax = 1 << 20
	// headerPieceBytes is how much of a header is looked through in one turn. Of one that
	// is no larger than this its fields cost less than the body that has to be opened for
	// them, and need none.
	headerPieceBytes = 64 << 10
	// headerPieceSpans is how many stretches of fields are gone through in one turn.
	headerPieceSpans = 16 << 10
	// fieldBytes is how much of the fields is copied in one turn.
	fieldBytes = 16 << 10
)

// fetch is FETCH and UID FETCH (RFC 3501, section 6.4.5).
func (c *session) fetch(cmd *command) (reply, error) {
	cmd.SP()
	set := cmd.Set()
	cmd.SP()
	plan := parseFetchItems(cmd)
	cmd.End()
	if err := cmd.Err(); err != nil {
		return reply{}, err
	}
	plan.uid = plan.uid || cmd.isUID() // section 6.4.8
	spans, err := c.view.spans(set, cmd.isUID())
	if err != nil {
		return reply{}, err
	}
	f := fetching{session: c, plan: plan, batchMax: fetchBatch, headers: headers{turn: turn{of: c.srv.turns}}}
	defer f.turn.give()
	var found int
	switch {
	case plan.needsBody() || plan.marks():
		found, err = c.eachMessage(spans, f.collect, f.writeBatch)
	case plan.needsSummary():
		f.batchMax = fetchListBatch
		found, err = c.eachMessage(spans, f.collect, f.writeBatch)
	default:
		found, err = c.eachMessage(spans, f.visit, c.w.FlushIfFull)
	}
	if err == nil {
		err = f.failed
	}
	if err != nil {
		return reply{}, err
	}
	return okVanished(cmd.verb+" completed", f.vanished || found < count(spans))
}

// fetching is one FETCH under way.
type fetching struct {
	*session
	plan     *fetchPlan
	one      fetched // the message of visit
	batch    []fetched
	batchMax int
	raw      []byte // the summaries of batch that were read at once
	headers
	vanished bool  // a message was gone when its body was opened
	failed   error // the first body that could not be had; the others are served
	started  bool  // an item of the present response is written
}

// headers is what fields are filtered out of.
type headers struct {
	turn   turn   // held only while fields of a large header are looked for
	header []byte // the one that was read last, when it is not listed
	fields mime.FieldList
	piece  []byte // of fields that are written
}

// item begins an item of the present response.
func (f *fetching) item(name string) *wire.Writer {
	if f.started {
		f.w.Byte(' ')
	}
	f.started = true
	return f.w.Str(name)
}

type fetched struct {
	index   int
	m       storage.Message
	marked  bool   // \Seen was set by this FETCH
	summary []byte // as the store has it; nil: not read yet
}

// visit answers for a message whose record is all that is needed.
func (f *fetching) visit(i int, m *storage.Message) (enough bool, err error) {
	f.one = fetched{index: i, m: *m}
	err = f.writeMessage(&f.one)
	return f.w.Full(), err
}

func (f *fetching) collect(i int, m *storage.Message) (enough bool, err error) {
	f.batch = append(f.batch, fetched{index: i, m: *m})
	return len(f.batch) == f.batchMax, nil
}

func (f *fetching) writeBatch() error {
	if err := f.markBatch(); err != nil {
		return err
	}
	read := 0 // of batch, summaries are read up to here
	for i := range f.batch {
		if i == read && f.plan.needsSummary() {
			read += f.readSummaries(f.batch[i:])
		}
		if err := f.ctx.Err(); err != nil {
			return err
		}
		if err := f.writeMessage(&f.batch[i]); err != nil {
			return err
		}
		if err := f.w.FlushIfFull(); err != nil {
			return err
		}
	}
	f.batch = f.batch[:0]
	return nil
}

// readSummaries reads at once the summaries of the first of batch and of those
// that lie close behind it, up to summariesMax bytes, and returns how many it went
// through. One that it did not find is left to writeMessage.
func (f *fetching) readSummaries(batch []fetched) (n int) {
	for n = 1; n < len(batch) && batch[n].m.UID-batch[n-1].m.UID < scanGap; n++ {
	}
	if n == 1 {
		return 1
	}
	f.raw = f.raw[:0]
	i := 0
	err := f.store.Summaries(f.ctx, f.view.ref, batch[0].m.UID, batch[n-1].m.UID, func(uid storage.UID, summary []byte) error {
		for i < n && batch[i].m.UID < uid {
			i++
		}
		if i < n && batch[i].m.UID == uid {
			from := len(f.raw)
			f.raw = append(f.raw, summary...)
			batch[i].summary = f.raw[from:]
		}
		if len(f.raw) > summariesMax {
			return errPause
		}
		return nil
	})
	if err != nil { // a pause, or damage: what comes behind it is tried again
		return min(i+1, n)
	}
	return n
}

// markBatch sets \Seen. Mail can be read also when a flag cannot be stored.
func (f *fetching) markBatch() error {
	if f.view.readOnly || !f.plan.marks() {
		return nil
	}
	var unseen []storage.UID
	for i := range f.batch {
		if !f.batch[i].m.Flags.Has(storage.Seen) {
			unseen = append(unseen, f.batch[i].m.UID)
		}
	}
	if len(unseen) == 0 {
		return nil
	}
	ms, err := f.store.SetFlags(f.ctx, f.view.ref, unseen, storage.FlagChange{Op: storage.FlagsAdd, Flags: storage.Flags{System: storage.Seen}})
	if errors.Is(err, storage.ErrNotMaster) || f.ctx.Err() != nil {
		return err
	}
	if errors.Is(err, storage.ErrDiskFull) { // a condition says so; each FETCH would
		return nil
	}
	if err != nil {
		f.log().Warn("mark messages seen", "err", err)
		return nil
	}
	for _, m := range ms {
		for i := range f.batch {
			if f.batch[i].m.UID == m.UID {
				f.batch[i].m, f.batch[i].marked = m.Message, true
			}
		}
	}
	return nil
}

// writeMessage writes one FETCH response, or none when the message cannot be
// had. Everything that can fail is done before the first byte is written.
func (f *fetching) writeMessage(m *fetched) error {
	var summary mime.Summary
	if f.plan.needsSummary() {
		raw, err := m.summary, error(nil)
		if raw == nil {
			raw, err = f.store.Summary(f.ctx, f.view.ref, m.m.UID)
		}
		if err == nil {
			if summary, err = mime.ParseSummary(raw); err != nil {
				err = storage.Errorf(storage.ErrCorrupt, "read summary of UID %d: %w", m.m.UID, err)
			}
		}
		if err != nil {
			return f.cannot(err)
		}
	}
	src := sectionSource{fetching: f, uid: m.m.UID, summary: &summary}
	defer src.close()
	parts := make([]resolved, len(f.plan.sections))
	for i := range parts {
		var err error
		if parts[i], err = src.resolve(&f.plan.sections[i]); err != nil {
			return f.cannot(err)
		}
	}
	f.writeRecord(m, &summary)
	for i := range parts {
		if err := src.write(&f.plan.sections[i], parts[i]); err != nil {
			return err
		}
	}
	f.w.Str(")").CRLF()
	return nil
}

// cannot decides about a message that cannot be answered: the next ones may be.
func (f *fetching) cannot(err error) error {
	switch {
	case errors.Is(err, storage.ErrUnavailable), errors.Is(err, storage.ErrCorrupt): // first, as in replyTo
		if f.failed == nil {
			f.failed = err
		}
		return nil
	case errors.Is(err, storage.ErrNotFound):
		f.vanished = true
		return nil
	}
	return err
}

// writeRecord writes the items that need no body, and what opens the response.
func (f *fetching) writeRecord(m *fetched, summary *mime.Summary) {
	w, p := f.w, f.plan
	if p.flags || m.marked {
		f.nameKeywords(m.m.Flags)
	}
	w.Str("* ").Uint(uint64(m.index + 1)).Str(" FETCH (")
	f.started = false
	if p.uid {
		f.item("UID ").Uint(uint64(m.m.UID))
	}
	if p.flags || m.marked {
		f.item("FLAGS ")
		f.writeFlags(m.m.Flags)
		if m.marked {
			f.view.noteOwn(&m.m)
		}
	}
	if p.internalDate {
		f.item("INTERNALDATE ").Append(func(dst []byte) []byte {
			return m.m.InternalDate.AppendFormat(dst, `"02-Jan-2006 15:04:05 -0700"`)
		})
	}
	if p.size {
		f.item("RFC822.SIZE ").Uint(uint64(m.m.Size))
	}
	if p.envelope {
		f.item("ENVELOPE ").Raw(summary.Envelope)
	}
	if p.body {
		f.item("BODY ").Append(summary.AppendBody)
	}
	if p.structure {
		f.item("BODYSTRUCTURE ").Raw(summary.BodyStructure)
	}
}

// resolved is how much a section has, and where.
type resolved struct {
	none   bool  // the message has no such section
	off, n int64 // of the body, or of the fields that were asked for
}

// sectionSource is a message's body, opened when first needed, and the header in
// it that was read last.
type sectionSource struct {
	*fetching
	uid     storage.UID
	summary *mime.Summary
	body    storage.BodyReader
	has     headerAt // in fetching.fields
}

// headerAt says where a header lies: in the body, or listed in the summary. The zero
// value is none.
type headerAt struct {
	known, listed bool
	off, n        int64
}

func (s *sectionSource) close() {
	if s.body != nil {
		s.body.Close()
	}
}

func (s *sectionSource) open() error {
	if s.body != nil {
		return nil
	}
	b, err := s.store.OpenBody(s.ctx, s.view.ref, s.uid)
	if err != nil {
		return err
	}
	s.body = b
	if b.Size() != s.summary.Size() {
		return storage.Errorf(storage.ErrCorrupt, "open body of UID %d: %d bytes, its summary says %d", s.uid, b.Size(), s.summary.Size())
	}
	return nil
}

// resolve finds out what a section has.
func (s *sectionSource) resolve(want *section) (r resolved, err error) {
	if err := s.ctx.Err(); err != nil {
		return r, err
	}
	off, n, found := s.summary.Locate(want.Part, want.kind)
	if !found {
		return resolved{none: true}, nil
	}
	if want.fields == nil {
		err = s.open()
	} else if err = s.list(want); err == nil {
		off, n = 0, s.fields.Len(want.choice)
	}
	if want.Partial != nil {
		skip := min(want.Partial.Offset, n)
		off, n = off+skip, min(n-skip, want.Partial.Size)
	}
	return resolved{off: off, n: n}, err
}

// list reads the header of a section with fields, unless it is the one that was read
// last: sections of the same header stand together (fetchPlan.add).
func (s *sectionSource) list(want *section) error {
	at := headerAt{known: true, listed: want.listed() && !s.summary.ListHeadersCut}
	if !at.listed {
		at.off, at.n, _ = s.summary.Locate(want.Part, want.kind)
		at.n = min(at.n, headerBytesMax)
	}
	if s.has == at {
		return nil
	}
	s.has = headerAt{}
	header := s.summary.ListHeaders
	if !at.listed {
		if err := s.open(); err != nil {
			return err
		}
		s.header = slices.Grow(s.header[:0], int(at.n))[:at.n]
		header = s.header
		if got, err := s.body.ReadAt(header, at.off); int64(got) < at.n {
			return fmt.Errorf("read header of UID %d: %w", s.uid, err)
		}
	}
	s.fields.Begin(&s.plan.names, header)
	for more := true; more; {
		if err := s.takeTurn(len(header)); err != nil {
			return err
		}
		more = s.fields.Read(headerPieceBytes)
		s.turn.give()
	}
	s.has = at
	return nil
}

// takeTurn waits for a turn to look through a header of so many bytes, if it is large.
func (f *fetching) takeTurn(headerBytes int) error {
	if headerBytes <= headerPieceBytes {
		return nil
	}
	return f.turn.take(f.ctx)
}

// write writes a section. What cannot be read now, although it could be a moment
// ago, breaks the response off: its literal is announced.
func (s *sectionSource) write(want *section, r resolved) error {
	s.item(want.label).Byte(' ')
	if r.none {
		s.w.Str("NIL")
		return nil
	}
	s.w.LiteralSize(r.n)
	if want.fields == nil {
		if r.n > 0 {
			return s.w.CopyAt(s.body, r.off, r.n)
		}
		return nil
	}
	if err := s.list(want); err != nil {
		return s.w.Fail(err)
	}
	return s.writeFields(want, r)
}

func (s *sectionSource) writeFields(want *section, r resolved) error {
	if s.piece == nil {
		s.piece = make([]byte, fieldBytes)
	}
	s.fields.Choose(want.choice, r.off)
	for left := r.n; left > 0; {
		if err := s.takeTurn(int(s.has.n)); err != nil {
			return s.w.Fail(err)
		}
		n, done := s.fields.Copy(s.piece[:min(left, fieldBytes)], headerPieceSpans)
		s.turn.give()
		if left -= int64(n); done && left > 0 {
			return s.w.Fail(storage.Errorf(storage.ErrCorrupt, "read header of UID %d: %d bytes of %q are missing", s.uid, left, want.label))
		}
		s.w.Raw(s.piece[:n])
		if err := s.w.Err(); err != nil {
			return err
		}
	}
	return nil
}
