package cli

import (
	"context"
	"encoding/json"
	"io"

	"github.com/spf13/cobra"

	"mailnode/node/admin"
	"mailnode/storage/slot"
)

func (a *app) slotServe() *cobra.Command {
	without := false
	c := a.changes(a.reads(a.verb("serve", []string{"SLOT"}, "Serve a slot on its master by your word, when no quorum can be asked", func(ctx context.Context, args []string) error {
		id, err := slot.ParseID(args[0])
		if err != nil {
			return &admin.Error{Text: err.Error(), Exit: admin.ExitUsage, Next: "mailnode slot list"}
		}
		if !without {
			return usage("slot serve: a master serves by itself when a quorum says that it may; without one: --without-quorum")
		}
		return a.serveAlone(ctx, id)
	})))
	c.Flags().BoolVar(&without, "without-quorum", false, "on its master, which has been restarted and waits for a quorum")
	return c
}

// serveAlone lets a restarted master serve without a quorum.
func (a *app) serveAlone(ctx context.Context, id slot.ID) error {
	plan, err := a.client().Alone(ctx, id)
	if err != nil {
		return err
	}
	shown := a.out
	if a.asJSON {
		shown = a.err // standard output is the program's
	}
	if _, err := io.WriteString(shown, narrowed(plan.Text)); err != nil {
		return err
	}
	if err := a.agree("Serve it all the same?", "mailnode slot serve "+id.String()+" --without-quorum"); err != nil {
		return err
	}
	out, err := a.client().ServeAlone(ctx, admin.AloneRequest{Slot: id, Epoch: plan.Epoch})
	if err != nil {
		return err
	}
	if a.asJSON {
		return json.NewEncoder(a.out).Encode(out)
	}
	_, err = io.WriteString(a.out, narrowed(out.Text))
	return err
}
