package local

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// Scope is what a Recount covers; the zero value is the whole slot.
type Scope struct {
	Account storage.AccountID
	Mailbox storage.MailboxID // 0: the account with all its mailboxes
}

// RecountOptions make it polite (law 12). All may be nil.
type RecountOptions struct {
	Spend    func(ctx context.Context, bytes int64) error // waits for the rate
	Progress func(done, total int64)                      // messages
	Found    func(line string)                            // one line per record that was wrong
}

// Recounted is what a Recount found.
type Recounted struct {
	Mailboxes  int
	Messages   int64
	Wrong      int // derived records that were wrong, and are right now
	Unreadable int // records that cannot be derived and cannot be read
}

// recountMemory is how many bodies are counted at a time, about (see references).
const recountMemory = 1 << 18

// Recount computes every derived record of the scope from the primary ones, and
// puts those right that differ: counters and digests of mailboxes, quota use, the
// name and change indexes, envelopes, and for the whole slot the references of
// bodies. The slot serves meanwhile.
//
// Truth is read from one durable view, and put right in a step that comes later; mail
// that came between the two must be neither lost from a counter nor counted twice.
// Therefore a step writes a correction and no value: event.Apply keeps counters up to
// date by adding and taking away, so a counter stays wrong by the same amount whatever
// events come between. An entry of an index has no amount: the step reads again what it
// depends on, and leaves alone what is no longer as the view showed it.
//
// A step touches at most storage.MaxTxnRecords records (LAWS §4.3). Derived records are
// not in events: each copy computes its own.
func (s *Slot) Recount(ctx context.Context, sc Scope, o RecountOptions) (Recounted, error) {
	ctx, cancel := s.whileOpen(ctx)
	defer cancel()
	select {
	case s.single.recount <- struct{}{}: // two at once would both correct the same error
		defer func() { <-s.single.recount }()
	case <-ctx.Done():
		return Recounted{}, storage.Errorf(storage.ErrUnavailable, "recount slot %s: %w", s.o.Slot, ctx.Err())
	}
	r := &recount{s: s, ctx: ctx, o: o, generation: s.generation.Load()}
	if s.building.Load() {
		return r.out, storage.Errorf(storage.ErrUnavailable, "recount slot %s: this copy is being built", s.o.Slot)
	}
	if err := r.run(sc); err != nil {
		return r.out, fmt.Errorf("recount slot %s: %w", s.o.Slot, err)
	}
	return r.out, nil
}

type recount struct {
	s          *Slot
	ctx        context.Context
	o          RecountOptions
	out        Recounted
	generation uint64 // Slot.generation when it began
	total      int64  // messages, as far as counters tell
	blind      bool   // a record that names a body cannot be read: no body may be dropped
}

func (r *recount) run(sc Scope) error {
	if sc.Mailbox != 0 {
		ref := storage.Ref{Account: sc.Account, Mailbox: sc.Mailbox}
		if err := r.mailbox(ref); err != nil {
			return err
		}
		return r.usage(sc.Account)
	}
	// The rest goes by mailboxes that exist, and would not meet these.
	if err := r.strays(sc.Account); err != nil {
		return err
	}
	accounts, err := r.accounts(sc.Account)
	if err != nil {
		return err
	}
	for _, id := range accounts {
		if err := r.account(id); err != nil {
			return err
		}
	}
	if sc.Account == 0 { // a body may be named by any account: one alone cannot tell
		return r.references()
	}
	return nil
}

func (r *recount) account(id storage.AccountID) error {
	var refs []storage.Ref
	if err := r.s.read(func(v *view) error {
		return each(v, event.MailboxesOf(id), func(k, _ []byte) error {
			if len(k) == mailboxKeyBytes {
				refs = append(refs, event.RefOf(k))
			}
			return nil
		})
	}); err != nil {
		return err
	}
	for _, ref := range refs {
		if err := r.mailbox(ref); err != nil {
			return err
		}
	}
	if err := r.names(id); err != nil {
		return err
	}
	return r.usage(id) // last: it adds up the mailboxes' counters
}

func (r *recount) spend(n int) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	if r.o.Spend == nil {
		return nil
	}
	return r.o.Spend(r.ctx, int64(n))
}

// wrong notes a derived record that has been put right.
func (r *recount) wrong(format string, args ...any) {
	r.out.Wrong++
	if r.o.Found != nil {
		r.o.Found(fmt.Sprintf(format, args...))
	}
}

func (r *recount) unreadable(format string, args ...any) {
	r.out.Unreadable++
	if r.o.Found != nil {
		r.o.Found(fmt.Sprintf(format, args...))
	}
}

