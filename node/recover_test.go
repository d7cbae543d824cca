package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mailnode/failover"
	"mailnode/node/admin"
	"mailnode/node/monitor"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// refused returns what an operator is told, of an order that must be refused.
func refused(t *testing.T, err error, exit int) string {
	t.Helper()
	var e *admin.Error
	if !errors.As(err, &e) || e.Exit != exit {
		t.Fatalf("got %v, want a refusal with exit code %d", err, exit)
	}
	return e.Text + "\n" + e.Next
}

// recover recovers the cluster on a node, when it has listened for long enough.
func (s *site) recover(ctx context.Context, r *running, with ...slot.NodeName) (admin.Recovery, admin.Recovered) {
	s.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		plan, err := r.admin.Recovery(ctx, with)
		if err == nil {
			out, err := r.admin.Recover(ctx, admin.RecoverRequest{With: with, Generation: plan.Generation})
			if err != nil {
				s.t.Fatal(err)
			}
			return plan, out
		}
		var e *admin.Error
		if !errors.As(err, &e) || !slices.ContainsFunc([]string{"has not listened", "has a leader", "a majority"}, func(young string) bool { return strings.Contains(e.Text, young) }) {
			s.t.Fatal(err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("no recovery: %v", err)
		}
	}
}

// behind waits until a node serves nothing and says that it was left behind.
func (s *site) behind(r *running) {
	s.t.Helper()
	s.eventuallyAt(r, "it was left behind and serves nothing", func(st admin.Status) bool {
		c, is := conditionOf(st, monitor.GenerationBehind, "")
		if q, _ := conditionOf(st, monitor.RaftNoQuorum, ""); strings.Contains(q.Text, "cluster recover") {
			return false // which it refuses
		}
		return is && strings.Contains(c.Text, "generation 2") && c.Next == "mailnode cluster join --replace "+r.name && !slices.ContainsFunc(st.Slots, func(sl admin.SlotStatus) bool {
			return sl.Serving && string(sl.Master) == r.name
		})
	})
}

// Two of three nodes are lost for good. The third goes on: its slots serve without a
// restart of anything, and the others are confirmed one by one. The two return with a
// quorum of their own: they are refused, serve nothing and say why, also after a
// restart; no master changes by that.
func TestLaw04RecoverOnASurvivor(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 2, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	users := s.users(ctx, 3)
	survivor, gone := s.nodes[2], s.nodes[:2]
	mine := servedBy(t, s.status(ctx, survivor), "n3")
	if text := refused(t, func() error { _, err := survivor.admin.Recovery(ctx, nil); return err }(), admin.ExitNothing); !strings.Contains(text, "has a leader") {
		t.Errorf("with a leader: %s", text)
	}
	for _, r := range gone {
		r.stopped()
	}
	s.nodes = []*running{survivor}
	s.eventually("it says how to go on", func(st admin.Status) bool {
		c, is := conditionOf(st, monitor.RaftNoQuorum, "")
		return is && strings.Contains(c.Text, "mailnode cluster recover")
	})
	refused(t, func() error { _, err := survivor.admin.Recovery(ctx, []slot.NodeName{"n9"}); return err }(), admin.ExitUsage)
	plan, out := s.recover(ctx, survivor)
	if len(plan.Lost) != 2 || len(plan.Serve) != 1 || len(plan.Propose) != 2 || len(plan.NoCopy) != 0 || out.Generation != 2 {
		t.Errorf("plan %+v, outcome %+v", plan, out)
	}
	st := s.status(ctx, survivor)
	if sl := st.Slots[mine]; !sl.Serving || sl.Epoch != 17 || sl.Master != "n3" || st.Generation != 2 {
		t.Errorf("after the recovery: %+v, generation %d", sl, st.Generation)
	}
	s.eventually("the others are proposed", func(st admin.Status) bool {
		n := 0
		for _, p := range st.Proposals {
			n += len(p.Slots)
		}
		return n == 2
	})
	for _, p := range s.status(ctx, survivor).Proposals {
		for _, ps := range p.Slots {
			out, err := survivor.admin.Confirm(ctx, admin.ConfirmRequest{ID: p.ID, Slots: []slot.ID{ps.Slot}, AcceptLoss: true})
			if err != nil || out.Exit != admin.ExitDone && out.Exit != admin.ExitRefused {
				t.Fatalf("confirm %s: %+v, %v", ps.Slot, out, err)
			}
		}
	}
	s.eventually("all is served by the survivor", func(st admin.Status) bool {
		return !slices.ContainsFunc(st.Slots, func(sl admin.SlotStatus) bool { return !sl.Serving || sl.Master != "n3" })
	})
	for _, u := range users {
		if err := s.deliver(survivor, u, "Subject: x\r\n\r\nafter the recovery\r\n"); err != nil {
			t.Errorf("deliver to %s: %v", u, err)
		}
	}
	for range 2 {
		s.returns(ctx, gone, users[0])
		if err := s.deliver(survivor, users[0], "x\r\n"); err != nil {
			t.Errorf("deliver beside the lost majority: %v", err)
		}
	}
}

