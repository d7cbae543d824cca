package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"mailnode/figures"
	"mailnode/node/admin"
	"mailnode/storage/slot"
)

func (a *app) failover() *cobra.Command {
	list := a.failoverList()
	c := group("failover", "Changes of master: what is proposed, and a person's answer", list, a.failoverShow(), a.failoverPropose(), a.failoverConfirm(), a.failoverReject(), a.failoverHistory())
	c.Aliases = []string{"fo"}
	a.reads(c)
	a.quick(c, list.RunE)
	return c
}

func (a *app) failoverList() *cobra.Command {
	all := false
	c := a.reads(a.verb("list", nil, "The open proposals", func(ctx context.Context, _ []string) error {
		p, err := a.client().Proposals(ctx, all)
		if err != nil {
			return err
		}
		return a.show(p, func() string { return staleLine(p.Recorded) + proposalTable(p.Proposals) })
	}))
	c.Flags().BoolVar(&all, "all", false, "those closed lately, too")
	return c
}

// staleLine says that what was recorded may be old.
func staleLine(r admin.Recorded) string {
	if !r.RecordStale {
		return ""
	}
	return wrap("", "what is recorded may be old: "+clean(r.RecordSource))
}

func proposalTable(list []admin.Proposal) string {
	if len(list) == 0 {
		return "no proposal is open\n"
	}
	var b strings.Builder
	for _, p := range list {
		var safe, rest []slot.ID
		done := 0
		for _, s := range p.Slots {
			switch {
			case s.Done:
				done++
			case s.Safe:
				safe = append(safe, s.Slot)
			default:
				rest = append(rest, s.Slot)
			}
		}
		head := p.ID + "  " + p.State
		if p.Node != "" {
			head += "  " + string(p.Node)
		}
		head += "  " + figures.Count(len(p.Slots), "slot")
		if p.State == "open" {
			head += fmt.Sprintf(", %s, for %s", usersText(p.Slots), age(p.SinceS))
		}
		b.WriteString(head + "\n")
		if p.Reason != "" {
			b.WriteString(wrap("  ", clean(p.Reason)))
		}
		if len(safe) > 0 {
			b.WriteString(wrap("  ", "safe: "+slotRanges(safe)))
		}
		if len(rest) > 0 {
			b.WriteString(wrap("  ", "not safe: "+slotRanges(rest)))
		}
		if done > 0 {
			fmt.Fprintf(&b, "  done: %s\n", figures.Count(done, "slot"))
		}
		if p.State == "open" {
			fmt.Fprintf(&b, "  mailnode failover show %s\n", p.ID)
		}
	}
	return b.String()
}

func (a *app) failoverShow() *cobra.Command {
	return a.reads(a.verb("show", []string{"[ID]"}, "The plan of a proposal; the nodes are asked again", func(ctx context.Context, args []string) error {
		p, err := a.client().Plan(ctx, first(args))
		if err != nil {
			return err
		}
		return a.show(p, func() string { return ended(p.Text) })
	}))
}

func (a *app) failoverConfirm() *cobra.Command {
	var slots []string
	var loss bool
	c := a.changes(a.reads(a.verb("confirm", []string{"[ID]"}, "Do what a proposal says; without ID the only open one", func(ctx context.Context, args []string) error {
		r := admin.ConfirmRequest{AcceptLoss: loss}
		for _, s := range slots {
			id, err := slot.ParseID(s)
			if err != nil {
				return usage("--slot: %s", err)
			}
			r.Slots = append(r.Slots, id)
		}
		if loss && len(slots) == 0 {
			return usage("--accept-loss: name the slots, such as --slot s007 --accept-loss")
		}
		return a.confirm(ctx, first(args), r)
	})))
	c.Flags().StringSliceVar(&slots, "slot", nil, "only this slot; may be repeated")
	c.Flags().BoolVar(&loss, "accept-loss", false, "change the named slots even if acknowledged mail may be missing")
	return c
}

// confirm shows the plan, asks, and confirms the proposal that was shown.
func (a *app) confirm(ctx context.Context, id string, r admin.ConfirmRequest) error {
	plan, err := a.client().Plan(ctx, id)
	if err != nil {
		return err
	}
	if plan.State != "open" { // what became of it, when it was confirmed before
		r.ID = plan.ID
		return a.confirmed(ctx, r)
	}
	text := ended(plan.Text)
	if n := len(r.Slots); n > 0 && n < len(plan.Slots) {
		text += wrap("", "of these now only "+slotRanges(r.Slots))
	}
	if err := a.showPlan(text); err != nil {
		return err
	}
	again := "mailnode failover confirm " + plan.ID
	for _, s := range r.Slots {
		again += " --slot " + s.String()
	}
	if r.AcceptLoss {
		again += " --accept-loss"
	}
	if err := a.agree("Do this?", again); err != nil {
		return err
	}
	r.ID = plan.ID
	return a.confirmed(ctx, r)
}

// confirmed confirms what a person has agreed to, and says how it ended.
func (a *app) confirmed(ctx context.Context, r admin.ConfirmRequest) error {
	var o admin.Outcome
	if err := a.ordered(ctx, func() (err error) { o, err = a.client().Confirm(ctx, r); return err }); err != nil {
		return err
	}
	err := a.show(o, func() string { return ended(o.Text) })
	if o.Exit != admin.ExitDone {
		return errors.Join(err, exitCode(o.Exit))
	}
	return err
}

func (a *app) failoverReject() *cobra.Command {
	why := ""
	c := a.changes(a.verb("reject", []string{"ID"}, "Close a proposal; masters stay as they are", func(ctx context.Context, args []string) error {
		a.say("rejecting proposal %s", clean(args[0]))
		if err := a.ordered(ctx, func() error { return a.client().Reject(ctx, admin.RejectRequest{ID: args[0], Why: why}) }); err != nil {
			return err
		}
		a.say("rejected; no master was changed")
		return nil
	}))
	c.Flags().StringVar(&why, "why", "", "a word for the history")
	return c
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// ended makes text from the node end its last line.
func ended(text string) string {
	if text == "" || strings.HasSuffix(text, "\n") {
		return text
	}
	return text + "\n"
}
