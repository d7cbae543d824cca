package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/node/monitor"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// users makes one user in each slot.
func (s *site) users(ctx context.Context, slots int) []string {
	s.t.Helper()
	out := make([]string, slots)
	for i, left := 0, slots; left > 0; i++ {
		u := fmt.Sprintf("u%d@example.test", i)
		id := addr(s.t, u).Home(slots)
		if out[id] != "" {
			continue
		}
		if _, err := s.nodes[0].admin.AddUser(ctx, admin.AddUser{Address: addr(s.t, u), Password: "pw"}); err != nil {
			s.t.Fatal(err)
		}
		out[id], left = u, left-1
	}
	return out
}

// status asks until there is an answer: a busy process may take longer over it than
// the client waits.
func (s *site) status(ctx context.Context, r *running) admin.Status {
	s.t.Helper()
	for {
		st, err := r.admin.Status(ctx)
		if err == nil {
			return st
		}
		if ctx.Err() != nil {
			s.t.Fatal(err)
		}
	}
}

// servedBy returns a slot of which a node is master.
func servedBy(t *testing.T, st admin.Status, n slot.NodeName) slot.ID {
	t.Helper()
	for _, sl := range st.Slots {
		if sl.Master == n {
			return sl.Slot
		}
	}
	t.Fatalf("%s is master of no slot", n)
	return 0
}

// A slot whose disk fails goes to its replica when a person says so, while its
// node lives and serves its other slots (law 9, LAWS row 7).
func TestLaw09FailedStoreIsReplaced(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2, 1, 4)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n1, n2 := s.nodes[0], s.nodes[1]
	users := s.users(ctx, 4)
	for range 2 {
		for _, u := range users {
			if err := s.deliver(n2, u, "Subject: x\r\n\r\nhello\r\n"); err != nil {
				t.Fatal(err)
			}
		}
	}
	bad := servedBy(t, s.status(ctx, n1), "n1")
	folder := filepath.Join("slots", bad.String(), "index") // what fails while a pack is written is refused, and stops nothing
	n1.broken.Store(&folder)
	if err := s.deliver(n1, users[bad], "x\r\n"); err == nil || !strings.HasPrefix(err.Error(), "4") {
		t.Fatalf("deliver to a broken disk: %v, want a 4xx", err)
	}
	s.eventually("the slot is proposed, and it alone", func(st admin.Status) bool {
		return len(st.Proposals) == 1 && len(st.Proposals[0].Slots) == 1 && st.Proposals[0].Slots[0].Slot == bad &&
			st.Proposals[0].Slots[0].Safe && !st.Slots[bad].Serving
	})
	if _, err := s.count(n2, users[bad], "pw"); err == nil || strings.Contains(err.Error(), "AUTHENTICATIONFAILED") {
		t.Errorf("log in while the slot is down: %v, want NO [UNAVAILABLE]", err)
	}
	for id, u := range users {
		if slot.ID(id) == bad {
			continue
		}
		if err := s.deliver(n1, u, "x\r\n"); err != nil {
			t.Errorf("another slot of the same node: %v", err)
		}
	}
	if out, err := n1.admin.Confirm(ctx, admin.ConfirmRequest{}); err != nil || out.Exit != admin.ExitDone {
		t.Fatalf("confirm: %+v, %v", out, err)
	}
	if n, err := s.count(n1, users[bad], "pw"); err != nil || n != 2 {
		t.Errorf("after the failover: %d messages, %v: want 2", n, err)
	}
	if err := s.deliver(n1, users[bad], "x\r\n"); err != nil {
		t.Errorf("deliver after the failover: %v", err)
	}
}

