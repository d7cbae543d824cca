package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"mailnode/node/admin"
	"mailnode/storage/slot"
)

func (a *app) slotReindex() *cobra.Command {
	r := admin.ReindexRequest{}
	c := a.reads(a.changes(a.verb("reindex", []string{"SLOT|ADDRESS", "[MAILBOX]"}, "Compute counters, indexes and envelopes again; --from-packs rebuilds the index", func(ctx context.Context, args []string) error {
		what := args[0]
		if strings.Contains(what, "@") {
			address, err := slot.ParseAddress(what)
			if err != nil {
				return usage("%s", err)
			}
			r.Address = address
			if len(args) > 1 {
				r.Mailbox = args[1]
			}
		} else {
			id, err := slot.ParseID(what)
			if err != nil {
				return &admin.Error{Text: err.Error(), Exit: admin.ExitUsage, Next: "mailnode slot list"}
			}
			if len(args) > 1 {
				return usage("reindex: a mailbox is named behind an address, not behind a slot")
			}
			r.Slot = id
		}
		switch {
		case r.Alone && !r.FromPacks:
			return usage("--alone belongs to --from-packs")
		case r.FromPacks && r.Address != "":
			return usage("--from-packs rebuilds the index of a whole slot: name the slot")
		case r.FromPacks:
			if err := a.agreeToRebuild(ctx, r); err != nil {
				return err
			}
		case !a.asJSON:
			a.say("counters, quota use, indexes and envelopes are computed again from the messages; %s is served meanwhile", clean(what))
		}
		j, err := a.client().Reindex(ctx, r)
		if err != nil {
			return err
		}
		return a.follow(ctx, j.ID)
	})))
	c.Flags().BoolVar(&r.FromPacks, "from-packs", false, "set the index aside and rebuild it")
	c.Flags().BoolVar(&r.Alone, "alone", false, "with --from-packs: also while there are other copies")
	return c
}

// agreeToRebuild says what will be done and asks.
func (a *app) agreeToRebuild(ctx context.Context, r admin.ReindexRequest) error {
	s, err := a.client().Slot(ctx, r.Slot.String())
	if err != nil {
		return err
	}
	st, err := a.client().Status(ctx)
	if err != nil {
		return err
	}
	a.say("the copy of %s on %s is closed, its index goes to quarantine/, and a new one is made", s.Slot, st.Node)
	if s.Master == st.Node {
		a.say("from what is left of the old index and from the packs: %s is not served meanwhile; mailboxes that cannot be proved complete get a new UIDVALIDITY, "+
			"mail that only the packs have comes back with the flags of its arrival, deleted mail too", s.Slot)
		if r.Alone && len(s.Copies) > 1 {
			a.say("%d other copies are not asked: what only they have is set aside there", len(s.Copies)-1)
		}
	} else {
		a.say("from its master %s; only bodies that the packs lack are fetched", orDash(string(s.Master)))
	}
	again := fmt.Sprintf("mailnode slot reindex %s --from-packs", s.Slot)
	if r.Alone {
		again += " --alone"
	}
	return a.agree("go on?", again)
}
