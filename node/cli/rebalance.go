package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"mailnode/figures"
	"mailnode/node/admin"
	"mailnode/storage/slot"
)

func (a *app) slotRebalance() *cobra.Command {
	var dryRun, stop bool
	var node string
	c := a.changes(a.reads(a.verb("rebalance", nil, "Even out what nodes carry: copies are moved, the new one filled first", func(ctx context.Context, _ []string) error {
		if stop {
			if dryRun || node != "" {
				return usage("--stop stands alone")
			}
			return a.stopMoves(ctx)
		}
		if a.asJSON && !dryRun {
			return usage("--json belongs to --dry-run")
		}
		m, err := a.client().Moves(ctx, slot.NodeName(node))
		if err != nil {
			return err
		}
		if dryRun {
			return a.show(m, func() string { return movesScreen(m, node) })
		}
		again := "mailnode slot rebalance"
		if node != "" {
			again += " --node " + node
		}
		return a.rebalance(ctx, m, node, again)
	})))
	c.Flags().BoolVar(&dryRun, "dry-run", false, "show the moves, change nothing")
	c.Flags().StringVar(&node, "node", "", "move everything off this node, and nothing else")
	c.Flags().BoolVar(&stop, "stop", false, "give up the moves that are under way; what is copied already is finished")
	return c
}

// rebalance shows the moves, asks, and has them recorded.
func (a *app) rebalance(ctx context.Context, m admin.Moves, node, again string) error {
	fmt.Fprint(a.err, movesScreen(m, node))
	switch {
	case len(m.Planned) == 0 && len(m.Cannot) > 0:
		return &admin.Error{Text: "nothing was done: no node can take a copy of " + slotRanges(m.Cannot), Exit: admin.ExitRefused, Next: "mailnode cluster members"}
	case len(m.Planned) == 0:
		return exitCode(admin.ExitNothing)
	}
	if err := a.agree("move them?", again); err != nil {
		return err
	}
	if err := a.client().StartMoves(ctx, m.Planned); err != nil {
		return err
	}
	a.say("begun: %s; this goes on by itself", figures.Count(len(m.Planned), "move"))
	a.say("  to watch: mailnode slot list")
	a.say("  to stop:  mailnode slot rebalance --stop")
	if len(m.Cannot) > 0 {
		return exitCode(admin.ExitRefused)
	}
	return nil
}

func (a *app) stopMoves(ctx context.Context) error {
	fmt.Fprint(a.out, wrap("", "giving up all moves: the new copies are dropped, the old ones stay; a move that has only to drop its old copy ends"))
	if err := a.agree("stop them?", "mailnode slot rebalance --stop"); err != nil {
		return err
	}
	if err := a.client().StopMoves(ctx); err != nil {
		return err
	}
	a.say("stopped")
	a.say("  to watch: mailnode slot list")
	return nil
}

// movesMax is how many moves are shown.
const movesMax = 12

// movesScreen shows what is planned, and what is under way, in screenWidth columns.
func movesScreen(m admin.Moves, node string) string {
	var b strings.Builder
	for i, mv := range m.UnderWay {
		if i == 0 {
			b.WriteString("under way\n")
		}
		if i < movesMax {
			b.WriteString(wrap("  ", fmt.Sprintf("%s: %s", mv.Slot, clean(mv.State))))
		}
	}
	more(&b, len(m.UnderWay))
	leads := 0
	for i, mv := range m.Planned {
		if i == 0 {
			fmt.Fprintf(&b, "%s, %s to copy\n", figures.Count(len(m.Planned), "move"), figures.Size(m.Bytes))
		}
		if mv.Lead != "" {
			leads++
		}
		if i < movesMax {
			b.WriteString(wrap("  ", moveLine(mv)))
		}
	}
	more(&b, len(m.Planned))
	if len(m.Cannot) > 0 {
		b.WriteString(wrap("", "no node can take a copy of "+slotRanges(m.Cannot)))
	}
	switch {
	case m.Bytes > 0:
		b.WriteString(wrap("", fmt.Sprintf("about %s at %s/s into a node, when the disks keep up; the new copy is filled first, the old one dropped last", age(m.AboutS), figures.Size(m.RatePerS))))
	case len(m.Planned) == 0 && len(m.Cannot) == 0 && node != "" && len(m.UnderWay) == 0:
		b.WriteString(wrap("", clean(node)+" holds no copy that can be moved"))
	case len(m.Planned) == 0 && len(m.Cannot) == 0:
		b.WriteString("nothing more to move\n")
	}
	if leads > 0 {
		b.WriteString(wrap("", figures.Count(leads, "change")+" of master will be proposed when all is copied: a person confirms"))
	}
	return b.String()
}

func more(b *strings.Builder, n int) {
	if n > movesMax {
		fmt.Fprintf(b, "  and %d more (--dry-run --json)\n", n-movesMax)
	}
}

// moveLine says what one planned move does.
func moveLine(m admin.Move) string {
	text := m.Slot.String() + ": "
	switch {
	case m.To == "":
		return fmt.Sprintf("%s%s becomes master, nothing to copy", text, m.Lead)
	case m.From == "":
		text += fmt.Sprintf("one more copy, on %s", m.To)
	default:
		text += fmt.Sprintf("copy %s > %s", m.From, m.To)
	}
	text += ", " + figures.Size(m.Bytes)
	if m.Lead != "" {
		text += fmt.Sprintf(", then master %s", m.Lead)
	}
	return text
}
