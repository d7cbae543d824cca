package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"mailnode/figures"
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
	Proposal string   `json:"proposal,omitempty"`
	Also     []string `json:"also,omitempty"` // open proposals that have the rest of the slots
	// Slots are those of the proposal that were wished for; nil: all that are left of it.
	Slots    []slot.ID `json:"slots,omitempty"`
	ExitCode int       `json:"exit_code"`
	Text     string    `json:"text"`
}

// Propose opens a proposal that a person wished for. It changes no master. Slots that
// are in an open proposal already stay there; when all are in one, that is the answer,
// so that a wish may be repeated.
func Propose(ctx context.Context, own Ownership, v View, suspectAfter time.Duration, w Wish) (Proposed, error) {
	if err := own.Fresh(ctx); err != nil {
		return Proposed{}, fmt.Errorf("propose: this node cannot prove that what it knows of the cluster is current: %w", err)
	}
	c, have, no := Wanted(own.State(), v, suspectAfter, w)
	if no != nil || len(c.Slots) == 0 {
		return openAlready(own.State(), w, have, no), nil
	}
	r, err := own.Propose(ctx, c)
	switch {
	case err == nil, cluster.OutcomeOf(err) == cluster.Unseen:
		return Proposed{Proposal: r.Proposal, Also: have, Text: fmt.Sprintf("%s is open; nothing was changed\n", r.Proposal)}, nil
	case cluster.OutcomeOf(err) == cluster.Refused:
		var exists cluster.ErrExists
		if errors.As(err, &exists) { // somebody else was first
			if c, have, no := Wanted(own.State(), v, suspectAfter, w); no != nil || len(c.Slots) == 0 {
				return openAlready(own.State(), w, have, no), nil
			}
		}
		o := refuse(ExitRefused, err.Error(), "mailnode failover list")
		return Proposed{ExitCode: o.ExitCode, Text: o.Text}, nil
	}
	return Proposed{}, fmt.Errorf("propose: %w", err)
}

// openAlready is the answer to a wish for which nothing new is to be proposed.
func openAlready(st *cluster.State, w Wish, have []string, no *Outcome) Proposed {
	if no != nil {
		return Proposed{ExitCode: no.ExitCode, Text: no.Text}
	}
	return Proposed{Proposal: have[0], Also: have[1:], Slots: w.within(st, have[0]), Text: have[0] + " is open already\n"}
}

// within returns the slots of an open proposal that are wished for, nil when these are all
// that are left of it: who confirms it by his wish gets what he typed, and no more (law 4).
func (w Wish) within(st *cluster.State, id string) (out []slot.ID) {
	p, _ := st.Proposal(id)
	moves, _ := w.moves(st)
	for _, ps := range p.Slots {
		if !ps.Done && slices.ContainsFunc(moves, func(m move) bool { return m.sl.ID == ps.Slot }) {
			out = append(out, ps.Slot)
		}
	}
	if len(out) == p.Left() {
		return nil
	}
	return out
}

// Wanted makes a wish the command that opens its proposal. have are the open proposals
// that hold what is wished for already; when they hold all of it the command names no
// slot. refused says why there is nothing to propose.
func Wanted(st *cluster.State, v View, suspectAfter time.Duration, w Wish) (c cluster.OpenProposal, have []string, refused *Outcome) {
	for _, n := range []slot.NodeName{w.From, w.To, w.HomeOf} {
		if _, ok := st.Member(n); n != "" && !ok {
			o := refuse(ExitUsage, fmt.Sprintf("there is no node %q; there are: %s", short(string(n)), nodeList(members(st))))
			return cluster.OpenProposal{}, nil, &o
		}
	}
	moves, none := w.moves(st)
	if none != nil {
		return cluster.OpenProposal{}, nil, none
	}
	wt := &watch{st: st, v: v, suspectAfter: suspectAfter, freed: map[string]bool{}}
	wt.countLoad()
	c = cluster.OpenProposal{Node: w.From, Dead: w.Dead, Reason: short(w.reason()), By: w.By, SinceWall: w.WallTime}
	for _, m := range moves {
		if p, ok := st.OpenProposalOf(m.sl.ID); ok {
			if why := w.differs(p, m); why != "" {
				o := refuse(ExitRefused, fmt.Sprintf("%s is in %s, which %s", m.sl.ID, p.ID, why), "mailnode failover show "+p.ID,
					"when that is not what you want:", "mailnode failover reject "+p.ID)
				return cluster.OpenProposal{}, nil, &o
			}
			if !slices.Contains(have, p.ID) {
				have = append(have, p.ID)
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
	slices.Sort(have)
	return c, have, nil
}

// differs says what an open proposal does with a slot that is not what is wished for, ""
// when it does that: who confirms it by a wish of his own must get what he typed.
func (w Wish) differs(p cluster.Proposal, m move) string {
	i := slices.IndexFunc(p.Slots, func(ps cluster.ProposedSlot) bool { return ps.Slot == m.sl.ID })
	switch to := p.Slots[i].To; {
	case m.to != "" && to != m.to:
		return fmt.Sprintf("gives it to %s, not to %s", nodeOrNobody(to), m.to)
	case p.OpenedBy == Watcher || p.Dead == w.Dead:
		return ""
	case p.Dead:
		return fmt.Sprintf("takes %s for dead", p.Node)
	}
	return fmt.Sprintf("waits until %s hands it over, and does not take it for dead", m.sl.Master)
}

func members(st *cluster.State) (names []slot.NodeName) {
	for _, m := range st.Members {
		names = append(names, m.Name)
	}
	return names
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
			return no(ExitUsage, fmt.Sprintf("there is no slot %s; there are %s to %s", w.Slot, st.Slots[0].ID, st.Slots[len(st.Slots)-1].ID))
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
	var away []cluster.Slot // whose homes hold no copy
	for _, sl := range st.Slots {
		switch {
		case sl.Master == "":
		case w.Home && (sl.Home == "" || sl.Master == sl.Home || w.HomeOf != "" && sl.Home != w.HomeOf):
		case w.Home && !slices.Contains(sl.Staying(""), sl.Home):
			away = append(away, sl)
		case w.Home:
			out = append(out, move{sl, sl.Home})
		case sl.Master == w.From:
			out = append(out, move{sl: sl})
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case !w.Home:
		return no(ExitNothing, fmt.Sprintf("%s is the master of no slot", w.From))
	case len(away) > 0:
		sl := away[0]
		return no(ExitRefused, fmt.Sprintf("%s away from home, where no copy of it stays; the first is %s, and its home %s", figures.Count(len(away), "slot"), sl.ID, sl.Home),
			fmt.Sprintf("mailnode slot add-replica %s %s", sl.ID, sl.Home))
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
