package raftfsm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// ErrUnknownOutcome is cluster.ErrUnknownOutcome, where the kinds of errors of
// Propose are listed.
var ErrUnknownOutcome = cluster.ErrUnknownOutcome

// ErrNotLeader says who is the leader, as far as this node knows.
type ErrNotLeader struct {
	Leader slot.NodeName // "" when there is none
	Addr   string
}

func (e ErrNotLeader) Error() string {
	if e.Leader == "" {
		return "this node is not the raft leader, and knows of none"
	}
	return fmt.Sprintf("this node is not the raft leader, %s is", e.Leader)
}

// Outcome says that nothing was done.
func (ErrNotLeader) Outcome() cluster.Outcome { return cluster.NotDone }

// enqueueTimeout bounds the wait for Raft's main loop; it is shorter when ctx ends.
const enqueueTimeout = 5 * time.Second

// Propose commits one command and waits until this node, the leader, has applied
// it. Errors are those of cluster.OutcomeOf: a refusal of package cluster (the
// Result has the index of the state that refused), ErrNotLeader and
// cluster.ErrNotDone, ErrUnknownOutcome, *ErrHalted.
func (n *Node) Propose(ctx context.Context, c cluster.Command) (cluster.Result, error) {
	if err := n.permitted(ctx, c); err != nil {
		return cluster.Result{Index: n.State().Index}, fmt.Errorf("propose %q: %w", cluster.KindOf(c), err)
	}
	w := newWaiter(c)
	err := n.await(ctx, func(time.Duration) raft.Future { return n.group.join(w, n.apply) })
	if errors.Is(err, ErrUnknownOutcome) && n.group.leave(w) { // it waited for another entry
		err = cluster.ErrNotDone{Cause: cmp.Or(ctx.Err(), n.latch.Err(), errNoRoom)}
	}
	if err != nil {
		return cluster.Result{}, fmt.Errorf("propose %q: %w", cluster.KindOf(c), err)
	}
	return w.applied.Result, w.applied.Err
}

// permitted refuses what members of older releases could not read in the log. A
// leader that has just been elected may not have applied that the level was
// raised: it looks again behind a barrier before it refuses.
func (n *Node) permitted(ctx context.Context, c cluster.Command) error {
	if n.State().Permit(c) == nil {
		return nil
	}
	if err := n.Barrier(ctx); err != nil {
		var elsewhere ErrNotLeader
		if errors.As(err, &elsewhere) {
			return elsewhere
		}
		return cluster.ErrNotDone{Cause: errors.New(err.Error())} // of the command, whatever became of the barrier
	}
	return n.State().Permit(c)
}

// VerifyLeader asks a majority whether this node still leads.
func (n *Node) VerifyLeader(ctx context.Context) error {
	err := n.await(ctx, func(time.Duration) raft.Future { return n.raft.VerifyLeader() })
	if err != nil {
		return fmt.Errorf("verify raft leadership: %w", err)
	}
	return nil
}

// Barrier waits until everything that was committed before is applied here. A
// new leader calls it before it trusts State.
func (n *Node) Barrier(ctx context.Context) error {
	err := n.await(ctx, func(timeout time.Duration) raft.Future { return n.raft.Barrier(timeout) })
	if err != nil {
		return fmt.Errorf("wait for raft barrier: %w", err)
	}
	return nil
}

// TransferLeadership hands leadership to another voter, before a stop.
func (n *Node) TransferLeadership(ctx context.Context) error {
	err := n.await(ctx, func(time.Duration) raft.Future { return n.raft.LeadershipTransfer() })
	if err != nil {
		return fmt.Errorf("transfer raft leadership: %w", err)
	}
	return nil
}

