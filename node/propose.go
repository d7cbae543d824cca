package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mailnode/node/rpc"
	"mailnode/raftfsm"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/repl"
	"mailnode/storage/repl/ack"
	"mailnode/storage/slot"
)

// State is Raft's state as this node has applied it; when Raft does not run on it, as
// it was known last.
func (n *Node) State() *cluster.State { return n.raft.State() }

const proposePause = 100 * time.Millisecond

// leaderWithin bounds one call to the leader. One that hangs is replaced by an
// election within seconds; whoever still waited for it would not ask the new one.
const leaderWithin = 4 * time.Second

// order commits what a person wants. That it is done and not seen here yet is no
// failure of the order.
func (n *Node) order(ctx context.Context, c cluster.Command) error {
	_, err := n.Propose(ctx, c)
	if cluster.OutcomeOf(err) == cluster.Unseen {
		n.log.Warn("an order is done and not seen on this node yet", "command", cluster.KindOf(c), "err", err)
		return nil
	}
	return err
}

// Propose commits a command, wherever the leader is, and waits until this node
// has applied it too. What its errors mean is said by cluster.OutcomeOf. After a
// refusal State is at least the one that refused, if that came in time.
func (n *Node) Propose(ctx context.Context, c cluster.Command) (cluster.Result, error) {
	for {
		if err := n.raft.Err(); err != nil { // it never hears of a leader again
			return cluster.Result{}, fmt.Errorf("propose %q: %w", cluster.KindOf(c), err)
		}
		r, err := n.proposeOnce(ctx, c)
		var elsewhere raftfsm.ErrNotLeader
		if !errors.As(err, &elsewhere) {
			return r, n.seen(ctx, r.Index, err)
		}
		select {
		case <-ctx.Done():
			return cluster.Result{}, fmt.Errorf("propose %q: no leader took it: %w", cluster.KindOf(c), err)
		case <-time.After(proposePause):
		}
	}
}

// refusedWithin is how long a refusal waits for the state that refused: the
// caller is told in any case.
const refusedWithin = 500 * time.Millisecond

// seen waits for the state in which a command was applied or refused.
func (n *Node) seen(ctx context.Context, index uint64, err error) error {
	switch cluster.OutcomeOf(err) {
	case cluster.Done:
		if cause := n.raft.WaitApplied(ctx, index); cause != nil {
			return cluster.ErrUnseen{Index: index, Cause: cause}
		}
	case cluster.Refused:
		ctx, cancel := context.WithTimeout(ctx, refusedWithin)
		defer cancel()
		if cause := n.raft.WaitApplied(ctx, index); cause != nil {
			n.log.Debug("refused by a state that is not here yet", "index", index, "err", cause)
		}
	}
	return err
}

func (n *Node) proposeOnce(ctx context.Context, c cluster.Command) (cluster.Result, error) {
	if n.raft.IsLeader() {
		return n.commit(ctx, c)
	}
	leader, _, _ := n.raft.Leader()
	if leader == "" || leader == n.cfg.Node.Name {
		return cluster.Result{}, raftfsm.ErrNotLeader{}
	}
	client, err := n.peers.node(leader)
	if err != nil {
		return cluster.Result{}, cluster.ErrNotDone{Cause: err}
	}
	if err := ctx.Err(); err != nil {
		return cluster.Result{}, cluster.ErrNotDone{Cause: err}
	}
	ctx, cancel := context.WithTimeout(ctx, leaderWithin)
	defer cancel()
	got, err := client.Propose(ctx, &rpc.Command{Frame: cluster.Encode(c)})
	if err != nil {
		return cluster.Result{}, fmt.Errorf("propose %q at %s: %w", cluster.KindOf(c), leader, notProposed(err))
	}
	if got.NotLeader {
		return cluster.Result{}, raftfsm.ErrNotLeader{}
	}
	if err := refusalFrom(got.RefusalKind, got.Refusal); err != nil {
		return cluster.Result{Index: got.Index}, err
	}
	return cluster.Result{Index: got.Index, Proposal: got.Proposal, Epoch: slot.Epoch(got.Epoch)}, nil
}

// notProposed sorts an error of the call to the leader. Only the leader's own
// word (service.Propose), or that there was no connection, proves that nothing
// was done: of a call that broke off nobody knows how far it came.
func notProposed(err error) error {
	switch status.Code(err) {
	case codes.FailedPrecondition, codes.InvalidArgument, codes.Unimplemented:
		return cluster.ErrNotDone{Cause: err}
	}
	if rpc.Unsent(err) {
		return cluster.ErrNotDone{Cause: err}
	}
	return fmt.Errorf("%w (%w)", cluster.ErrUnknownOutcome, err)
}

