package failover

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"mailnode/figures"
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

// forgottenEpoch is an epoch that a node has seen and that Raft does not know.
type forgottenEpoch struct {
	epoch slot.Epoch
	why   string // "" when there is none
}

// seen is the highest epoch of which a copy's report tells: the newest in its
// history, or that of the change of masters by which its node works.
func (c CopyReport) seen() slot.Epoch { return max(c.Lineage, c.Epoch) }

// beyond finds an epoch above the one that Raft has, in what was answered and in
// what was heard. Raft's files were emptied, or older ones put back, on too many
// nodes: whatever it says of the slot may be over, and nothing is safe.
func (pl planner) beyond(sl cluster.Slot, seen []Sighting) forgottenEpoch {
	out := forgottenEpoch{epoch: sl.Epoch}
	note := func(n slot.NodeName, c CopyReport) {
		if e := c.seen(); e > out.epoch {
			out = forgottenEpoch{e, fmt.Sprintf("%s has seen epoch %d, Raft knows %d: it has forgotten a change of masters. A confirmation begins epoch %d, with the copy that has seen the most", n, e, sl.Epoch, e+1)}
		}
	}
	for _, n := range slices.Sorted(maps.Keys(pl.answers)) {
		if c, ok := pl.answers[n].copies[sl.ID]; ok {
			note(n, c.CopyReport)
		}
	}
	for _, s := range seen {
		note(s.Node, s.CopyReport)
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
			return fmt.Sprintf("%s acknowledged alone since %s, as %s heard %s ago", sl.Master, s.AloneSince, s.By, figures.Age(time.Duration(s.AgoMs)*time.Millisecond))
		}
	}
	return ""
}
