package node

import (
	"errors"
	"strings"
	"testing"
	"time"

	"mailnode/failover"
	"mailnode/node/admin"
	"mailnode/node/config"
	"mailnode/node/monitor"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/slot"
)

// TestLaw11ClocksAreCompared: a node whose wall clock is a year ahead is said on the
// others, and nothing else follows from it; one that is silent is not judged.
func TestLaw11ClocksAreCompared(t *testing.T) {
	mono, wall := time.Hour, time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	n := &Node{outlook: outlook{conditions: monitor.NewConditions(), evidence: failover.NewEvidence("n1", 0)},
		clock: storage.Clock{Mono: func() time.Duration { return mono }, Wall: func() time.Time { return wall }}}
	n.cfg.Node.Name = "n1"
	n.copies = newCopies(n)
	st := cluster.New()
	for _, name := range []slot.NodeName{"n1", "n2", "n3", "n4"} {
		st.Members = append(st.Members, cluster.Member{Name: name})
	}
	for name, at := range map[slot.NodeName]time.Time{"n1": wall, "n2": wall.AddDate(1, 0, 0), "n3": wall.Add(30 * time.Second), "n4": wall.Add(-3 * time.Hour)} {
		n.evidence.Hear(mono, failover.Report{Node: name, Boot: "b", Seq: 1, WallUnix: at.Unix()})
	}
	n.lookAtClocks(st, n.evidence.Snapshot(mono))
	got := map[string]string{}
	for _, c := range n.conditions.List() {
		got[c.About] = c.Text
	}
	if len(got) != 2 || !strings.Contains(got["n2"], "365 days ahead of this node's") || !strings.Contains(got["n4"], "3 h behind this node's") {
		t.Errorf("said: %v", got)
	}
	mono, wall = mono+time.Minute, wall.Add(time.Minute)
	n.lookAtClocks(st, n.evidence.Snapshot(mono))
	if list := n.conditions.List(); len(list) != 0 {
		t.Errorf("of nodes that are silent: %+v", list)
	}
}

// TestUnprotectedWaitsForAReplicaThatCanBeReached: a new slot and a failover wake
// nobody while a replica comes to the head; without such a replica it is said at once.
func TestUnprotectedWaitsForAReplicaThatCanBeReached(t *testing.T) {
	mono := time.Hour
	n := &Node{outlook: outlook{evidence: failover.NewEvidence("n1", 0)}}
	n.cfg.Replication = config.Replication{SuspectAfter: 15 * time.Second}
	n.evidence.Hear(mono-time.Minute, failover.Report{Node: "n2", Boot: "b", Seq: 1})
	n.evidence.Hear(mono, failover.Report{Node: "n3", Boot: "b", Seq: 1})
	v := n.evidence.Snapshot(mono)
	for replicas, want := range map[string]time.Duration{"n2": 0, "n3": unprotectedAfter, "n2 n3": unprotectedAfter} {
		sl := cluster.Slot{Master: "n1"}
		for _, r := range strings.Fields(replicas) {
			sl.Replicas = append(sl.Replicas, slot.NodeName(r))
		}
		if got := n.catchUpTime(sl, v); got != want {
			t.Errorf("replicas %s: %s, want %s", replicas, got, want)
		}
	}
}

// TestDamagedIndexLeadsWithWhatWorks: a master whose replicas know its mail better is
// not told to rebuild from its packs, which would be refused.
func TestDamagedIndexLeadsWithWhatWorks(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2, 1, 1)
	for _, r := range s.nodes {
		k := r.node.copies.keeper(0)
		want := "mailnode job list"
		if r.node.State().Slots[0].Master == slot.NodeName(r.name) {
			want = k.serveElsewhere()
		}
		s.eventuallyAt(r, "its index is damaged", func(admin.Status) bool {
			k.tellIndexDamage(errors.New("block 7")) // the mender takes it back each second
			for _, c := range r.node.conditions.List() {
				if c.Name == monitor.IndexDamaged {
					if c.Next != want || !strings.HasSuffix(c.Text, "(block 7): "+want) {
						t.Errorf("%s is told %+v", r.name, c)
					}
					return true
				}
			}
			return false
		})
	}
}

// TestConditionsOfOthersSlotsStay: what every node says of a slot is not forgotten by
// those that hold no copy of it, second after second.
func TestConditionsOfOthersSlotsStay(t *testing.T) {
	n := &Node{outlook: outlook{conditions: monitor.NewConditions()}}
	n.copies = newCopies(n)
	by := []monitor.Name{monitor.SlotNoMaster, monitor.OpenLoss, monitor.HandoverStuck, monitor.ReplicaLeaving, monitor.SlotMoving, monitor.MoveGivenUp, monitor.ReplicaMissing}
	for _, name := range append(by, monitor.CopyDropped) {
		n.conditions.Set(name, "s007", "")
	}
	n.forget(cluster.New())
	for _, name := range by {
		if !n.conditions.Holds(name, "s007") {
			t.Errorf("%s is forgotten", name)
		}
	}
	if n.conditions.Holds(monitor.CopyDropped, "s007") {
		t.Error("a copy that went is still said")
	}
}
