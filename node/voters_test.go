package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mailnode/node/admin"
)

// impatient makes a node give the vote of a silent one away soon.
func impatient(n *Node) { n.voteKeptFor = 3 * time.Second }

// votersAt are the names of those that vote, as a node's Raft has them.
func (s *site) votersAt(r *running) string {
	s.t.Helper()
	list, err := r.node.raft.Servers()
	if err != nil {
		s.t.Fatal(err)
	}
	var out []string
	for _, sv := range list {
		if sv.Voter {
			out = append(out, string(sv.Name))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// TestLongVoterThatIsGoneGivesItsVote: of four nodes three vote. One of them dies, and the
// fourth gets its vote; it comes back, and follows. Then a second one may die.
func TestLongVoterThatIsGoneGivesItsVote(t *testing.T) {
	onlyLong(t)
	t.Parallel()
	s, base := &site{t: t}, t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	t.Cleanup(s.stopAll)
	for i := range 4 {
		r := s.install(base, fmt.Sprintf("n%d", i+1), "")
		if i > 0 {
			s.letIn(ctx, r)
		} else if _, err := admin.InitCluster(ctx, r.cfg, admin.InitOptions{Slots: 1, Replicas: 1, Nodes: 4}); err != nil {
			t.Fatal(err)
		}
		s.startWith(r, impatient)
	}
	n1, n3 := s.nodes[0], s.nodes[2]
	s.eventuallyAt(n1, "three of four vote", func(st admin.Status) bool {
		return s.votersAt(n1) == "n1 n2 n3" && len(st.Nodes) == 4 && !st.Nodes[3].Voter && allWell(1)(st)
	})
	n3.stopped()
	s.eventuallyAt(n1, "the fourth votes instead", func(admin.Status) bool { return s.votersAt(n1) == "n1 n2 n4" })
	s.startWith(n3, impatient)
	s.eventuallyAt(n3, "it follows", func(st admin.Status) bool { return st.Leader != "" && s.votersAt(n3) == "n1 n2 n4" })
	s.nodes[1].stopped()
	s.eventuallyAt(n3, "and has a vote again when another is gone", func(admin.Status) bool { return s.votersAt(n3) == "n1 n3 n4" })
}

// TestTwoServersWithAWitness: one of the two servers is lost for good. The other and
// the witness are a quorum; another machine takes the place, and all three vote.
func TestTwoServersWithAWitness(t *testing.T) {
	t.Parallel()
	s, base := &site{t: t}, t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	t.Cleanup(s.stopAll)
	n1, n2, w1 := s.install(base, "n1", ""), s.install(base, "n2", ""), s.install(base, "w1", "witness = true\n")
	if _, err := admin.InitCluster(ctx, n1.cfg, admin.InitOptions{Slots: 2, Replicas: 1, Nodes: 3}); err != nil {
		t.Fatal(err)
	}
	s.start(n1)
	for _, r := range []*running{n2, w1} {
		s.letIn(ctx, r)
		s.start(r)
	}
	s.eventually("all is well", allWell(2))
	was := s.filled(n1, s.users(ctx, 2))
	s.eventuallyAt(n1, "all vote", func(admin.Status) bool { return s.votersAt(n1) == "n1 n2 w1" })
	n2.stopped()
	s.remove(n2.cfg.Node.Data)
	s.takesPlace(ctx, n1, n2, admin.ReplaceOptions{})
	s.start(n2)
	s.eventually("its slot is proposed, safely", func(st admin.Status) bool {
		return len(st.Proposals) == 1 && len(st.Proposals[0].Slots) == 1 && st.Proposals[0].Slots[0].Safe
	})
	if out, err := n1.admin.Confirm(ctx, admin.ConfirmRequest{}); err != nil || out.Exit != admin.ExitDone {
		t.Fatalf("confirm: %+v, %v", out, err)
	}
	s.eventually("all is well", allWell(2))
	s.eventuallyAt(n1, "all vote", func(admin.Status) bool { return s.votersAt(n1) == "n1 n2 w1" })
	s.same(n2, was)
	n1.stopped() // and now the other one: the new n2 is worth what the old one was
	s.eventuallyAt(n2, "the new one and the witness are a quorum", func(st admin.Status) bool { return st.Leader == "n2" || st.Leader == "w1" })
}

// TestLongNineNodes: seven of nine vote. Two voters die, and the other two vote in
// their place; so two more may die, and a third.
func TestLongNineNodes(t *testing.T) {
	onlyLong(t)
	s, base := &site{t: t}, t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	t.Cleanup(s.stopAll)
	for i := range 9 {
		if i%4 == 0 { // a block of ports is for eight nodes at most
			s.ports = nil
		}
		r := s.install(base, fmt.Sprintf("n%d", i+1), fmt.Sprintf("zone = \"z%d\"\n", i%3))
		if i > 0 {
			s.letIn(ctx, r)
		} else if _, err := admin.InitCluster(ctx, r.cfg, admin.InitOptions{Slots: 9, Replicas: 1, Nodes: 9}); err != nil {
			t.Fatal(err)
		}
		s.startWith(r, impatient)
	}
	n1 := s.nodes[0]
	count := func(r *running) int { return len(strings.Fields(s.votersAt(r))) }
	s.eventuallyAt(n1, "seven vote", func(st admin.Status) bool { return count(n1) == 7 && allWell(9)(st) })
	was := s.filled(n1, s.users(ctx, 9))
	all := slices.Clone(s.nodes)
	for _, live := range []int{7, 5} {
		all[live].stopped()
		all[live+1].stopped()
		s.eventuallyAt(n1, "seven vote, among them all who live", func(st admin.Status) bool {
			voters := s.votersAt(n1)
			return st.Leader != "" && count(n1) == 7 && !slices.ContainsFunc(all[:live], func(r *running) bool { return !strings.Contains(voters, r.name) })
		})
	}
	for i := 5; i < 9; i++ {
		s.startWith(all[i], impatient)
	}
	s.eventuallyAt(n1, "all is as before", allWell(9))
	s.same(n1, was)
}
