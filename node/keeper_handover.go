package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"mailnode/failover"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/local"
	"mailnode/storage/repl"
	"mailnode/storage/slot"
)

// handingOver is the hand-over in which a master is, the run loop's own.
type handingOver struct {
	master *local.Master
	begun  uint64 // cluster.HandOver.Begun; 0: none
	stop   func() // ends the work on it, and waits
}

// handOver works towards what Raft has of a hand-over of the slot: a master that is to
// go is sealed and works on it; one that stays, because that was given up, takes
// changes again. Only the applied record lets it: what it may have proposed can come
// true until then (law 1).
func (k *keeper) handOver(ctx context.Context, sl cluster.Slot) {
	m, feed, _ := k.role.parts()
	var h cluster.HandOver
	if sl.HandOver != nil {
		h = *sl.HandOver
	}
	if m == k.handing.master && h.Begun == k.handing.begun {
		return
	}
	if k.handing.stop != nil {
		k.handing.stop()
	}
	k.handing = handingOver{master: m, begun: h.Begun}
	if m == nil || h.Begun == 0 {
		if m != nil {
			m.Unseal()
		}
		return
	}
	k.log.Info("the slot is being handed over", "to", h.To, "by", h.By, "proposal", h.Proposal)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-m.Done():
			cancel()
		case <-ctx.Done():
		}
	})
	wg.Go(func() {
		defer cancel()
		said := ""
		for wait := proposePause; ; wait = min(2*wait, handOverAgainMax) {
			over, err := k.tryHandOver(ctx, sl, h, m, feed)
			if err != nil && ctx.Err() == nil && err.Error() != said {
				said = err.Error()
				k.log.Warn("the hand-over does not get on, and is tried again", "to", h.To, "err", err)
			}
			if over || !pause(ctx, wait) {
				return
			}
		}
	})
	k.handing.stop = func() { cancel(); wg.Wait() }
}

// handOverAgainMax is the longest pause between two tries of what a hand-over needs.
const handOverAgainMax = 2 * time.Second

// tryHandOver seals the slot, waits until its next master has everything, and has Raft
// record that. It reports whether nothing is left to do: Raft decides what comes next.
func (k *keeper) tryHandOver(ctx context.Context, sl cluster.Slot, h cluster.HandOver, m *local.Master, feed *repl.Feed) (over bool, err error) {
	p, err := m.Seal(ctx)
	var inSync []slot.NodeName
	if err == nil {
		inSync, err = feed.HandOver(ctx, h.To, p)
	}
	if err == nil {
		err = m.Drained(ctx)
	}
	if err != nil {
		return ctx.Err() != nil, err
	}
	listed, _ := k.n.State().Slot(k.id)
	c := failover.CommitOf(sl, listed.Replicas, p, inSync, feed.Waits())
	_, err = k.n.Propose(ctx, c)
	switch cluster.OutcomeOf(err) {
	case cluster.Done, cluster.Unseen:
		k.log.Info("the slot was handed over", "to", h.To, "sealed_at", p, "in_sync", c.InSync)
		return true, nil
	case cluster.Refused:
		now, _ := k.n.State().Slot(k.id)
		return now.Epoch != sl.Epoch || now.HandOver == nil || now.HandOver.Begun != h.Begun, err
	}
	return false, err // it is sealed, and asks again
}

// giveUpHandOvers is a leader's part: what takes too long is given up by a command.
func (n *Node) giveUpHandOvers(ctx context.Context, seen []failover.Sealed) []failover.Sealed {
	cmds, still := failover.GiveUp(n.State(), n.clock.Mono(), seen)
	for _, c := range cmds {
		if _, err := n.Propose(ctx, c); err != nil {
			n.log.Warn("give a hand-over up", "err", err)
		}
	}
	return still
}

// changingFor is how long an MTA or a client waits for a slot that changes its master,
// from when it began to wait (LAWS §6.15).
const changingFor = 5 * time.Second

// whileMoving runs what is done at a slot's master, and again while it answers that
// nothing was done because the slot goes to another node just now. This node may be the
// last to hear of that: where it knows of no move it asks the leader once.
func (n *Node) whileMoving(ctx context.Context, id slot.ID, fn func() error) error {
	began := n.clock.Mono()
	for asked := false; ; {
		before, _ := n.State().Slot(id)
		err := fn()
		if !undone(err) || n.clock.Mono()-began >= changingFor {
			return err
		}
		if !n.moving(id) {
			if asked {
				return err
			}
			asked = true
			n.catchUp(ctx)
			if now, _ := n.State().Slot(id); now.Version == before.Version {
				return err
			}
			continue
		}
		if !pause(ctx, movingAgain) {
			return err
		}
	}
}

// undone reports whether an error says that nothing was done because the master of the
// slot is another, or nobody yet.
func undone(err error) bool {
	var nobody noMasterError
	return errors.Is(err, storage.ErrMoved) || errors.As(err, &nobody)
}

// toCaller is an error as another node is to have it: that nobody serves the slot here
// tells it to look again where it is.
func toCaller(err error) error {
	if undone(err) {
		err = storage.Errorf(storage.ErrMoved, "%s", err)
	}
	return err
}

// movingAgain is when what found no master at a hand-over is tried again.
const movingAgain = 50 * time.Millisecond

// moving reports whether a slot is being handed over, or was given to a master so
// short a time ago that it may not serve yet.
func (n *Node) moving(id slot.ID) bool {
	sl, ok := n.State().Slot(id)
	if !ok {
		return false
	}
	if sl.HandOver != nil {
		return true
	}
	own, known := n.evidence.Owner(id)
	return !known || own.Epoch < sl.Epoch || n.clock.Mono()-own.Since < changingFor
}
