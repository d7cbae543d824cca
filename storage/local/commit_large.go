package local

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage"
	"mailnode/storage/disk"
	"mailnode/storage/event"
	"mailnode/storage/fair"
	"mailnode/storage/slot"
)

// A large change touches more records than a closure may (LAWS §4.3), and is one
// event all the same: nobody sees half of it, on no copy, whatever crashes. It is
// prepared beside the committer, on a snapshot; its closure only gives it a
// place. Meanwhile:
//
//   - the changes of its accounts wait (lanes), so the snapshot of their records
//     stays true;
//   - everybody else's go on. Its event has a position far enough ahead, so that
//     every MODSEQ is known before;
//   - what others write is noted (hold): counts of references, which accounts share,
//     are corrected in the closure; a change of anything else that the large change
//     rests on makes it be prepared a second time.

const (
	// largeTries is how often a large change is prepared before it is given up.
	largeTries = 5
	// largeAheadMin is how many positions are left free before a large change, beside
	// one for each of its records: others change less while it is prepared. It is few,
	// because an epoch has only so many (slot.MaxN).
	largeAheadMin = 200
	// largeWaitMax is how many large changes of a slot wait for their turn.
	largeWaitMax = 1000
	// closureKeysMax is how many keys one closure reads and writes at most: a MOVE of
	// MaxTxnRecords messages, each with some 15.
	closureKeysMax = 20 * storage.MaxTxnRecords
	// smallMax is how many messages or mailboxes a closure changes when more of them
	// could be left to another one, or be prepared.
	smallMax = storage.MaxStepMessages
	// copyMax is how many messages a closure copies.
	copyMax = 100
)

// errOvertaken: a large change rests on records that others have changed.
var errOvertaken = errors.New("others have changed what it rests on")

// hold keeps the changes of some accounts waiting, and notes what is written
// meanwhile. All but accounts is the committer's own.
type hold struct {
	accounts  []storage.AccountID
	settled   bool                // what was taken before it began is in the snapshot
	overtaken bool                // records of its accounts were written since
	refs      map[string]struct{} // counts of references that were written since it began
}

func (h *hold) has(id storage.AccountID) bool { return slices.Contains(h.accounts, id) }

// note notes what a batch of other changes writes.
func (h *hold) note(b *pebble.Batch) {
	for r := b.Reader(); ; {
		kind, key, _, ok, err := r.Next()
		if err != nil {
			h.overtaken = true
		}
		if err != nil || !ok {
			return
		}
		id, ofAccount := event.AccountOf(key)
		switch {
		case kind == pebble.InternalKeyKindRangeDelete && key[0] != event.PrefixJournal:
			h.overtaken = true
		case key[0] == event.PrefixRefs:
			h.refs[string(key)] = struct{}{}
		case ofAccount && h.settled && h.has(id):
			h.overtaken = true
		}
	}
}

// draft is a prepared large change.
type draft struct {
	ctx    context.Context
	s      *Slot
	ahead  uint64       // positions left free before it
	ev     *event.Event // nil: there is nothing to change
	rest   []byte       // of its encoding, all but its place
	b      *pebble.Batch
	births event.HeadRecord // how many it adds
	slot   []event.Record   // the slot's record, when it names it

	refs     map[string]refCount // the counts of references that it changes
	accounts []event.Record
	placed   []slot.BodyRef
	touched  map[storage.Ref]struct{}

	bytes   int64  // that it holds of records
	release func() // of its turn on the node; nil: it has none
}

// take makes the batch of what the change writes.
func (d *draft) take(over *overlay, ev *event.Event, placed []slot.BodyRef) error {
	d.rest = event.EncodeRest(ev)
	if err := d.s.fits(ev, len(d.rest)); err != nil {
		return err
	}
	d.ev, d.placed, d.refs, d.touched = ev, placed, map[string]refCount{}, map[storage.Ref]struct{}{}
	touched(d.touched, ev)
	size := len(d.rest) + 1<<16
	for _, k := range over.order {
		size += len(k) + len(over.m[k].value) + 2*binary.MaxVarintLen32
	}
	// Pebble sorts a batch of this size while the others wait: that is quick when the
	// batch is sorted already.
	slices.Sort(over.order)
	d.b = d.s.db.NewBatchWithSize(size)
	for _, k := range over.order {
		if err := over.under.ended(); err != nil {
			return err
		}
		over.under.touch(1)
		d.s.o.Resources.large.worked.Add(1)
		if err := d.record(over.under, []byte(k), over.m[k]); err != nil {
			return err
		}
	}
	return nil
}

