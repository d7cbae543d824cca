package node

import (
	"context"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/node/config"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

func (r *running) stopped() {
	r.stop()
	r.ended.Wait()
}

// give changes a slot's master by Raft commands alone, whatever is lost by it. An
// election may be under way at any moment: what was not done is done again.
func (s *site) give(ctx context.Context, at *running, id slot.ID, to slot.NodeName) {
	s.t.Helper()
	for {
		s.fresh(ctx, at)
		st := at.node.State()
		sl, _ := st.Slot(id)
		if sl.Master == to {
			return
		}
		var c cluster.Command = cluster.OpenProposal{By: "test", Reason: "test", Slots: []cluster.ProposedSlot{{Slot: id, Epoch: sl.Epoch, From: sl.Master, To: to}}}
		if p, open := st.OpenProposalOf(id); open {
			c = cluster.ConfirmSlot{Proposal: p.ID, Slot: id, Epoch: sl.Epoch, Version: sl.Version, To: to, Unclean: true, AcceptLoss: true, By: "test"}
		}
		// What was proposed before may be committed only now, so a refusal is no end.
		if _, err := at.node.Propose(ctx, c); ctx.Err() != nil {
			s.t.Fatalf("give %s to %s: %v", id, to, err)
		}
	}
}

// fresh asks until a leader answers: an election may be under way at any moment.
func (s *site) fresh(ctx context.Context, r *running) {
	s.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := r.node.Fresh(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("%s is not fresh: %v", r.name, err)
		}
	}
}

// proposed waits until a slot is proposed to a node, and returns the proposal.
func (s *site) proposed(id slot.ID, to slot.NodeName) (p admin.Proposal) {
	s.t.Helper()
	s.eventually("a proposal", func(st admin.Status) bool {
		for _, x := range st.Proposals {
			for _, ps := range x.Slots {
				if ps.Slot == id && ps.To == to {
					p = x
					return true
				}
			}
		}
		return false
	})
	return p
}

// confirmedKeeps confirms a proposal: without --accept-loss, all messages that
// were acknowledged must be there.
func (s *site) confirmedKeeps(ctx context.Context, at, target *running, p admin.Proposal, user string, want uint32) {
	s.t.Helper()
	out, err := at.admin.Confirm(ctx, admin.ConfirmRequest{ID: p.ID})
	if err != nil {
		s.t.Fatal(err)
	}
	if out.Exit != admin.ExitDone {
		return
	}
	if got, err := s.count(target, user, "pw"); got != want {
		s.t.Errorf("confirmed without --accept-loss (%q): %d of %d acknowledged messages are left (%v)", out.Text, got, want, err)
	}
}

// A node's setting is changed from ack = "replica" to "local" and the node is
// restarted, in the same epoch. What it then acknowledges alone is not lost by a
// failover that a plan calls safe.
func TestLaw01SafePlanAfterAckLocal(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	users := s.users(ctx, 3)
	n1 := s.nodes[0]
	id := servedBy(t, s.status(ctx, n1), "n1")
	if err := s.deliver(n1, users[id], "Subject: 1\r\n\r\nx\r\n"); err != nil {
		t.Fatal(err)
	}
	sl, _ := n1.node.State().Slot(id)
	replica := s.named(sl.Replicas[0])
	n1.stopped()
	n1.cfg.Replication.Ack = config.AckLocal
	s.start(n1)
	s.eventually("n1 serves again, in its epoch", func(st admin.Status) bool {
		return st.Slots[id].Serving && st.Slots[id].Master == "n1" && st.Slots[id].Epoch == sl.Epoch
	})
	replica.stopped()
	if err := s.deliver(n1, users[id], "Subject: 2\r\n\r\nx\r\n"); err != nil {
		t.Fatal(err)
	}
	n1.stopped()
	s.start(replica)
	s.nodes = append(s.nodes[1:], n1) // ask the others first
	s.confirmedKeeps(ctx, replica, replica, s.proposed(id, replica.cfg.Node.Name), users[id], 2)
}

// A master goes on alone without a quorum, so that "unprotected" is recorded
// nowhere. It is restarted, serves again with a quorum, and dies before its
// replica was back. What it acknowledged alone is not lost by a safe plan.
func TestLaw01AloneWithoutQuorumAndRestarted(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	users := s.users(ctx, 3)
	n1 := s.nodes[0]
	id := servedBy(t, s.status(ctx, n1), "n1")
	if err := s.deliver(n1, users[id], "Subject: 1\r\n\r\nx\r\n"); err != nil {
		t.Fatal(err)
	}
	sl, _ := n1.node.State().Slot(id)
	replica := s.named(sl.Replicas[0])
	third := s.nodes[1]
	if third == replica {
		third = s.nodes[2]
	}
	replica.stopped()
	third.stopped()
	if err := s.deliver(n1, users[id], "Subject: 2\r\n\r\nacknowledged by n1 alone, without a quorum\r\n"); err != nil {
		t.Fatal(err)
	}
	n1.stopped()
	s.start(third)
	s.start(n1)
	s.eventually("n1 serves again, and Raft has what it did", func(st admin.Status) bool {
		now, _ := third.node.State().Slot(id)
		return st.Slots[id].Serving && st.Slots[id].Master == "n1" && !now.Protected
	})
	n1.stopped()
	s.start(replica)
	s.nodes = []*running{third, replica, n1}
	s.confirmedKeeps(ctx, third, replica, s.proposed(id, replica.cfg.Node.Name), users[id], 2)
}