// returns starts nodes that were left behind, which serve nothing and say why, and
// stops them again.
func (s *site) returns(ctx context.Context, gone []*running, user string) {
	s.t.Helper()
	for _, r := range gone {
		s.start(r)
	}
	for _, r := range gone {
		s.behind(r)
		if err := s.deliver(r, user, "x\r\n"); err == nil || !strings.HasPrefix(err.Error(), "4") {
			s.t.Errorf("%s takes mail although it was left behind: %v", r.name, err)
		}
		if text := refused(s.t, r.admin.Reject(ctx, admin.RejectRequest{ID: "p1"}), admin.ExitRefused); !strings.Contains(text, "recovered without this node") {
			s.t.Errorf("%s says: %s", r.name, text)
		}
	}
	for _, r := range gone {
		r.stopped()
	}
}

// Two of five survive. One that is not heard is named and comes back by itself; the
// two get their votes, and the next failover needs no other word.
func TestLongRecoverWithTwoOfFive(t *testing.T) {
	onlyLong(t)
	t.Parallel()
	s := newSite(t, 5, 1, 5)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	n4, n5 := s.nodes[3], s.nodes[4]
	for _, r := range s.nodes[:3] {
		r.stopped()
	}
	n5.stopped()
	s.nodes = []*running{n4, n5}
	plan, _ := s.recover(ctx, n4, "n5")
	if !slices.Equal(plan.Survivors, []slot.NodeName{"n4", "n5"}) || !slices.Equal(plan.Unknown, []slot.NodeName{"n5"}) || len(plan.Lost) != 3 {
		t.Errorf("plan %+v", plan)
	}
	s.start(n5)
	s.eventuallyAt(n5, "it belongs to the new generation", func(st admin.Status) bool {
		return st.Generation == 2 && st.Leader == "n4" && st.Slots[0].Epoch == 17
	})
	s.eventually("both serve what is theirs", func(st admin.Status) bool {
		return !slices.ContainsFunc(st.Slots, func(sl admin.SlotStatus) bool {
			return !sl.Serving && (sl.Master == "n4" || sl.Master == "n5")
		})
	})
	if got := n4.node.State().LeftBehind(); !slices.Equal(got, []slot.NodeName{"n1", "n2", "n3"}) {
		t.Errorf("left behind: %v", got)
	}
}

// The node stops between the generation and Raft's log. It says so, and the same
// command goes on with the same survivors.
func TestRecoverGoesOn(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	survivor := s.nodes[2]
	for _, r := range s.nodes[:2] {
		r.stopped()
	}
	if err := survivor.node.beginRecovery(begunRecovery{Generation: 2, With: []slot.NodeName{"n3"}}); err != nil {
		t.Fatal(err)
	}
	survivor.stopped()
	s.start(survivor)
	n1 := s.nodes[0]
	s.start(n1) // it is not told that it was left behind: the recovery may never be done
	s.nodes = []*running{survivor}
	s.eventually("it says that the recovery is not done", func(st admin.Status) bool {
		c, is := conditionOf(st, monitor.RaftNoQuorum, "")
		return is && strings.Contains(c.Text, "a recovery has begun on this node and is not done")
	})
	if _, err := os.Stat(filepath.Join(n1.cfg.Node.Data, leftBehindName)); err == nil {
		t.Error("a recovery that is not done has left a node behind")
	}
	plan, out := s.recover(ctx, survivor)
	if !slices.Equal(plan.Survivors, []slot.NodeName{"n3"}) || out.Generation != 2 {
		t.Errorf("plan %+v, outcome %+v", plan, out)
	}
	s.behind(n1)
	n1.stopped()
}

