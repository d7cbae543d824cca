package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"mailnode/node/admin"
	"mailnode/storage/slot"
)

// slotServe brings back a copy that has stopped, or lets a master serve that waits for
// a quorum.
func (a *app) slotServe() *cobra.Command {
	without := false
	c := a.reads(a.changes(a.verb("serve", []string{"SLOT"}, "Open this node's copy again that has stopped, or serve without a quorum", func(ctx context.Context, args []string) error {
		id, err := slot.ParseID(args[0])
		switch {
		case err != nil:
			return &admin.Error{Text: err.Error(), Exit: admin.ExitUsage, Next: "mailnode slot list"}
		case without:
			return a.serveAlone(ctx, id)
		}
		return a.openAgain(ctx, id)
	})))
	c.Flags().BoolVar(&without, "without-quorum", false, "on its master, which has been restarted and waits for a quorum: by your word")
	return c
}

// openAgain opens a copy again that has stopped.
func (a *app) openAgain(ctx context.Context, id slot.ID) error {
	plan, err := a.client().Serve(ctx, admin.ServeRequest{Slot: id, Plan: true})
	if err != nil {
		return err
	}
	if !a.asJSON {
		fmt.Fprint(a.out, servePlan(plan))
	}
	if err := a.agree("open it again?", "mailnode slot serve "+id.String()); err != nil {
		return err
	}
	got, err := a.client().Serve(ctx, admin.ServeRequest{Slot: id})
	if err != nil {
		return err
	}
	return a.show(got, func() string { return serveOutcome(got) })
}

// servePlan says what will be done, in screenWidth columns.
func servePlan(p admin.Served) string {
	return wrap("", fmt.Sprintf("the copy of %s on %s is not open:", p.Slot, p.Node)) + wrap("  ", clean(p.Stopped)) +
		wrap("", "it is closed, its files are proved from the disk, and it is opened as after a power cut. What was acknowledged stays; no master changes. "+
			"If the disk is failing, look at it first (dmesg, smartctl -a)")
}

func serveOutcome(s admin.Served) string {
	if s.Opening != "" {
		return wrap("", fmt.Sprintf("%s: %s is opening its copy, and goes on by itself: %s", s.Slot, s.Node, clean(s.Opening))) +
			firstLine("mailnode slot show "+s.Slot.String())
	}
	return wrap("", fmt.Sprintf("%s: the copy of %s is open again: it %s", s.Slot, s.Node, clean(s.State)))
}

// serveAlone lets a restarted master serve without a quorum.
func (a *app) serveAlone(ctx context.Context, id slot.ID) error {
	plan, err := a.client().Alone(ctx, id)
	if err != nil {
		return err
	}
	if err := a.showPlan(narrowed(plan.Text)); err != nil {
		return err
	}
	if err := a.agree("Serve it all the same?", "mailnode slot serve "+id.String()+" --without-quorum"); err != nil {
		return err
	}
	out, err := a.client().ServeAlone(ctx, admin.AloneRequest{Slot: id, Epoch: plan.Epoch})
	if err != nil {
		return err
	}
	return a.show(out, func() string { return narrowed(out.Text) })
}
