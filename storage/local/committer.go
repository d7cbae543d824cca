package local

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

const (
	groupOpsMax   = 512     // changes in one group commit
	groupBytesMax = 8 << 20 // size of a group's batch at which it is closed
)

// committer runs a copy's changes one after another and commits them in groups.
//
// The order inside a group is what the laws rest on: the closures run and their
// events enter the batch; the packs are synced, so that no index record points
// to a body that is not there; the batch is committed with a sync; the durable
// view moves; callers, watchers and the replication feed are told.
type committer struct {
	s     *Slot
	queue chan *op
	quit  chan struct{}
	idle  sync.WaitGroup

	head   slot.Position // of the last event in a batch; the committer's own
	clock  uint64        // its slot clock
	events int           // in the journal
}

// op is one change in the queue. Whoever takes it first has it: the committer,
// to run it, or a caller that gives up, and then it never runs. So when do has
// returned, nothing touches what the closure holds.
type op struct {
	run   func(t *txn) error
	taken atomic.Bool
	ran   chan struct{} // closed when run has returned, or never will begin
	done  chan error    // capacity 1: gets run's error, or nil when durable
}

func (o *op) refuse(err error) {
	if o.taken.CompareAndSwap(false, true) {
		close(o.ran)
	}
	o.done <- err
}

func (c *committer) start(s *Slot) error {
	c.s, c.queue, c.quit = s, make(chan *op, 1024), make(chan struct{})
	if err := c.reload(); err != nil {
		return err
	}
	c.idle.Go(c.loop)
	return nil
}

// reload reads the head again, after a state transfer.
func (c *committer) reload() error {
	return c.s.read(func(v *view) (err error) {
		if c.head, c.clock, err = v.head(); err != nil {
			return err
		}
		c.events, err = journalEvents(v)
		return err
	})
}

// stop ends the loop, which never parks in Pebble (guarded).
func (c *committer) stop() {
	close(c.quit)
	c.idle.Wait()
}

// do queues a change and waits until it is durable. When it returns an error of
// ctx, or of the whole copy, the change may have happened or not, but nothing
// of it runs any more: what run wrote may be read.
func (s *Slot) do(ctx context.Context, run func(t *txn) error) error {
	o := &op{run: run, ran: make(chan struct{}), done: make(chan error, 1)}
	select {
	case s.com.queue <- o:
	case <-ctx.Done():
		return storage.Errorf(storage.ErrUnavailable, "slot %s: %w", s.o.Slot, ctx.Err())
	case <-s.failed:
		return s.failure
	case <-s.com.quit:
		return storage.Errorf(storage.ErrUnavailable, "slot %s is closed", s.o.Slot)
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		if !o.taken.CompareAndSwap(false, true) {
			<-o.ran
		}
		return storage.Errorf(storage.ErrUnavailable, "slot %s: %w", s.o.Slot, ctx.Err())
	case <-s.failed:
		if !o.taken.CompareAndSwap(false, true) {
			<-o.ran
		}
		return s.failure
	}
}

func (c *committer) loop() {
	for {
		select {
		case <-c.quit:
			c.drain()
			return
		case first := <-c.queue:
			if c.s.Failure() != nil {
				first.refuse(c.s.failure)
				continue
			}
			c.group(first)
		}
	}
}

// drain answers what is still queued at the end.
func (c *committer) drain() {
	for {
		select {
		case o := <-c.queue:
			o.refuse(storage.Errorf(storage.ErrUnavailable, "slot %s is closed", c.s.o.Slot))
		default:
			return
		}
	}
}

// group runs first and what is queued behind it, and commits.
func (c *committer) group(first *op) {
	t := newTxn(c)
	defer func() {
		// After a failure a goroutine parked in Pebble still owns the batch, and
		// Pebble's pool would give it to another slot (law 9).
		if c.s.Failure() == nil {
			t.b.Close()
		}
	}()
	var waiting []*op
	answer := func(err error) {
		for _, o := range waiting {
			o.done <- err
		}
	}
	for o := first; o != nil; o = c.more(len(waiting), t) {
		if !o.taken.CompareAndSwap(false, true) {
			continue // its caller gave up
		}
		clean, err := t.attempt(o.run)
		close(o.ran)
		if err == nil {
			waiting = append(waiting, o)
			continue
		}
		o.done <- err
		if !clean {
			// It left a part of itself in the batch, which cannot be taken out.
			answer(storage.Errorf(storage.ErrUnavailable, "slot %s: undone with a change that failed beside it: %w", c.s.o.Slot, err))
			return
		}
	}
	if !t.b.Empty() {
		if err := c.commit(t); err != nil {
			c.s.fail(err)
			answer(c.s.failure)
			return
		}
	}
	answer(nil)
}

