package local

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"mailnode/storage"
	"mailnode/storage/disk"
	"mailnode/storage/fair"
	"mailnode/storage/slot"
)

const (
	groupOpsMax   = 512     // changes in one group commit
	groupBytesMax = 8 << 20 // size of a group's batch at which it is closed
	// groupKeysMax is how many keys a group's closures read and write before it is
	// closed: a change that comes while it is built waits for no more than this.
	groupKeysMax = 20_000
)

// committer runs a copy's changes one after another and commits them in groups.
//
// The order is what the laws rest on. A group's changes are taken from the
// queue; the packs are synced, and meanwhile the closures run and their events
// enter the batch; only when the packs are durable does the batch go to Pebble,
// so that no index record becomes durable before the body that it points to.
// Then the group is in flight (commit_pipeline.go), and the committer builds the next
// one: its closures see what is in flight, but its batch comes later in Pebble's
// log, so a crash that keeps it keeps all before it. When the log is synced the
// durable view moves, and callers, watchers and the replication feed are told.
//
// What a group's sync of the packs covers: every body staged before it began
// (txn.covered). A change's own bodies were staged before it was queued, and it
// is taken before the sync begins. A change that finds a body staged since then all
// the same (a replica's event, whose body comes on a stream of its own) makes its
// group sync the packs again (txn.late).
type committer struct {
	s         *Slot
	lanes     lanes
	quit      chan struct{} // made with the Slot: Pebble may wait for room before the committer runs
	idle      sync.WaitGroup
	line      pipeline
	work      work
	lastEvent // in a batch, durable or in flight; the committer's own
}

// lastEvent is how the last event left a state.
type lastEvent struct {
	head   slot.Position
	clock  uint64 // its slot clock
	events int    // in the journal
	users  userCount
}

// op is one change in the queue. Either the committer takes it, to run it, or a caller
// that gives up takes it back, and then it never runs. So when do has returned, nothing
// touches what the closure holds.
type op struct {
	accounts []storage.AccountID // whose records it is about; none: the slot's
	// alone: it brings a batch of its own (commit_large.go), so it is the only one of its
	// group.
	alone bool
	run   func(t *txn) error
	taken atomic.Bool
	ran   chan struct{} // closed when run has returned, or never will begin
	done  chan error    // capacity 1: gets run's error, or nil when durable
	err   error         // run's; the committer's until the op is answered
}

// lane is the lane that it waits in.
func (o *op) lane() storage.AccountID {
	if len(o.accounts) == 1 {
		return o.accounts[0]
	}
	return 0
}

func (o *op) refuse(err error) {
	if o.taken.CompareAndSwap(false, true) {
		close(o.ran)
	}
	o.done <- err
}

func (c *committer) start(s *Slot) error {
	c.s = s
	c.lanes.init()
	c.work.large = fair.NewTurns(1, largeWaitMax)
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
}

// do queues a change of the slot, or of some accounts, and waits until it is
// durable. When it returns an error of ctx, or of the whole copy, the change may
// have happened or not, but nothing of it runs any more: what run wrote may be read.
// The same is true of ErrDiskFull when the index waits for room: what is on its way to
// the disk may become durable later.
func (s *Slot) do(ctx context.Context, run func(t *txn) error, accounts ...storage.AccountID) error {
	return s.submit(ctx, &op{run: run, accounts: accounts})
}

func (s *Slot) submit(ctx context.Context, o *op) error {
	o.ran, o.done = make(chan struct{}), make(chan error, 1)
	if err := ctx.Err(); err != nil {
		return storage.Errorf(storage.ErrUnavailable, "slot %s: %w", s.o.Slot, err)
	}
	if err := s.Failure(); err != nil {
		return err
	}
	noRoom := s.space.stall.begins()
	select {
	case <-noRoom:
		return s.noRoom()
	default:
	}
	if !s.com.lanes.put(o) {
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
	case <-s.Failed():
		return giveUp(s.Failure())
	case <-noRoom:
		err := giveUp(s.noRoom())
		select {
		case err = <-o.done: // it was answered at the same moment
		default:
		}
		return err
	}
}

// noRoom is the error of a change that would have to wait until there is room.
func (s *Slot) noRoom() error {
	return storage.Errorf(storage.ErrDiskFull, "slot %s: its index waits for room: free space or add a disk", s.o.Slot)
}

