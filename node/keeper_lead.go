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

// lead serves the slot, after the checks of failover.MayServe. It returns Raft's record
// as it was proved to be then: one that the caller had before may not know yet of the
// hand-over in which the slot is, and would unseal it (law 1).
func (k *keeper) lead(ctx context.Context, sl cluster.Slot, term uint64) (cluster.Slot, error) {
	sl, again, err := k.mayServe(ctx, sl)
	k.role.noteLost(err)
	if err != nil {
		return sl, err
	}
	return sl, k.serve(ctx, sl, again, term)
}

// serve begins to serve the slot by a record that was proved.
func (k *keeper) serve(ctx context.Context, sl cluster.Slot, again bool, term uint64) error {
	s := k.opened()
	feed, err := repl.NewFeed(repl.FeedOptions{
		Slot: s, Epoch: sl.Epoch, Recorded: recordOf(sl), Again: again, WithoutRaft: k.goesAlone(sl), AckTimeout: k.n.cfg.Replication.AckTimeout,
		WaitForReplica: k.n.cfg.Replication.Ack == config.AckReplica,
		ProtectAfter:   k.n.protectAfter, Recorder: recorder{k.n}, Clock: k.n.clock, Logger: k.n.log, OnFenced: k.overNow,
	})
	if err != nil {
		return err
	}
	m, err := s.Serve(ctx, sl.Epoch, sl.Unclean, pauseGate{k.n, feed})
	if err != nil {
		return err
	}
	if sl.HandOver != nil { // an earlier process may have said that nothing follows
		if _, err := m.Seal(ctx); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { feed.Run(ctx) })
	leave := func() { m.Stop(); feed.Close(); cancel(); wg.Wait() }
	if err := k.role.take(term, roleParts{master: m, feed: feed, servedAt: k.n.clock.Mono(), leave: leave}); err != nil {
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
	if g.n.fenced.Load() { // it was let in before, and has waited for a replica since
		return errFenced
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
func (r *roleState) noteLost(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var l *lostEvents
	if err == nil || errors.As(err, &l) {
		r.lost = l
	}
}

const (
	freshWithin   = 2 * time.Second
	compareWithin = 500 * time.Millisecond // a copy that is believed alive answers sooner
)

// mayServe proves that the epoch is still this node's, by a leader with a
// quorum, asks all replicas, and does what failover.MayServe says until that is
// to serve, or to wait. It returns the slot as Raft has it now, and whether this
// copy has served the epoch before.
func (k *keeper) mayServe(ctx context.Context, sl cluster.Slot) (now cluster.Slot, again bool, err error) {
	s, began := k.opened(), k.n.clock.Mono()
	since, lostTo := k.role.asks(sl.Epoch, began)
	start := failover.Start{Waited: began - since, LostTo: lostTo, Passed: map[slot.NodeName]slot.Position{}}
	for {
		if start.Slot, err = k.stillMine(ctx, sl); err != nil { // what came before may have taken a while
			return sl, false, err
		}
		head, err := s.Head()
		if err != nil {
			return sl, false, err
		}
		start.Position, start.Lineage, start.Building = head.Position, head.Lineage.Last(), head.Building
		start.Answers = k.askReplicas(ctx, start.Slot)
		d := failover.MayServe(start)
		switch d.Begin {
		case failover.BeginServe:
			return start.Slot, head.Lineage.Last() == sl.Epoch, nil
		case failover.BeginLost:
			return sl, false, &lostEvents{to: d.From, cause: errors.New(d.Why)}
		case failover.BeginWait:
			return sl, false, errors.New(d.Why)
		}
		a := start.Answers[d.From]
		if err := k.takeFrom(ctx, d, a, sl.Epoch, head.Lineage.Last()); err != nil {
			return sl, false, err
		}
		start.Passed[d.From] = a.Position
	}
}

// stillMine asks a leader with a quorum whether the epoch is this node's.
func (k *keeper) stillMine(ctx context.Context, sl cluster.Slot) (cluster.Slot, error) {
	ctx, cancel := context.WithTimeout(ctx, freshWithin)
	defer cancel()
	if err := k.n.Fresh(ctx); err != nil && !k.goesAlone(sl) {
		return sl, fmt.Errorf("waits until a quorum agrees that epoch %d is still this node's: %w", sl.Epoch, err)
	}
	now, _ := k.n.raft.State().Slot(k.id)
	if now.Master != k.n.cfg.Node.Name || now.Epoch != sl.Epoch {
		return sl, fmt.Errorf("epoch %d is over", sl.Epoch)
	}
	return now, nil
}

// askReplicas returns the answers of those that answer.
func (k *keeper) askReplicas(ctx context.Context, sl cluster.Slot) map[slot.NodeName]failover.CopyAnswer {
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[slot.NodeName]failover.CopyAnswer{}
	for _, r := range sl.Replicas {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, compareWithin)
			defer cancel()
			got, err := k.n.Ask(ctx, r, []failover.Question{{Slot: k.id, Epoch: sl.Epoch}})
			if err == nil && len(got.Copies) == 1 {
				mu.Lock()
				defer mu.Unlock()
				out[r] = got.Copies[0]
			}
		})
	}
	wg.Wait()
	return out
}

// whileMine ends with the epoch. The other copy's disk may hang for ever: who then
// accepts the loss gives the slot a new epoch, which must not wait behind it.
func (k *keeper) whileMine(ctx context.Context, e slot.Epoch) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	k.n.wg.Go(func() {
		for ctx.Err() == nil {
			changed := k.n.raft.Changed()
			if sl, ok := k.n.raft.State().Slot(k.id); ok && sl.Epoch > e {
				cancel()
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	})
	return ctx, cancel
}

// takeFrom takes the events that another copy has more.
func (k *keeper) takeFrom(ctx context.Context, d failover.Decision, a failover.CopyAnswer, e, lineage slot.Epoch) error {
	ctx, cancel := k.whileMine(ctx, e)
	defer cancel()
	conn, err := k.n.peers.conn(d.From)
	if err != nil {
		return err
	}
	k.log.Warn("another copy is ahead: its events are taken first", "from", d.From, "there", a.Position)
	at, err := repl.CatchUp(ctx, k.opened(), repl.NewReplicationClient(conn), k.n.spool)
	if errors.Is(err, storage.ErrDiverged) && a.Lineage != lineage {
		// Another line of history, left behind by a promotion whose loss was
		// accepted. That copy sets it aside when it follows.
		k.log.Warn("the other copy's events do not follow this one's", "from", d.From, "err", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s holds %s, this copy %s, and the difference cannot be had: %w", d.From, a.Position, at, err)
	}
	return nil
}