// step is one change of derived records. fn reads all that it needs before it writes:
// an error after a write would fail the other changes of its group too. When the state
// was replaced since the view, the correction belongs to a state that is gone.
func (r *recount) step(fn func(t *txn) error) error {
	return r.s.do(r.ctx, func(t *txn) error {
		if r.s.building.Load() || r.s.generation.Load() != r.generation {
			return storage.Errorf(storage.ErrUnavailable, "its state was replaced meanwhile")
		}
		return fn(t)
	})
}

// changed is one message in the change index.
type changed struct {
	modseq storage.ModSeq
	uid    storage.UID
}

// pass is what one view shows of a mailbox.
type pass struct {
	r     *recount
	ref   storage.Ref
	about string // for lines: address and name

	truth event.MailboxStats
	raw   []byte              // the stored counters
	have  *event.MailboxStats // decoded; nil: they cannot be read
	base  uint64              // the account's: no MODSEQ can be above it and the head together
	head  slot.Position

	entries   []changed
	missing   []changed     // in the change index
	extra     [][]byte      // keys of the change index and of envelopes
	summaries []storage.UID // live and expunged messages whose envelope is to be made
}

func (r *recount) mailbox(ref storage.Ref) error {
	p := &pass{r: r, ref: ref}
	if err := r.s.read(p.read); err != nil {
		return err
	}
	r.out.Mailboxes++
	r.out.Messages += int64(p.truth.Messages)
	if r.o.Progress != nil {
		r.o.Progress(r.out.Messages, max(r.total, r.out.Messages))
	}
	before := r.out.Wrong
	defer func() {
		if r.out.Wrong > before { // a listing may have been made from what was wrong
			r.s.o.Resources.listings.forget(r.s, ref)
		}
	}()
	for _, fix := range []func() error{p.fixStats, p.fixMissing, p.fixExtra, p.fixSummaries} {
		if err := fix(); err != nil {
			return err
		}
	}
	return nil
}

func (p *pass) read(v *view) error {
	var box event.MailboxRecord
	if err := p.header(v, &box); err != nil {
		return err
	}
	if err := each(v, event.MessagesIn(p.ref, 0, ^storage.UID(0)), func(k, value []byte) error {
		m := &event.MessageRecord{}
		if err := unmarshal(value, m); err != nil {
			p.r.unreadable("%s uid %d: its record cannot be read", p.about, event.UIDOf(k))
			return nil
		}
		p.truth.Count(m)
		if err := p.r.spend(len(k) + len(value)); err != nil {
			return err
		}
		return p.message(v, m)
	}); err != nil {
		return err
	}
	if err := each(v, event.ExpungedIn(p.ref), func(k, value []byte) error {
		x := &event.ExpungedRecord{}
		if err := unmarshal(value, x); err != nil || x.Message == nil {
			p.r.unreadable("%s uid %d: its tombstone cannot be read", p.about, event.UIDOf(k))
			return nil
		}
		return p.message(v, x.Message)
	}); err != nil {
		return err
	}
	if err := p.envelopes(v); err != nil {
		return err
	}
	return p.changeIndex(v)
}

// header reads the mailbox's record and its counters.
func (p *pass) header(v *view, box *event.MailboxRecord) error {
	p.about = fmt.Sprintf("mailbox %016x of account %016x", uint64(p.ref.Mailbox), uint64(p.ref.Account))
	raw, _, err := v.Get(event.MailboxKey(p.ref))
	if err != nil {
		return err
	}
	if unmarshal(raw, box) != nil {
		p.r.unreadable("%s: its record cannot be read", p.about)
	}
	var a event.AccountRecord
	if raw, _, err = v.Get(event.AccountKey(p.ref.Account)); err != nil {
		return err
	}
	if unmarshal(raw, &a) == nil && a.Address != "" {
		p.about = fmt.Sprintf("%s %s", a.Address, box.Name)
	}
	head, _, err := v.head()
	if err != nil {
		return err
	}
	p.head, p.base = head, a.ModseqBase
	p.truth.HighestModseq = max(box.Changed, box.ExpungeFloorModseq)
	if p.raw, _, err = v.Get(event.StatsKey(p.ref)); err != nil {
		return err
	}
	p.have = &event.MailboxStats{}
	if unmarshal(p.raw, p.have) != nil {
		p.have = nil
	}
	return nil
}

// message takes in a live or expunged message.
func (p *pass) message(v *view, m *event.MessageRecord) error {
	p.entries = append(p.entries, changed{storage.ModSeq(m.Modseq), storage.UID(m.Uid)})
	p.truth.HighestModseq = max(p.truth.HighestModseq, m.Modseq)
	value, found, err := v.Get(event.SummaryKey(p.ref, storage.UID(m.Uid)))
	if err == nil && (!found || !summaryFits(value, m)) {
		p.summaries = append(p.summaries, storage.UID(m.Uid))
	}
	return err
}

