package node

import (
	"context"
	"fmt"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// logged is the index of an entry of Raft's log that is written for it.
func (s *site) logged(ctx context.Context, r *running) uint64 {
	s.t.Helper()
	for {
		done, err := r.node.Propose(ctx, cluster.UpdateMember{Name: r.cfg.Node.Name, Release: "test"})
		if err == nil {
			return done.Index
		}
		if ctx.Err() != nil {
			s.t.Fatal(err)
		}
	}
}

// mastersOf returns the slots of which a node is master.
func mastersOf(st *cluster.State, n slot.NodeName) (ids []slot.ID) {
	for _, sl := range st.Slots {
		if sl.Master == n {
			ids = append(ids, sl.ID)
		}
	}
	return ids
}

// TestLongLaw10FailoverIsAHandfulOfEntries counts what the move of 40 masters off a
// living node and off a dead one add to Raft's log.
func TestLongLaw10FailoverIsAHandfulOfEntries(t *testing.T) {
	onlyLong(t)
	const slots = 40
	s := newSite(t, 3, 2, slots)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	n1, n2 := s.nodes[0], s.nodes[1]
	gather := func() {
		t.Helper()
		for _, n := range []slot.NodeName{"n2", "n3"} {
			for _, id := range mastersOf(n1.node.State(), n) {
				s.fresh(ctx, n2)
				s.move(ctx, n2, admin.ProposeRequest{Slot: &id, To: "n1"})
			}
		}
		s.eventually("n1 has them all, protected", func(st admin.Status) bool {
			ok := len(mastersOf(n1.node.State(), "n1")) == slots
			for _, sl := range st.Slots {
				ok = ok && sl.Serving && sl.IsProtected()
			}
			return ok
		})
	}
	counted := func(what, id string, most uint64) {
		t.Helper()
		before, began := s.logged(ctx, n2), time.Now()
		out, err := n2.admin.Confirm(ctx, admin.ConfirmRequest{ID: id})
		took, entries := time.Since(began), s.logged(ctx, n2)-before-1
		if err != nil || out.Exit != admin.ExitDone || len(out.Done) != slots {
			t.Fatalf("%s: %+v, %v", what, out, err)
		}
		t.Logf("%s: %d slots in %d entries, %s", what, slots, entries, took)
		if entries > most {
			t.Errorf("%s: %d entries for %d slots, want at most %d", what, entries, slots, most)
		}
	}
	gather()
	p, err := n2.admin.Propose(ctx, admin.ProposeRequest{Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	counted("hand-over", p.ID, slots) // a few at a time, each committed when its target has all
	gather()
	n1.stopped()
	id := ""
	s.eventually(fmt.Sprintf("%d slots are proposed", slots), func(admin.Status) bool {
		for _, p := range n2.node.State().OpenProposals() {
			if id = p.ID; len(p.Slots) == slots {
				return true
			}
		}
		return false
	})
	counted("failover", id, 10)
}
