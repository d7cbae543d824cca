package node

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mailnode/node/admin"
	"mailnode/node/rpc"
	"mailnode/raftfsm/cluster"
)

// TestLaw01CallToTheLeaderByKind: what is known of a command after the call that
// carried it to the leader failed.
func TestLaw01CallToTheLeaderByKind(t *testing.T) {
	for _, c := range []struct {
		err  error
		want cluster.Outcome
	}{
		{status.Error(codes.FailedPrecondition, "nothing was done: raft's queue is full"), cluster.NotDone}, // the leader's own word
		{status.Error(codes.InvalidArgument, "read command: written by a newer release"), cluster.NotDone},
		{status.Error(codes.Unimplemented, "unknown method"), cluster.NotDone},
		{status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing: connection refused"`), cluster.NotDone}, // never sent
		{status.Error(codes.Unavailable, "error reading from server: EOF"), cluster.UnknownOutcome},
		{status.Error(codes.DeadlineExceeded, "context deadline exceeded"), cluster.UnknownOutcome},
		{status.Error(codes.Canceled, "context canceled"), cluster.UnknownOutcome},
		{status.Error(codes.Unknown, "the outcome is not known (leadership lost)"), cluster.UnknownOutcome},
		{errors.New("something else"), cluster.UnknownOutcome},
	} {
		if got := cluster.OutcomeOf(fmt.Errorf("propose: %w", notProposed(rpc.Said(c.err)))); got != c.want {
			t.Errorf("%v: outcome %d, want %d", c.err, got, c.want)
		}
	}
}

// TestLaw01ProposeByKind asks real nodes: a leader, a follower, and one that has
// lost its quorum.
func TestLaw01ProposeByKind(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2, 1, 2)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	over, end := context.WithCancel(ctx)
	end()
	sl, _ := s.nodes[0].node.State().Slot(0)
	last := s.nodes[0].node.State().Index
	for _, r := range s.nodes {
		_, err := r.node.Propose(ctx, cluster.SetUnprotected{Slot: 0, Epoch: sl.Epoch + 7, Since: 1})
		var stale cluster.ErrStale
		if cluster.OutcomeOf(err) != cluster.Refused || !errors.As(err, &stale) || r.node.State().Index < last {
			t.Errorf("%s, an epoch that is not the slot's: %v", r.name, err)
		}
		if _, err := r.node.Propose(over, cluster.RejectProposal{Proposal: "none"}); cluster.OutcomeOf(err) != cluster.NotDone {
			t.Errorf("%s, nobody waits any more: %v", r.name, err)
		}
		s.fresh(ctx, r)
	}
	s.nodes[1].stopped()
	s.eventually("n1 knows no leader", func(st admin.Status) bool { return st.Leader == "" })
	short, done := context.WithTimeout(ctx, 500*time.Millisecond)
	defer done()
	if _, err := s.nodes[0].node.Propose(short, cluster.RejectProposal{Proposal: "none"}); cluster.OutcomeOf(err) != cluster.NotDone {
		t.Errorf("without a quorum: %v", err)
	}
}
