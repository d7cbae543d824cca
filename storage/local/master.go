package local

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"mailnode/storage"
	"mailnode/storage/disk"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// Gate holds an acknowledgement back until law 1 allows it: the event at p is
// applied and durable on a replica that counts, or the slot is recorded as
// unprotected. An error means that the change is durable here and must not be
// acknowledged.
type Gate interface {
	Await(ctx context.Context, p slot.Position) error
}

// Admission is a Gate that also decides whether a change may begin. Its error is the
// change's error, and then nothing has happened.
type Admission interface {
	Admit() error
}

// NoGate acknowledges what is durable here: ack = "local", or no replicas.
type NoGate struct{}

// Await implements Gate.
func (NoGate) Await(context.Context, slot.Position) error { return nil }

// uncleanJump is how far the positions of a master that stopped uncleanly jump
// before it serves again in the same epoch: what its last moments showed to
// clients, and lost, is never given out a second time (law 3).
const uncleanJump = 1 << 20

// Master is a slot's copy while it serves clients: the storage.Store on disk.
type Master struct {
	s       *Slot
	epoch   slot.Epoch
	unclean slot.UncleanCount
	floor   slot.Position
	losses  int // event.SlotRecord.LossesUnder
	gate    Gate

	since     time.Duration // Clock.Mono when it began
	clockBase uint64        // the slot clock then, ms

	seal                     seal
	announced                announcements
	mailboxes, subscriptions rooms

	stopOnce sync.Once
	done     chan struct{}
}

var _ storage.Store = (*Master)(nil)

// Serve makes the copy the slot's master in an epoch that Raft gave to this
// node, with Raft's count of unclean epochs. The event that begins the epoch,
// or the jump after an unclean stop, is durable when it returns. One Master at a
// time: an earlier one must have been stopped.
func (s *Slot) Serve(ctx context.Context, e slot.Epoch, x slot.UncleanCount, gate Gate) (*Master, error) {
	if s.building.Load() {
		return nil, storage.Errorf(storage.ErrUnavailable, "serve slot %s: this copy is still being built", s.o.Slot)
	}
	m := &Master{s: s, epoch: e, unclean: x, gate: gate, since: s.o.Clock.Mono(), done: make(chan struct{})}
	err := s.do(ctx, func(t *txn) error {
		rec := &event.SlotRecord{}
		if _, err := event.Load(t, event.SlotKey(), rec); err != nil {
			return err
		}
		m.clockBase = t.clock
		// Ranges that this copy has seen given out are never used again, even if
		// Raft were to count fewer (law 2).
		m.unclean = max(x, slot.UncleanCount(rec.Unclean))
		m.losses = rec.LossesUnder(m.unclean)
		last := rec.SlotLineage().Last()
		switch {
		case last > e:
			return storage.Errorf(storage.ErrNotMaster, "serve slot %s in epoch %d: this copy has seen epoch %d", s.o.Slot, e, last)
		case last == e:
			m.floor = slot.Position(rec.ModseqFloor)
			if !s.found.dirty {
				return t.noteServed(e)
			}
			// The jump is a branch of the history. By the branch a replica is known that
			// has what this copy has lost, also when the journal is trimmed past there.
			rec.Lineage = append(rec.Lineage, &event.Branch{Epoch: uint32(e), After: uint64(t.head)})
			if err := t.applyAt(m, slot.At(e, t.head.N()+uncleanJump), slotChange(rec)); err != nil {
				return err
			}
			return t.noteServed(e)
		}
		rec.Lineage = append(rec.Lineage, &event.Branch{Epoch: uint32(e), After: uint64(t.head), Unclean: uint32(m.unclean)})
		first := slot.At(e, 1)
		if uint32(x) > rec.Unclean {
			rec.Unclean, rec.ModseqFloor = uint32(x), uint64(first)
		}
		m.floor = slot.Position(rec.ModseqFloor)
		if err := t.applyAt(m, first, slotChange(rec)); err != nil {
			return err
		}
		// A mark of an earlier epoch says nothing of this one: who handed the slot over
		// has kept it, and a start would take it for this epoch's.
		if err := t.b.Delete(localKey(keyAlone), nil); err != nil {
			return err
		}
		return t.noteServed(e)
	})
	if err != nil {
		return nil, err
	}
	s.found.dirty = false
	return m, nil
}

// Stop ends the master's service: changes not yet begun are refused, Done is
// closed. Changes in the committer finish; their acknowledgements are withheld.
func (m *Master) Stop() { m.stopOnce.Do(func() { close(m.done) }) }

