package cluster

import (
	"slices"

	"mailnode/storage/slot"
)

// NextReplica returns the node that is to have one more copy of a slot, by the rule of
// Place: of the members given, which may leave out those that are not there. false: each
// of them has one.
func NextReplica(members []Member, slots []Slot, sl Slot) (slot.NodeName, bool) {
	l := newLayout(Site{Members: members, Slots: slots})
	at := slices.IndexFunc(l.slots, func(o Slot) bool { return o.ID == sl.ID })
	if at < 0 || sl.Master == "" || len(sl.Replicas) >= MaxReplicas {
		return "", false
	}
	copies := []int{l.index(sl.Master)}
	for _, n := range sl.Replicas {
		copies = append(copies, l.index(n))
	}
	next := l.pickReplica(at, copies)
	if next < 0 {
		return "", false
	}
	return l.nodes[next].Name, true
}

// SpareReplica returns the one of some replicas that a slot can do without most easily: one
// on a standby, else one in a zone that has another copy, else that of the node with the
// most replicas. The last of the list, among equals.
func SpareReplica(members []Member, slots []Slot, sl Slot, of []slot.NodeName) slot.NodeName {
	l := newLayout(Site{Members: members, Slots: slots})
	rank := func(n slot.NodeName) [3]int {
		i := l.index(n)
		if i < 0 {
			return [3]int{1, 1, 0}
		}
		var r [3]int
		if l.nodes[i].Standby {
			r[0] = 1
		}
		for _, o := range append([]slot.NodeName{sl.Master}, sl.Replicas...) {
			if k := l.index(o); o != n && k >= 0 && l.zones[k] == l.zones[i] {
				r[1] = 1
			}
		}
		r[2] = l.replicas[i]
		return r
	}
	var best slot.NodeName
	for _, n := range of {
		a, b := rank(n), rank(best)
		if best == "" || slices.Compare(a[:], b[:]) >= 0 {
			best = n
		}
	}
	return best
}
