package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"mailnode/node/admin"
	"mailnode/storage/slot"
)

func (a *app) slotVerb() *cobra.Command {
	return group("slot", "Mail stores: who has them, how far their copies are", a.slotList(), a.slotShow(), a.slotAudit(), a.slotMissing(), a.slotReindex())
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
						replicas = append(replicas, string(c.Node))
					}
				}
				rows = append(rows, []string{x.Slot.String(), fmt.Sprint(x.Epoch), orDash(string(x.Master)), orDash(strings.Join(replicas, " ")), slotState(x)})
			}
			return table(rows)
		})
	}))
}

func (a *app) slotShow() *cobra.Command {
	return a.reads(a.verb("show", []string{"SLOT"}, "One slot: copies, users, past masters", func(ctx context.Context, args []string) error {
		if _, err := slot.ParseID(args[0]); err != nil {
			return &admin.Error{Text: err.Error(), Exit: admin.ExitUsage, Next: "mailnode slot list"}
		}
		s, err := a.client().Slot(ctx, args[0])
		if err != nil {
			return err
		}
		return a.show(s, func() string { return slotScreen(s) })
	}))
}

func slotScreen(s admin.SlotDetail) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: epoch %d, master %s, %s\n", s.Slot, s.Epoch, orDash(string(s.Master)), slotState(s.SlotStatus))
	users := "not known"
	if s.UsersKnown {
		users = fmt.Sprint(s.Users)
	}
	rows := [][]string{{"  users", users}, {"  in sync", orDash(joinNames(s.InSync))}, {"  unclean epochs", fmt.Sprint(s.Unclean)}}
	if s.UnprotectedSince != 0 {
		rows = append(rows, []string{"  unprotected since", s.UnprotectedSince.String()})
	}
	b.WriteString(table(rows))
	if s.ProtectedSource != "" {
		b.WriteString(wrap("  ", fmt.Sprintf("%s now: %s", protectedWord(s.Protected), clean(s.ProtectedSource))))
	}
	if s.RecordSource != "" {
		b.WriteString(wrap("  ", fmt.Sprintf("recorded as %s: %s", protectedWord(&s.RecordedProtected), clean(s.RecordSource))))
	}
	if s.OpenLoss != "" {
		b.WriteString(wrap("  ", "open loss: "+clean(s.OpenLoss)))
	}
	rows = [][]string{{"  COPY", "STATE", "POSITION", "LAG", "HEARD"}}
	for _, c := range s.Copies {
		state := orDash(c.State)
		if !c.Viable {
			state += ", not viable"
		}
		position, lag, heard := "not known", "not known", "never"
		if c.Position != nil {
			position = c.Position.String()
		}
		if c.LagS != nil {
			lag = fmt.Sprintf("%.1f s", *c.LagS)
		}
		if c.HeardS != nil {
			heard = fmt.Sprintf("%.1f s ago", *c.HeardS)
		}
		rows = append(rows, []string{"  " + string(c.Node), state, position, lag, heard})
	}
	b.WriteString(table(rows))
	for _, c := range s.Copies {
		for i, line := range c.SelfCheck {
			if i == 0 {
				fmt.Fprintf(&b, "  %s, when it was opened\n", c.Node)
			}
			b.WriteString(wrap("    ", clean(line)))
		}
	}
	for i, h := range s.History {
		if i == 0 {
			b.WriteString("  masters so far\n")
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
		b.WriteString(wrap("    ", text))
	}
	return b.String()
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
