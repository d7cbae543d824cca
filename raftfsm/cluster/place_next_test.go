package cluster

import (
	"testing"

	"mailnode/storage/slot"
)

func TestNextAndSpareReplica(t *testing.T) {
	m := func(name, zone string, standby bool) Member {
		return Member{Name: slot.NodeName(name), Role: Voter, Zone: zone, Standby: standby}
	}
	members := []Member{m("n1", "a", false), m("n2", "a", false), m("n3", "b", false), m("n4", "c", true), {Name: "w1", Role: Witness}}
	sl := Slot{ID: 0, Epoch: 1, Master: "n1", Replicas: names("n2")}
	if n, ok := NextReplica(members, []Slot{sl}, sl); !ok || n != "n3" {
		t.Errorf("next: %s %t, want n3, of another zone", n, ok)
	}
	sl.Replicas = names("n2", "n3")
	if n, ok := NextReplica(members, []Slot{sl}, sl); !ok || n != "n4" {
		t.Errorf("next: %s %t, want the standby", n, ok)
	}
	sl.Replicas = names("n2", "n3", "n4")
	if n, ok := NextReplica(members, []Slot{sl}, sl); ok {
		t.Errorf("next: %s, and each has one", n)
	}
	if n := SpareReplica(members, []Slot{sl}, sl, sl.Replicas); n != "n4" {
		t.Errorf("spare: %s, want the standby", n)
	}
	if n := SpareReplica(members, []Slot{sl}, sl, names("n2", "n3")); n != "n2" {
		t.Errorf("spare: %s, want that of the master's zone", n)
	}
}