// await starts an operation and waits for it, for ctx and for the latch. start
// runs in a goroutine: Raft's channels may block while its main loop does.
func (n *Node) await(ctx context.Context, start func(enqueue time.Duration) raft.Future) error {
	if err := n.latch.Err(); err != nil {
		return err
	}
	full := n.latch.room.begins()
	if n.latch.room.waits() || n.running() == nil {
		return cluster.ErrNotDone{Cause: errNoRoom}
	}
	if err := ctx.Err(); err != nil {
		return cluster.ErrNotDone{Cause: err}
	}
	timeout := enqueueTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = max(min(timeout, time.Until(deadline)), time.Millisecond)
	}
	done := make(chan error, 1)
	go func() { done <- start(timeout).Error() }()
	select {
	case err := <-done:
		return n.outcome(err)
	case <-ctx.Done():
		return fmt.Errorf("%w (%w)", ErrUnknownOutcome, ctx.Err())
	case <-full:
		return fmt.Errorf("%w (%w)", ErrUnknownOutcome, errNoRoom)
	case <-n.latch.Tripped():
		return fmt.Errorf("%w (%w)", ErrUnknownOutcome, n.latch.Err())
	}
}

// outcome sorts Raft's errors into those that mean that nothing was done and
// those that leave it open, see cluster.Outcome.
func (n *Node) outcome(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		leader, _, addr := n.Leader()
		if n.IsLeader() { // it became one just now
			leader, addr = "", ""
		}
		return ErrNotLeader{Leader: leader, Addr: addr}
	case errors.Is(err, raft.ErrEnqueueTimeout): // Raft's main loop never took it
		return cluster.ErrNotDone{Cause: err}
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrRaftShutdown), errors.Is(err, raft.ErrAbortedByRestore):
		// The entry may be written: another leader commits it, or nobody does.
		return fmt.Errorf("%w (%w)", ErrUnknownOutcome, err)
	}
	return err
}

// Err returns the fault that stopped Raft on this node, an *ErrHalted, or nil.
func (n *Node) Err() error { return n.latch.Err() }

// ServerID returns this node's name in Raft.
// It is "" as long as there was no room to open Raft.
func (n *Node) ServerID() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return string(n.id)
}

// IsLeader reports whether this node leads, as far as it knows: another may have
// been elected within the last lease. See VerifyLeader.
func (n *Node) IsLeader() bool {
	r := n.running()
	return r != nil && n.latch.Err() == nil && !n.latch.room.waits() && r.State() == raft.Leader
}

// Leader returns the leader that this node follows or is; empty when it knows none.
func (n *Node) Leader() (name slot.NodeName, serverID, addr string) {
	r := n.running()
	if r == nil || n.latch.Err() != nil {
		return "", "", ""
	}
	a, id := r.LeaderWithID()
	if id == "" || id == n.id && n.latch.room.waits() {
		return "", "", ""
	}
	if m, ok := n.State().MemberByServerID(string(id)); ok {
		return m.Name, string(id), m.Addr
	}
	return nameOf(id), string(id), string(a)
}

// nameOf takes the node name out of a server ID made by newServerID.
func nameOf(id raft.ServerID) slot.NodeName {
	if i := strings.LastIndexByte(string(id), '-'); i > 0 {
		return slot.NodeName(id[:i])
	}
	return slot.NodeName(id)
}

// LastContact returns the time since this node last heard from a leader, by the
// monotonic clock; 0 on the leader, false when it never did.
func (n *Node) LastContact() (time.Duration, bool) {
	if n.IsLeader() {
		return 0, true
	}
	r := n.running()
	if r == nil {
		return 0, false
	}
	last := r.LastContact()
	if last.IsZero() {
		return 0, false
	}
	return time.Since(last), true
}

// Quorum reports whether this node knows a leader that has a quorum. A leader that
// loses it steps down after its lease, so a follower that heard from one within
// two heartbeat timeouts may believe it.
func (n *Node) Quorum() bool {
	r := n.running()
	if r == nil || n.latch.Err() != nil || n.latch.room.waits() {
		return false
	}
	if r.State() == raft.Leader {
		// A main loop that waits for its disk does not look at its lease.
		_, since := n.latch.dog.Slowest()
		return since < n.cfg.StallLimit/slowPart
	}
	if _, id := r.LeaderWithID(); id == "" {
		return false
	}
	age, heard := n.LastContact()
	return heard && age < 2*n.cfg.HeartbeatTimeout
}
