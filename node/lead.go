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
	k.noteLoss(err)
	if err != nil {
		return err
	}
	feed := repl.NewFeed(repl.FeedOptions{
		Slot: k.copy, Epoch: sl.Epoch, Protected: sl.Protected, InSync: sl.InSync, AckTimeout: k.n.cfg.Replication.AckTimeout,
		WaitForReplica: k.n.cfg.Replication.Ack == config.AckReplica && len(sl.Replicas) > 0,
		Recorder:       recorder{k.n}, Clock: k.n.clock, Logger: k.n.log, OnFenced: k.fenced,
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

// loss says that this copy, the master's, lacks what the slot had: it stays
// down, its report says so, and the leader proposes the slot.
type loss struct {
	to    slot.NodeName // who has it, "" when that is not known
	cause error
}

func (l *loss) Error() string { return l.cause.Error() }
func (l *loss) Unwrap() error { return l.cause }

// noteLoss remembers a loss until a comparison with whoever has the rest ends
// well: that it does not answer at the next try makes nothing better.
func (k *keeper) noteLoss(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var l *loss
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
		return sl, &loss{cause: errors.New("this copy was never filled")}
	}
	answers := k.askReplicas(ctx, now)
	if err := k.notEmptied(now, answers); err != nil {
		return sl, err
	}
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

// begun says whether Raft proves that a slot was served before. It cannot prove
// the opposite.
func begun(sl cluster.Slot) bool {
	return sl.Epoch > 1 || sl.Protected || len(sl.InSync) > 0 || sl.UnprotectedSince != 0
}

// notEmptied refuses an empty copy of a slot that is not new: a lost or foreign
// disk must not become the slot's truth, and its epoch's numbers were given out
// (laws 2 and 7).
func (k *keeper) notEmptied(sl cluster.Slot, answers map[slot.NodeName]failover.CopyAnswer) error {
	head, err := k.copy.Head()
	if err != nil || len(head.Lineage) > 0 {
		return err
	}
	empty := 0
	for r, a := range answers {
		switch {
		case a.Lineage > 0:
			return &loss{to: r, cause: fmt.Errorf("this copy is empty, and %s holds %s of the slot: is the right disk mounted here?", r, a.Position)}
		case a.Viable:
			empty++
		}
	}
	if begun(sl) && (empty == 0 || empty < len(sl.Replicas)) {
		return &loss{cause: errors.New("this copy is empty, and the slot is not new: is the right disk mounted here?")}
	}
	return nil
}

// compare takes what another copy has more than this one, and says whether it
// took anything.
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
	}
	conn, err := k.n.peers.conn(other)
	if err != nil {
		return false, err
	}
	k.log.Warn("another copy is ahead: its events are taken first", "from", other, "here", head.Position, "there", a.Position)
	_, err = repl.CatchUp(ctx, k.copy, repl.NewReplicationClient(conn), k.n.spool)
	if err == nil {
		return true, nil
	}
	if a.Lineage < sl.Epoch && a.Lineage != head.Lineage.Last() {
		// A promotion whose loss was accepted: another line of history. It is set
		// aside when that copy follows, and this epoch's numbers are all new.
		k.log.Warn("the other copy's events do not fit this one's", "from", other, "err", err)
		return true, nil
	}
	return false, &loss{to: other, cause: fmt.Errorf("%s holds %s, this copy %s, and the difference cannot be had: %w", other, a.Position, head.Position, err)}
}
