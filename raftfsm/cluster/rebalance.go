package cluster

import (
	"slices"

	"mailnode/storage/slot"
)

// Rebalanced is what is to be moved.
type Rebalanced struct {
	Moves  []PlannedMove
	Cannot []slot.ID // have a copy where none should be, or lack one, and no node can take it
}

// Rebalance plans the moves that make a site better, one for each slot at most: every
// slot gets the replicas that are wanted of it, or else of all, no two copies stay in one zone if zones allow,
// and what nodes carry is evened out (see layout). Copies on standby nodes stay. With
// empty it plans only what leaves that node. Nothing is moved for less than an average
// slot's difference: planned again after the moves, it plans none.
func Rebalance(s Site, replicas int, empty slot.NodeName) Rebalanced {
	l := newLayout(s)
	var out Rebalanced
	var free []int // slots that may still be moved
	leave := l.index(empty)
	for i, sl := range l.slots {
		if sl.Master == "" || s.Busy[sl.ID] || sl.Moving() || sl.HandOver != nil || sl.OpenLoss != nil || len(sl.Leaving) > 0 || slices.Contains(l.copies[i], -1) {
			continue
		}
		c, needed, found := l.needed(i, replicas, leave, empty != "")
		switch {
		case !needed:
			free = append(free, i)
		case !found:
			out.Cannot = append(out.Cannot, sl.ID)
		default:
			out.Moves = append(out.Moves, l.planned(c))
			l.take(c)
		}
	}
	if empty == "" {
		l.improve(free, func(c change) (again bool) {
			out.Moves = append(out.Moves, l.planned(c))
			return false
		})
	}
	slices.SortFunc(out.Moves, func(a, b PlannedMove) int { return int(a.Slot) - int(b.Slot) })
	return out
}

// needed is the change that a slot cannot do without.
func (l *layout) needed(i, replicas, leave int, leaving bool) (c change, needed, found bool) {
	held := l.copies[i]
	switch {
	case leaving && slices.Contains(held, leave):
		c, found = l.bestOf(i, func(c change) bool { return c.from == leave }, true)
		return c, true, found
	case !leaving && len(held) <= min(l.slots[i].Wants(replicas), MaxReplicas):
		to := l.pickReplica(i, held)
		if to < 0 {
			return c, false, false // every node has a copy: there are not enough nodes
		}
		return change{at: i, to: to, from: -1, lead: -1}, true, true
	}
	return c, false, false
}

// change is one that could be made to a slot; -1 is no node.
type change struct {
	at             int
	to, from, lead int
	standby        bool  // it gives a copy to a standby node
	zone           int   // by how much it raises the number of copies that share a zone
	cost           int64 // by how much it raises the layout's cost
}

// copies appends to out a slot's copies after the change.
func (c change) copies(out, held []int) []int {
	master := held[0]
	if c.lead >= 0 {
		master = c.lead
	}
	out = append(out, master)
	for _, n := range held {
		if n != master && (n < 0 || n != c.from) {
			out = append(out, n)
		}
	}
	if c.to >= 0 && c.to != master {
		out = append(out, c.to)
	}
	return out
}

// improve makes the change that helps most, again and again. made says whether that
// slot may be changed once more.
func (l *layout) improve(slots []int, made func(change) (again bool)) {
	slots = slices.Clone(slots)
	for {
		best, found := change{}, false
		for _, i := range slots {
			if c, ok := l.bestOf(i, l.balances, false); ok && (!found || c.before(best)) {
				best, found = c, true
			}
		}
		if !found {
			return
		}
		l.take(best)
		if !made(best) {
			slots = slices.DeleteFunc(slots, func(i int) bool { return i == best.at })
		}
	}
}

// before orders changes, the better one first.
func (c change) before(o change) bool {
	switch {
	case c.standby != o.standby:
		return o.standby
	case c.zone != o.zone:
		return c.zone < o.zone
	case c.cost != o.cost:
		return c.cost < o.cost
	}
	return c.to < 0 && o.to >= 0 // nothing has to be copied
}

// balances reports whether a change is worth its trouble: it parts copies that share a
// zone, or evens out as much as an average slot makes.
func (l *layout) balances(c change) bool {
	if c.standby || c.from >= 0 && l.nodes[c.from].Standby {
		return false
	}
	least := 2 * unit * int64(l.weight[c.at])
	if c.lead >= 0 {
		least *= masterShare
	}
	return c.zone < 0 || c.zone == 0 && -c.cost >= least
}

// bestOf returns the best change of one slot that is allowed. With needed, one may also
// give the slot to another master and a copy to a third node at once.
func (l *layout) bestOf(i int, allowed func(change) bool, needed bool) (best change, found bool) {
	held, w := l.copies[i], int64(l.weight[i])
	l.put(i, nil)
	defer l.put(i, held)
	was, zone := l.join(held, w), l.together(held)
	var room [MaxReplicas + 2]int
	try := func(to, from, lead int) {
		c := change{at: i, to: to, from: from, lead: lead, standby: to >= 0 && l.nodes[to].Standby}
		then := c.copies(room[:0], held)
		c.zone, c.cost = l.together(then)-zone, l.join(then, w)-was
		if allowed(c) && (!found || c.before(best)) {
			best, found = c, true
		}
	}
	for _, r := range held[1:] {
		if l.leads(r) {
			try(-1, -1, r)
		}
	}
	for to := range l.nodes {
		if slices.Contains(held, to) || !l.takes(i, to) {
			continue
		}
		for _, r := range held[1:] {
			try(to, r, -1)
			if needed && l.leads(r) {
				try(to, held[0], r)
			}
		}
		if l.leads(to) {
			try(to, held[0], to)
		}
	}
	return best, found
}

// leads reports whether a node may become master.
func (l *layout) leads(n int) bool {
	return n >= 0 && !l.site.KeepMasters && !l.nodes[n].Standby && !l.site.Shut[l.nodes[n].Name]
}

// join is what a slot of some weight adds to the cost where it is put.
func (l *layout) join(copies []int, w int64) int64 {
	added := func(has int) int64 { return 2*int64(has)*w + w*w }
	sum := masterShare * added(l.masters[copies[0]])
	for _, r := range copies[1:] {
		sum += added(l.replicas[r]) + added(l.pairs[copies[0]][r])
	}
	return sum
}

// together counts the pairs of copies that share a zone.
func (l *layout) together(copies []int) int {
	n := 0
	for _, c := range copies {
		n += l.clashes(c, copies)
	}
	return n
}

// take makes a change.
func (l *layout) take(c change) {
	l.put(c.at, c.copies(nil, l.copies[c.at]))
	if c.to >= 0 {
		l.coming[c.to] += l.bytes(c.at)
	}
}

// planned is a change as Raft has it.
func (l *layout) planned(c change) PlannedMove {
	name := func(i int) slot.NodeName {
		if i < 0 {
			return ""
		}
		return l.nodes[i].Name
	}
	sl := l.slots[c.at]
	return PlannedMove{Slot: sl.ID, Epoch: sl.Epoch, To: name(c.to), From: name(c.from), Lead: name(c.lead)}
}
