package cluster

import (
	"fmt"
	"slices"

	"mailnode/storage/slot"
)

// HandOver is the change of a slot's master while that master lives. While it
// stands in the slot's record the master is sealed: it takes no change, and reads
// go on. It ends in one of three ways, whichever is first in the log: CommitHandOver
// makes To the master of the next epoch; AbortHandOver, or the end of its proposal,
// lets the old master write again, once it has applied that; a ConfirmSlot gives the
// slot to somebody without the old master.
type HandOver struct {
	Proposal string        `json:"p"`
	To       slot.NodeName `json:"t"`
	Begun    uint64        `json:"i"` // Raft index of BeginHandOver: its name, so that a late command never ends a later one
	By       string        `json:"by,omitempty"`
	WallTime string        `json:"w,omitempty"` // shown only (law 11)
}

// BeginHandOver seals one slot of an open proposal: its master is to go to To, which
// holds a replica. Version is that of the slot record that the plan was made from.
// Said again for the same target it changes nothing.
type BeginHandOver struct {
	Proposal string        `json:"proposal"`
	Slot     slot.ID       `json:"slot"`
	Epoch    slot.Epoch    `json:"epoch"`
	Version  uint64        `json:"version"`
	To       slot.NodeName `json:"to"`
	By       string        `json:"by,omitempty"`
	WallTime string        `json:"wall,omitempty"`
}

// CommitHandOver is the sealed master's word that To holds everything up to
// Position, and that nothing more will be written in the epoch. InSync are those who
// hold it too, the old master among them: the next epoch begins protected by them,
// unless there are none because nobody is waited for. The epoch is clean.
type CommitHandOver struct {
	Slot     slot.ID         `json:"slot"`
	Epoch    slot.Epoch      `json:"epoch"`
	Begun    uint64          `json:"begun"`
	Position slot.Position   `json:"position"`
	InSync   []slot.NodeName `json:"in_sync,omitempty"`
}

// AbortHandOver gives a hand-over up. The proposal stays open.
type AbortHandOver struct {
	Slot  slot.ID    `json:"slot"`
	Epoch slot.Epoch `json:"epoch"`
	Begun uint64     `json:"begun"`
	Why   string     `json:"why,omitempty"`
}

func (BeginHandOver) kind() string  { return "begin-hand-over" }
func (CommitHandOver) kind() string { return "commit-hand-over" }
func (AbortHandOver) kind() string  { return "abort-hand-over" }

func (c BeginHandOver) apply(s *State, index uint64) (Result, error) {
	_, p, err := s.openProposal(c.Proposal)
	if err != nil {
		return Result{}, err
	}
	i := slices.IndexFunc(p.Slots, func(ps ProposedSlot) bool { return ps.Slot == c.Slot })
	if i < 0 {
		return Result{}, ErrNotFound{"slot in proposal " + p.ID, c.Slot.String()}
	}
	what := fmt.Sprintf("hand over slot %s by %s", c.Slot, c.Proposal)
	sl, err := s.ownedSlot(c.Slot, c.Epoch)
	h := sl.HandOver
	switch {
	case err != nil:
		return Result{}, err
	case p.Slots[i].Done || p.Slots[i].Epoch != sl.Epoch:
		return Result{}, ErrStale{"epoch of slot " + c.Slot.String() + " in " + p.ID, uint64(p.Slots[i].Epoch), uint64(sl.Epoch)}
	case h != nil && h.Proposal == p.ID && h.To == c.To:
		return Result{Epoch: sl.Epoch}, nil
	case h != nil:
		return Result{}, ErrExists{Kind: "hand-over of slot", Name: c.Slot.String(), Why: fmt.Sprintf("it is being handed over to %s by %s", h.To, h.Proposal)}
	case sl.Version != c.Version:
		return Result{}, ErrChanged{Slot: c.Slot, Want: c.Version, Have: sl.Version}
	case !slices.Contains(sl.Replicas, c.To):
		return Result{}, ErrInvalid{what, fmt.Sprintf("%s holds no replica of it", shown(string(c.To)))}
	case sl.Epoch+1 > slot.MaxEpoch:
		return Result{}, ErrInvalid{what, "its epochs are used up"}
	}
	if _, leaves := sl.Leaves(c.To); leaves {
		return Result{}, ErrInvalid{what, fmt.Sprintf("%s is being dropped; to keep it: mailnode slot add-replica %s %s", c.To, c.Slot, c.To)}
	}
	if err := s.mailNode(c.To); err != nil {
		return Result{}, err
	}
	sl.HandOver = &HandOver{Proposal: p.ID, To: c.To, Begun: index, By: shown(c.By), WallTime: shown(c.WallTime)}
	s.put(sl, index)
	return Result{Epoch: sl.Epoch}, nil
}

