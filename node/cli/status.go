package cli

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"mailnode/figures"
	"mailnode/node/admin"
	"mailnode/node/monitor"
	"mailnode/storage/slot"
)

func (a *app) status() *cobra.Command {
	verbose := false
	c := a.reads(a.verb("status", nil, "One screen: verdict, what to do first, nodes, slots, conditions, proposals", func(ctx context.Context, _ []string) error {
		s, err := a.client().Status(ctx)
		if err != nil {
			return err
		}
		return a.show(s, func() string { return statusScreen(s, isTerminal(a.out) && os.Getenv("NO_COLOR") == "", verbose) })
	}))
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "also what is well, and all of what is not")
	return c
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

// statusScreen is the one screen, in screenWidth columns: the verdict in its first
// line, what to type first in its second.
func statusScreen(s admin.Status, colour, verbose bool) string {
	p := paint(colour)
	var b strings.Builder
	code := "1;31"
	if s.Verdict == "all is well" {
		code = "32"
	}
	b.WriteString(p.as(code, topLine(s)) + "\n" + firstLine(s.First))
	b.WriteString(nodeLines(s, p))
	b.WriteString(slotLines(s.Slots, verbose))
	b.WriteString(conditionLines(s.Conditions, p, verbose))
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

// topLine is the verdict with as many problems as one line has room for.
func topLine(s admin.Status) string {
	text := s.Verdict
	for named := 4; named >= 0 && utf8.RuneCountInString(text) > screenWidth; named-- {
		text = admin.Verdict(s, named)
	}
	return text
}

// firstLine is the one thing to do first.
func firstLine(command string) string {
	if command == "" {
		return ""
	}
	return wrap("", "first: "+clean(command))
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
		rows = append(rows, []string{string(n.Name), state, strings.Join(marks, ", ")})
	}
	title := "\nnodes"
	if s.Leader == "" {
		title += " (no leader)"
	}
	text := narrow("  ", rows)
	if p {
		text = strings.ReplaceAll(text, " silent", " "+p.as("31", "silent"))
	}
	return title + "\n" + text
}

// conditionLinesMax is how many conditions get their text on the screen.
const conditionLinesMax = 6

func conditionLines(list []monitor.Condition, p paint, verbose bool) string {
	var b strings.Builder
	left := len(list)
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(x, y monitor.Condition) int {
		switch {
		case x.Before(y):
			return -1
		case y.Before(x):
			return 1
		}
		return 0
	})
	for i, g := range groupConditions(list) {
		if i == 0 {
			b.WriteString("\nconditions\n")
		}
		if i == conditionLinesMax && !verbose {
			fmt.Fprintf(&b, "  and %d more: mailnode status --verbose\n", left)
			break
		}
		left -= len(g)
		head := fmt.Sprintf("%s: %s", g[0].Severity, g[0].Name)
		if about := aboutText(g, verbose); about != "" {
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
		b.WriteString(conditionText("    ", g[0]))
	}
	return b.String()
}

// conditionText has the command in lines of its own, to be copied.
func conditionText(indent string, c monitor.Condition) string {
	text, _ := strings.CutSuffix(c.Text, ": "+c.Next)
	return wrap(indent, clean(text)) + wrap(indent, clean(c.Next))
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
func aboutText(g []monitor.Condition, verbose bool) string {
	if len(g) == 1 {
		return clean(g[0].About)
	}
	var ids []slot.ID
	for _, c := range g {
		if id, err := slot.ParseID(c.About); err == nil {
			ids = append(ids, id)
		}
	}
	if verbose {
		return slotRanges(ids)
	}
	return someSlots(ids, screenWidth/2)
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
		text := fmt.Sprintf("%s: %s", pr.ID, figures.Count(left, "slot"))
		if pr.Node != "" {
			text += " of " + string(pr.Node)
		}
		b.WriteString(wrap("  ", fmt.Sprintf("%s, %s, for %s", text, usersText(pr.Slots), age(pr.SinceS))))
		b.WriteString(wrap("    ", "mailnode failover show "+pr.ID) + wrap("    ", "mailnode failover confirm "+pr.ID))
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
		return "at least " + figures.Count(users, "user")
	}
	return figures.Count(users, "user")
}
