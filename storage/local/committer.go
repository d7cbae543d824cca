package local

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"mailnode/storage"
	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

const (
	groupOpsMax   = 512     // changes in one group commit
	groupBytesMax = 8 << 20 // size of a group's batch at which it is closed
)

// committer runs a copy's changes one after another and commits them in groups.
//
// The order is what the laws rest on. A group's changes are taken from the
// queue; the packs are synced, and meanwhile the closures run and their events
// enter the batch; only when the packs are durable does the batch go to Pebble,
// so that no index record can become durable before the body that it points to.
// Then the group is in flight (pipeline.go), and the committer builds the next
// one: its closures see what is in flight, but its batch lies behind in Pebble's
// log, so a crash that keeps it keeps all before it. When the log is synced the
// durable view moves, and callers, watchers and the replication feed are told.
//
// What a group's sync of the packs covers: every body staged before it began
// (txn.covered). A change's own bodies were staged before it was queued, and it
// is taken before the sync begins; one that finds a body staged since then all
// the same (a replica's event, whose body comes on a stream of its own) makes
// its group sync the packs again (txn.late).
type committer struct {
	s     *Slot
	queue chan *op
	quit  chan struct{} // made with the Slot: Pebble may wait for room before the committer runs
	ended chan struct{} // closed when both goroutines have ended
	idle  sync.WaitGroup
	line  pipeline
	next  []*op // taken from the queue, not yet run; the committer's own

	// Of the last event in a batch, durable or in flight; the committer's own.
	head   slot.Position
	clock  uint64 // its slot clock
	events int    // in the journal
	users  userCount
}

// op is one change in the queue. Whoever takes it first has it: the committer,
// to run it, or a caller that gives up, and then it never runs. So when do has
// returned, nothing touches what the closure holds.
type op struct {
	run   func(t *txn) error
	taken atomic.Bool
	ran   chan struct{} // closed when run has returned, or never will begin
	done  chan error    // capacity 1: gets run's error, or nil when durable
	err   error         // run's; the committer's until the op is answered
}

func (o *op) refuse(err error) {
	if o.taken.CompareAndSwap(false, true) {
		close(o.ran)
	}
	o.done <- err
}

func (c *committer) start(s *Slot) error {
	c.s, c.queue, c.ended = s, make(chan *op, 1024), make(chan struct{})
	if err := c.reload(); err != nil {
		return err
	}
	c.line.init(s)
	c.idle.Go(c.loop)
	c.idle.Go(c.line.settle)
	return nil
}

// reload reads the head again, after a state transfer. Nothing may be in flight.
func (c *committer) reload() error {
	return c.s.read(func(v *view) (err error) {
		if c.head, c.clock, err = v.head(); err != nil {
			return err
		}
		c.events, err = journalEvents(v)
		return err
	})
}

// stop ends the loop, which never parks in Pebble (guarded), and what is in
// flight.
func (c *committer) stop() {
	close(c.quit)
	c.idle.Wait()
	close(c.ended)
}

// do queues a change and waits until it is durable. When it returns an error of
// ctx, or of the whole copy, the change may have happened or not, but nothing
// of it runs any more: what run wrote may be read. So it is with ErrDiskFull when
// the index waits for room: what is on its way to the disk may become durable later.
func (s *Slot) do(ctx context.Context, run func(t *txn) error) error {
	o := &op{run: run, ran: make(chan struct{}), done: make(chan error, 1)}
	noRoom := s.space.stall.begins()
	select {
	case <-noRoom:
		return s.noRoom()
	default:
	}
	select {
	case s.com.queue <- o:
	case <-noRoom:
		return s.noRoom()
	case <-ctx.Done():
		return storage.Errorf(storage.ErrUnavailable, "slot %s: %w", s.o.Slot, ctx.Err())
	case <-s.failed:
		return s.failure
	case <-s.com.quit:
		return s.com.closed()
	}
	giveUp := func(err error) error {
		if !o.taken.CompareAndSwap(false, true) {
			<-o.ran
		}
		return err
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		return giveUp(storage.Errorf(storage.ErrUnavailable, "slot %s: %w", s.o.Slot, ctx.Err()))
	case <-s.failed:
		return giveUp(s.failure)
	case <-noRoom:
		err := giveUp(s.noRoom())
		select {
		case err = <-o.done: // it was answered at the same moment
		default:
		}
		return err
	case <-s.com.ended:
		select {
		case err := <-o.done:
			return err
		default: // queued when nobody took from the queue any more
			return giveUp(s.com.closed())
		}
	}
}

