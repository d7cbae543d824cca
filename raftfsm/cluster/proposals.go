package cluster

import (
	"fmt"
	"slices"

	"mailnode/storage/slot"
)

func (c OpenProposal) apply(s *State, _ uint64) (Result, error) {
	if len(c.Slots) == 0 {
		return Result{}, ErrInvalid{"proposal", "it names no slot"}
	}
	if c.Node != "" {
		if _, ok := s.Member(c.Node); !ok {
			return Result{}, unknownMember(c.Node)
		}
	}
	slots := make([]ProposedSlot, 0, len(c.Slots))
	for i, ps := range c.Slots {
		sl, err := s.ownedSlot(ps.Slot, ps.Epoch)
		if err != nil {
			return Result{}, err
		}
		if p, ok := s.OpenProposalOf(ps.Slot); ok {
			return Result{}, ErrExists{Kind: "proposal for slot", Name: ps.Slot.String(), Why: fmt.Sprintf("it is in %s, which is open", p.ID)}
		}
		if slices.ContainsFunc(c.Slots[:i], func(o ProposedSlot) bool { return o.Slot == ps.Slot }) {
			return Result{}, ErrInvalid{"slot " + ps.Slot.String(), "it is named twice"}
		}
		if ps.From != sl.Master {
			return Result{}, ErrInvalid{"slot " + ps.Slot.String(), fmt.Sprintf("its master is %s, not %s", sl.Master, shown(string(ps.From)))}
		}
		if err := s.checkTarget(sl, ps); err != nil {
			return Result{}, err
		}
		slots = append(slots, ps.evidence())
	}
	p := Proposal{ID: fmt.Sprintf("p%d", s.NextProposal), Node: c.Node, Dead: c.Dead, Reason: shown(c.Reason), State: Open,
		OpenedBy: shown(c.By), SinceWall: shown(c.SinceWall), Slots: slots}
	s.NextProposal++
	s.Proposals = append(s.Proposals, p)
	return Result{Proposal: p.ID}, nil
}

func (c UpdateProposal) apply(s *State, _ uint64) (Result, error) {
	at, p, err := s.openProposal(c.Proposal)
	if err != nil {
		return Result{}, err
	}
	slots := slices.Clone(p.Slots)
	for _, ps := range c.Slots {
		i := slices.IndexFunc(slots, func(o ProposedSlot) bool { return o.Slot == ps.Slot })
		if i < 0 {
			return Result{}, ErrNotFound{"slot in proposal " + p.ID, ps.Slot.String()}
		}
		if slots[i].Done {
			return Result{}, ErrInvalid{"slot " + ps.Slot.String(), "it is done already in " + p.ID}
		}
		sl, err := s.ownedSlot(ps.Slot, ps.Epoch)
		if err != nil {
			return Result{}, err
		}
		if err := s.checkTarget(sl, ps); err != nil {
			return Result{}, err
		}
		if slots[i].Empty && !ps.Empty {
			return Result{}, ErrInvalid{"slot " + ps.Slot.String(), "a person wants it started empty: reject " + p.ID + " to take that back"}
		}
		ps.From = slots[i].From
		slots[i] = ps.evidence()
	}
	p.Slots = slots
	if c.Reason != "" {
		p.Reason = shown(c.Reason)
	}
	s.Proposals[at] = p
	return Result{Proposal: p.ID}, nil
}

func (c WithdrawProposal) apply(s *State, index uint64) (Result, error) {
	return s.closeProposal(index, c.Proposal, Withdrawn, "", c.Why)
}

func (c RejectProposal) apply(s *State, index uint64) (Result, error) {
	return s.closeProposal(index, c.Proposal, Rejected, c.By, c.Why)
}

