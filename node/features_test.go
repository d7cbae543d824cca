package node

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/node/monitor"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// upgraded restarts a node with a made-up release.
func (s *site) upgraded(r *running, release string, level slot.FeatureLevel) {
	s.t.Helper()
	r.stopped()
	s.startWith(r, func(n *Node) { n.version, n.features = release, level })
}

// TestUpgradeNodeByNode: a release that brings feature level 3 comes to one node
// after the other. The level is raised when all have it and a person says so; a
// node that goes back to the old release is told.
func TestUpgradeNodeByNode(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2, 1, 2)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	said := func(want string) {
		t.Helper()
		s.eventually("members are "+want, func(admin.Status) bool {
			m, err := s.nodes[0].admin.Members(ctx)
			var got []string
			for _, n := range m.Members {
				got = append(got, string(n.Name)+" "+n.Release+" "+string('0'+rune(n.Features)))
			}
			return err == nil && strings.Join(got, ", ") == want
		})
	}
	raise := func() error { return s.nodes[0].admin.Upgrade(ctx, admin.UpgradeRequest{From: 2, To: 3}) }
	said("n1 test 2, n2 test 2")
	s.upgraded(s.nodes[0], "3.0", 3)
	said("n1 3.0 3, n2 test 2")
	var refused *admin.Error
	if err := raise(); !errors.As(err, &refused) || refused.Exit != admin.ExitRefused || !strings.Contains(err.Error(), "too old: n2 (level 2, release test)") {
		t.Errorf("raised while n2 is too old: %v", err)
	}
	s.upgraded(s.nodes[1], "3.0", 3)
	said("n1 3.0 3, n2 3.0 3")
	if err := raise(); err != nil {
		t.Fatal(err)
	}
	s.eventually("n2 has it", func(admin.Status) bool { return s.nodes[1].node.State().Features() == 3 })
	s.upgraded(s.nodes[1], "2.9", 2)
	st, err := s.nodes[1].admin.Status(ctx)
	if err != nil || !slices.ContainsFunc(st.Conditions, func(c monitor.Condition) bool { return c.Name == monitor.RaftLogNewer }) {
		t.Errorf("a release that is too old takes part: %v, %v", st.Conditions, err)
	}
	_, err = s.nodes[1].node.Propose(ctx, cluster.UpdateMember{Name: "n2", Features: 2, Release: "2.9"})
	if got := cluster.OutcomeOf(err); got != cluster.Halted {
		t.Errorf("it proposes: %v", err)
	}
	s.upgraded(s.nodes[1], "3.0", 3)
	s.eventually("every slot is protected again", func(st admin.Status) bool {
		return !slices.ContainsFunc(st.Slots, func(sl admin.SlotStatus) bool { return !sl.Serving || !sl.IsProtected() })
	})
}

// TestLaw09NewerRecordStopsRaftNotMail: what a newer release wrote stops Raft on
// the nodes that cannot read it, with a condition; masters go on serving.
func TestLaw09NewerRecordStopsRaftNotMail(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2, 1, 2)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	op := s.nodes[0].admin
	for _, u := range []slot.Address{"u1@example.test", "u2@example.test", "u3@example.test"} {
		if _, err := op.AddUser(ctx, admin.AddUser{Address: u, Password: "pw"}); err != nil {
			t.Fatal(err)
		}
	}
	n := s.nodes[0].node
	for raised := false; !raised && ctx.Err() == nil; { // the nodes correct what is said about them
		for _, m := range n.State().Members {
			// In an election it is not done: the level is raised only when all were heard.
			if _, err := n.Propose(ctx, cluster.UpdateMember{Name: m.Name, Features: 3}); cluster.OutcomeOf(err) == cluster.Refused {
				t.Fatal(err)
			}
		}
		_, err := n.Propose(ctx, cluster.RaiseFeatureLevel{From: 2, To: 3})
		raised = cluster.OutcomeOf(err) != cluster.Refused && cluster.OutcomeOf(err) != cluster.NotDone
	}
	// The leader stops first, and tells nobody any more that the entry is committed.
	s.eventually("a node says so", func(admin.Status) bool {
		return slices.ContainsFunc(s.nodes, func(r *running) bool {
			st, err := r.admin.Status(ctx)
			return err == nil && slices.ContainsFunc(st.Conditions, func(c monitor.Condition) bool { return c.Name == monitor.RaftLogNewer })
		})
	})
	for _, r := range s.nodes {
		for _, u := range []string{"u1@example.test", "u2@example.test", "u3@example.test"} {
			if err := s.deliver(r, u, "Subject: mail goes on\r\n\r\nx\r\n"); err != nil {
				t.Errorf("deliver to %s at %s: %v", u, r.name, err)
			}
		}
	}
}
