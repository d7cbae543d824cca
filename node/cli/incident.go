package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mailnode/node/admin"
	"mailnode/storage/slot"
)

func (a *app) incident() *cobra.Command {
	return group("incident", "What was: a report from all nodes, and what people add to it", a.incidentReport(), a.incidentNote())
}

func (a *app) incidentReport() *cobra.Command {
	since := ""
	c := a.reads(a.verb("report", nil, "What all nodes have noted, as Markdown, and what is open now", func(ctx context.Context, _ []string) error {
		sinceS, err := parseAge(since)
		if err != nil {
			return err
		}
		r, err := a.client().Incident(ctx, sinceS)
		if err != nil {
			return err
		}
		return a.show(r, r.Markdown)
	}))
	c.Flags().StringVar(&since, "since", "2h", "how far back, such as 90m, 2h or 3d")
	return c
}

func (a *app) incidentNote() *cobra.Command {
	c := a.reads(a.verb("note", []string{"TEXT"}, "Add a note to the report, at every node that can be reached", nil))
	c.Args = nil
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usage("%sTEXT is missing", prefix(c))
		}
		n, err := a.client().Note(c.Context(), admin.NoteRequest{Text: strings.Join(args, " ")})
		if err != nil {
			return err
		}
		if a.asJSON {
			err = json.NewEncoder(a.out).Encode(n)
		} else {
			a.noted(n)
		}
		if err == nil && n.Again {
			return exitCode(admin.ExitNothing)
		}
		return err
	}
	return c
}

// noted says where a note is.
func (a *app) noted(n admin.Noted) {
	what := "noted at "
	if n.Again {
		what = "noted already, at "
	}
	var nodes []string
	for _, name := range n.Nodes {
		nodes = append(nodes, string(name))
	}
	a.say("%s%s", what, strings.Join(nodes, " "))
	for _, name := range slices.Sorted(maps.Keys(n.Missing)) {
		fmt.Fprint(a.out, wrap("", fmt.Sprintf("not at %s: %s", name, clean(n.Missing[name]))))
	}
}

func (a *app) failoverHistory() *cobra.Command {
	var id, since string
	c := a.reads(a.verb("history", nil, "The last 1,000 changes of ownership: who, when, why", func(ctx context.Context, _ []string) error {
		keep := func(admin.OwnerChange) bool { return true }
		if id != "" {
			s, err := slot.ParseID(id)
			if err != nil {
				return usage("--slot: %s", err)
			}
			if err := a.knownSlot(ctx, s); err != nil {
				return err
			}
			keep = func(c admin.OwnerChange) bool { return c.Slot == nil || *c.Slot == s }
		}
		sinceS, err := parseAge(since)
		if err != nil {
			return err
		}
		h, err := a.client().History(ctx)
		if err != nil {
			return err
		}
		now := time.Now()
		h.Changes = slices.DeleteFunc(h.Changes, func(c admin.OwnerChange) bool {
			at, err := time.Parse(time.RFC3339, c.When)
			return !keep(c) || sinceS > 0 && err == nil && now.Sub(at) > time.Duration(sinceS)*time.Second
		})
		return a.show(h, func() string { return staleLine(h.Recorded) + historyText(h.Changes) })
	}))
	c.Flags().StringVar(&id, "slot", "", "of this slot only")
	c.Flags().StringVar(&since, "since", "", "of the last 90m, 2h or 3d, by the wall clock")
	return c
}

// knownSlot refuses a slot that the cluster has not.
func (a *app) knownSlot(ctx context.Context, id slot.ID) error {
	there, err := a.client().Slots(ctx)
	if err != nil {
		return err
	}
	var ids []slot.ID
	for _, sl := range there.Slots {
		ids = append(ids, sl.Slot)
	}
	if slices.Contains(ids, id) {
		return nil
	}
	return usage("--slot: there is no %s; there are %s", id, someSlots(ids, screenWidth))
}

// historyText writes changes oldest first; those that differ in the slot alone are one.
func historyText(list []admin.OwnerChange) string {
	type entry struct {
		admin.OwnerChange
		slots []slot.ID
	}
	var entries []entry
	for _, c := range list {
		i := slices.IndexFunc(entries, func(e entry) bool { return sameChange(e.OwnerChange, c) })
		if i < 0 {
			i = len(entries)
			entries = append(entries, entry{OwnerChange: c})
		}
		if c.Slot != nil {
			entries[i].slots = append(entries[i].slots, *c.Slot)
		}
	}
	if len(entries) == 0 {
		return "no change of ownership is remembered\n"
	}
	var b strings.Builder
	for _, e := range entries {
		b.WriteString(clean(e.When) + "\n")
		what := moved(e.OwnerChange)
		if len(e.slots) > 0 {
			what = someSlots(e.slots, screenWidth) + ": " + what
		}
		b.WriteString(wrap("  ", what))
		var why []string
		for _, word := range []string{e.Proposal, e.By, e.Why} {
			if word != "" {
				why = append(why, clean(word))
			}
		}
		switch {
		case e.AcceptedLoss:
			why = append(why, "LOSS ACCEPTED")
		case e.Unclean:
			why = append(why, "unclean")
		}
		b.WriteString(wrap("    ", strings.Join(why, ", ")))
	}
	return b.String()
}

// moved says what became of a slot.
func moved(c admin.OwnerChange) string {
	switch {
	case c.Slot == nil:
		return "the cluster: " + clean(c.Kind)
	case c.Kind == "resolved":
		return fmt.Sprintf("the open loss of %s was closed", c.From)
	case c.From == "":
		return fmt.Sprintf("first master %s", c.To)
	case c.From == c.To:
		return fmt.Sprintf("%s again", c.To)
	}
	return fmt.Sprintf("%s -> %s", c.From, c.To)
}

// sameChange reports whether two entries differ in slot and epoch alone, and are
// seconds apart at most.
func sameChange(a, b admin.OwnerChange) bool {
	at, err := time.Parse(time.RFC3339, a.When)
	then, err2 := time.Parse(time.RFC3339, b.When)
	near := a.When == b.When || err == nil && err2 == nil && then.Sub(at).Abs() <= 10*time.Second
	a.Slot, b.Slot, a.Epoch, b.Epoch, a.When, b.When = nil, nil, 0, 0, "", ""
	return near && a == b
}