// Epoch is the epoch in which this master serves.
func (m *Master) Epoch() slot.Epoch { return m.epoch }

// Slot implements storage.Store.
func (m *Master) Slot() slot.ID { return m.s.o.Slot }

// Done implements storage.Store.
func (m *Master) Done() <-chan struct{} { return m.done }

// live reports whether the master serves. Its error says that nothing was done.
func (m *Master) live() error {
	select {
	case <-m.done:
		return storage.Errorf(storage.ErrMoved, "slot %s: this node is no longer its master", m.s.o.Slot)
	default:
		return m.s.Failure()
	}
}

// view runs a read on the durable state.
func (m *Master) view(ctx context.Context, fn func(v *view) error) error {
	if err := m.live(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return storage.Errorf(storage.ErrUnavailable, "slot %s: %w", m.s.o.Slot, err)
	}
	return m.s.read(func(v *view) error { return fn(v.until(ctx)) })
}

// admit reports whether a change may begin: its error is the change's, and nothing
// was done.
func (m *Master) admit() error {
	if err := cmp.Or(m.live(), m.seal.err()); err != nil {
		return err
	}
	if a, ok := m.gate.(Admission); ok {
		return a.Admit()
	}
	return nil
}

// change runs a change of some accounts, or of none, to its local durability.
func (m *Master) change(ctx context.Context, fn func(t *txn) error, accounts ...storage.AccountID) error {
	return m.unlessSealed(ctx, func() error {
		_, err := m.durable(ctx, fn, accounts...)
		return err
	})
}

// acknowledged is change, and the wait for law 1.
func (m *Master) acknowledged(ctx context.Context, fn func(t *txn) error, accounts ...storage.AccountID) error {
	return m.unlessSealed(ctx, func() error {
		at, err := m.durable(ctx, fn, accounts...)
		if err != nil {
			return err
		}
		return m.await(ctx, at)
	})
}

// durable runs a change to its local durability, and returns its position.
func (m *Master) durable(ctx context.Context, fn func(t *txn) error, accounts ...storage.AccountID) (slot.Position, error) {
	var at slot.Position
	if _, err := m.s.space.hold(disk.Change, 0); err != nil {
		return 0, err
	}
	err := m.s.do(ctx, func(t *txn) error {
		if err := m.admit(); err != nil {
			return err
		}
		if err := fn(t); err != nil {
			return err
		}
		at = t.head
		return nil
	}, accounts...)
	return at, err
}

func (m *Master) await(ctx context.Context, at slot.Position) error {
	began := m.s.o.Clock.Mono()
	err := m.gate.Await(ctx, at)
	if told := m.s.o.Resources.OnAck; told != nil && at > 0 {
		told(m.s.o.Clock.Mono() - began)
	}
	select {
	case <-m.done:
		err = cmp.Or(err, storage.Errorf(storage.ErrNotMaster, "slot %s: this node is no longer its master, and the change is durable here", m.s.o.Slot))
	default:
		err = cmp.Or(err, m.s.Failure())
	}
	return err
}

// emit applies the changes as the next event of the epoch.
func (m *Master) emit(t *txn, changes ...*event.Change) error {
	return t.applyAt(m, m.next(t), changes...)
}

// next is the position of the next event. That of a large change leaves room for
// what others change while it is prepared.
func (m *Master) next(t *txn) slot.Position {
	n := t.head.N() + 1
	if t.large != nil {
		n += t.large.ahead
	}
	return slot.At(m.epoch, n)
}

// modSeq is the MODSEQ of what the next event changes in an account.
func (m *Master) modSeq(t *txn, a *event.AccountRecord) uint64 {
	return uint64(m.next(t)) + a.ModseqBase
}

// shownFloor is the least MODSEQ that an account's clients are shown (law 3).
func (m *Master) shownFloor(a *event.AccountRecord) storage.ModSeq {
	if m.floor == 0 {
		return 0
	}
	return storage.ModSeq(uint64(m.floor) + a.ModseqBase)
}

func (t *txn) applyAt(m *Master, p slot.Position, changes ...*event.Change) error {
	if p.N() >= slot.MaxN {
		panic(fmt.Sprintf("slot %s: epoch %d is used up", m.s.o.Slot, m.epoch))
	}
	if err := event.Permit(m.s.o.features(), changes); err != nil {
		return fmt.Errorf("write event %s of slot %s: %w", p, m.s.o.Slot, err)
	}
	return t.apply(&event.Event{Position: uint64(p), Previous: uint64(t.head), SlotClockMs: m.slotClock(t), Changes: changes})
}