// Fresh returns when this node's state is at least as new as the call, as a
// leader with a quorum behind it says. A node that alone has a vote, and whose Raft
// has stopped, knows that nothing has changed.
func (n *Node) Fresh(ctx context.Context) error {
	if err := n.membership(); err != nil {
		return err
	}
	if n.raft.DecidesAlone() {
		return nil
	}
	if err := n.raft.Err(); err != nil {
		return err
	}
	if n.raft.IsLeader() {
		_, err := n.raft.Fresh(ctx)
		return err
	}
	leader, _, _ := n.raft.Leader()
	if leader == "" {
		return errors.New("no leader is known")
	}
	client, err := n.peers.node(leader)
	if err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, leaderWithin)
	defer cancel()
	i, err := client.Fresh(call, &rpc.Empty{})
	if err != nil {
		return fmt.Errorf("ask the leader %s: %w", leader, err)
	}
	return n.raft.WaitApplied(ctx, i.Index)
}

// A refusal travels with its kind, so that callers elsewhere can tell it apart.

func refusalTo(err error) (kind string, body []byte) {
	var stale cluster.ErrStale
	var notFound cluster.ErrNotFound
	var exists cluster.ErrExists
	var invalid cluster.ErrInvalid
	var closed cluster.ErrClosed
	var changed cluster.ErrChanged
	var v any
	switch {
	case errors.As(err, &changed):
		kind, v = "changed", changed
	case errors.As(err, &stale):
		kind, v = "stale", stale
	case errors.As(err, &notFound):
		kind, v = "not_found", notFound
	case errors.As(err, &exists):
		kind, v = "exists", exists
	case errors.As(err, &invalid):
		kind, v = "invalid", invalid
	case errors.As(err, &closed):
		kind, v = "closed", closed
	default:
		return "", nil
	}
	body, jerr := json.Marshal(v)
	if jerr != nil {
		return "", nil
	}
	return kind, body
}

func refusalFrom(kind string, body []byte) error {
	switch kind {
	case "":
		return nil
	case "stale":
		return refusal[cluster.ErrStale](body)
	case "not_found":
		return refusal[cluster.ErrNotFound](body)
	case "exists":
		return refusal[cluster.ErrExists](body)
	case "invalid":
		return refusal[cluster.ErrInvalid](body)
	case "closed":
		return refusal[cluster.ErrClosed](body)
	case "changed":
		return refusal[cluster.ErrChanged](body)
	}
	return fmt.Errorf("refused with the unknown kind %q: %s", kind, body)
}

func refusal[T error](body []byte) error {
	var e T
	if err := json.Unmarshal(body, &e); err != nil {
		return fmt.Errorf("read refusal %q: %w", body, err)
	}
	return e
}

// recorder records in Raft what storage/repl asks for.
type recorder struct{ n *Node }

// Record implements repl.Recorder.
func (r recorder) Record(ctx context.Context, s slot.ID, e slot.Epoch, rec ack.Record) (ack.Outcome, error) {
	var c cluster.Command = cluster.SetUnprotected{Slot: s, Epoch: e, Version: rec.Version, Since: rec.Since}
	if rec.Protected {
		c = cluster.SetProtected{Slot: s, Epoch: e, Version: rec.Version, InSync: rec.InSync}
	}
	_, err := r.n.Propose(ctx, c)
	return outcomeOf(err)
}

// Drop implements repl.Recorder.
func (r recorder) Drop(ctx context.Context, s slot.ID, e slot.Epoch, d ack.Drop) error {
	_, err := r.n.Propose(ctx, cluster.EndDrop{Slot: s, Epoch: e, Version: d.Version, Node: d.Node})
	return err
}

// outcomeOf gives the error of a record its kind: only what may yet come true is
// not known. Another epoch is proof that this one is over (law 1).
func outcomeOf(err error) (ack.Outcome, error) {
	var stale cluster.ErrStale
	switch o := cluster.OutcomeOf(err); {
	case o == cluster.Done, o == cluster.Unseen:
		return ack.Done, nil
	case o == cluster.Refused && errors.As(err, &stale):
		return ack.Refused, fmt.Errorf("%w: %w", repl.ErrEpochOver, err)
	case o == cluster.Refused:
		return ack.Refused, err
	case o == cluster.NotDone, o == cluster.Halted:
		return ack.NotSent, err
	}
	return ack.Unknown, err
}

// Recorded implements repl.Recorder.
func (r recorder) Recorded(s slot.ID) repl.Recorded {
	sl, _ := r.n.State().Slot(s)
	return recordOf(sl)
}

// recordOf is what Raft has of a slot, as replication sees it.
func recordOf(sl cluster.Slot) repl.Recorded {
	r := repl.Recorded{Epoch: sl.Epoch, Listed: sl.Replicas,
		Record: ack.Record{Version: sl.Version, Protected: sl.Protected, InSync: sl.InSync, Since: sl.UnprotectedSince}}
	for _, l := range sl.MayLeave() {
		r.Leaving = append(r.Leaving, ack.Leaver(l))
	}
	if sl.Inherited {
		r.Record.Begins = slot.At(sl.Epoch, 1)
	}
	return r
}

// noMaster is the answer about a slot that nobody serves: nothing was done.
func noMaster(id slot.ID) error {
	return storage.Errorf(storage.ErrUnavailable, "%w", noMasterError(id))
}

type noMasterError slot.ID

func (e noMasterError) Error() string {
	return fmt.Sprintf("slot %s has no master that answers", slot.ID(e))
}