// lostMajority is what n4 knows: n5 is heard, and n1, n2 and n3 are silent.
func lostMajority(t *testing.T, change func(*recoverySite)) recoverySite {
	t.Helper()
	st := cluster.New()
	apply := func(c cluster.Command) {
		if _, err := st.Apply(st.Index+1, c); err != nil {
			t.Fatal(err)
		}
	}
	member := func(n slot.NodeName) cluster.Member {
		return cluster.Member{Name: n, ServerID: string(n) + "-1", Addr: "127.0.0.1:1", Role: cluster.Voter, Features: cluster.KnownFeatures}
	}
	apply(cluster.Init{ClusterID: "c", SlotCount: 4, DefaultReplicas: 1, First: member("n1")})
	for _, n := range []slot.NodeName{"n2", "n3", "n4", "n5"} {
		apply(cluster.AddMember{Member: member(n)})
	}
	for i, nodes := range [][]slot.NodeName{{"n1", "n2"}, {"n1", "n4"}, {"n4", "n1"}} {
		apply(cluster.AssignSlot{Slot: slot.ID(i), Master: nodes[0], Replicas: nodes[1:]})
	}
	s := recoverySite{st: st, own: failover.RaftReport{LogEnd: cluster.LogEnd{Term: 2, Index: 9}}, voters: []slot.NodeName{"n1", "n2", "n3", "n4", "n5"},
		generation: 1, suspectAfter: 15 * time.Second,
		v: failover.View{Self: "n4", Now: time.Hour, Nodes: map[slot.NodeName]failover.NodeView{
			"n1": {Known: true, HeardAt: time.Minute}, "n5": {Known: true, HeardAt: time.Hour, Raft: failover.RaftReport{LogEnd: cluster.LogEnd{Term: 2, Index: 8}}}}}}
	change(&s)
	return s
}

// What a recovery would do, from what the node knows.
func TestRecoveryOf(t *testing.T) {
	says := func(name slot.NodeName, nv failover.NodeView) func(*recoverySite) {
		return func(s *recoverySite) { s.v.Nodes[name] = nv }
	}
	for _, c := range []struct {
		name   string
		change func(*recoverySite)
		exit   int
		want   string // in what is said
	}{
		{"another survivor knows more", says("n5", failover.NodeView{Known: true, HeardAt: time.Hour, Raft: failover.RaftReport{LogEnd: cluster.LogEnd{Term: 3, Index: 1}}}), 4, "n5 knows more"},
		{"another knows a newer state", func(s *recoverySite) {
			s.own = failover.RaftReport{Applied: 4}
			s.v.Nodes["n5"] = failover.NodeView{Known: true, HeardAt: time.Hour, Raft: failover.RaftReport{Applied: 5}}
		}, 4, "mailnode cluster recover, on n5"},
		{"it has just started", func(s *recoverySite) { s.v.Floor = s.v.Now - 4*time.Second }, 4, "wait 12 s"},
		{"a majority is there", says("n3", failover.NodeView{Known: true, HeardAt: time.Hour}), 4, "3 of the 5 voters are there"},
		{"a majority is there without its log", func(s *recoverySite) {
			s.abstains = true
			s.v.Nodes["n3"] = failover.NodeView{Known: true, HeardAt: time.Hour}
		}, 0, "lost for good: n1"},
		{"a majority, when who is named comes", func(s *recoverySite) { s.with = []slot.NodeName{"n2"} }, 4, "3 of the 5 voters"},
		{"a stranger is named", func(s *recoverySite) { s.with = []slot.NodeName{"n8"} }, 2, "n1, n2, n3, n4, n5"},
		{"an old release", func(s *recoverySite) { s.st.Members[4].Features = 1 }, 4, "n5 is too old"},
		{"one that has said that it stops", says("n5", failover.NodeView{Known: true, HeardAt: time.Hour - time.Minute, LastWords: failover.CleanStop}), 0, "lost for good: n5"},
	} {
		plan, err := recoveryOf(lostMajority(t, c.change))
		text := plan.Text
		if c.exit != 0 {
			text = refused(t, err, c.exit)
		} else if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if !strings.Contains(text, c.want) {
			t.Errorf("%s: %q is not in %s", c.name, c.want, text)
		}
	}
	plan, err := recoveryOf(lostMajority(t, func(*recoverySite) {}))
	if err != nil {
		t.Fatal(err)
	}
	want := `RECOVER cluster c on n4
lost for good: n1, silent for 59 min
lost for good: n2, silent for 60 min
lost for good: n3, silent for 60 min
goes on: n4, n5
  with what n4 knows, up to Raft's entry 9
1 slot served on, after a pause of some seconds
1 slot lost the master: proposed, and you confirm
1 slot: NO copy is left (s000)
this cannot be taken back. If n1, n2, n3 live and are only cut off, they go on taking mail until they hear of it; then they serve nothing, and what they took alone is kept on their disks until their machines join again
`
	if diff := cmp.Diff(want, plan.Text); diff != "" {
		t.Error(diff)
	}
}
