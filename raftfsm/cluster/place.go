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
	l := newLayout(Site{Members: members, Slots: slots})
	var placed []int
	for i := range l.slots {
		if l.slots[i].Master != "" {
			continue
		}
		master := l.pickMaster()
		if master < 0 {
			return nil
		}
		copies := []int{master}
		for len(copies) <= replicas {
			next := l.pickReplica(i, copies)
			if next < 0 {
				break
			}
			copies = append(copies, next)
		}
		l.put(i, copies)
		placed = append(placed, i)
	}
	l.improve(placed, func(change) (again bool) { return true })
	out := make([]Assignment, 0, len(placed))
	for _, i := range placed {
		a := Assignment{Slot: l.slots[i].ID, Epoch: l.slots[i].Epoch, Master: l.nodes[l.copies[i][0]].Name}
		for _, n := range l.copies[i][1:] {
			a.Replicas = append(a.Replicas, l.nodes[n].Name)
		}
		out = append(out, a)
	}
	return out
}

// Weight is how much one slot is: what it has on a disk, and what it does. Only the
// proportions between slots count.
type Weight struct {
	Bytes    int64
	Messages int64 // that came in
}

// Site is all that a placement rests on.
type Site struct {
	Members []Member
	Slots   []Slot
	Weights map[slot.ID]Weight
	Free    map[slot.NodeName]int64 // bytes of its disks; a node that is not named has room
	Shut    map[slot.NodeName]bool  // get no copy and no master: they are silent, for example
	Busy    map[slot.ID]bool        // stay as they are: nobody serves them, for example
	// KeepMasters plans no change that a person would have to confirm.
	KeepMasters bool
}

// unit is the weight of an average slot. Weights are whole numbers, so that every node
// that plans comes to the same plan.
const unit = 1000

// masterShare is how much more it matters that masters are spread than replicas: a
// master does all the reading.
const masterShare = 4

// layout says who holds what, and how much that is; nodes and slots are indices into
// sorted lists. It is good when its cost is low: the sum of the squares of what each
// node is master of (masterShare times), of what it is replica of, and of what each pair
// of master and replica share. The first two spread work and bytes; the last spreads
// what a node's death leaves to the others.
type layout struct {
	site   Site
	nodes  []Member // without witnesses
	zones  []int    // of each node
	slots  []Slot
	weight []int   // of each slot, in units
	copies [][]int // of each slot, the master first; -1 is a node that gets nothing more

	masters  []int
	replicas []int
	pairs    [][]int // pairs[m][r]: of slots with master m and replica r
	coming   []int64 // bytes that are on their way to each node
}

func newLayout(s Site) *layout {
	l := &layout{site: s, slots: slices.Clone(s.Slots)}
	for _, m := range s.Members {
		if m.Role != Witness {
			l.nodes = append(l.nodes, m)
		}
	}
	slices.SortFunc(l.nodes, func(a, b Member) int { return strings.Compare(string(a.Name), string(b.Name)) })
	for _, m := range l.nodes {
		l.zones = append(l.zones, slices.IndexFunc(l.nodes, func(o Member) bool { return o.Zone == m.Zone }))
	}
	slices.SortFunc(l.slots, func(a, b Slot) int { return cmp.Compare(a.ID, b.ID) })
	n := len(l.nodes)
	l.masters, l.replicas, l.pairs, l.coming = make([]int, n), make([]int, n), make([][]int, n), make([]int64, n)
	for i := range l.pairs {
		l.pairs[i] = make([]int, n)
	}
	l.weigh()
	l.copies = make([][]int, len(l.slots))
	for i, sl := range l.slots {
		if sl.Master == "" {
			continue
		}
		held := []int{l.index(sl.Master)}
		for _, r := range sl.Replicas {
			held = append(held, l.index(r))
		}
		if m := sl.Move; m != nil && m.GivenUp == "" { // as it will be
			c := change{at: i, to: l.index(m.To), from: l.index(m.From), lead: l.index(m.Lead)}
			held = c.copies(nil, slices.DeleteFunc(held, func(n int) bool { return n >= 0 && n == c.to }))
			if c.to >= 0 {
				l.coming[c.to] += l.bytes(i)
			}
		}
		l.put(i, held)
	}
	return l
}