func (c ConfirmSlot) apply(s *State, index uint64) (Result, error) {
	_, p, err := s.openProposal(c.Proposal)
	if err != nil {
		return Result{}, err
	}
	i := slices.IndexFunc(p.Slots, func(ps ProposedSlot) bool { return ps.Slot == c.Slot })
	if i < 0 {
		return Result{}, ErrNotFound{"slot in proposal " + p.ID, c.Slot.String()}
	}
	sl, err := s.confirmable(c, p.Slots[i])
	if err != nil {
		return Result{}, err
	}
	from := sl.Master
	if c.Unclean { // as many as may have been begun and forgotten
		sl.Unclean += slot.UncleanCount(c.Begins() - sl.Epoch)
	}
	sl.Epoch = c.Begins()
	switch {
	case c.Empty:
		sl.loseAll(c.To)
	case c.AcceptLoss:
		for _, n := range sl.mayHoldMore(c.To) {
			sl.OpenLoss = sl.OpenLoss.with(n, sl.Epoch)
		}
	}
	// Whoever was in sync may have acknowledged more since the plan asked: the
	// new master hears them first. A person who accepts the loss does not wait.
	sl.Awaits, sl.AtLeast = nil, c.Position
	if !c.AcceptLoss {
		sl.Awaits = without(sl.InSync, c.To)
	}
	if c.To != from {
		// The old master keeps its place in the list as a replica: what it holds
		// beyond the new master's copy is set aside when it returns.
		sl.Replicas = append(without(sl.Replicas, c.To), from)
	}
	sl.Master, sl.Leaving = c.To, sl.stays(c.To)
	sl.HandOver = nil
	sl.unprotect()
	s.put(sl, index)

	s.done(p.ID, sl.ID, c.To, c.By)
	s.record(Change{Kind: ChangeConfirmed, Slot: c.Slot, Epoch: sl.Epoch, From: from, To: c.To, Proposal: p.ID,
		By: shown(c.By), Why: shown(c.Why), WallTime: shown(c.WallTime), Unclean: c.Unclean, AcceptedLoss: c.AcceptLoss})
	return Result{Epoch: sl.Epoch, Proposal: p.ID}, nil
}

// confirmable reports whether one slot of an open proposal may change now.
func (s *State) confirmable(c ConfirmSlot, ps ProposedSlot) (Slot, error) {
	sl, ok := s.Slot(c.Slot)
	what := fmt.Sprintf("confirm slot %s of %s", c.Slot, c.Proposal)
	switch {
	case !ok:
		return sl, ErrNotFound{"slot", c.Slot.String()}
	case ps.Done:
		return sl, ErrStale{fmt.Sprintf("epoch of slot %s, which %s already gave to %s", c.Slot, c.Proposal, ps.To), uint64(c.Epoch), uint64(sl.Epoch)}
	case sl.Epoch != c.Epoch || sl.Epoch != ps.Epoch:
		return sl, ErrStale{"epoch of slot " + c.Slot.String(), uint64(c.Epoch), uint64(sl.Epoch)}
	case c.Seen > c.Epoch && !c.AcceptLoss:
		return sl, ErrInvalid{what, fmt.Sprintf("epoch %d was seen, %d is recorded: what was decided in between is not known, and the loss must be accepted", c.Seen, c.Epoch)}
	case c.Begins() > slot.MaxEpoch:
		return sl, ErrInvalid{what, "its epochs are used up"}
	case sl.Version != c.Version:
		return sl, ErrChanged{Slot: c.Slot, Want: c.Version, Have: sl.Version}
	case c.To == sl.Master && !c.AcceptLoss:
		return sl, ErrInvalid{what, fmt.Sprintf("%s is the master already", c.To)}
	case c.To == "":
		return sl, ErrInvalid{what, "it has no target: no copy is known to be viable, name one"}
	case c.AcceptLoss && !c.Unclean:
		return sl, ErrInvalid{what, "a change that accepts a loss is not a clean one"}
	case c.Empty != ps.Empty:
		return sl, ErrInvalid{what, "the proposal and the confirmation differ in whether it starts empty"}
	}
	if err := s.mailNode(c.To); err != nil {
		return sl, err
	}
	if c.Empty {
		return sl, c.mayStartEmpty(sl, ps)
	}
	if !sl.Holds(c.To) {
		return sl, ErrInvalid{what, fmt.Sprintf("%s holds no copy of the slot", c.To)}
	}
	return sl, nil
}

