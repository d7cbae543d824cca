package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"mailnode/node/admin"
)

func (a *app) clusterUpgrade() *cobra.Command {
	return a.changes(a.verb("upgrade", nil, "Let all nodes write what the new release brought, when every one runs it", func(ctx context.Context, _ []string) error {
		m, err := a.client().Members(ctx)
		if err != nil {
			return err
		}
		from, to := m.FeatureLevel.OrFirst(), m.KnownFeatures.OrFirst()
		if from >= to {
			return &admin.Error{Text: fmt.Sprintf("nothing to do: the cluster is at feature level %d, and this node's release brings no higher one", from), Exit: admin.ExitNothing}
		}
		var old []string
		for _, n := range m.Members {
			if n.Features.OrFirst() < to {
				old = append(old, fmt.Sprintf("%s (%s, level %d)", n.Name, orDash(clean(n.Release)), n.Features.OrFirst()))
			}
		}
		if len(old) > 0 {
			return &admin.Error{Text: fmt.Sprintf("nothing was done: too old for feature level %d: %s; upgrade and start each of them first", to, strings.Join(old, ", ")),
				Exit: admin.ExitRefused, Next: "mailnode cluster members"}
		}
		a.say("raising the feature level of cluster %s from %d to %d;", m.Cluster, from, to)
		a.say("there is no way back: from then on no node of an older release can take part")
		if err := a.agree("raise it?", "mailnode cluster upgrade"); err != nil {
			return err
		}
		if err := a.client().Upgrade(ctx, admin.UpgradeRequest{From: from, To: to}); err != nil {
			return err
		}
		a.say("the feature level is %d", to)
		return nil
	}))
}