// record puts one record into the batch, unless it depends on what others do until the
// change enters.
func (d *draft) record(under reader, key []byte, c change) error {
	switch key[0] {
	case event.PrefixBody:
		if !c.delete {
			return nil // its place is looked up when it enters
		}
	case event.PrefixAccount:
		d.accounts = append(d.accounts, event.Record{Key: key, Value: c.value})
	case event.PrefixRefs:
		n, err := countOf(under, key, c)
		if err != nil {
			return err
		}
		d.refs[string(key)] = n
	case event.PrefixSlot:
		if string(key) == string(event.HeadKey()) {
			return d.countBirths(under, c.value)
		}
		d.slot = append(d.slot, event.Record{Key: key, Value: c.value}) // the head is read from the group's own batch
		return nil
	}
	if c.delete {
		return d.b.Delete(key, nil)
	}
	return d.b.Set(key, c.value, nil)
}

// refCount is how many references a body had in the snapshot, and has with the change.
type refCount struct{ was, now uint64 }

func countOf(under reader, key []byte, c change) (n refCount, err error) {
	body := event.BodyOf(key)
	v, _, err := under.Get(key)
	if err == nil {
		n.was, err = event.ParseRefs(body, v)
	}
	if err == nil && !c.delete {
		n.now, err = event.ParseRefs(body, c.value)
	}
	return n, err
}

func (d *draft) countBirths(under reader, value []byte) error {
	var was, now event.HeadRecord
	if _, err := event.Load(under, event.HeadKey(), &was); err != nil {
		return err
	}
	if err := unmarshal(value, &now); err != nil {
		return err
	}
	d.births.Births, d.births.BirthBytes = now.Births-was.Births, now.BirthBytes-was.BirthBytes
	return nil
}

// enter is the closure of a large change: it reads first and writes last.
func (d *draft) enter(t *txn, h *hold, clockMs uint64) error {
	if h.overtaken || t.head >= slot.Position(d.ev.Position) {
		return errOvertaken
	}
	late, err := d.late(t, h)
	if err != nil {
		return err
	}
	var head event.HeadRecord
	if _, err := event.Load(t, event.HeadKey(), &head); err != nil {
		return err
	}
	head.Births, head.BirthBytes = head.Births+d.births.Births, head.BirthBytes+d.births.BirthBytes
	head.Position, head.SlotClockMs = d.ev.Position, clockMs
	late = append(append(late, event.Record{Key: event.HeadKey(), Value: event.Marshal(&head)}), d.slot...)
	users := t.users
	for _, a := range d.accounts {
		if err := t.countUser(a.Key, a.Value); err != nil {
			t.users = users
			return err
		}
	}
	d.ev.Previous, d.ev.SlotClockMs = uint64(t.head), clockMs
	t.torn = true
	for _, r := range late {
		if err := t.b.Set(r.Key, r.Value, nil); err != nil {
			return err
		}
	}
	key, place := event.JournalKey(slot.Position(d.ev.Position)), event.EncodePlace(d.ev)
	in := d.b.SetDeferred(len(key), event.SealedBytes(place, d.rest))
	copy(in.Key, key)
	event.Seal(in.Value, place, d.rest)
	if err := in.Finish(); err != nil {
		return err
	}
	t.torn = false
	t.bulk, t.alone, t.touched = d.b, true, d.touched
	d.b = nil // the group's
	t.lineage = t.lineage || len(d.slot) > 0
	t.notePlaced(d.placed...)
	t.entered(d.ev)
	return nil
}

// late computes the records that depend on what others did since the snapshot: the
// counts of references that they changed, and where new bodies lie.
func (d *draft) late(t *txn, h *hold) (out []event.Record, err error) {
	for key := range h.refs {
		n, named := d.refs[key]
		if !named {
			continue
		}
		v, _, err := t.Get([]byte(key))
		if err != nil {
			return nil, err
		}
		have, err := event.ParseRefs(event.BodyOf([]byte(key)), v)
		if err != nil {
			return nil, err
		}
		// A body of which the last reference goes, or was to go, is not decided here:
		// its place goes with it.
		now := int64(have) + int64(n.now) - int64(n.was)
		if now <= 0 || have == 0 || n.now == 0 || len(out) == storage.MaxTxnRecords {
			return nil, errOvertaken
		}
		out = append(out, event.Record{Key: []byte(key), Value: binary.AppendUvarint(nil, uint64(now))})
	}
	for _, ref := range d.placed {
		loc, ok := t.stagedAt(ref)
		if !ok {
			return nil, storage.Errorf(storage.ErrNotFound, "body %s is not here", ref)
		}
		out = append(out, event.Record{Key: event.BodyKey(ref), Value: encodeLocation(loc)})
	}
	return out, nil
}