func (c CommitHandOver) apply(s *State, index uint64) (Result, error) {
	sl, err := s.handedOver(c.Slot, c.Epoch, c.Begun)
	if err != nil {
		return Result{}, err
	}
	h, from := *sl.HandOver, sl.Master
	if c.Position.Epoch() > sl.Epoch {
		return Result{}, ErrInvalid{"slot " + c.Slot.String(), fmt.Sprintf("position %s is not of epoch %d", c.Position, sl.Epoch)}
	}
	sl.unprotect()
	sl.Replicas = append(without(sl.Replicas, h.To), from)
	if len(c.InSync) > 0 {
		if sl.InSync, err = inSyncOf(sl, c.InSync); err != nil {
			return Result{}, err
		}
		sl.Protected, sl.Inherited = true, true
	}
	sl.Epoch++
	sl.Master, sl.Awaits, sl.AtLeast, sl.HandOver = h.To, nil, c.Position, nil
	s.put(sl, index)
	s.done(h.Proposal, sl.ID, h.To, h.By)
	s.record(Change{Kind: ChangeConfirmed, Slot: sl.ID, Epoch: sl.Epoch, From: from, To: h.To, Proposal: h.Proposal,
		By: h.By, Why: "handed over", WallTime: h.WallTime})
	return Result{Epoch: sl.Epoch, Proposal: h.Proposal}, nil
}

func (c AbortHandOver) apply(s *State, index uint64) (Result, error) {
	sl, err := s.handedOver(c.Slot, c.Epoch, c.Begun)
	if err != nil {
		return Result{}, err
	}
	s.note(sl.HandOver.Proposal, sl.ID, shown("given up: "+c.Why))
	sl.HandOver = nil
	s.put(sl, index)
	return Result{Epoch: sl.Epoch}, nil
}

// handedOver finds a slot for a command about one hand-over of it.
func (s *State) handedOver(id slot.ID, expected slot.Epoch, begun uint64) (Slot, error) {
	sl, err := s.ownedSlot(id, expected)
	if err != nil {
		return sl, err
	}
	if sl.HandOver == nil || sl.HandOver.Begun != begun {
		return sl, ErrInvalid{"slot " + id.String(), "that hand-over has ended already"}
	}
	return sl, nil
}

// done notes in a proposal that one of its slots has changed, and closes the
// proposal with its last one.
func (s *State) done(proposal string, id slot.ID, to slot.NodeName, by string) {
	at := s.proposalAt(proposal)
	if at < 0 || s.Proposals[at].State != Open {
		return
	}
	p := s.Proposals[at]
	p.Slots = slices.Clone(p.Slots)
	for i := range p.Slots {
		if p.Slots[i].Slot == id {
			p.Slots[i].To, p.Slots[i].Done = to, true
		}
	}
	if p.Left() == 0 {
		p = p.closed(Confirmed, shown(by), "")
	}
	s.Proposals[at] = p
	s.trimProposals()
}

// note writes beside a proposed slot what an operator is to know of it.
func (s *State) note(proposal string, id slot.ID, text string) {
	at := s.proposalAt(proposal)
	if at < 0 || s.Proposals[at].State != Open {
		return
	}
	p := s.Proposals[at]
	p.Slots = slices.Clone(p.Slots)
	for i := range p.Slots {
		if p.Slots[i].Slot == id {
			p.Slots[i].Note = text
		}
	}
	s.Proposals[at] = p
}

// endHandOvers gives up what a proposal has begun, when the proposal ends.
func (s *State) endHandOvers(proposal string, index uint64) {
	for i := range s.Slots {
		if sl := s.Slots[i]; sl.HandOver != nil && sl.HandOver.Proposal == proposal {
			sl.HandOver = nil
			s.put(sl, index)
		}
	}
}