// mayHoldMore lists whose mail is given up when a loss is accepted: the old
// master's, and while that has not begun, theirs for whom it waits. When it begins
// again itself: that of the replicas which count, or for which it waits.
func (sl Slot) mayHoldMore(to slot.NodeName) []slot.NodeName {
	var out []slot.NodeName
	if to != sl.Master {
		out = append(out, sl.Master)
	}
	if !sl.Begun() {
		out = append(out, without(sl.Awaits, to)...)
	} else if to == sl.Master {
		out = append(out, sl.InSync...)
	}
	if len(out) == 0 {
		out = append(out, sl.Master)
	}
	return out
}

// checkTarget lets a proposal name a replica, or nobody while none is viable.
func (s *State) checkTarget(sl Slot, ps ProposedSlot) error {
	if ps.Empty {
		return s.checkEmpty(sl, ps)
	}
	for _, n := range append([]slot.NodeName{ps.To}, ps.Others...) {
		if n != "" && !slices.Contains(sl.Replicas, n) {
			return ErrInvalid{"slot " + sl.ID.String(), fmt.Sprintf("%s holds no replica of it", shown(string(n)))}
		}
	}
	if len(ps.Others) > MaxReplicas {
		return ErrInvalid{"slot " + sl.ID.String(), "too many other copies are named"}
	}
	return nil
}

// openProposal finds a proposal that can still be acted on.
func (s *State) openProposal(id string) (int, Proposal, error) {
	at := s.proposalAt(id)
	if at < 0 {
		return 0, Proposal{}, ErrNotFound{"proposal", shown(id)}
	}
	p := s.Proposals[at]
	if p.State != Open {
		return 0, Proposal{}, ErrClosed{Proposal: p.ID, State: p.State, Why: p.Closed}
	}
	return at, p, nil
}

func (s *State) closeProposal(index uint64, id string, as ProposalState, by, why string) (Result, error) {
	at, p, err := s.openProposal(id)
	if err != nil {
		return Result{}, err
	}
	s.endHandOvers(id, index)
	if as == Rejected {
		s.rejectMoves(p, index, by)
	}
	s.Proposals[at] = p.closed(as, shown(by), shown(why))
	s.trimProposals()
	return Result{Proposal: p.ID}, nil
}

// closed returns the proposal as it is remembered: without the evidence (law 10).
func (p Proposal) closed(as ProposalState, by, why string) Proposal {
	p.State, p.ClosedBy, p.Closed = as, by, why
	p.Slots = slices.Clone(p.Slots)
	for i := range p.Slots {
		ps := &p.Slots[i]
		ps.Position, ps.Note, ps.Others = 0, "", nil
	}
	return p
}

// evidence makes a proposed slot of what a command brought.
func (ps ProposedSlot) evidence() ProposedSlot {
	ps.Done = false
	ps.Note = shown(ps.Note)
	ps.Others = without(ps.Others, "")
	return ps
}

// trimProposals forgets the oldest closed proposals beyond the limits; the last
// one closed is always kept, so that its operator can read how it ended.
func (s *State) trimProposals() {
	count, sum, newest := 0, 0, true
	kept := make([]Proposal, 0, len(s.Proposals))
	for _, p := range slices.Backward(s.Proposals) {
		if p.State != Open {
			count++
			sum += len(p.Slots)
			if !newest && (count > MaxClosed || sum > maxClosedSum) {
				continue
			}
			newest = false
		}
		kept = append(kept, p)
	}
	slices.Reverse(kept)
	s.Proposals = kept
}

// with adds an old master to an open loss, which may be nil.
func (l *OpenLoss) with(n slot.NodeName, since slot.Epoch) *OpenLoss {
	if l == nil {
		return &OpenLoss{Node: n, Since: since}
	}
	if l.Node == n || slices.Contains(l.Also, n) {
		return l
	}
	return &OpenLoss{Node: l.Node, Since: l.Since, Also: append(slices.Clone(l.Also), n), Empty: l.Empty}
}
