package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"mailnode/node/rpc"
	"mailnode/raftfsm"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/repl"
	"mailnode/storage/repl/ack"
	"mailnode/storage/slot"
)

// errNoRaft is what a node without Raft answers.
var errNoRaft = errors.New("raft is not running on this node: see `mailnode status`")

// State is Raft's state as this node has applied it.
func (n *Node) State() *cluster.State {
	if n.raft == nil {
		return cluster.New()
	}
	return n.raft.State()
}

const proposePause = 100 * time.Millisecond

// Propose commits a command, wherever the leader is, and waits until this node
// has applied it too. A refusal of package cluster means that nothing was done;
// after any other error the outcome is not known.
func (n *Node) Propose(ctx context.Context, c cluster.Command) (cluster.Result, error) {
	if n.raft == nil {
		return cluster.Result{}, errNoRaft
	}
	for {
		r, err := n.proposeOnce(ctx, c)
		var elsewhere raftfsm.ErrNotLeader
		if !errors.As(err, &elsewhere) {
			if err == nil {
				err = n.applied(ctx, r.Index)
			}
			return r, err
		}
		select {
		case <-ctx.Done():
			return cluster.Result{}, fmt.Errorf("propose %T: no leader: %w", c, err)
		case <-time.After(proposePause):
		}
	}
}

func (n *Node) proposeOnce(ctx context.Context, c cluster.Command) (cluster.Result, error) {
	if n.raft.IsLeader() {
		return n.raft.Propose(ctx, c)
	}
	leader, _, _ := n.raft.Leader()
	if leader == "" || leader == n.cfg.Node.Name {
		return cluster.Result{}, raftfsm.ErrNotLeader{}
	}
	client, err := n.peers.node(leader)
	if err != nil {
		return cluster.Result{}, err
	}
	got, err := client.Propose(ctx, &rpc.Command{Frame: cluster.Encode(c)})
	if err != nil {
		return cluster.Result{}, fmt.Errorf("propose %T at %s: %w", c, leader, err)
	}
	if got.NotLeader {
		return cluster.Result{}, raftfsm.ErrNotLeader{}
	}
	if err := refusalFrom(got.RefusalKind, got.Refusal); err != nil {
		return cluster.Result{}, err
	}
	return cluster.Result{Index: got.Index, Proposal: got.Proposal, Epoch: slot.Epoch(got.Epoch)}, nil
}

// applied waits until this node has applied an index.
func (n *Node) applied(ctx context.Context, index uint64) error {
	for {
		changed := n.raft.Changed()
		if n.raft.AppliedIndex() >= index {
			return nil
		}
		select {
		case <-changed:
		case <-time.After(proposePause): // entries that change nothing wake nobody
		case <-ctx.Done():
			return fmt.Errorf("wait for raft index %d: %w", index, ctx.Err())
		}
	}
}

// Fresh returns when this node's state is at least as new as the call, as a
// leader with a quorum behind it says.
func (n *Node) Fresh(ctx context.Context) error {
	if n.raft == nil {
		return errNoRaft
	}
	if n.raft.IsLeader() {
		_, err := n.verified(ctx)
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
	i, err := client.Fresh(ctx, &rpc.Empty{})
	if err != nil {
		return fmt.Errorf("ask the leader %s: %w", leader, err)
	}
	return n.applied(ctx, i.Index)
}

// verified proves that this node leads, and gives what it has applied.
func (n *Node) verified(ctx context.Context) (uint64, error) {
	if err := n.raft.Barrier(ctx); err != nil {
		return 0, err
	}
	if err := n.raft.VerifyLeader(ctx); err != nil {
		return 0, err
	}
	return n.raft.AppliedIndex(), nil
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

// isRefusal says whether the state machine has refused a command: nothing was done.
func isRefusal(err error) bool {
	kind, _ := refusalTo(err)
	return kind != ""
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

// outcomeOf gives the error of a record its kind: only what may yet come true is
// not known.
func outcomeOf(err error) (ack.Outcome, error) {
	var stale cluster.ErrStale
	var elsewhere raftfsm.ErrNotLeader
	switch {
	case err == nil:
		return ack.Done, nil
	case errors.As(err, &stale): // of another epoch
		return ack.Refused, fmt.Errorf("%w: %w", repl.ErrEpochOver, err)
	case isRefusal(err):
		return ack.Refused, err
	case errors.As(err, &elsewhere), errors.Is(err, errNoRaft):
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
	return repl.Recorded{Epoch: sl.Epoch, Listed: sl.Replicas,
		Record: ack.Record{Version: sl.Version, Protected: sl.Protected, InSync: sl.InSync, Since: sl.UnprotectedSince}}
}

// noMaster is the answer about a slot that nobody serves.
func noMaster(id slot.ID) error {
	return storage.Errorf(storage.ErrUnavailable, "slot %s has no master that answers", id)
}
