package cli

import (
	"context"

	"github.com/spf13/cobra"

	"mailnode/figures"
)

func (a *app) clusterPlace() *cobra.Command {
	return a.changes(a.verb("place", nil, "Give the slots their first masters now, among the nodes that have started", func(ctx context.Context, _ []string) error {
		a.say("giving every slot without a master its first one, among the nodes that have started;")
		a.say("nodes that join later get none of them")
		if err := a.agree("place them?", "mailnode cluster place"); err != nil {
			return err
		}
		p, err := a.client().Place(ctx)
		if err != nil {
			return err
		}
		a.say("%s placed", figures.Count(p.Slots, "slot"))
		return nil
	}))
}
