package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mailnode/node/admin"
	"mailnode/storage/slot"
)

func (a *app) failoverPropose() *cobra.Command {
	var node, to, id, home string
	dead, empty, loss := false, false, false
	c := a.changes(a.reads(a.verb("propose", []string{"[N]"}, "Propose that slots change their master; confirm does it", func(ctx context.Context, args []string) error {
		if len(args) > 0 {
			if home != everybody {
				return usage("%q: say one of: --node N, --slot S --to N, --home [N]", clean(args[0]))
			}
			home = args[0]
		}
		r := admin.ProposeRequest{Node: slot.NodeName(node), Dead: dead, To: slot.NodeName(to), Empty: empty}
		forms := 0
		for _, is := range []bool{node != "", id != "" || to != "", home != ""} {
			if is {
				forms++
			}
		}
		switch {
		case forms != 1 || (id == "") != (to == ""):
			return usage("say one of: --node N, --slot S --to N, --home [N]")
		case dead && node == "":
			return usage("--dead belongs to --node")
		case empty && id == "" || loss && !empty:
			return usage("to start a slot empty of which no copy is left: --slot S --to N --empty --accept-loss")
		case empty && !loss:
			return &admin.Error{Text: fmt.Sprintf("nothing was done: all accounts and mail of %s would be missing until an old copy returns", clean(id)), Exit: admin.ExitRefused,
				Next: fmt.Sprintf("mailnode failover propose --slot %s --to %s --empty --accept-loss", clean(id), clean(to))}
		case id != "":
			s, err := slot.ParseID(id)
			if err != nil {
				return usage("--slot: %s", err)
			}
			r.Slot = &s
		case home != "":
			r.Home = true
			if home != everybody {
				r.Node = slot.NodeName(home)
			}
		}
		return a.propose(ctx, r)
	})))
	c.Flags().StringVar(&node, "node", "", "all slots off this node")
	c.Flags().BoolVar(&dead, "dead", false, "with --node: it is dead; a hand-over is tried for 5 s only")
	c.Flags().StringVar(&id, "slot", "", "with --to: this slot")
	c.Flags().StringVar(&to, "to", "", "the node that holds a copy of it")
	c.Flags().BoolVar(&empty, "empty", false, "with --slot and --to: no copy of it is left, it starts with nothing on that node")
	c.Flags().BoolVar(&loss, "accept-loss", false, "with --empty: all its accounts and mail may be missing")
	c.Flags().StringVar(&home, "home", "", "the slots that were this node's at first, or everybody's")
	c.Flags().Lookup("home").NoOptDefVal = everybody
	return c
}

// everybody stands for --home without a node.
const everybody = "all"

// wish has the node propose what an operator wants.
func (a *app) wish(ctx context.Context, r admin.ProposeRequest) (p admin.Proposed, err error) {
	err = a.ordered(ctx, func() (err error) { p, err = a.client().Propose(ctx, r); return err })
	return p, err
}

// propose opens a proposal, and says what to type next.
func (a *app) propose(ctx context.Context, r admin.ProposeRequest) error {
	p, err := a.wish(ctx, r)
	if err != nil {
		return err
	}
	if a.asJSON {
		err = json.NewEncoder(a.out).Encode(p)
	} else if _, err = io.WriteString(a.out, ended(p.Text)); err == nil && p.ID != "" {
		next := "mailnode failover confirm " + p.ID
		for _, id := range p.Slots {
			next += " --slot " + id.String()
		}
		if r.Empty { // no other word confirms it
			next += fmt.Sprintf(" --slot %s --accept-loss", *r.Slot)
		}
		a.say("%s", next)
		a.sayAlso(p)
	}
	if p.Exit != admin.ExitDone {
		return exitCode(p.Exit)
	}
	return err
}

// move proposes and confirms in one breath: a proposal that is open already is taken.
// Where nobody can be asked nothing is proposed either.
func (a *app) move(ctx context.Context, r admin.ProposeRequest) error {
	if !a.canAsk() {
		return unasked("mailnode fo " + typed(r))
	}
	p, err := a.wish(ctx, r)
	if err != nil {
		return err
	}
	if p.ID == "" {
		if err := a.show(p, func() string { return ended(p.Text) }); err != nil {
			return err
		}
		return exitCode(p.Exit)
	}
	if err := a.awaitOpening(ctx, p.ID); err != nil {
		return err
	}
	if err = a.confirm(ctx, p.ID, admin.ConfirmRequest{Slots: p.Slots}); err != nil {
		a.sayStaysOpen(ctx, p.ID)
	}
	if len(p.Also) > 0 && !a.asJSON && (err == nil || errors.As(err, new(exitCode))) {
		a.sayAlso(p)
		if err == nil {
			err = exitCode(admin.ExitRefused) // done in part
		}
	}
	return err
}

