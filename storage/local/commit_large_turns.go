package local

import (
	"cmp"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/fair"
)

const (
	// largeAloneBytes is what a large change may hold of records before it waits for its
	// turn on the node: what it makes of them, up to its event's 512 MiB, lies in memory
	// four times (records, changes, batch, event).
	largeAloneBytes = 8 << 20
	// largeAtOnce is how many change more than that at once, over all slots of the node.
	largeAtOnce = 2
	// largeSlotsMax is how many slots' changes wait for that: more than a node has.
	largeSlotsMax = 10_000
	// largeToldEvery is how often one that waits looks whether those before it work.
	largeToldEvery = 500 * time.Millisecond
)

// largeTurns bounds what the large changes of all slots of a node hold in memory.
type largeTurns struct {
	turns      *fair.Turns
	aloneBytes int64         // largeAloneBytes, but for tests
	worked     atomic.Uint64 // by those that have a turn
}

func newLargeTurns() largeTurns {
	return largeTurns{turns: fair.NewTurns(largeAtOnce, largeSlotsMax), aloneBytes: largeAloneBytes}
}

// holds counts what the change holds of records. Once that is much it waits for its turn
// on the node, which it keeps until release.
func (d *draft) holds(bytes int) error {
	on := &d.s.o.Resources.large
	if d.release != nil {
		on.worked.Add(1)
		return nil
	}
	if d.bytes += int64(bytes); d.bytes <= on.aloneBytes {
		return nil
	}
	defer d.s.worksWhile(on.worked.Load)()
	end, err := on.turns.Take(d.ctx, fair.Asker{Client: d.s.o.Slot.String(), Account: d.s.o.Slot.String()})
	if err != nil {
		return storage.Errorf(storage.ErrUnavailable, "slot %s: %w", d.s.o.Slot, cmp.Or(context.Cause(d.ctx), err))
	}
	d.release = func() { end(0) }
	return nil
}

// worksWhile lets the copy count as one that works for as long as others do that it
// waits for: its master must not take it for dead meanwhile (law 1).
func (s *Slot) worksWhile(others func() uint64) (end func()) {
	stop := make(chan struct{})
	var told sync.WaitGroup
	told.Go(func() {
		tick := time.NewTicker(largeToldEvery)
		defer tick.Stop()
		for before := others(); ; {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			if now := others(); now != before {
				before = now
				s.com.work.keys.Add(1)
			}
		}
	})
	return func() {
		close(stop)
		told.Wait()
	}
}

// eventHeld counts a replica's event, which is in memory when it comes.
func (t *txn) eventHeld(ev *event.Event) error { return t.large.holds(proto.Size(ev)) }

func (d *draft) end() {
	if d.b != nil {
		d.b.Close()
	}
	if d.release != nil {
		d.release()
	}
}