// envelopes finds the envelopes of messages that are neither live nor expunged.
func (p *pass) envelopes(v *view) error {
	uids := make([]storage.UID, 0, len(p.entries))
	for _, e := range p.entries {
		uids = append(uids, e.uid)
	}
	slices.Sort(uids)
	return each(v, event.SummariesOf(p.ref), func(k, _ []byte) error {
		if _, there := slices.BinarySearch(uids, event.UIDOf(k)); !there || len(k) != messageKeyBytes {
			p.extra = append(p.extra, bytes.Clone(k))
		}
		return nil
	})
}

// changeIndex compares the change index with the messages: both in the order of the
// index's keys, side by side.
func (p *pass) changeIndex(v *view) error {
	less := func(a, b changed) int {
		return bytes.Compare(event.ChangedKey(p.ref, a.modseq, a.uid), event.ChangedKey(p.ref, b.modseq, b.uid))
	}
	slices.SortFunc(p.entries, less)
	left := p.entries
	err := each(v, event.ChangesOf(p.ref), func(k, _ []byte) error {
		for len(left) > 0 && bytes.Compare(event.ChangedKey(p.ref, left[0].modseq, left[0].uid), k) < 0 {
			p.missing, left = append(p.missing, left[0]), left[1:]
		}
		if len(left) > 0 && bytes.Equal(event.ChangedKey(p.ref, left[0].modseq, left[0].uid), k) {
			left = left[1:]
			return nil
		}
		p.extra = append(p.extra, bytes.Clone(k))
		return nil
	})
	p.missing = append(p.missing, left...)
	p.entries = nil
	return err
}

// statsWrong reports whether the counters differ from what the messages add up to.
func (p *pass) statsWrong() bool {
	h := p.have
	if h == nil || len(h.ProtoReflect().GetUnknown()) > 0 || h.HighestModseq < p.truth.HighestModseq || h.HighestModseq > uint64(p.head)+p.base {
		return true
	}
	return h.Messages != p.truth.Messages || h.Unseen != p.truth.Unseen || h.Deleted != p.truth.Deleted || h.Bytes != p.truth.Bytes ||
		event.ParseDigest(h.Digest) != event.ParseDigest(p.truth.Digest)
}

func (p *pass) fixStats() error {
	if !p.statsWrong() {
		return nil
	}
	mended := false
	if err := p.r.step(func(t *txn) error {
		if _, there, err := t.Get(event.MailboxKey(p.ref)); err != nil || !there {
			return err // freed meanwhile
		}
		raw, _, err := t.Get(event.StatsKey(p.ref))
		if err != nil {
			return err
		}
		now := &event.MailboxStats{}
		switch unread := unmarshal(raw, now) != nil; {
		case unread && p.have == nil && bytes.Equal(raw, p.raw):
			// The one case in which a value is written: event.Apply refuses to change
			// counters that it cannot read, so no event has come since the view.
			now = proto.CloneOf(&p.truth)
		case unread || p.have == nil:
			return nil // something else has changed them: the next Recount will see
		default:
			p.correct(now, uint64(t.head)+p.base)
		}
		mended = true
		t.touched[p.ref] = struct{}{}
		return t.b.Set(event.StatsKey(p.ref), event.Marshal(now), nil)
	}); err != nil || !mended {
		return err
	}
	if p.have == nil {
		p.r.wrong("%s: its counters could not be read; %s", p.about, counters(&p.truth))
	} else {
		p.r.wrong("%s: its counters said %s; its messages give %s", p.about, counters(p.have), counters(&p.truth))
	}
	return nil
}

// correct takes away what the counters were wrong by. Unsigned numbers may wrap around
// on the way, and come out right. HIGHESTMODSEQ is no sum.
// It never goes down (law 3), unless it was above limit: no event can have led there,
// and a client that was shown it would never be told of a change again.
func (p *pass) correct(now *event.MailboxStats, limit uint64) {
	now.Messages += p.truth.Messages - p.have.Messages
	now.Unseen += p.truth.Unseen - p.have.Unseen
	now.Deleted += p.truth.Deleted - p.have.Deleted
	now.Bytes += p.truth.Bytes - p.have.Bytes
	now.Digest = event.ParseDigest(now.Digest).Add(event.ParseDigest(p.truth.Digest)).Sub(event.ParseDigest(p.have.Digest)).Bytes()
	now.HighestModseq = max(min(now.HighestModseq, limit), p.truth.HighestModseq)
	now.ProtoReflect().SetUnknown(nil)
}

func counters(st *event.MailboxStats) string {
	return fmt.Sprintf("%d messages, %d unseen, %d deleted, %d bytes, highest MODSEQ %d, digest %s",
		st.Messages, st.Unseen, st.Deleted, st.Bytes, st.HighestModseq, event.ParseDigest(st.Digest))
}
