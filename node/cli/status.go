package cli

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mailnode/node/admin"
	"mailnode/node/monitor"
	"mailnode/storage/slot"
)

func (a *app) status() *cobra.Command {
	return a.reads(a.verb("status", nil, "One screen: verdict, nodes, slots, lag, conditions, proposals", func(ctx context.Context, _ []string) error {
		s, err := a.client().Status(ctx)
		if err != nil {
			return err
		}
		return a.show(s, func() string { return statusScreen(s, isTerminal(a.out) && os.Getenv("NO_COLOR") == "") })
	}))
}

// paint colours text for a terminal.
type paint bool

func (p paint) as(code, text string) string {
	if !p {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p paint) severity(s monitor.Severity, text string) string {
	switch s {
	case monitor.Page:
		return p.as("1;31", text)
	case monitor.Warn:
		return p.as("33", text)
	}
	return text
}

// statusScreen is the one screen, in screenWidth columns.
func statusScreen(s admin.Status, colour bool) string {
	p := paint(colour)
	var b strings.Builder
	verdict, code := wrap("", s.Verdict), "1;31"
	if s.Verdict == "all is well" {
		code = "32"
	}
	for line := range strings.Lines(verdict) {
		b.WriteString(p.as(code, strings.TrimSuffix(line, "\n")) + "\n")
	}
	b.WriteString(nodeLines(s, p))
	b.WriteString(slotLines(s.Slots))
	b.WriteString(conditionLines(s.Conditions, p))
	b.WriteString(proposalLines(s.Proposals))
	if s.RecordStale {
		b.WriteString("\n" + staleLine(s.Recorded))
	}
	for i, j := range s.Jobs {
		if i == 0 {
			b.WriteString("\njobs\n")
		}
		b.WriteString(wrap("  ", fmt.Sprintf("%s %s %s: %s", j.ID, j.Kind, clean(j.About), progressText(j))))
	}
	return b.String()
}

func nodeLines(s admin.Status, p paint) string {
	rows := make([][]string, 0, len(s.Nodes))
	for _, n := range s.Nodes {
		var marks []string
		if n.Name == s.Leader {
			marks = append(marks, "leader")
		}
		if n.Name == s.Node {
			marks = append(marks, "this node")
		}
		for word, is := range map[string]bool{"witness": n.Witness, "standby": n.Standby, "no vote": !n.Voter && !n.Witness} {
			if is {
				marks = append(marks, word)
			}
		}
		slices.Sort(marks)
		state := n.State
		if n.SilentS > 0 && n.State == "silent" {
			state += " " + age(n.SilentS)
		}
		rows = append(rows, []string{"  " + string(n.Name), state, strings.Join(marks, ", ")})
	}
	title := "\nnodes"
	if s.Leader == "" {
		title += " (no leader)"
	}
	text := table(rows)
	if p {
		text = strings.ReplaceAll(text, " silent", " "+p.as("31", "silent"))
	}
	return title + "\n" + text
}

// slotGroup is a line of the screen: slots that stand alike.
type slotGroup struct {
	master slot.NodeName
	others string // nodes with another copy
	state  string
	ids    []slot.ID
	lagS   float64 // of the slot whose best replica is furthest behind
	unsaid bool    // of one of the slots no replica's lag is known
}

// groupSlots puts slots that stand alike together, those in trouble first.
func groupSlots(slots []admin.SlotStatus) []slotGroup {
	var groups []slotGroup
	for _, s := range slots {
		g := slotGroup{master: s.Master, state: slotState(s), ids: []slot.ID{s.Slot}}
		var others []string
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
			others = append(others, name)
		}
		slices.Sort(others)
		g.others, g.lagS, g.unsaid = strings.Join(others, " "), max(best, 0), best < 0
		at := slices.IndexFunc(groups, func(h slotGroup) bool { return h.master == g.master && h.others == g.others && h.state == g.state })
		if at < 0 {
			groups = append(groups, g)
			continue
		}
		groups[at].ids = append(groups[at].ids, s.Slot)
		groups[at].lagS, groups[at].unsaid = max(groups[at].lagS, g.lagS), groups[at].unsaid || g.unsaid
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

func slotLines(slots []admin.SlotStatus) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n", counted(len(slots), "slot"))
	for _, g := range groupSlots(slots) {
		b.WriteString(wrap("  ", slotRanges(g.ids)))
		where := string(g.master)
		if where == "" {
			where = "nobody"
		}
		if g.others != "" {
			where += " > " + g.others
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
	return b.String()
}

// conditionLinesMax is how many conditions get their text on the screen.
const conditionLinesMax = 6

func conditionLines(list []monitor.Condition, p paint) string {
	var b strings.Builder
	left := len(list)
	for i, g := range groupConditions(list) {
		if i == 0 {
			b.WriteString("\nconditions\n")
		}
		if i == conditionLinesMax {
			fmt.Fprintf(&b, "  and %d more: mailnode status --json\n", left)
			break
		}
		left -= len(g)
		head := fmt.Sprintf("%s: %s", g[0].Severity, g[0].Name)
		if about := aboutText(g); about != "" {
			head += " " + about
		}
		since := g[0].SinceS
		for _, c := range g {
			since = max(since, c.SinceS)
		}
		indent := "  "
		for line := range strings.Lines(wrap("    ", fmt.Sprintf("%s, for %s", head, age(since)))) {
			b.WriteString(indent + p.severity(g[0].Severity, strings.TrimSpace(line)) + "\n")
			indent = "    "
		}
		b.WriteString(wrap("    ", clean(g[0].Text)))
	}
	return b.String()
}

// groupConditions puts together of what the same is said: one dead node takes many
// slots with it, and one disk that hangs.
func groupConditions(list []monitor.Condition) [][]monitor.Condition {
	var out [][]monitor.Condition
	at := map[string]int{}
	for _, c := range list {
		key := fmt.Sprintf("%s|%s|%s", c.Name, c.About, c.Text)
		if _, err := slot.ParseID(c.About); err == nil {
			key = fmt.Sprintf("%s||%s", c.Name, strings.ReplaceAll(c.Text, c.About, "SLOT"))
		}
		i, ok := at[key]
		if !ok {
			i = len(out)
			at[key] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], c)
	}
	return out
}

// aboutText names what a group's conditions are about.
func aboutText(g []monitor.Condition) string {
	if len(g) == 1 {
		return clean(g[0].About)
	}
	var ids []slot.ID
	for _, c := range g {
		if id, err := slot.ParseID(c.About); err == nil {
			ids = append(ids, id)
		}
	}
	return slotRanges(ids)
}

func proposalLines(list []admin.Proposal) string {
	var b strings.Builder
	for i, pr := range list {
		if i == 0 {
			b.WriteString("\nproposals\n")
		}
		left := 0
		for _, s := range pr.Slots {
			if !s.Done {
				left++
			}
		}
		text := fmt.Sprintf("%s: %s", pr.ID, counted(left, "slot"))
		if pr.Node != "" {
			text += " of " + string(pr.Node)
		}
		b.WriteString(wrap("  ", fmt.Sprintf("%s, %s, for %s", text, usersText(pr.Slots), age(pr.SinceS))))
		fmt.Fprintf(&b, "    mailnode failover show %s\n    mailnode failover confirm %s\n", pr.ID, pr.ID)
	}
	return b.String()
}

// usersText counts the users of a proposal's slots, as far as they are known.
func usersText(slots []admin.ProposedSlot) string {
	users, unsaid := 0, false
	for _, s := range slots {
		if s.Users != nil {
			users += *s.Users
		} else {
			unsaid = unsaid || !s.Done
		}
	}
	switch {
	case unsaid && users == 0:
		return "users not known"
	case unsaid:
		return "at least " + counted(users, "user")
	}
	return counted(users, "user")
}
