package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/node/peer"
	"mailnode/storage/slot"
)

// letIn makes a token and joins with it; the node is not started.
func (s *site) letIn(ctx context.Context, r *running) {
	s.t.Helper()
	tok, err := s.nodes[0].admin.Token(ctx, admin.TokenRequest{Node: slot.NodeName(r.name)})
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := admin.JoinCluster(ctx, r.cfg, tok.Token); err != nil {
		s.t.Fatal(err)
	}
}

// votes are the names of the nodes that vote, as the first node's Raft has them.
func (s *site) votes() (voters, servers []string) {
	s.t.Helper()
	list, err := s.nodes[0].node.raft.Servers()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, sv := range list {
		servers = append(servers, sv.ServerID)
		if sv.Voter {
			voters = append(voters, string(sv.Name))
		}
	}
	return voters, servers
}

// TestFirstPlacementWithAWitness: --nodes counts every node that has started, the
// witness included; one that has only joined counts for nothing, gets no slot and
// no vote, and stands in nobody's way. Who said too many places the slots at once.
func TestFirstPlacementWithAWitness(t *testing.T) {
	t.Parallel()
	s, base := &site{t: t}, t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n1, n2, w1 := s.install(base, "n1", ""), s.install(base, "n2", ""), s.install(base, "w1", "witness = true\n")
	t.Cleanup(s.stopAll)
	if _, err := admin.InitCluster(ctx, n1.cfg, admin.InitOptions{Slots: 2, Replicas: 1, Nodes: 4}); err != nil {
		t.Fatal(err)
	}
	s.start(n1)
	waits := func(want string) func(admin.Status) bool {
		return func(st admin.Status) bool {
			for _, c := range st.Conditions {
				if c.Name == "slots-unassigned" && strings.Contains(c.Text, want) {
					return true
				}
			}
			return false
		}
	}
	s.eventuallyAt(n1, "it waits for a second node with mail", waits("1 of 2 nodes with mail"))
	s.letIn(ctx, n2) // and stays off
	s.letIn(ctx, w1)
	s.start(w1)
	s.eventuallyAt(n1, "the witness votes", func(admin.Status) bool { v, _ := s.votes(); return strings.Join(v, " ") == "n1 w1" })
	s.eventuallyAt(n1, "a node that only joined holds no mail", waits("1 of 2 nodes with mail"))
	var refusal *admin.Error
	if _, err := n1.admin.Place(ctx); !errors.As(err, &refusal) || refusal.Exit != admin.ExitRefused {
		t.Errorf("placed without the second copy: %v", err)
	}
	s.start(n2)
	s.eventuallyAt(n1, "it waits for a fourth node, and says what to type otherwise", waits("3 of 4 nodes have started, as many as `cluster init --nodes` said, witnesses included): mailnode cluster place"))
	if p, err := n1.admin.Place(ctx); err != nil || p.Slots != 2 {
		t.Errorf("placed %+v, %v", p, err)
	}
	if _, err := n1.admin.Place(ctx); !errors.As(err, &refusal) || refusal.Exit != admin.ExitNothing {
		t.Errorf("placed again: %v", err)
	}
	s.eventuallyAt(n1, "every slot serves", func(st admin.Status) bool {
		for _, sl := range st.Slots {
			if !sl.Serving {
				return false
			}
		}
		return len(st.Slots) == 2
	})
	s.eventuallyAt(n1, "all vote", func(admin.Status) bool { v, _ := s.votes(); return len(v) == 3 })
	if _, err := os.Stat(filepath.Join(w1.cfg.Node.Data, "cluster", "ca-key.pem")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the witness has the CA's key: %v", err)
	}
	if _, err := os.Stat(filepath.Join(n2.cfg.Node.Data, "cluster", "ca-key.pem")); err != nil {
		t.Errorf("a voter with mail has no CA key: %v", err)
	}
}

// TestJoinLeavesNoGhost: a node that joined and lost its disk before it came up is
// let in again under its name; one that came up is not, and its operator is told
// what there is to do.
func TestJoinLeavesNoGhost(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1, 0, 1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n1, n2 := s.nodes[0], s.install(t.TempDir(), "n2", "")
	s.letIn(ctx, n2)
	s.eventuallyAt(n1, "it follows and has no vote", func(admin.Status) bool {
		voters, servers := s.votes()
		return len(voters) == 1 && len(servers) == 2
	})
	st := s.status(ctx, n1)
	if n := st.Nodes[1]; n.State != "joined" || n.Voter {
		t.Errorf("a node that never started: %+v", n)
	}
	n1.node.stopping.Store(true)
	if st := s.status(ctx, n1); st.Nodes[0].State != "stopping" || st.Nodes[1].State != "joined" {
		t.Errorf("while n1 stops: n1 is %s, n2 is %s", st.Nodes[0].State, st.Nodes[1].State)
	}
	n1.node.stopping.Store(false)
	_, before := s.votes()
	ghostly := t.TempDir()
	s.rename(filepath.Join(n2.cfg.Node.Data, "cluster"), filepath.Join(ghostly, "cluster"))
	s.remove(n2.cfg.Node.Data)
	s.letIn(ctx, n2)
	s.start(n2)
	s.eventuallyAt(n1, "it votes, and its ghost is gone", func(admin.Status) bool {
		voters, servers := s.votes()
		return len(voters) == 2 && len(servers) == 2 && servers[1] != before[1]
	})
	s.eventuallyAt(n1, "it has said its release", func(admin.Status) bool {
		m, ok := n1.node.State().Member("n2")
		return ok && m.Release != ""
	})
	ghost, err := peer.Load(ghostly)
	if err != nil {
		t.Fatal(err)
	}
	var refused *peer.RefusedError
	if _, err := peer.NewDialer(ghost, peer.Options{}).Dial(ctx, peer.ProtoGRPC, "n1", n1.cfg.Node.Peer); !errors.As(err, &refused) || !strings.Contains(refused.Reason, "another key") {
		t.Errorf("the ghost calls: %v", err)
	}
	var refusal *admin.Error
	if _, err := n1.admin.Token(ctx, admin.TokenRequest{Node: "n2"}); !errors.As(err, &refusal) || refusal.Exit != admin.ExitRefused || refusal.Next == "" {
		t.Errorf("a token for a member: %v", err)
	}
	n3 := s.install(t.TempDir(), "n3", "")
	tok, err := n1.admin.Token(ctx, admin.TokenRequest{Node: "n3", ExpiresS: 60})
	if err != nil {
		t.Fatal(err)
	}
	for _, minutes := range []time.Duration{1, 2} { // as leaders measure it, and one more than was asked
		if left := len(n1.node.State().Tokens); left != 1 {
			t.Fatalf("before minute %d: %d tokens", minutes, left)
		}
		n1.node.ageTokens(ctx, n1.node.clock.Mono()-time.Minute)
	}
	if _, err := admin.JoinCluster(ctx, n3.cfg, tok.Token); err == nil || !strings.Contains(err.Error(), "has expired") || !strings.Contains(err.Error(), "mailnode cluster token n3") {
		t.Errorf("an expired token: %v", err)
	}
	if _, err := n1.admin.Token(ctx, admin.TokenRequest{Node: "n3", ExpiresS: 1}); !errors.As(err, &refusal) || refusal.Exit != admin.ExitUsage {
		t.Errorf("a token for a second: %v", err)
	}
}