func (c *committer) closed() error {
	return storage.Errorf(storage.ErrUnavailable, "slot %s is closed", c.s.o.Slot)
}

func (c *committer) loop() {
	defer c.line.end()
	for {
		select {
		case <-c.quit:
			c.refuse(c.lanes.close(), c.closed())
			return
		case <-c.lanes.filled:
			for c.next() {
			}
		}
	}
}

// next builds a group of what is queued, and reports whether there was anything.
// While the pipeline is full it waits, and the group gathers in the lanes.
func (c *committer) next() bool {
	select {
	case <-c.quit:
		return false
	default:
	}
	c.line.reserve()
	ops := c.lanes.take(groupOpsMax)
	if failure := c.s.Failure(); failure != nil || len(ops) == 0 {
		c.line.cancel()
		c.refuse(ops, failure)
		return len(ops) > 0
	}
	if i := slices.IndexFunc(ops, func(o *op) bool { return o.alone }); i > 0 {
		first := ops[i]
		ops = slices.Insert(slices.Delete(ops, i, i+1), 0, first)
	}
	c.lanes.giveBack(c.group(ops))
	return true
}

func (c *committer) refuse(ops []*op, err error) {
	for _, o := range ops {
		o.refuse(err)
	}
}

// group runs what was gathered, as far as it fits into one batch, and puts it
// in flight. It returns the rest.
func (c *committer) group(ops []*op) (rest []*op) {
	t := newTxn(c)
	f := &flight{b: t.b, began: c.s.o.Clock.Mono()}
	packs := c.syncPacks()
	ran, clean := 0, true
	for ran < len(ops) && clean && !t.alone && t.b.Len() < groupBytesMax && t.keys < groupKeysMax {
		o := ops[ran]
		if o.alone && ran > 0 {
			break
		}
		ran++
		if !o.taken.CompareAndSwap(false, true) {
			continue // its caller gave up
		}
		clean, o.err = c.run(t, o)
		close(o.ran)
		f.ops = append(f.ops, o)
	}
	err := <-packs
	switch {
	case err != nil:
	case !clean:
		// The last op left a part of itself in the batch, which cannot be taken
		// out. None of this group has happened; what is in flight is not touched.
		f.undo(c.s.o.Slot)
		c.s.onStage.unplace(t.placed)
	default:
		err = c.launch(t, f)
	}
	if err != nil {
		c.s.fail(err)
	}
	if t.settles != nil && clean {
		t.settles.settled = true
	}
	c.line.launch(f)
	if t.reload && err == nil && c.line.drain() {
		if err := c.reload(); err != nil {
			c.s.fail(err)
		}
	}
	return ops[ran:]
}

// run runs one closure, and notes how long it held up the others.
func (c *committer) run(t *txn, o *op) (clean bool, err error) {
	began, keys := c.s.o.Clock.Mono(), t.keys
	clean, err = t.attempt(o.run)
	c.work.note(t.keys - keys)
	c.s.o.Resources.observeClosure(c.s.o.Clock.Mono() - began)
	return clean || err == nil, err
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
	if t.b.Empty() && t.bulk == nil {
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
	if h := c.lanes.holding(); h != nil && t.bulk == nil {
		h.note(t.b)
	}
	if t.bulk != nil { // what was computed in the closure lies above what was prepared
		if err := t.bulk.Apply(t.b, nil); err != nil {
			return err
		}
		t.b.Close()
		f.b = t.bulk
	}
	c.s.space.index.Took(int64(f.b.Len()))
	if err := f.apply(c.s); err != nil {
		return err
	}
	f.view.users = t.users
	c.lastEvent = t.lastEvent
	f.placed, f.touched = t.placed, t.touched
	return nil
}

// diskFull reports whether a write failed for want of room.
func diskFull(err error) bool { return disk.NoRoom(err) }

// writeError wraps the error of a failed write in its kind.
func writeError(err error) error {
	if diskFull(err) {
		return storage.Errorf(storage.ErrDiskFull, "%w", err)
	}
	return storage.Errorf(storage.ErrUnavailable, "%w", err)
}

// slotClock returns the slot clock of an event made now. The clock runs while a
// master serves, by the monotonic clock and never by the wall clock.
func (m *Master) slotClock(t *txn) uint64 {
	return max(t.clock, m.clockBase+uint64((m.s.o.Clock.Mono()-m.since)/time.Millisecond))
}
