package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mailnode/node/admin"
	"mailnode/storage/slot"
)

func (a *app) slotVerb() *cobra.Command {
	return group("slot", "Mail stores: who has them, how far their copies are", a.slotList(), a.slotShow(), a.slotAudit(), a.slotMissing(), a.slotReindex(),
		a.slotAddReplica(), a.slotDropReplica(), a.slotReplicas(), a.slotRebalance())
}

func (a *app) slotList() *cobra.Command {
	return a.reads(a.verb("list", nil, "All slots", func(ctx context.Context, _ []string) error {
		s, err := a.client().Slots(ctx)
		if err != nil {
			return err
		}
		return a.show(s, func() string {
			rows := [][]string{{"SLOT", "EPOCH", "MASTER", "REPLICAS", "STATE"}}
			for _, x := range s.Slots {
				var replicas []string
				for _, c := range x.Copies {
					if c.Node != x.Master {
						name := string(c.Node)
						if slices.Contains(x.Leaving, c.Node) {
							name += " (leaves)"
						}
						replicas = append(replicas, name)
					}
				}
				rows = append(rows, []string{x.Slot.String(), fmt.Sprint(x.Epoch), orDash(string(x.Master)), orDash(strings.Join(replicas, " ")), movingState(x)})
			}
			return table(rows)
		})
	}))
}

func (a *app) slotShow() *cobra.Command {
	verbose := false
	c := a.reads(a.verb("show", []string{"SLOT"}, "One slot: copies, users, past masters", func(ctx context.Context, args []string) error {
		if _, err := slot.ParseID(args[0]); err != nil {
			return &admin.Error{Text: err.Error(), Exit: admin.ExitUsage, Next: "mailnode slot list"}
		}
		s, err := a.client().Slot(ctx, args[0])
		if err != nil {
			return err
		}
		return a.show(s, func() string { return slotScreen(s, verbose) })
	}))
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "also what has passed its self-check")
	return c
}

// slotScreen shows one slot in screenWidth columns: how it is in its first line,
// what to type first in its second.
func slotScreen(s admin.SlotDetail, verbose bool) string {
	var b strings.Builder
	state := movingState(s.SlotStatus)
	if s.OpenLoss != "" {
		state += ", open loss"
	}
	b.WriteString(wrap("", fmt.Sprintf("%s: %s", s.Slot, state)))
	b.WriteString(firstLine(slotFirst(s)))
	users := "not known"
	if s.UsersKnown {
		users = fmt.Sprint(s.Users)
	}
	rows := [][]string{{"master", orDash(string(s.Master))}, {"epoch", fmt.Sprint(s.Epoch)}, {"users", users}, {"in sync", orDash(joinNames(s.InSync))}, {"unclean epochs", fmt.Sprint(s.Unclean)}}
	if len(s.Leaving) > 0 {
		rows = append(rows, []string{"being dropped", joinNames(s.Leaving)})
	}
	if s.UnprotectedSince != 0 {
		rows = append(rows, []string{"unprotected since", s.UnprotectedSince.String()})
	}
	b.WriteString(narrow("  ", rows))
	if s.ProtectedSource != "" {
		b.WriteString(wrap("  ", fmt.Sprintf("%s now: %s", protectedWord(s.Protected), clean(s.ProtectedSource))))
	}
	if s.RecordSource != "" {
		b.WriteString(wrap("  ", fmt.Sprintf("recorded as %s: %s", protectedWord(&s.RecordedProtected), clean(s.RecordSource))))
	}
	if s.OpenLoss != "" {
		b.WriteString(wrap("  ", "open loss: "+clean(s.OpenLoss)))
	}
	for _, c := range s.Conditions {
		b.WriteString(wrap("  ", fmt.Sprintf("%s: %s, for %s", c.Severity, c.Name, age(c.SinceS))) + conditionText("    ", c))
	}
	for i, c := range s.Copies {
		if i == 0 {
			b.WriteString("copies\n")
		}
		b.WriteString(copyLines(c, verbose))
	}
	for _, c := range s.Dropped {
		c.Viable = true // it is no part of the slot any more
		b.WriteString(copyLines(c, verbose))
	}
	b.WriteString(digestLine(s))
	for i, h := range s.History {
		if i == 0 {
			b.WriteString("masters so far\n")
		}
		text := fmt.Sprintf("epoch %d: %s > %s", h.Epoch, orDash(string(h.From)), orDash(string(h.To)))
		for _, more := range []string{h.When, h.By, h.Why} {
			if more != "" {
				text += ", " + clean(more)
			}
		}
		if h.Unclean {
			text += ", unclean"
		}
		b.WriteString(wrap("  ", text))
	}
	return b.String()
}

