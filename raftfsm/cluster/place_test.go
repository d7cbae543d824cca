package cluster

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mailnode/storage/slot"
)

func emptySlots(n int) []Slot {
	s := make([]Slot, n)
	for i := range s {
		s[i].ID = slot.ID(i)
	}
	return s
}

func zoned(n, zones int) []Member {
	var ms []Member
	for i := range n {
		m := member(fmt.Sprintf("n%03d", i), Voter)
		m.Zone = fmt.Sprintf("z%d", i%zones)
		ms = append(ms, m)
	}
	return ms
}

func TestPlaceIsBalanced(t *testing.T) {
	for _, tt := range []struct{ nodes, zones, slots, replicas int }{
		{1, 1, 24, 1}, {2, 1, 24, 1}, {3, 1, 24, 1}, {3, 3, 24, 2}, {5, 2, 24, 1}, {100, 4, 1000, 1}, {100, 3, 1000, 2}, {7, 1, 10, 8},
	} {
		t.Run(fmt.Sprintf("%+v", tt), func(t *testing.T) {
			members := zoned(tt.nodes, tt.zones)
			zone := map[slot.NodeName]string{}
			for _, m := range members {
				zone[m.Name] = m.Zone
			}
			got := Place(append(members, member("w", Witness)), emptySlots(tt.slots), tt.replicas)
			if len(got) != tt.slots {
				t.Fatalf("%d of %d slots placed", len(got), tt.slots)
			}
			masters, replicas := map[slot.NodeName]int{}, map[slot.NodeName]int{}
			for _, m := range members {
				masters[m.Name], replicas[m.Name] = 0, 0
			}
			for _, a := range got {
				masters[a.Master]++
				if want := min(tt.replicas, tt.nodes-1); len(a.Replicas) != want {
					t.Fatalf("%+v: want %d replicas", a, want)
				}
				seen := []slot.NodeName{a.Master}
				for _, r := range a.Replicas {
					if slices.Contains(seen, r) {
						t.Fatalf("%+v: a node twice", a)
					}
					if len(seen) < tt.zones && slices.ContainsFunc(seen, func(n slot.NodeName) bool { return zone[n] == zone[r] }) {
						t.Errorf("%+v: two copies in zone %s", a, zone[r])
					}
					seen = append(seen, r)
					replicas[r]++
				}
			}
			spread(t, "masters", masters, 1)
			if tt.zones == 1 || tt.nodes%tt.zones == 0 { // zones of unequal size carry unequal shares
				spread(t, "replicas", replicas, max(2, tt.slots/tt.nodes/2))
			}
		})
	}
}

func spread(t *testing.T, what string, counts map[slot.NodeName]int, most int) {
	t.Helper()
	lo, hi := 1<<30, 0
	for _, n := range counts {
		lo, hi = min(lo, n), max(hi, n)
	}
	if hi-lo > most {
		t.Errorf("%s per node differ from %d to %d", what, lo, hi)
	}
}

// A dead node's slots must not all fall on one other node.
func TestPlaceSpreadsPartners(t *testing.T) {
	partners := map[slot.NodeName]bool{}
	for _, a := range Place(zoned(10, 1), emptySlots(100), 1) {
		if a.Master == "n000" {
			partners[a.Replicas[0]] = true
		}
	}
	if len(partners) < 5 {
		t.Errorf("the 10 slots of n000 have only %d partners", len(partners))
	}
}

func TestPlaceStandbyAndExisting(t *testing.T) {
	a, b, far := member("a", Voter), member("b", Voter), member("far", Nonvoter)
	far.Standby, far.Zone = true, "far"
	slots := emptySlots(5)
	slots[0].Master, slots[0].Epoch = "a", 3
	slots[1].Master, slots[1].Epoch = "a", 3
	slots[2].Epoch = 16
	got := Place([]Member{far, b, a}, slots, 1)
	want := []Assignment{
		{Slot: 2, Epoch: 16, Master: "a", Replicas: names("b")}, // b has no replicas otherwise
		{Slot: 3, Master: "b", Replicas: names("a")},
		{Slot: 4, Master: "b", Replicas: names("a")},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := Place([]Member{a, b, far}, slots, 2); !slices.Equal(got[0].Replicas, names("b", "far")) {
		t.Errorf("the standby is the last choice: %+v", got[0])
	}
	if got := Place([]Member{far, member("w", Witness)}, slots, 1); got != nil {
		t.Errorf("standby nodes and witnesses are never masters: %+v", got)
	}
}
