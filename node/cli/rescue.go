package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"mailnode/node/admin"
	"mailnode/storage/slot"
)

func (a *app) rescue() *cobra.Command {
	return group("rescue", "What an old copy had alone, after a failover that accepted a loss", a.rescueDismiss())
}

func (a *app) rescueDismiss() *cobra.Command {
	why := ""
	c := a.changes(a.verb("dismiss", []string{"SLOT"}, "Close a slot's open loss: what is missing is given up", func(ctx context.Context, args []string) error {
		id, err := slot.ParseID(args[0])
		if err != nil {
			return usage("%s", err)
		}
		d, err := a.client().Slot(ctx, args[0])
		if err != nil {
			return err
		}
		if d.OpenLoss == "" {
			return &admin.Error{Text: fmt.Sprintf("slot %s has no open loss", id), Exit: admin.ExitNothing}
		}
		a.say("%s: %s", id, d.OpenLoss)
		a.say("unknown users of %s get 550 again instead of 451;", id)
		a.say("what was set aside stays in quarantine/ on the old node")
		if err := a.agree("Give up what is missing?", "mailnode rescue dismiss "+args[0]); err != nil {
			return err
		}
		return a.client().DismissLoss(ctx, admin.DismissLoss{Slot: id, Why: why})
	}))
	c.Flags().StringVar(&why, "why", "", "a reason for the history")
	return c
}