// movingState is how a slot is, and what is moved of it.
func movingState(x admin.SlotStatus) string {
	if x.Move == "" {
		return slotState(x)
	}
	return slotState(x) + "; moves " + clean(x.Move)
}

// slotFirst is what to type first about a slot, "" when there is nothing to do.
func slotFirst(s admin.SlotDetail) string {
	if s.Proposal != "" {
		return "mailnode failover show " + s.Proposal
	}
	for _, c := range s.Conditions {
		if c.Next != "" && !strings.HasPrefix(c.Next, "mailnode slot show") {
			return c.Next
		}
	}
	if s.OpenLoss != "" {
		return "mailnode rescue show " + s.Slot.String()
	}
	return ""
}

// copyLines shows one copy of a slot.
func copyLines(c admin.CopyStatus, verbose bool) string {
	state := orDash(c.State)
	if !c.Viable {
		state += ", not viable"
	}
	position, lag, heard := "position not known", "lag not known", "never heard"
	if c.Position != nil {
		position = "at " + c.Position.String()
	}
	if c.LagS != nil {
		lag = fmt.Sprintf("lag %.1f s", *c.LagS)
	}
	if c.HeardS != nil {
		heard = fmt.Sprintf("heard %.1f s ago", *c.HeardS)
	}
	text := wrap("  ", fmt.Sprintf("%s: %s", c.Node, state)) + wrap("    ", strings.Join([]string{position, lag, heard}, ", "))
	if c.Filling != "" {
		text += wrap("    ", "being filled: "+clean(c.Filling))
	}
	if c.Waiting != "" {
		text += wrap("    ", "still there: "+clean(c.Waiting))
	}
	if c.Digest != "" {
		text += wrap("    ", fmt.Sprintf("digest at %s", c.DigestAt)) + wrap("      ", clean(c.Digest))
	}
	passed := 0
	for _, line := range c.SelfCheck {
		if strings.HasPrefix(line, "ok: ") {
			passed++
		}
	}
	if passed > 0 && !verbose {
		text += wrap("    ", fmt.Sprintf("self-check: %d of %d passed", passed, len(c.SelfCheck)))
	}
	for _, line := range c.SelfCheck {
		if verbose || !strings.HasPrefix(line, "ok: ") {
			text += wrap("    ", clean(line))
		}
	}
	return text
}

// digestLine says what the digests of copies at one position prove (law 8).
func digestLine(s admin.SlotDetail) string {
	at := map[slot.Position]string{}
	for _, c := range s.Copies {
		if was, known := at[c.DigestAt]; known && c.Digest != "" && was != c.Digest {
			return wrap("  ", fmt.Sprintf("digests differ at %s: mailnode slot audit %s", c.DigestAt, s.Slot))
		}
		if c.Digest != "" {
			at[c.DigestAt] = c.Digest
		}
	}
	return ""
}

func protectedWord(p *bool) string {
	switch {
	case p == nil:
		return "not known whether protected"
	case *p:
		return "protected"
	}
	return "unprotected"
}

func joinNames(names []slot.NodeName) string {
	parts := make([]string, len(names))
	for i, n := range names {
		parts[i] = string(n)
	}
	return strings.Join(parts, " ")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