// largeChange makes one event of what prepare returns; prepare may run several times,
// enter runs in the committer. level is the room on the disk that the change must leave.
// A slot prepares one at a time, since what is prepared lies in memory; of the accounts
// that wait, the one that has had the fewest is next.
func (s *Slot) largeChange(ctx context.Context, level disk.Level, records int, accounts []storage.AccountID, prepare func(t *txn) error, enter func(t *txn, h *hold, d *draft) error) error {
	ctx, cancel := s.whileOpen(ctx)
	defer cancel()
	who := fair.Asker{}
	if len(accounts) == 1 {
		who.Account = fmt.Sprintf("%016x", uint64(accounts[0]))
	}
	end, err := s.com.work.large.Take(ctx, who)
	if err != nil {
		return storage.Errorf(storage.ErrUnavailable, "slot %s: %w", s.o.Slot, cmp.Or(context.Cause(ctx), err))
	}
	defer end(0)
	ahead := uint64(records + largeAheadMin)
	for try := 1; ; try++ {
		err := s.prepareAndEnter(ctx, level, ahead, accounts, prepare, enter)
		if !errors.Is(err, errOvertaken) {
			return err
		}
		if try == largeTries {
			return storage.Errorf(storage.ErrUnavailable, "change %d records of slot %s: %w", records, s.o.Slot, err)
		}
		ahead *= 4
	}
}

func (s *Slot) prepareAndEnter(ctx context.Context, level disk.Level, ahead uint64, accounts []storage.AccountID, prepare func(t *txn) error, enter func(t *txn, h *hold, d *draft) error) error {
	if _, err := s.space.hold(level, 0); err != nil {
		return err // before the work
	}
	h := &hold{accounts: accounts, refs: map[string]struct{}{}}
	s.com.lanes.begin(h)
	defer s.com.lanes.end()
	if err := s.do(ctx, func(t *txn) error { t.settles = h; return nil }); err != nil {
		return err
	}
	d := &draft{ctx: ctx, s: s, ahead: ahead}
	defer d.end()
	if err := s.read(func(v *view) error { return d.prepare(v, prepare) }); err != nil || d.ev == nil {
		return err
	}
	room, err := s.space.hold(level, int64(d.b.Len()+len(d.rest)))
	if err != nil {
		return err
	}
	defer room.cancel() // the committer counts what it writes
	return s.submit(ctx, &op{alone: true, run: func(t *txn) error {
		if err := s.space.allow(level); err != nil {
			return err // it has waited in the queue
		}
		return enter(t, h, d)
	}})
}

// prepare runs what makes the change, on a snapshot; a panic in it is its caller's
// alone, as in a closure.
func (d *draft) prepare(v *view, fn func(t *txn) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = d.s.panicked(p)
		}
	}()
	head, clock, err := v.head()
	if err != nil {
		return err
	}
	return fn(&txn{s: d.s, reads: reads{src: v.snap}, lastEvent: lastEvent{head: head, clock: clock}, large: d})
}

// large is acknowledged for a change that is too large for a closure.
func (m *Master) large(ctx context.Context, records int, id storage.AccountID, prepare func(t *txn) error) error {
	return m.unlessSealed(ctx, func() error {
		if err := m.admit(); err != nil {
			return err
		}
		var at slot.Position
		if err := m.s.largeChange(ctx, disk.Grow, records, []storage.AccountID{id}, prepare, func(t *txn, h *hold, d *draft) error {
			if err := m.admit(); err != nil {
				return err
			}
			if err := d.enter(t, h, m.slotClock(t)); err != nil {
				return err
			}
			at = t.head
			return nil
		}); err != nil {
			return err
		}
		return m.await(ctx, at)
	})
}

// applyLarge applies a large event of the master.
func (s *Slot) applyLarge(ctx context.Context, ev *event.Event) error {
	return s.largeChange(ctx, disk.Change, len(ev.Changes), ev.Accounts(), func(t *txn) error {
		if err := t.eventHeld(ev); err != nil {
			return err
		}
		return t.applyReplica(ev)
	}, func(t *txn, h *hold, d *draft) error {
		if t.head != slot.Position(ev.Previous) {
			return errOvertaken
		}
		return d.enter(t, h, ev.SlotClockMs)
	})
}

// work is how much a copy has to do.
type work struct {
	keys  atomic.Uint64 // read and written for changes, since it was opened
	most  atomic.Int64  // by one closure
	large *fair.Turns   // of the large changes
}

// note notes what one closure touched. Only the committer calls it.
func (w *work) note(keys int) { w.most.Store(max(w.most.Load(), int64(keys))) }

// Worked is how many keys this copy has read and written for changes since it was
// opened, also for those that have not ended: as long as it grows, the copy is
// slow and not dead.
func (s *Slot) Worked() uint64 { return s.com.work.keys.Load() }
