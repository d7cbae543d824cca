package cluster

import (
	"cmp"
	"slices"
	"strings"

	"mailnode/storage/slot"
)

// Assignment is a place for a slot that has no master yet.
type Assignment struct {
	Slot     slot.ID
	Epoch    slot.Epoch // to be expected by AssignSlot
	Master   slot.NodeName
	Replicas []slot.NodeName
}

// Place spreads the slots that have no master over the nodes that hold mail,
// with so many replicas each (fewer when there are not enough nodes). Slots that
// have a master stay where they are and count as load. Standby nodes are never
// master and are the last choice as replica; other zones are preferred. The
// result depends on the values only, not on their order.
func Place(members []Member, slots []Slot, replicas int) []Assignment {
	pl := newPlacement(members, slots)
	var out []Assignment
	ordered := slices.Clone(slots)
	slices.SortFunc(ordered, func(a, b Slot) int { return cmp.Compare(a.ID, b.ID) })
	for _, sl := range ordered {
		if sl.Master != "" {
			continue
		}
		master := pl.pickMaster()
		if master < 0 {
			return nil
		}
		copies := []int{master}
		for len(copies) <= replicas {
			next := pl.pickReplica(copies)
			if next < 0 {
				break
			}
			copies = append(copies, next)
		}
		a := Assignment{Slot: sl.ID, Epoch: sl.Epoch, Master: pl.nodes[master].Name}
		for _, i := range copies[1:] {
			a.Replicas = append(a.Replicas, pl.nodes[i].Name)
		}
		pl.count(copies)
		out = append(out, a)
	}
	return out
}

// placement counts what each node carries; nodes are indices into one sorted list.
type placement struct {
	nodes    []Member
	masters  []int
	replicas []int
	pairs    [][]int // pairs[m][r]: slots with master m and replica r
}

func newPlacement(members []Member, slots []Slot) *placement {
	pl := &placement{}
	for _, m := range members {
		if m.Role != Witness {
			pl.nodes = append(pl.nodes, m)
		}
	}
	slices.SortFunc(pl.nodes, func(a, b Member) int { return strings.Compare(string(a.Name), string(b.Name)) })
	n := len(pl.nodes)
	pl.masters, pl.replicas, pl.pairs = make([]int, n), make([]int, n), make([][]int, n)
	for i := range pl.pairs {
		pl.pairs[i] = make([]int, n)
	}
	for _, sl := range slots {
		if at := pl.index(sl.Master); at >= 0 {
			copies := []int{at}
			for _, r := range sl.Replicas {
				if i := pl.index(r); i >= 0 {
					copies = append(copies, i)
				}
			}
			pl.count(copies)
		}
	}
	return pl
}

func (pl *placement) index(n slot.NodeName) int {
	return slices.IndexFunc(pl.nodes, func(m Member) bool { return m.Name == n })
}

func (pl *placement) count(copies []int) {
	pl.masters[copies[0]]++
	for _, r := range copies[1:] {
		pl.replicas[r]++
		pl.pairs[copies[0]][r]++
	}
}

// pickMaster returns the node with the fewest masters, -1 when none may be one.
func (pl *placement) pickMaster() int {
	best := -1
	for i, m := range pl.nodes {
		if m.Standby {
			continue
		}
		if best < 0 || cmp.Or(cmp.Compare(pl.masters[i], pl.masters[best]), cmp.Compare(pl.replicas[i], pl.replicas[best])) < 0 {
			best = i
		}
	}
	return best
}

// pickReplica returns the best further copy: not standby, in a zone that has no
// copy yet, with little load, and seldom the partner of this master, so that the
// slots of a dead node spread over many others. -1 when every node has a copy.
func (pl *placement) pickReplica(copies []int) int {
	rank := func(i int) [4]int {
		m := pl.nodes[i]
		standby, sameZone := 0, 0
		if m.Standby {
			standby = 1
		}
		if slices.ContainsFunc(copies, func(c int) bool { return pl.nodes[c].Zone == m.Zone }) {
			sameZone = 1
		}
		pair := pl.pairs[copies[0]][i]
		return [4]int{standby, sameZone, pl.replicas[i] + pair, pl.replicas[i]}
	}
	best := -1
	var bestRank [4]int
	for i := range pl.nodes {
		if slices.Contains(copies, i) {
			continue
		}
		if r := rank(i); best < 0 || slices.Compare(r[:], bestRank[:]) < 0 {
			best, bestRank = i, r
		}
	}
	return best
}