// noRoom is the answer to a change that would wait until there is room.
func (s *Slot) noRoom() error {
	return storage.Errorf(storage.ErrDiskFull, "slot %s: its index waits for room: free space or add a disk", s.o.Slot)
}

func (c *committer) closed() error {
	return storage.Errorf(storage.ErrUnavailable, "slot %s is closed", c.s.o.Slot)
}

func (c *committer) loop() {
	defer c.line.end()
	for {
		if len(c.next) == 0 {
			select {
			case <-c.quit:
				c.drain()
				return
			case o := <-c.queue:
				c.next = append(c.next, o)
			}
		}
		if c.s.Failure() != nil {
			c.refuseNext(c.s.failure)
			continue
		}
		// While the pipeline is full the next group gathers in the queue.
		c.line.reserve()
		c.gather()
		c.group()
	}
}

// gather takes what is queued.
func (c *committer) gather() {
	for len(c.next) < groupOpsMax {
		select {
		case o := <-c.queue:
			c.next = append(c.next, o)
		default:
			return
		}
	}
}

func (c *committer) refuseNext(err error) {
	for _, o := range c.next {
		o.refuse(err)
	}
	c.next = c.next[:0]
}

// drain answers what is still queued at the end.
func (c *committer) drain() {
	for {
		select {
		case o := <-c.queue:
			o.refuse(c.closed())
		default:
			return
		}
	}
}

// group runs what was gathered, as far as it fits into one batch, and puts it
// in flight.
func (c *committer) group() {
	t := newTxn(c)
	f := &flight{b: t.b, began: c.s.o.Clock.Mono()}
	packs := c.syncPacks()
	ran, clean := 0, true
	for ran < len(c.next) && clean && !t.alone && t.b.Len() < groupBytesMax {
		o := c.next[ran]
		ran++
		if !o.taken.CompareAndSwap(false, true) {
			continue // its caller gave up
		}
		clean, o.err = t.attempt(o.run)
		clean = clean || o.err == nil
		close(o.ran)
		f.ops = append(f.ops, o)
	}
	c.next = c.next[:copy(c.next, c.next[ran:])]
	err := <-packs
	switch {
	case err != nil:
	case !clean:
		// The last op left a part of itself in the batch, which cannot be taken
		// out. None of this group has happened; what is in flight is not touched.
		f.undo(c.s.o.Slot)
		c.s.unplace(t.placed)
	default:
		err = c.launch(t, f)
	}
	if err != nil {
		c.s.fail(err)
	}
	c.line.launch(f)
	if t.reload && err == nil && c.line.drain() {
		if err := c.reload(); err != nil {
			c.s.fail(err)
		}
	}
}

// syncPacks begins to make durable what was staged until now.
func (c *committer) syncPacks() <-chan error {
	done := make(chan error, 1)
	if !c.s.packs.Unsynced() {
		done <- nil
		return done
	}
	go func() { done <- c.s.packs.Sync() }()
	return done
}

// launch hands a group to Pebble, whose log is being synced when it returns,
// and takes the snapshot that becomes the durable view then.
func (c *committer) launch(t *txn, f *flight) error {
	if t.b.Empty() {
		return nil
	}
	if t.late {
		if err := c.s.packs.Sync(); err != nil {
			return err
		}
	}
	if err := c.trim(t); err != nil {
		c.s.log.Warn("journal not trimmed", "err", err)
	}
	known, err := t.headAfter()
	if err != nil {
		return err
	}
	c.s.known = known
	c.s.space.index.Took(int64(t.b.Len()))
	if err := f.apply(c.s); err != nil {
		return err
	}
	f.view.users = t.users
	c.head, c.clock, c.events, c.users = t.head, t.clock, t.events, t.users
	f.placed, f.touched = t.placed, t.touched
	return nil
}

// diskFull reports whether a write failed for want of room.
func diskFull(err error) bool { return disk.NoRoom(err) }

// writeError gives a failed write its kind.
func writeError(err error) error {
	if diskFull(err) {
		return storage.Errorf(storage.ErrDiskFull, "%w", err)
	}
	return storage.Errorf(storage.ErrUnavailable, "%w", err)
}

// slotClock gives the slot clock of an event made now: it runs while a master
// serves, and never by the wall clock.
func (m *Master) slotClock(t *txn) uint64 {
	return max(t.clock, m.clockBase+uint64((m.s.o.Clock.Mono()-m.since)/time.Millisecond))
}
