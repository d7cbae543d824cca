package failover

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// settleAfter is how long positions must stand still before a proposal's target
// changes because of them: behind a master that is only cut off, replicas
// overtake each other all the time.
const settleAfter = 3 * time.Second

// candidate is a viable copy of a slot.
type candidate struct {
	node     slot.NodeName
	standby  bool
	lineage  slot.Epoch
	position slot.Position
	still    bool
}

// ahead compares how much two copies hold. Positions order events only along one
// lineage: a copy that has not begun the newer epoch may hold a dead tail of the
// older one, so the epoch comes first.
func (c candidate) ahead(o candidate) int {
	if d := cmp.Compare(c.lineage, o.lineage); d != 0 {
		return d
	}
	return cmp.Compare(c.position, o.position)
}

// preferred orders candidates, best first: no standby while there is another,
// then the one that holds most.
func (c candidate) preferred(o candidate) int {
	if c.standby != o.standby {
		if o.standby {
			return -1
		}
		return 1
	}
	return -c.ahead(o)
}

// survey is what is known about the replicas of one slot.
type survey struct {
	viable  []candidate // by node name
	notes   []string    // about the others
	unknown bool        // a replica was not heard since our start or pause
}

func (w *watch) survey(sl cluster.Slot) survey {
	var s survey
	for _, n := range slices.Sorted(slices.Values(sl.Replicas)) {
		m, _ := w.st.Member(n)
		c, ok := w.v.copyOf(n, sl.ID)
		why := ""
		switch p := w.v.presence(n, w.suspectAfter); {
		case p == unknown:
			s.unknown = true
			why = "was not heard yet"
		case p == silent:
			why = "is silent"
		case !w.v.reports(n, w.suspectAfter):
			why = "is cut off from " + string(w.v.Self)
		case !ok:
			why = "reports no copy"
		default:
			why = c.fault()
		}
		if why != "" {
			s.notes = append(s.notes, fmt.Sprintf("%s %s", n, why))
			continue
		}
		_, leaves := sl.Leaves(n) // it is the last choice, like a standby
		s.viable = append(s.viable, candidate{node: n, standby: m.Standby || leaves, lineage: c.Lineage, position: c.Position,
			still: w.v.Now-c.StillSince >= settleAfter})
	}
	return s
}

// target chooses the copy to propose, nil when none is viable. Ties go to the
// node with the least to do, so that a dead node's slots spread. The present
// target stays unless another is really better.
func (w *watch) target(s survey, present slot.NodeName) *candidate {
	var best, now *candidate
	for i := range s.viable {
		c := &s.viable[i]
		if c.node == present {
			now = c
		}
		if best == nil {
			best = c
			continue
		}
		d := c.preferred(*best)
		if d < 0 || d == 0 && w.load[c.node] < w.load[best.node] {
			best = c
		}
	}
	if now == nil || best == now {
		return best
	}
	restless := now.standby == best.standby && !(now.still && best.still)
	if best.preferred(*now) == 0 || restless {
		return now
	}
	return best
}

// proposed writes a choice down as Raft keeps it.
func (w *watch) proposed(sl cluster.Slot, s survey, to *candidate) cluster.ProposedSlot {
	ps := cluster.ProposedSlot{Slot: sl.ID, Epoch: sl.Epoch, From: sl.Master}
	for _, c := range s.viable {
		if to != nil && c.node == to.node {
			ps.To, ps.Position = c.node, c.position
		} else {
			ps.Others = append(ps.Others, c.node)
		}
	}
	ps.Note = strings.Join(s.notes, ", ")
	if len(sl.Replicas) == 0 {
		ps.Note = "no other copy of it exists"
	}
	ps.Note = short(ps.Note)
	return ps
}