func (c *committer) more(n int, t *txn) *op {
	if n >= groupOpsMax || t.b.Len() >= groupBytesMax || t.alone {
		return nil
	}
	select {
	case o := <-c.queue:
		return o
	default:
		return nil
	}
}

func (c *committer) commit(t *txn) error {
	s := c.s
	start := s.o.Clock.Mono()
	if t.bodies {
		if err := s.packs.Sync(); err != nil {
			return err
		}
	}
	if err := c.trim(t); err != nil {
		s.log.Warn("journal not trimmed", "err", err)
	}
	if err := s.guarded(func() error {
		if err := s.db.Apply(t.b, pebble.Sync); err != nil {
			return err
		}
		s.swapView()
		return nil
	}); err != nil {
		return err
	}
	s.o.Resources.observeSync(s.o.Clock.Mono() - start)
	c.head, c.clock, c.events = t.head, t.clock, t.events
	if t.reload {
		if err := c.reload(); err != nil {
			return err
		}
	}
	s.unstage(t.placed)
	s.watch.wake(t.touched)
	s.heads.wake()
	return nil
}

// txn is the state as a group's closures see it: the durable state and what
// the closures before them did.
type txn struct {
	s       *Slot
	b       *pebble.Batch
	head    slot.Position
	clock   uint64
	events  int // in the journal
	touched map[storage.Ref]struct{}
	placed  []slot.BodyRef
	bodies  bool // the packs must be synced
	alone   bool // nothing may join this group
	reload  bool // the head was replaced
	torn    bool // an event is in the batch in part
}

func newTxn(c *committer) *txn {
	return &txn{s: c.s, b: c.s.db.NewIndexedBatch(), head: c.head, clock: c.clock, events: c.events, touched: map[storage.Ref]struct{}{}}
}

// attempt runs a closure; a panic in one is that caller's alone. After an error,
// clean says that the closure left nothing in the batch.
func (t *txn) attempt(run func(*txn) error) (clean bool, err error) {
	before := t.b.Count()
	defer func() {
		if p := recover(); p != nil {
			t.s.log.Error("panic in a change", "panic", p)
			err = storage.Errorf(storage.ErrUnavailable, "slot %s: internal error: %v", t.s.o.Slot, p)
		}
		if t.torn && err == nil {
			err = storage.Errorf(storage.ErrUnavailable, "slot %s: an event was cut off", t.s.o.Slot)
		}
		clean = t.b.Count() == before && !t.torn
	}()
	return true, t.s.met(run(t))
}

// Get and iter make a txn a reader.
func (t *txn) Get(key []byte) ([]byte, bool, error) { return pebbleGet(t.b, key) }

func (t *txn) iter(sp event.Span) (*pebble.Iterator, error) { return newIter(t.b, sp) }

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
	over.Set(event.JournalKey(slot.Position(ev.Position)), event.Encode(ev))
	t.torn = true
	if err := over.flush(t.b); err != nil {
		return err
	}
	t.torn = false
	t.events++
	t.placed = append(t.placed, placed...)
	t.bodies = t.bodies || len(placed) > 0
	t.head, t.clock = slot.Position(ev.Position), ev.SlotClockMs
	for _, d := range ev.Digests {
		t.touched[storage.Ref{Account: storage.AccountID(d.Account), Mailbox: storage.MailboxID(d.Mailbox)}] = struct{}{}
	}
	return nil
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
		loc, ok := t.s.stagedAt(ref)
		if !ok {
			return nil, storage.Errorf(storage.ErrNotFound, "body %s is not here", ref)
		}
		over.Set(key, encodeLocation(loc))
		placed = append(placed, ref)
	}
	return placed, nil
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

// dropBodies forgets where the bodies lie that the event took the last reference
// from: what is in the packs is dead then.
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

// writeError gives a failed write its kind.
func writeError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return storage.Errorf(storage.ErrDiskFull, "%w", err)
	}
	return storage.Errorf(storage.ErrUnavailable, "%w", err)
}

// slotClock gives the slot clock of an event made now: it runs while a master
// serves, and never by the wall clock.
func (m *Master) slotClock(t *txn) uint64 {
	return max(t.clock, m.clockBase+uint64((m.s.o.Clock.Mono()-m.since)/time.Millisecond))
}
