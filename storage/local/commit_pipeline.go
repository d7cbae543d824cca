package local

import (
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// flightsMax is how many groups may be under way at once: one whose log is
// being synced, and one that is being built while its packs are.
const flightsMax = 2

// pipeline settles groups in the order in which they entered Pebble's log. A
// group that changed nothing goes through it too: what its closures read may be
// in flight, and an answer, also a refusal, must not tell of what a crash could
// take back (LAWS §4.8).
type pipeline struct {
	s       *Slot
	room    chan struct{} // a token per group under way
	flights chan *flight
	landed  sync.WaitGroup // of the flights that are not settled
}

// flight is a group on its way to the disk.
type flight struct {
	b       *pebble.Batch
	view    *view // this group's state; nil when it changed nothing
	ops     []*op // all have run
	placed  []slot.BodyRef
	touched map[storage.Ref]struct{}
	began   time.Duration
}

func (p *pipeline) init(s *Slot) {
	p.s, p.room, p.flights = s, make(chan struct{}, flightsMax), make(chan *flight, flightsMax)
}

// reserve waits until a group may be built.
func (p *pipeline) reserve() { p.room <- struct{}{} }

// cancel frees a place for which there is no group.
func (p *pipeline) cancel() { <-p.room }

// launch hands a group to settle, which answers it in any case.
func (p *pipeline) launch(f *flight) {
	p.landed.Add(1)
	p.flights <- f
}

// drain waits until nothing is in flight, and reports whether all went well.
func (p *pipeline) drain() bool {
	p.landed.Wait()
	return p.s.Failure() == nil
}

// end tells settle that no group comes any more.
func (p *pipeline) end() { close(p.flights) }

// settle waits for each group's sync, and answers the group's callers.
func (p *pipeline) settle() {
	for f := range p.flights {
		if err := p.land(f); err != nil {
			p.s.fail(err)
			f.fail(p.s.Failure())
		}
		p.landed.Done()
		<-p.room
	}
}

// land makes a group's state the durable view. After an error the batch and the
// snapshot are left alone: a goroutine parked in Pebble may own them, and
// Pebble's pool would give the batch to another slot (law 9).
func (p *pipeline) land(f *flight) error {
	s := p.s
	if err := s.Failure(); err != nil {
		return err
	}
	if f.view != nil {
		if err := s.guarded(f.b.SyncWait); err != nil {
			return err
		}
		s.install(f.view)
		s.o.Resources.observeSync(s.o.Clock.Mono() - f.began)
		s.onStage.landed(f.placed)
		s.watch.mailboxes.wake(f.touched)
		s.watch.head.wake()
	}
	f.b.Close()
	for _, o := range f.ops {
		o.done <- o.err
	}
	return nil
}

// apply puts the batch into Pebble's log and memtable without waiting for the
// sync, and takes the snapshot of exactly this group: only the committer writes.
func (f *flight) apply(s *Slot) error {
	var v *view
	if err := s.guarded(func() error {
		// The batch must not be closed or used again before SyncWait.
		if err := s.db.ApplyNoSyncWait(f.b, pebble.Sync); err != nil {
			return err
		}
		v = s.newView()
		return nil
	}); err != nil {
		return err
	}
	f.view = v
	return nil
}

func (f *flight) fail(err error) {
	for _, o := range f.ops {
		o.done <- err
	}
}

// undo refuses a group of which the last change failed half way.
func (f *flight) undo(id slot.ID) {
	last := f.ops[len(f.ops)-1].err
	for _, o := range f.ops {
		if o.err == nil {
			o.err = storage.Errorf(storage.ErrUnavailable, "slot %s: undone with a change that failed beside it: %w", id, last)
		}
	}
}
