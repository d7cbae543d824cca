package failover

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// Sightings lists what this node has last heard of the copies of a slot.
func (v View) Sightings(id slot.ID) []Sighting {
	out := []Sighting{}
	for _, n := range slices.Sorted(maps.Keys(v.Nodes)) {
		if c, ok := v.copyOf(n, id); ok {
			out = append(out, Sighting{CopyReport: c.CopyReport, Node: n, By: v.Self, Highest: c.Highest,
				AgoMs: max(0, int64((v.Now-v.Nodes[n].HeardAt)/time.Millisecond))})
		}
	}
	return out
}

// highest keeps the highest position that a copy has reported in one lineage: a
// copy that holds less than that has lost what it held.
func (c CopyReport) highest(was CopyView, known bool) slot.Position {
	switch {
	case !known || c.Lineage > was.Lineage:
		return c.Position
	case c.Lineage < was.Lineage:
		return was.Highest
	}
	return max(c.Position, was.Highest)
}

// wentBack says why an in-sync replica's answer is in doubt: some living node has
// heard it hold more (a restored disk, a lost tail).
func wentBack(sl cluster.Slot, n slot.NodeName, c CopyAnswer, seen []Sighting) string {
	for _, s := range seen {
		if s.Node == n && s.Lineage == sl.Epoch && s.Highest > c.Position {
			return fmt.Sprintf("%s holds %s, and %s has heard it hold %s: it has lost what it held", n, c.Position, s.By, s.Highest)
		}
	}
	return ""
}

// wentAlone says that the master was heard to acknowledge alone in this epoch,
// although Raft has the slot as protected.
func wentAlone(sl cluster.Slot, seen []Sighting) string {
	for _, s := range seen {
		if s.Node == sl.Master && s.Epoch == sl.Epoch && s.Role == RoleMaster && s.Alone {
			return fmt.Sprintf("%s acknowledged alone since %s, as %s heard %s ago", sl.Master, s.AloneSince, s.By, age(time.Duration(s.AgoMs)*time.Millisecond))
		}
	}
	return ""
}
