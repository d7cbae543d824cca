package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"mailnode/failover"
	"mailnode/node/config"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/repl"
	"mailnode/storage/slot"
)

// lead serves the slot, after the checks of DESIGN section 6.
func (k *keeper) lead(ctx context.Context, sl cluster.Slot, term uint64) error {
	sl, err := k.mayServe(ctx, sl)
	k.noteLost(err)
	if err != nil {
		return err
	}
	feed := repl.NewFeed(repl.FeedOptions{
		Slot: k.copy, Epoch: sl.Epoch, Protected: sl.Protected, InSync: sl.InSync, AckTimeout: k.n.cfg.Replication.AckTimeout,
		WaitForReplica: k.n.cfg.Replication.Ack == config.AckReplica && len(sl.Replicas) > 0,
		ProtectAfter:   k.n.protectAfter, Recorder: recorder{k.n}, Clock: k.n.clock, Logger: k.n.log, OnFenced: k.fenced,
	})
	m, err := k.copy.Serve(ctx, sl.Epoch, sl.Unclean, pauseGate{k.n, feed})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { feed.Run(ctx) })
	leave := func() { m.Stop(); feed.Close(); cancel(); wg.Wait() }
	if err := k.take(term, leave, func() {
		k.master, k.feed, k.servedAt, k.waiting = m, feed, k.n.clock.Mono(), ""
	}); err != nil {
		return err
	}
	k.log.Info("slot served", "epoch", sl.Epoch, "unclean", sl.Unclean)
	return nil
}

// pauseAfter is the gap between two ticks after which this process was stopped.
const pauseAfter = 2 * time.Second

// pauseGate withholds acknowledgements from the moment at which this process
// goes on after a pause until it knows that its epochs are still its own.
type pauseGate struct {
	n    *Node
	feed *repl.Feed
}

// Await implements local.Gate.
func (g pauseGate) Await(ctx context.Context, p slot.Position) error {
	if err := g.feed.Await(ctx, p); err != nil {
		return err
	}
	if g.n.clock.Mono()-time.Duration(g.n.lastTick.Load()) >= pauseAfter {
		return storage.Errorf(storage.ErrUnavailable, "this node was paused: it asks first whether it is still the master")
	}
	return nil
}

// lostEvents says that this node's copy lacks what it once had in this epoch:
// what clients were shown would be given out again (law 2). The slot stays down
// and is proposed; a new epoch has numbers of its own.
type lostEvents struct {
	to    slot.NodeName // who has them, "" when that is not known
	cause error
}

func (l *lostEvents) Error() string { return l.cause.Error() }
func (l *lostEvents) Unwrap() error { return l.cause }

// noteLost remembers lost events until a comparison with whoever has the rest ends
// well: that it does not answer at the next try makes nothing better.
func (k *keeper) noteLost(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var l *lostEvents
	if err == nil || errors.As(err, &l) {
		k.lost = l
	}
}

const (
	freshWithin   = 2 * time.Second
	compareWithin = 500 * time.Millisecond // a copy that is believed alive answers sooner
)

// mayServe proves that the epoch is still this node's, by a leader with a
// quorum, and that no copy that answers is ahead: what one has more is taken
// from it first. It gives the slot as Raft has it now.
func (k *keeper) mayServe(ctx context.Context, sl cluster.Slot) (cluster.Slot, error) {
	now, err := k.stillMine(ctx, sl)
	if err != nil {
		return sl, err
	}
	if k.copy.Building() {
		return sl, &lostEvents{cause: errors.New("this copy is empty or half filled, and its node is the slot's master")}
	}
	answers := k.askReplicas(ctx, now)
	k.mu.Lock()
	before := k.lost
	k.mu.Unlock()
	taken := false
	for _, r := range now.Replicas {
		a, answered := answers[r]
		switch {
		case answered && opening(a):
			return sl, fmt.Errorf("%s is still opening its copy: what it holds is compared first", r)
		case answered:
			took, err := k.compare(ctx, now, r, a)
			if err != nil {
				return sl, err
			}
			taken = taken || took
		case before != nil && before.to == r:
			return sl, before
		}
	}
	if !taken {
		return now, nil
	}
	return k.stillMine(ctx, now) // that may have taken a while
}

// stillMine asks a leader with a quorum whether the epoch is this node's.
func (k *keeper) stillMine(ctx context.Context, sl cluster.Slot) (cluster.Slot, error) {
	ctx, cancel := context.WithTimeout(ctx, freshWithin)
	defer cancel()
	if err := k.n.fresh(ctx); err != nil {
		return sl, fmt.Errorf("waits for a quorum that says whether epoch %d is still this node's: %w", sl.Epoch, err)
	}
	now, _ := k.n.raft.State().Slot(k.id)
	if now.Master != k.n.cfg.Node.Name || now.Epoch != sl.Epoch {
		return sl, fmt.Errorf("epoch %d is over", sl.Epoch)
	}
	return now, nil
}

// askReplicas gives the answers of those that answer.
func (k *keeper) askReplicas(ctx context.Context, sl cluster.Slot) map[slot.NodeName]failover.CopyAnswer {
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[slot.NodeName]failover.CopyAnswer{}
	for _, r := range sl.Replicas {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, compareWithin)
			defer cancel()
			if got, err := k.n.Ask(ctx, r, []slot.ID{k.id}); err == nil && len(got) == 1 {
				mu.Lock()
				defer mu.Unlock()
				out[r] = got[0]
			}
		})
	}
	wg.Wait()
	return out
}

// opening says that a node has the copy, and does not know yet what is in it.
func opening(a failover.CopyAnswer) bool {
	return a.Role == failover.RoleNone && a.Failed == "" && !a.Viable && !a.Building
}

// compare looks at what another copy has more than this one, and says whether it
// took anything. A copy that begins a new epoch takes it first; one that served
// this epoch before has lost it.
func (k *keeper) compare(ctx context.Context, sl cluster.Slot, other slot.NodeName, a failover.CopyAnswer) (bool, error) {
	head, err := k.copy.Head()
	if err != nil {
		return false, err
	}
	switch {
	case !a.Viable || a.Position <= head.Position:
		return false, nil
	case a.Lineage > sl.Epoch:
		return false, fmt.Errorf("%s has seen epoch %d, Raft here knows %d", other, a.Lineage, sl.Epoch)
	case a.Lineage == sl.Epoch:
		return false, &lostEvents{to: other, cause: fmt.Errorf("%s holds events up to %s, this copy ends at %s: it has lost events that it had", other, a.Position, head.Position)}
	}
	conn, err := k.n.peers.conn(other)
	if err != nil {
		return false, err
	}
	k.log.Warn("another copy is ahead: its events are taken first", "from", other, "here", head.Position, "there", a.Position)
	_, err = repl.CatchUp(ctx, k.copy, repl.NewReplicationClient(conn), k.n.spool)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, storage.ErrDiverged) && a.Lineage != head.Lineage.Last():
		// Another line of history, left behind by a promotion whose loss was
		// accepted. That copy sets it aside when it follows.
		k.log.Warn("the other copy's events do not follow this one's", "from", other, "err", err)
		return true, nil
	}
	return false, fmt.Errorf("%s holds %s, this copy %s, and the difference cannot be had: %w", other, a.Position, head.Position, err)
}