// The whole site goes down and comes up: every slot serves again, in the same
// epoch and at the same master, with all mail. Then two of three nodes go: the
// third serves what it served, and owns up to what it cannot do (LAWS row 21).
func TestSiteRestartsThenLosesItsQuorum(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 6)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	n1 := s.nodes[0]
	users := s.users(ctx, 6)
	for _, u := range users {
		if err := s.deliver(n1, u, "Subject: x\r\n\r\nhello\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	before := s.status(ctx, n1)
	for _, r := range s.nodes {
		r.stop()
	}
	for _, r := range s.nodes {
		r.ended.Wait()
	}
	for _, r := range s.nodes {
		s.start(r)
	}
	s.eventually("every slot serves again, as before", func(st admin.Status) bool {
		ok := len(st.Slots) == len(before.Slots)
		for i, sl := range st.Slots {
			was := before.Slots[i]
			if sl.Epoch != was.Epoch || sl.Master != was.Master {
				t.Fatalf("%s: epoch %d at %s became epoch %d at %s", sl.Slot, was.Epoch, was.Master, sl.Epoch, sl.Master)
			}
			ok = ok && sl.Serving
		}
		return ok
	})
	for _, u := range users {
		if n, err := s.count(n1, u, "pw"); err != nil || n != 1 {
			t.Errorf("%s after the restart: %d messages, %v: want 1", u, n, err)
		}
	}
	s.loseQuorum(ctx, users)
}

func (s *site) loseQuorum(ctx context.Context, users []string) {
	t, n1 := s.t, s.nodes[0]
	st := s.status(ctx, n1)
	mine, other := servedBy(t, st, "n1"), servedBy(t, st, "n2")
	for _, r := range s.nodes[1:] {
		r.stopped()
	}
	s.eventually("the lost quorum is said", func(st admin.Status) bool {
		for _, c := range st.Conditions {
			// Between the ends of the two others there is a moment without a quorum, too.
			if c.Name == "raft-no-quorum" && st.Leader == "" {
				return st.Slots[mine].Serving
			}
		}
		return false
	})
	if err := s.deliver(n1, users[mine], "x\r\n"); err != nil {
		t.Errorf("deliver to a serving master without a quorum: %v", err)
	}
	if n, err := s.count(n1, users[mine], "pw"); err != nil || n != 2 {
		t.Errorf("read at a serving master without a quorum: %d messages, %v: want 2", n, err)
	}
	for i := 0; ; i++ {
		if u := fmt.Sprintf("nobody%d@example.test", i); addr(t, u).Home(len(users)) == mine {
			if err := s.deliver(n1, u, "x\r\n"); err == nil || !strings.HasPrefix(err.Error(), "451") {
				t.Errorf("a user who may be known elsewhere: %v, want 451", err)
			}
			break
		}
	}
	if err := s.deliver(n1, users[other], "x\r\n"); err == nil || !strings.HasPrefix(err.Error(), "451") {
		t.Errorf("deliver to a dead master: %v, want 451", err)
	}
	for _, id := range []string{"", "p1"} {
		_, err := n1.admin.Confirm(ctx, admin.ConfirmRequest{ID: id})
		var refusal *admin.Error
		if !errors.As(err, &refusal) || refusal.Exit != admin.ExitRefused || !strings.Contains(refusal.Text, "no Raft leader") {
			t.Errorf("confirm %q without a quorum: %v", id, err)
		}
	}
}

// A master whose own Raft has stopped hears from any other node that its epoch
// is over, stops at once, and does not serve again (law 4: an epoch has one
// master; LAWS §6.8: whoever is told a higher epoch, by anyone).
func TestLaw04MasterWithoutRaftIsToldOfItsEnd(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n1, n2 := s.nodes[0], s.nodes[1]
	id := servedBy(t, s.status(ctx, n1), "n1")
	serving := n1.node.copies.serving(id)

	// Somebody is mistaken: the quorum says that the epoch is still n1's.
	b, err := json.Marshal([]endedEpoch{{Slot: id, Epoch: serving.Epoch() + 1}})
	if err != nil {
		t.Fatal(err)
	}
	n1.node.hearEnded(b)
	select {
	case <-serving.Done():
	case <-ctx.Done():
		t.Fatal("told of a higher epoch, and serves on")
	}
	s.eventually("n1 asked and serves again", func(admin.Status) bool {
		serving = n1.node.copies.serving(id)
		return serving != nil
	})

	if err := n1.node.raft.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	s.fresh(ctx, n2) // there is another leader
	sl, _ := n2.node.State().Slot(id)
	s.give(ctx, n2, id, sl.Replicas[0])
	select {
	case <-serving.Done():
	case <-ctx.Done():
		t.Fatal("the slot was given away, and n1 serves on")
	}
	if n1.node.copies.serving(id) != nil {
		t.Error("n1 serves again, although nobody said that the epoch is its own")
	}
}

// What the leader has recorded is seen at every node that is asked afterwards, also
// by one that has not applied it yet.
func TestProposalIsSeenAtEveryNode(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var leader *running
	s.eventually("a leader", func(st admin.Status) bool {
		for _, r := range s.nodes {
			if r.node.raft.IsLeader() {
				leader = r
			}
		}
		return leader != nil
	})
	sl, _ := leader.node.State().Slot(0)
	for range 5 {
		p, err := leader.node.Propose(ctx, cluster.OpenProposal{By: "test", Reason: "test", Slots: []cluster.ProposedSlot{{Slot: 0, Epoch: sl.Epoch, From: sl.Master, To: sl.Replicas[0]}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range s.nodes {
			if plan, err := r.admin.Plan(ctx, ""); err != nil || plan.ID != p.Proposal {
				t.Fatalf("%s shows %q, %v: want %q", r.name, plan.ID, err, p.Proposal)
			}
		}
		if _, err := leader.node.Propose(ctx, cluster.RejectProposal{Proposal: p.Proposal, By: "test"}); err != nil {
			t.Fatal(err)
		}
		for _, r := range s.nodes {
			if open, err := r.admin.Proposals(ctx, false); err != nil || len(open.Proposals) != 0 {
				t.Fatalf("%s lists %d proposals, %v: want none", r.name, len(open.Proposals), err)
			}
		}
	}
}

// The first node of a cluster whose Raft folder was emptied does not found the
// cluster a second time. It goes on with what is remembered beside it, and says so.
func TestEmptiedRaftFolderFoundsNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1, 0, 1)
	n := s.nodes[0]
	said := func(st admin.Status) bool {
		return slices.ContainsFunc(st.Conditions, func(c monitor.Condition) bool { return c.Name == monitor.RaftStoreFailed })
	}
	users := s.users(t.Context(), 1)
	if err := s.deliver(n, users[0], "x\r\n"); err != nil {
		t.Fatal(err)
	}
	n.stopped()
	s.remove(filepath.Join(n.cfg.Node.Data, "raft"))
	s.start(n)
	s.eventually("raft-store-failed is said, and the slot is served", func(st admin.Status) bool {
		return said(st) && len(st.Slots) == 1 && st.Slots[0].Serving
	})
	if err := s.deliver(n, users[0], "y\r\n"); err != nil {
		t.Errorf("deliver after Raft's folder was emptied: %v", err)
	}
	s.remove(filepath.Join(n.cfg.Node.Data, "raft", "damaged"))
	s.eventually("nobody needs to look any more", func(st admin.Status) bool { return !said(st) })
	n.stopped()
	s.remove(filepath.Join(n.cfg.Node.Data, "raft"))
	s.remove(filepath.Join(n.cfg.Node.Data, "remembered"))
	s.start(n)
	s.eventually("nothing remembers the cluster", func(st admin.Status) bool { return said(st) && len(st.Slots) == 0 })
	if err := s.deliver(n, users[0], "x\r\n"); err == nil || !strings.HasPrefix(err.Error(), "451") {
		t.Errorf("deliver without Raft: %v, want 451", err)
	}
}

func (s *site) rename(from, to string) {
	s.t.Helper()
	if err := os.Rename(from, to); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) remove(path string) {
	s.t.Helper()
	if err := os.RemoveAll(path); err != nil {
		s.t.Fatal(err)
	}
}