// What each slot is taken to have beside what it has: as long as there is little mail,
// slots count alike, whoever got the first messages.
const (
	baseBytes    = 1 << 30
	baseMessages = 10_000
)

// weigh makes each slot's count, bytes and messages one number: a third each, in
// proportion to the average slot.
func (l *layout) weigh() {
	var bytes, messages float64
	for _, sl := range l.slots {
		bytes += float64(l.site.Weights[sl.ID].Bytes + baseBytes)
		messages += float64(l.site.Weights[sl.ID].Messages + baseMessages)
	}
	n := float64(len(l.slots))
	part := func(of int64, sum float64) float64 { return float64(of) * n / sum }
	for _, sl := range l.slots {
		w := l.site.Weights[sl.ID]
		l.weight = append(l.weight, int(unit*(1+part(w.Bytes+baseBytes, bytes)+part(w.Messages+baseMessages, messages))/3))
	}
}

func (l *layout) index(n slot.NodeName) int {
	i, ok := slices.BinarySearchFunc(l.nodes, n, func(m Member, n slot.NodeName) int { return strings.Compare(string(m.Name), string(n)) })
	if !ok {
		return -1
	}
	return i
}

// put gives a slot other copies.
func (l *layout) put(i int, copies []int) {
	l.count(l.copies[i], -l.weight[i])
	l.copies[i] = copies
	l.count(copies, l.weight[i])
}

func (l *layout) count(copies []int, w int) {
	for k, n := range copies {
		switch {
		case n < 0:
		case k == 0:
			l.masters[n] += w
		default:
			l.replicas[n] += w
			if m := copies[0]; m >= 0 {
				l.pairs[m][n] += w
			}
		}
	}
}

// pickMaster returns the node with the fewest masters, -1 when none may be one. Of
// those that have as few, one in the zone that has fewest.
func (l *layout) pickMaster() int {
	inZone := make([]int, len(l.nodes))
	for i, z := range l.zones {
		inZone[z] += l.masters[i]
	}
	best := -1
	for i, m := range l.nodes {
		if m.Standby || l.site.Shut[m.Name] {
			continue
		}
		if best < 0 || cmp.Or(cmp.Compare(l.masters[i], l.masters[best]), cmp.Compare(inZone[l.zones[i]], inZone[l.zones[best]]),
			cmp.Compare(l.replicas[i], l.replicas[best])) < 0 {
			best = i
		}
	}
	return best
}

// pickReplica returns the best further copy: not standby, in a zone that has no
// copy yet, with little load, and seldom the partner of this master, so that the
// slots of a dead node spread over many others. -1 when nobody has room who has no
// copy.
func (l *layout) pickReplica(slot int, copies []int) int {
	best := -1
	var bestRank [4]int
	for i, m := range l.nodes {
		if slices.Contains(copies, i) || !l.takes(slot, i) {
			continue
		}
		pair := 0
		if copies[0] >= 0 {
			pair = l.pairs[copies[0]][i]
		}
		r := [4]int{0, l.clashes(i, copies), l.replicas[i] + pair, l.replicas[i]}
		if m.Standby {
			r[0] = 1
		}
		if best < 0 || slices.Compare(r[:], bestRank[:]) < 0 {
			best, bestRank = i, r
		}
	}
	return best
}

// clashes counts the copies in a node's zone, other than its own.
func (l *layout) clashes(node int, copies []int) int {
	n := 0
	for _, c := range copies {
		if c >= 0 && c != node && l.zones[c] == l.zones[node] {
			n++
		}
	}
	return n
}

// roomFor is what a copy needs for each byte that it holds, in percent: index, and what
// comes in meanwhile.
const roomFor = 120

// takes reports whether a node may get a copy of a slot, which fits beside what is on
// its way there.
func (l *layout) takes(slot, node int) bool {
	name := l.nodes[node].Name
	free, known := l.site.Free[name]
	return !l.site.Shut[name] && (!known || l.coming[node]+l.bytes(slot) <= free)
}

func (l *layout) bytes(slot int) int64 {
	return l.site.Weights[l.slots[slot].ID].Bytes * roomFor / 100
}
