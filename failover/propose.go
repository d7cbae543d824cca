package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// Wish is what an operator wants to be proposed: all slots off a node, one slot to a
// node, or slots back home.
type Wish struct {
	From     slot.NodeName // all slots whose master it is go to other copies
	Dead     bool          // From is assumed to be dead, whatever it says
	Slot     slot.ID       // with To: this slot
	To       slot.NodeName
	Home     bool          // slots go to the nodes whose they were at first
	HomeOf   slot.NodeName // with Home: only this node's; "": everybody's
	By       string
	WallTime string // shown only (law 11)
}

// Proposed is the proposal that has what was wished for, opened now or before.
type Proposed struct {
	Proposal string `json:"proposal,omitempty"`
	ExitCode int    `json:"exit_code"`
	Text     string `json:"text"`
}

// Propose opens a proposal that a person wished for. It changes no master. Slots that
// are in an open proposal already stay there; when all are in one, that is the answer,
// so that a wish may be repeated.
func Propose(ctx context.Context, own Ownership, v View, suspectAfter time.Duration, w Wish) (Proposed, error) {
	if err := own.Fresh(ctx); err != nil {
		return Proposed{}, fmt.Errorf("propose: this node cannot prove that what it knows of the cluster is current: %w", err)
	}
	c, have, no := Wanted(own.State(), v, suspectAfter, w)
	if no != nil {
		return Proposed{ExitCode: no.ExitCode, Text: no.Text}, nil
	}
	if len(c.Slots) == 0 {
		return Proposed{Proposal: have, Text: have + " is open already\n"}, nil
	}
	r, err := own.Propose(ctx, c)
	switch {
	case err == nil, cluster.OutcomeOf(err) == cluster.Unseen:
		return Proposed{Proposal: r.Proposal, Text: fmt.Sprintf("%s is open; nothing was changed\n", r.Proposal)}, nil
	case cluster.OutcomeOf(err) == cluster.Refused:
		var exists cluster.ErrExists
		if errors.As(err, &exists) { // somebody else was first
			if _, have, _ := Wanted(own.State(), v, suspectAfter, w); have != "" {
				return Proposed{Proposal: have, Text: have + " is open already\n"}, nil
			}
		}
		o := refuse(ExitRefused, err.Error(), "mailnode failover list")
		return Proposed{ExitCode: o.ExitCode, Text: o.Text}, nil
	}
	return Proposed{}, fmt.Errorf("propose: %w", err)
}

// Wanted makes a wish the command that opens its proposal. have is the open proposal
// that holds what is wished for already: then the command names no slot. refused says
// why there is nothing to propose.
func Wanted(st *cluster.State, v View, suspectAfter time.Duration, w Wish) (c cluster.OpenProposal, have string, refused *Outcome) {
	no := func(code int, text string, more ...string) (cluster.OpenProposal, string, *Outcome) {
		o := refuse(code, text, more...)
		return cluster.OpenProposal{}, "", &o
	}
	for _, n := range []slot.NodeName{w.From, w.To, w.HomeOf} {
		if _, ok := st.Member(n); n != "" && !ok {
			return no(ExitUsage, fmt.Sprintf("there is no node %q", short(string(n))), "mailnode cluster members")
		}
	}
	moves, none := w.moves(st)
	if none != nil {
		return cluster.OpenProposal{}, "", none
	}
	wt := &watch{st: st, v: v, suspectAfter: suspectAfter, freed: map[string]bool{}}
	wt.countLoad()
	c = cluster.OpenProposal{Node: w.From, Dead: w.Dead, Reason: short(w.reason()), By: w.By, SinceWall: w.WallTime}
	var elsewhere []string // open proposals that have some of them
	for _, m := range moves {
		if p, ok := st.OpenProposalOf(m.sl.ID); ok {
			if !slices.Contains(elsewhere, p.ID) {
				elsewhere = append(elsewhere, p.ID)
			}
			continue
		}
		s := wt.survey(m.sl)
		ps := wt.proposed(m.sl, s, wt.wished(s, m.to))
		if m.to != "" {
			ps.To = m.to
		}
		wt.load[ps.To]++
		c.Slots = append(c.Slots, ps)
	}
	switch {
	case len(c.Slots) > 0:
		return c, "", nil
	case len(elsewhere) == 1:
		return cluster.OpenProposal{}, elsewhere[0], nil
	}
	slices.Sort(elsewhere)
	return no(ExitUsage, "its slots are in several open proposals: confirm or reject them one by one", "mailnode failover list")
}

// move is one slot that goes to a node; "": to whichever copy is best.
type move struct {
	sl cluster.Slot
	to slot.NodeName
}

// moves lists what a wish concerns, or says why it concerns nothing.
func (w Wish) moves(st *cluster.State) ([]move, *Outcome) {
	no := func(code int, text string, more ...string) ([]move, *Outcome) {
		o := refuse(code, text, more...)
		return nil, &o
	}
	if w.To != "" {
		sl, ok := st.Slot(w.Slot)
		switch {
		case !ok:
			return no(ExitUsage, fmt.Sprintf("there is no slot %s", w.Slot), "mailnode slot list")
		case sl.Master == "":
			return no(ExitUsage, fmt.Sprintf("%s has no master yet", w.Slot), "mailnode status")
		case sl.Master == w.To:
			return no(ExitNothing, fmt.Sprintf("%s is the master of %s already", w.To, w.Slot))
		case !slices.Contains(sl.Replicas, w.To):
			return no(ExitRefused, fmt.Sprintf("%s holds no copy of %s; copies are on %s", w.To, w.Slot, nodeList(append([]slot.NodeName{sl.Master}, sl.Replicas...))), "mailnode slot show "+w.Slot.String())
		}
		return []move{{sl, w.To}}, nil
	}
	var out []move
	for _, sl := range st.Slots {
		switch {
		case sl.Master == "":
		case w.Home && sl.Home != "" && sl.Master != sl.Home && (w.HomeOf == "" || sl.Home == w.HomeOf) && slices.Contains(sl.Replicas, sl.Home):
			out = append(out, move{sl, sl.Home})
		case !w.Home && sl.Master == w.From:
			out = append(out, move{sl: sl})
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case !w.Home:
		return no(ExitNothing, fmt.Sprintf("%s is the master of no slot", w.From))
	case w.HomeOf != "":
		return no(ExitNothing, fmt.Sprintf("all slots of %s are at home", w.HomeOf))
	}
	return no(ExitNothing, "all slots are at home")
}

func (w Wish) reason() string {
	switch {
	case w.To != "":
		return fmt.Sprintf("%s wants %s on %s", w.By, w.Slot, w.To)
	case w.Home && w.HomeOf != "":
		return fmt.Sprintf("%s brings the slots of %s home", w.By, w.HomeOf)
	case w.Home:
		return fmt.Sprintf("%s brings all slots home", w.By)
	case w.Dead:
		return fmt.Sprintf("%s takes %s for dead", w.By, w.From)
	}
	return fmt.Sprintf("%s moves all masters off %s", w.By, w.From)
}

// wished is target for a person's wish: the copy that he named, if it is viable.
func (w *watch) wished(s survey, to slot.NodeName) *candidate {
	if to == "" {
		return w.target(s, "")
	}
	for i := range s.viable {
		if s.viable[i].node == to {
			return &s.viable[i]
		}
	}
	return nil
}
