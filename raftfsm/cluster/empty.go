package cluster

import (
	"fmt"
	"slices"

	"mailnode/storage/slot"
)

// A slot of which no copy is left is started empty, on any node that holds mail, by a
// person's confirmed proposal (law 4, LAWS §6.19): ProposedSlot.Empty, ConfirmSlot.Empty. The epoch
// is unclean, so that whatever an old copy has given out is never given out again
// (law 2). All who had a copy stay listed: one that returns has diverged, and what it
// has is set aside (law 7). Until a person resolves it that is an open loss of all of
// them. Whether a copy lives is not for the state to know: package failover asks.

func (c OpenProposal) needs() slot.FeatureLevel   { return emptyNeeds(c.Slots) }
func (c UpdateProposal) needs() slot.FeatureLevel { return emptyNeeds(c.Slots) }

func (c ConfirmSlot) needs() slot.FeatureLevel {
	return emptyNeeds([]ProposedSlot{{Empty: c.Empty}})
}

// emptyNeeds is the level of commands that may start a slot empty.
func emptyNeeds(slots []ProposedSlot) slot.FeatureLevel {
	if slices.ContainsFunc(slots, func(ps ProposedSlot) bool { return ps.Empty }) {
		return operatorFeatures
	}
	return slot.FirstFeatureLevel
}

// checkEmpty lets a proposal start a slot empty on a node that holds mail.
func (s *State) checkEmpty(sl Slot, ps ProposedSlot) error {
	what := "slot " + sl.ID.String()
	switch {
	case ps.To == "":
		return ErrInvalid{what, "no node is named on which it starts empty"}
	case ps.To == sl.Master:
		return ErrInvalid{what, fmt.Sprintf("%s is its master: it does not start empty there", ps.To)}
	case len(ps.Others) > 0:
		return ErrInvalid{what, "other viable copies are named: it does not start empty"}
	case len(without(sl.Replicas, ps.To)) >= MaxReplicas:
		return ErrInvalid{what, fmt.Sprintf("it has %d replicas, the most it may have: drop one that is lost", len(sl.Replicas))}
	}
	return s.mailNode(ps.To)
}

// mayStartEmpty checks a confirmation of that.
func (c ConfirmSlot) mayStartEmpty(sl Slot, ps ProposedSlot) error {
	what := fmt.Sprintf("confirm slot %s of %s", c.Slot, c.Proposal)
	switch {
	case c.To != ps.To:
		return ErrInvalid{what, fmt.Sprintf("it is proposed to start empty on %s", ps.To)}
	case c.To == sl.Master:
		return ErrInvalid{what, fmt.Sprintf("%s is its master: it does not start empty there", c.To)}
	case !c.AcceptLoss:
		return ErrInvalid{what, "it starts empty: the loss must be accepted"}
	case len(without(sl.Replicas, c.To)) >= MaxReplicas:
		return ErrInvalid{what, fmt.Sprintf("it has %d replicas, the most it may have: drop one that is lost", len(sl.Replicas))}
	}
	return nil
}

// loseAll notes that what every copy has may be missing.
func (sl *Slot) loseAll(to slot.NodeName) {
	for _, n := range append([]slot.NodeName{sl.Master}, without(sl.Replicas, to)...) {
		sl.OpenLoss = sl.OpenLoss.with(n, sl.Epoch)
	}
	l := *sl.OpenLoss
	l.Empty = true
	sl.OpenLoss = &l
}
