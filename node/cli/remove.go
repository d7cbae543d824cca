package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"mailnode/figures"
	"mailnode/node/admin"
	"mailnode/node/monitor"
	"mailnode/storage/slot"
)

func (a *app) clusterRemove() *cobra.Command {
	return a.changes(a.verb("remove", []string{"NODE"}, "Remove a member that no slot needs, for good", func(ctx context.Context, args []string) error {
		r := admin.RemoveRequest{Node: slot.NodeName(args[0])}
		m, err := a.client().Members(ctx)
		if err != nil {
			return err
		}
		try := r
		try.Try = true
		got, err := a.client().Remove(ctx, try)
		if err != nil {
			return err
		}
		if len(got.Needs) > 0 {
			return a.needed(got)
		}
		i := slices.IndexFunc(m.Members, func(n admin.NodeStatus) bool { return n.Name == r.Node })
		if i < 0 { // it came and went meanwhile
			return usage("cluster remove: there is no node %q", clean(args[0]))
		}
		n := m.Members[i]
		fmt.Fprint(a.out, wrap("", fmt.Sprintf("removing %s (%s, %s, at %s) from cluster %s; no slot needs it. What is on its disks stays there", n.Name, n.State, roles(n, m.Leader)[0], n.Address, m.Cluster)))
		if err := a.agree("remove it?", "mailnode cluster remove "+string(n.Name)); err != nil {
			return err
		}
		if got, err = a.client().Remove(ctx, r); err != nil {
			return err
		}
		if len(got.Needs) > 0 {
			return a.needed(got)
		}
		if !got.Left {
			a.say("%s is removed; Raft's leader takes its vote as soon as the others are a majority without it", n.Name)
			return nil
		}
		a.say("%s is removed", n.Name)
		return nil
	}))
}

// needed lists what must move first, and the command that does it.
func (a *app) needed(r admin.Removed) error {
	masters := 0
	var reasons []string
	whose := map[string][]slot.ID{}
	for _, n := range r.Needs {
		if n.Master {
			masters++
		}
		if whose[n.Why] == nil {
			reasons = append(reasons, n.Why)
		}
		whose[n.Why] = append(whose[n.Why], n.Slot)
	}
	for _, why := range reasons {
		fmt.Fprint(a.out, wrap("", slotRanges(whose[why])+": "+clean(why)))
	}
	text := fmt.Sprintf("nothing was done: %s of %s must move first", figures.Count(len(r.Needs), "slot"), r.Node)
	next := "mailnode slot rebalance --node " + string(r.Node)
	if masters > 0 {
		next = "mailnode fo -a " + string(r.Node)
		for _, c := range a.silent() {
			if c == string(r.Node) {
				next = "mailnode fo -K " + string(r.Node)
			}
		}
	}
	return &admin.Error{Text: text, Exit: admin.ExitRefused, Next: next}
}

// silent lists the nodes that nobody hears, as far as the node that is asked says so.
func (a *app) silent() (out []string) {
	st, err := a.client().Status(context.Background())
	if err != nil {
		return nil
	}
	for _, c := range st.Conditions {
		if c.Name == monitor.NodeSilent {
			out = append(out, c.About)
		}
	}
	return out
}
