package failover

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// EmptyWish is what a person wants of a slot of which no copy is left: that it starts
// with nothing on a node.
type EmptyWish struct {
	Slot     slot.ID
	To       slot.NodeName
	By       string
	WallTime string // shown only (law 11)
}

// ProposeEmpty proposes it; a person confirms. A slot that is in an open proposal
// already, because its master is silent, stays in that one.
func ProposeEmpty(ctx context.Context, own Ownership, v View, suspectAfter time.Duration, w EmptyWish) (Proposed, error) {
	if err := own.Fresh(ctx); err != nil {
		return Proposed{}, fmt.Errorf("propose: this node cannot prove that what it knows of the cluster is current: %w", err)
	}
	c, have, no := w.wanted(own.State(), v, suspectAfter)
	if no != nil {
		return Proposed{ExitCode: no.ExitCode, Text: no.Text}, nil
	}
	if c == nil {
		return Proposed{Proposal: have, Text: have + " is open already\n"}, nil
	}
	r, err := own.Propose(ctx, c)
	switch cluster.OutcomeOf(err) {
	case cluster.Done, cluster.Unseen:
		return Proposed{Proposal: r.Proposal, Text: fmt.Sprintf("%s is open; nothing was changed\n", r.Proposal)}, nil
	case cluster.Refused:
		o := refuse(ExitRefused, err.Error(), "mailnode failover list")
		return Proposed{ExitCode: o.ExitCode, Text: o.Text}, nil
	}
	return Proposed{}, fmt.Errorf("propose: %w", err)
}

// wanted makes a wish a command. have is the open proposal that has it already; refused
// says why it is not proposed.
func (w EmptyWish) wanted(st *cluster.State, v View, suspectAfter time.Duration) (c cluster.Command, have string, refused *Outcome) {
	no := func(code int, text string, more ...string) (cluster.Command, string, *Outcome) {
		o := refuse(code, text, more...)
		return nil, "", &o
	}
	sl, ok := st.Slot(w.Slot)
	m, member := st.Member(w.To)
	switch {
	case !ok:
		return no(ExitUsage, fmt.Sprintf("there is no slot %s", w.Slot), "mailnode slot list")
	case !member:
		return no(ExitUsage, fmt.Sprintf("there is no node %q", short(string(w.To))), "mailnode cluster members")
	case m.Role == cluster.Witness:
		return no(ExitRefused, fmt.Sprintf("%s is a witness and holds no mail", w.To), "mailnode cluster members")
	case sl.Master == "":
		return no(ExitUsage, fmt.Sprintf("%s has no master yet: it gets its first one by itself", w.Slot), "mailnode status")
	case sl.Master == w.To && sl.OpenLoss != nil && sl.OpenLoss.Empty:
		return no(ExitNothing, fmt.Sprintf("%s was started empty on %s already", w.Slot, w.To), "mailnode slot show "+w.Slot.String())
	case sl.Master == w.To:
		return no(ExitRefused, fmt.Sprintf("%s is the master of %s: name another node", w.To, w.Slot), "mailnode slot show "+w.Slot.String())
	}
	if why := v.stillHas(sl, w.To, suspectAfter); why != "" {
		return no(ExitRefused, fmt.Sprintf("%s does not start empty: %s", w.Slot, why), "mailnode slot show "+w.Slot.String())
	}
	ps := cluster.ProposedSlot{Slot: sl.ID, Epoch: sl.Epoch, From: sl.Master, To: w.To, Empty: true}
	p, open := st.OpenProposalOf(sl.ID)
	if !open {
		return cluster.OpenProposal{Reason: short(fmt.Sprintf("%s wants %s started empty on %s", w.By, w.Slot, w.To)), By: w.By, SinceWall: w.WallTime, Slots: []cluster.ProposedSlot{ps}}, "", nil
	}
	if slices.ContainsFunc(p.Slots, func(o cluster.ProposedSlot) bool { return o.Slot == ps.Slot && o.Empty && o.To == ps.To }) {
		return nil, p.ID, nil
	}
	return cluster.UpdateProposal{Proposal: p.ID, Slots: []cluster.ProposedSlot{ps}}, "", nil
}

// stillHas names a copy with mail on a node that lives, "" when there is none: as long
// as there is one, nobody gives up what it has. What is being filled counts for nothing,
// and a store that failed may never answer again (LAWS §6.19).
func (v View) stillHas(sl cluster.Slot, to slot.NodeName, suspectAfter time.Duration) string {
	for _, n := range append([]slot.NodeName{sl.Master}, sl.Replicas...) {
		c, ok := v.copyOf(n, sl.ID)
		switch {
		case v.presence(n, suspectAfter) == unknown:
			return fmt.Sprintf("%s was not heard yet: wait a moment", n)
		case v.presence(n, suspectAfter) != alive:
		case !ok && n != to && !v.reports(n, suspectAfter):
			return fmt.Sprintf("%s lives and is cut off from %s", n, v.Self)
		case ok && c.holdsMail():
			return fmt.Sprintf("%s lives and has a copy of it", n)
		}
	}
	return ""
}

// holdsMail reports whether there is something in a copy that could be served.
func (c CopyReport) holdsMail() bool {
	return c.Opening != "" || c.Failed == "" && !c.Building && (c.Position > 0 || c.Lineage > 0)
}

// empty plans a slot that is to start with nothing.
func (pl planner) empty(out PlanSlot, sl cluster.Slot, ps cluster.ProposedSlot) PlanSlot {
	out.To, out.Empty = ps.To, true
	old := append([]slot.NodeName{sl.Master}, slices.DeleteFunc(slices.Clone(sl.Replicas), func(n slot.NodeName) bool { return n == ps.To })...)
	for _, n := range old {
		if c, ok := pl.answers[n].copies[sl.ID]; ok && c.holdsMail() {
			out.Why = fmt.Sprintf("%s answers and has a copy of it: it does not start empty; reject %s, and confirm what is proposed then", n, pl.proposal)
			return out
		}
	}
	if why := pl.v.stillHas(sl, ps.To, pl.suspectAfter); why != "" {
		out.Why = why + ": it does not start empty"
		return out
	}
	if pl.v.presence(ps.To, pl.suspectAfter) != alive {
		out.Why = fmt.Sprintf("%s, on which it is to start empty, is silent", ps.To)
		return out
	}
	out.Why = fmt.Sprintf("STARTS EMPTY: all accounts and all mail of %s are missing until a copy returns from %s", sl.ID, strings.Join(nodeNames(old), " or "))
	out.Accept = fmt.Sprintf("mailnode failover confirm %s --slot %s --accept-loss", pl.proposal, sl.ID)
	return out
}

func nodeNames(list []slot.NodeName) (out []string) {
	for _, n := range list {
		out = append(out, string(n))
	}
	return out
}

// printEmpty prints a slot that is to start with nothing.
func printEmpty(out *printer, s PlanSlot) {
	out.line(0, "%s: %s -> %s, NOT SAFE", s.Slot, s.From, s.To)
	out.line(2, "%s", s.Why)
	if s.Accept == "" {
		return
	}
	out.line(2, "mail waits in the MTA (451) for everybody whom nobody has made again; for those it flows at once: mailnode user add ADDRESS")
	out.line(2, "a copy that returns is set aside whole, and listed: mailnode rescue list")
	out.line(2, "to accept the loss:")
	out.command(s.Accept)
}
