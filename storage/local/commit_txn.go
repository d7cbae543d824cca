package local

import (
	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// txn is the state as a group's closures see it: what is committed, durable or not,
// and what the closures before them did.
type txn struct {
	s *Slot
	b *pebble.Batch
	reads
	bodies
	lastEvent
	touched map[storage.Ref]struct{}
	alone   bool          // nothing may follow in this group
	reload  bool          // the head was replaced
	torn    bool          // an event is in the batch in part
	lineage bool          // the slot's record is in the batch
	trimmed bool          // the journal's start is
	large   *draft        // it prepares a large change, and is not the committer's
	bulk    *pebble.Batch // a large change's, below b
	settles *hold         // everything before this group is settled for it
}

// reads is what a txn reads from, and how much it has touched.
type reads struct {
	src  pebble.Reader // the batch; the snapshot of a large change
	keys int           // read and written
}

// bodies is what a txn notes of the bodies that its events name.
type bodies struct {
	placed  []slot.BodyRef
	covered uint64 // bodies staged up to here are in the group's sync of the packs
	late    bool   // one that is named was staged later: the packs must be synced again
}

func newTxn(c *committer) *txn {
	b := c.s.db.NewIndexedBatch()
	return &txn{s: c.s, b: b, reads: reads{src: b}, bodies: bodies{covered: c.s.onStage.count()}, lastEvent: c.lastEvent,
		touched: map[storage.Ref]struct{}{}}
}

// attempt runs a closure; a panic in it is an error of its caller alone. After an
// error, clean reports whether the closure left nothing in the batch.
func (t *txn) attempt(run func(*txn) error) (clean bool, err error) {
	before := t.b.Count()
	defer func() {
		if p := recover(); p != nil {
			err = t.s.panicked(p)
		}
		if t.torn && err == nil {
			err = storage.Errorf(storage.ErrUnavailable, "slot %s: an event was cut off", t.s.o.Slot)
		}
		clean = t.b.Count() == before && !t.torn
	}()
	return true, t.s.met(run(t))
}

// panicked makes an error of a panic in a change.
func (s *Slot) panicked(p any) error {
	s.log.Error("panic in a change", "panic", p)
	return storage.Errorf(storage.ErrUnavailable, "slot %s: internal error: %v", s.o.Slot, p)
}

// headAfter returns the head as it is with the batch. It reads only records that lie
// in the batch, so that no commit waits for a table.
func (t *txn) headAfter() (event.Head, error) {
	h := t.s.known
	if t.reload || t.lineage {
		return headOf(t)
	}
	if t.head != h.Position {
		var at event.HeadRecord
		if _, err := event.Load(t, event.HeadKey(), &at); err != nil {
			return h, err
		}
		h.Position, h.ClockMs, h.Births, h.Bytes = slot.Position(at.Position), at.SlotClockMs, at.Births, at.BirthBytes
	}
	var err error
	if t.trimmed {
		h.KeptAfter, err = journalStart(t)
	}
	return h, err
}

// Get and iter make a txn a reader.
func (t *txn) Get(key []byte) ([]byte, bool, error) {
	t.touch(1)
	if err := t.ended(); err != nil {
		return nil, false, err
	}
	v, found, err := pebbleGet(t.src, key)
	if err == nil && t.large != nil {
		err = t.large.holds(len(v))
	}
	return v, found, err
}

// ended is why a large change is prepared no further, or nil: a closure runs to its end.
func (t *txn) ended() error {
	if t.large == nil || t.large.ctx.Err() == nil {
		return nil
	}
	return storage.Errorf(storage.ErrUnavailable, "slot %s: %w", t.s.o.Slot, t.large.ctx.Err())
}

func (t *txn) iter(sp event.Span) (*pebble.Iterator, error) { return newIter(t.src, sp) }

func (t *txn) met(err error) { t.s.met(err) }

// touch counts keys that are read or written.
func (t *txn) touch(n int) {
	t.keys += n
	t.s.com.work.keys.Add(uint64(n))
}

// apply enters one event: its records, its bodies' places and its journal entry
// all go into the batch, or none does.
func (t *txn) apply(ev *event.Event) error {
	over := overlay{under: t, m: map[string]change{}}
	if err := event.Apply(&over, ev); err != nil {
		return err
	}
	placed, err := t.place(&over, ev)
	if err != nil {
		return err
	}
	over.dropBodies()
	if t.large != nil {
		return t.large.take(&over, ev, placed)
	}
	raw := event.Encode(ev)
	if err := t.s.fits(ev, len(raw)); err != nil {
		return err
	}
	if err := t.countUsers(&over); err != nil {
		return err
	}
	over.Set(event.JournalKey(slot.Position(ev.Position)), raw)
	_, named := over.m[string(event.SlotKey())]
	t.lineage = t.lineage || named
	t.torn = true
	if err := over.flush(t.b); err != nil {
		return err
	}
	t.touch(len(over.order))
	t.torn = false
	t.notePlaced(placed...)
	t.entered(ev)
	touched(t.touched, ev)
	return nil
}

// fits refuses an event that is too large to be replicated.
func (s *Slot) fits(ev *event.Event, bytes int) error {
	if bytes > s.o.sizes.eventBytes {
		return storage.Errorf(storage.ErrLimit, "apply event %s: it has %d bytes, at most %d can be replicated", slot.Position(ev.Position), bytes, s.o.sizes.eventBytes)
	}
	return nil
}

// entered makes an event the last one.
func (t *txn) entered(ev *event.Event) {
	t.events++
	t.head, t.clock = slot.Position(ev.Position), ev.SlotClockMs
}

// touched adds the mailboxes whose watchers an event wakes.
func touched(in map[storage.Ref]struct{}, ev *event.Event) {
	for _, d := range ev.Digests {
		in[storage.Ref{Account: storage.AccountID(d.Account), Mailbox: storage.MailboxID(d.Mailbox)}] = struct{}{}
	}
}

// place notes where the event's bodies lie. A body that is nowhere is an error:
// an index record without its body would be damage.
func (t *txn) place(over *overlay, ev *event.Event) ([]slot.BodyRef, error) {
	var placed []slot.BodyRef
	for _, ref := range ev.Bodies() {
		key := event.BodyKey(ref)
		if _, have, err := over.Get(key); err != nil {
			return nil, err
		} else if have {
			continue
		}
		loc, ok := t.stagedAt(ref)
		if !ok {
			return nil, storage.Errorf(storage.ErrNotFound, "body %s is not here", ref)
		}
		over.Set(key, encodeLocation(loc))
		placed = append(placed, ref)
	}
	return placed, nil
}

// notePlaced notes that the batch points to bodies that were staged.
func (t *txn) notePlaced(refs ...slot.BodyRef) {
	t.placed = append(t.placed, refs...)
	t.s.onStage.place(refs)
}

// stagedAt finds a body that the batch is to point to.
func (t *txn) stagedAt(ref slot.BodyRef) (blob.Location, bool) {
	st, ok := t.s.onStage.find(ref)
	if ok && st.number > t.covered {
		t.late = true
	}
	return st.Location, ok
}

// overlay keeps an event's changes apart until it is known to apply.
type overlay struct {
	under *txn
	m     map[string]change
	order []string
}

type change struct {
	value  []byte
	delete bool
}

func (o *overlay) Get(key []byte) ([]byte, bool, error) {
	if c, ok := o.m[string(key)]; ok {
		return c.value, !c.delete, nil
	}
	return o.under.Get(key)
}

func (o *overlay) put(key []byte, c change) {
	k := string(key)
	if _, ok := o.m[k]; !ok {
		o.order = append(o.order, k)
	}
	o.m[k] = c
}

func (o *overlay) Set(key, value []byte) { o.put(key, change{value: value}) }
func (o *overlay) Delete(key []byte)     { o.put(key, change{delete: true}) }

// dropBodies forgets the places of bodies that lost their last reference by the event:
// what is in the packs is dead then.
func (o *overlay) dropBodies() {
	for _, k := range o.order {
		if k[0] == event.PrefixRefs && o.m[k].delete {
			o.Delete(event.BodyKey(event.BodyOf([]byte(k))))
		}
	}
}

func (o *overlay) flush(b *pebble.Batch) error {
	for _, k := range o.order {
		c := o.m[k]
		var err error
		if c.delete {
			err = b.Delete([]byte(k), nil)
		} else {
			err = b.Set([]byte(k), c.value, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