// openingWithin is how long `fo` waits for copies that are being opened: whoever has
// just restarted a node types it at once.
const openingWithin = 15 * time.Second

// awaitOpening waits until nodes that are to be masters have opened their copies. What
// is not open in time is refused by the plan.
func (a *app) awaitOpening(ctx context.Context, id string) error {
	late, cancel := context.WithTimeout(ctx, openingWithin)
	defer cancel()
	look := time.NewTicker(leaderLook)
	defer look.Stop()
	for said := false; ; said = true {
		plan, err := a.client().Plan(ctx, id)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(plan.Slots, func(s admin.ProposedSlot) bool { return s.Opening })
		if i < 0 || late.Err() != nil {
			return nil
		}
		if !said {
			fmt.Fprintf(a.err, "%s is opening its copies: waiting for it, %s at most\n", cmp.Or(plan.Slots[i].To, "a node"), age(int64(openingWithin/time.Second)))
		}
		select {
		case <-look.C:
		case <-late.Done():
		}
	}
}

// sayStaysOpen says of a proposal that was not confirmed, or in part, that it is open.
func (a *app) sayStaysOpen(ctx context.Context, id string) {
	if plan, err := a.client().Plan(ctx, id); err != nil || plan.State != "open" || a.asJSON {
		return
	}
	a.say("%s stays open; to close it:", id)
	a.say("  mailnode failover reject %s", id)
}

// typed is how a wish is typed behind `mailnode fo`.
func typed(r admin.ProposeRequest) string {
	switch {
	case r.Slot != nil:
		return r.Slot.String() + " " + clean(string(r.To))
	case r.Home:
		return "-m " + clean(string(r.Node))
	case r.Dead:
		return "-K " + clean(string(r.Node))
	}
	return "-a " + clean(string(r.Node))
}

// sayAlso names the open proposals that have the rest of what was wished for.
func (a *app) sayAlso(p admin.Proposed) {
	if len(p.Also) == 0 {
		return
	}
	a.say("other slots are in proposals that were open before:")
	for _, id := range p.Also {
		a.say("  mailnode failover confirm %s", id)
	}
}

// quick adds what is typed on a phone to `mailnode fo`: -a N, -m N, -K N, and SLOT NODE.
// Bare, it lists.
func (a *app) quick(c *cobra.Command, list func(*cobra.Command, []string) error) {
	var away, home, dead string
	a.changes(c)
	c.Flags().StringVarP(&away, "away", "a", "", "move all masters off this node, which lives")
	c.Flags().StringVarP(&home, "masters-home", "m", "", "bring the masters home that were this node's at first")
	c.Flags().StringVarP(&dead, "kill", "K", "", "this node is dead: its slots go to other copies")
	c.RunE = func(c *cobra.Command, args []string) error {
		ctx := c.Context()
		set := 0
		for _, name := range []string{"away", "masters-home", "kill"} {
			if c.Flags().Changed(name) {
				set++
			}
		}
		switch {
		case set > 1 || set == 1 && len(args) > 0:
			return usage("say one of: -a N, -m N, -K N, SLOT NODE")
		case away != "":
			return a.move(ctx, admin.ProposeRequest{Node: slot.NodeName(away)})
		case home != "":
			return a.move(ctx, admin.ProposeRequest{Node: slot.NodeName(home), Home: true})
		case dead != "":
			return a.move(ctx, admin.ProposeRequest{Node: slot.NodeName(dead), Dead: true})
		case set > 0:
			return usage("the name of the node is empty")
		case len(args) == 0:
			return list(c, nil)
		}
		id, err := slot.ParseID(args[0])
		switch {
		case err != nil && len(args) == 2:
			return usage("%s%q is no slot, such as s007, and no verb; there are: %s", prefix(c), clean(args[0]), strings.Join(verbNames(c), ", "))
		case err != nil:
			return unknownVerb(c, args)
		case len(args) == 1:
			return usage("%s: to which node? mailnode fo %s NODE", id, id)
		case len(args) > 2:
			return usage("%q is one argument too many: say SLOT NODE", clean(args[2]))
		}
		return a.move(ctx, admin.ProposeRequest{Slot: &id, To: slot.NodeName(args[1])})
	}
}
