package node

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"mailnode/failover"
	"mailnode/node/admin"
	"mailnode/node/config"
	"mailnode/node/monitor"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// A master that goes on alone without a quorum says that it is unprotected, beside
// what Raft still has; of nodes that are silent it gives no figures (law 1: what
// is unprotected is an alert).
func TestLaw01CutOffMasterSaysWhatIsKnown(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	n1 := s.nodes[0]
	users := s.users(ctx, 3)
	st := s.status(ctx, n1)
	mine, other := servedBy(t, st, "n1"), servedBy(t, st, "n2")
	for _, r := range s.nodes[1:] {
		r.stop()
	}
	for _, r := range s.nodes[1:] {
		r.ended.Wait()
	}
	if err := s.deliver(n1, users[mine], "Subject: alone\r\n\r\nx\r\n"); err != nil {
		t.Fatal(err)
	}
	s.eventuallyAt(n1, "what it does and what is recorded differ", func(st admin.Status) bool {
		sl := st.Slots[mine]
		c, is := conditionOf(st, monitor.SlotUnprotected, mine.String())
		quorum, no := conditionOf(st, monitor.RaftNoQuorum, "")
		return sl.Protected != nil && !*sl.Protected && sl.RecordedProtected && strings.HasPrefix(sl.ProtectedSource, "master n1, ") &&
			strings.Contains(sl.RecordSource, "no leader for ") && is && strings.Contains(c.Text, "could not be recorded") &&
			no && strings.Contains(quorum.Text, "1 of 3 voters are heard")
	})
	s.eventuallyAt(n1, "what is silent has no figures", func(st admin.Status) bool {
		there, silent := st.Slots[mine].Copies[0], st.Slots[mine].Copies[1]
		gone := st.Slots[other]
		return there.LagS != nil && there.Position != nil && silent.LagS == nil && silent.HeardS != nil && *silent.HeardS > 3 && silent.State == "stopped" &&
			gone.Protected == nil && gone.RecordedProtected && strings.Contains(gone.ProtectedSource, "master n2 is stopped")
	})
	d, err := n1.admin.Slot(ctx, other.String())
	if err != nil || d.Copies[0].Node != slot.NodeName("n2") || d.Copies[0].LagS != nil || d.UsersKnown != (d.Copies[1].Node == "n1") {
		t.Errorf("%+v, %v", d, err)
	}
}

// A master that was stopped serves nothing and protects nothing from the moment at
// which it says so, also while its last report is young.
func TestLaw01StoppedMasterProtectsNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n1, n2 := s.nodes[0], s.nodes[1]
	st := s.status(ctx, n2)
	id := servedBy(t, st, "n1")
	n1.stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for st = s.status(ctx, n2); stateOfNode(st, "n1") != "stopped"; st = s.status(ctx, n2) {
		if sl := st.Slots[id]; stateOfNode(st, "n1") == failover.Stopping && !strings.Contains(sl.ProtectedSource, "which is stopping") {
			t.Errorf("while it stops: %q", sl.ProtectedSource)
		}
		<-tick.C
	}
	if sl := st.Slots[id]; sl.Serving || sl.Waiting != "its master n1 is stopped" || sl.Protected != nil || !strings.HasPrefix(sl.ProtectedSource, "master n1 is stopped, last heard ") {
		t.Errorf("%+v", sl)
	}
	copies := 0
	for _, sl := range st.Slots {
		for _, c := range sl.Copies {
			if c.Node == "n1" {
				copies++
				if c.State != "stopped" || c.Viable || c.LagS != nil {
					t.Errorf("%s: %+v", sl.Slot, c)
				}
			}
		}
	}
	if copies < 2 {
		t.Errorf("%d copies on n1, want its own and one that follows", copies)
	}
}

// A master was killed. Its last report is too young to call it silent, but overdue,
// and no replica hears it: it is not said to protect. A replica that is dead itself,
// or that still hears it, is no witness against it.
func TestLaw01OverdueMasterWhomNoReplicaHears(t *testing.T) {
	const late, young = 1700 * time.Millisecond, 900 * time.Millisecond
	heard := failover.CopyReport{Role: failover.RoleReplica, OfMaster: failover.OfMaster{LagKnown: true}}
	lost, building := failover.CopyReport{Role: failover.RoleReplica}, failover.CopyReport{Role: failover.RoleReplica, Health: failover.Health{Building: true}}
	for _, c := range []struct {
		master   time.Duration // ago
		replicas []failover.CopyReport
		ago      time.Duration // of the replicas' reports
		known    bool
		source   string
	}{
		{late, []failover.CopyReport{lost}, young, false, "no replica hears master n1, last heard 1.7 s ago"},
		{late, []failover.CopyReport{lost, building}, young, false, "no replica hears master n1, last heard 1.7 s ago"},
		{young, []failover.CopyReport{lost}, young, true, "master n1, 0.9 s ago"},
		{late, []failover.CopyReport{lost, heard}, young, true, "master n1, 1.7 s ago"},
		{late, []failover.CopyReport{building}, young, true, "master n1, 1.7 s ago"},
		{late, []failover.CopyReport{lost}, time.Minute, true, "master n1, 1.7 s ago"},
		{lateAfter, []failover.CopyReport{heard}, young, false, "master n1 is silent, last heard 3.0 s ago"},
	} {
		n := &Node{outlook: outlook{evidence: failover.NewEvidence("n9", 0)}}
		n.cfg.Node.Name = "n9"
		n.cfg.Replication = config.Replication{SuspectAfter: 15 * time.Second}
		now, sl := time.Hour, cluster.Slot{ID: 7, Epoch: 1, Master: "n1", Protected: true}
		is := true
		n.evidence.Hear(now-c.master, failover.Report{Node: "n1", Boot: "b", Seq: 1, Slots: []failover.CopyReport{
			{Slot: 7, Role: failover.RoleMaster, Epoch: 1, Serving: true, Acknowledges: failover.Acknowledges{Protected: &is}}}})
		for i, r := range c.replicas {
			name := slot.NodeName(fmt.Sprintf("n%d", i+2))
			sl.Replicas = append(sl.Replicas, name)
			r.Slot = 7
			n.evidence.Hear(now-c.ago, failover.Report{Node: name, Boot: "b", Seq: 1, Slots: []failover.CopyReport{r}})
		}
		protected, source := n.protection(sl, n.evidence.Snapshot(now))
		if (protected != nil) != c.known || source != c.source {
			t.Errorf("%+v: known %t (%q)", c, protected != nil, source)
		}
	}
}
