package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"mailnode/figures"
	"mailnode/node/admin"
	"mailnode/storage/slot"
)

// slotGroup is a line of the screen: slots that stand alike.
type slotGroup struct {
	masters []slot.NodeName
	others  []string // nodes with another copy, those that are not viable with a !
	state   string
	ids     []slot.ID
	lagS    float64 // of the slot whose best replica is furthest behind
	unsaid  bool    // no replica's lag is known
}

// groupOf shows a single slot as a group.
func groupOf(s admin.SlotStatus) slotGroup {
	g := slotGroup{state: slotState(s), ids: []slot.ID{s.Slot}}
	if s.Master != "" {
		g.masters = []slot.NodeName{s.Master}
	}
	best := -1.0
	for _, c := range s.Copies {
		if c.Node == s.Master {
			continue
		}
		name := string(c.Node)
		if !c.Viable {
			name += "!"
		} else if c.LagS != nil && (best < 0 || *c.LagS < best) {
			best = *c.LagS
		}
		g.others = append(g.others, name)
	}
	slices.Sort(g.others)
	g.lagS, g.unsaid = max(best, 0), best < 0
	return g
}

// bad are the copies that are not viable.
func (g slotGroup) bad() string {
	var bad []string
	for _, name := range g.others {
		if strings.HasSuffix(name, "!") {
			bad = append(bad, name)
		}
	}
	return strings.Join(bad, " ")
}

// joins reports whether two groups are one line: the same is wrong with them; each
// pair of nodes has its own line when that is asked for. A lag that is shown is the
// lag of all of them.
func (g slotGroup) joins(h slotGroup, pairs bool) bool {
	return g.state == h.state && g.bad() == h.bad() && (g.state != "protected" || g.unsaid == h.unsaid) &&
		(!pairs || slices.Equal(g.masters, h.masters) && slices.Equal(g.others, h.others))
}

// union is what is in either of two sorted lists, each once.
func union[T cmp.Ordered](a, b []T) []T {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(a, b))))
}

// groupSlots puts slots that stand alike together, those in trouble first.
func groupSlots(slots []admin.SlotStatus, pairs bool) []slotGroup {
	var groups []slotGroup
	for _, s := range slots {
		g := groupOf(s)
		at := slices.IndexFunc(groups, func(h slotGroup) bool { return g.joins(h, pairs) })
		if at < 0 {
			groups = append(groups, g)
			continue
		}
		h := &groups[at]
		h.ids, h.masters, h.others = append(h.ids, g.ids...), union(h.masters, g.masters), union(h.others, g.others)
		h.lagS = max(h.lagS, g.lagS)
	}
	slices.SortStableFunc(groups, func(x, y slotGroup) int { return stateRank(x.state) - stateRank(y.state) })
	return groups
}

func slotState(s admin.SlotStatus) string {
	switch {
	case s.Master == "":
		return "NO MASTER"
	case !s.Serving && s.Waiting != "":
		return "NOT SERVED (" + clean(s.Waiting) + ")"
	case !s.Serving:
		return "NOT SERVED"
	case len(s.Copies) < 2 && !s.IsProtected():
		return "no replicas"
	case s.Protected == nil:
		return "protection not known"
	case !*s.Protected && s.RecordedProtected:
		return "UNPROTECTED (recorded as protected)"
	case !*s.Protected:
		return "UNPROTECTED"
	}
	return "protected"
}

func stateRank(state string) int {
	switch {
	case strings.HasPrefix(state, "NO"):
		return 0
	case strings.HasPrefix(state, "UNPROTECTED"), state == "protection not known":
		return 1
	}
	return 2
}

// well reports whether a group needs no look: each copy is good, and how far the
// best replica is behind is known.
func (g slotGroup) well() bool {
	return g.state == "protected" && !g.unsaid && g.bad() == ""
}

// slotLines shows the slots that stand alike together. Those that are well are one
// line, unless verbose.
func slotLines(slots []admin.SlotStatus, verbose bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n", figures.Count(len(slots), "slot"))
	well, lagS := 0, 0.0
	for _, g := range groupSlots(slots, verbose) {
		if g.well() && !verbose {
			well, lagS = well+len(g.ids), max(lagS, g.lagS)
			continue
		}
		ids := slotRanges(g.ids)
		if !verbose {
			ids = someSlots(g.ids, screenWidth-2)
		}
		b.WriteString(wrap("  ", ids))
		where := joinNames(g.masters)
		if where == "" {
			where = "nobody"
		}
		if len(g.others) > 0 {
			where += " > " + strings.Join(g.others, " ")
		}
		text := where + ", " + g.state
		switch {
		case g.state == "protected" && g.unsaid:
			text += ", lag not known"
		case g.state == "protected":
			text += fmt.Sprintf(", lag %.1f s", g.lagS)
		}
		b.WriteString(wrap("    ", text))
	}
	switch {
	case well == len(slots) && well > 0:
		fmt.Fprintf(&b, "  all protected, lag %.1f s\n", lagS)
	case well > 0:
		fmt.Fprintf(&b, "  the other %d protected, lag %.1f s\n", well, lagS)
	}
	return b.String()
}
