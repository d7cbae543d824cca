package cluster

import (
	"cmp"
	"fmt"
	"slices"

	"mailnode/storage/slot"
)

// LogEnd is the last entry of a server's Raft log.
type LogEnd struct {
	Term  uint64 `json:"t,omitempty"`
	Index uint64 `json:"i,omitempty"`
}

// Compare orders logs as Raft's elections do: of two that differ, the higher one holds
// all that the lower one may have applied.
func (e LogEnd) Compare(o LogEnd) int {
	return cmp.Or(cmp.Compare(e.Term, o.Term), cmp.Compare(e.Index, o.Index))
}

// RaiseGeneration is what the recovery of a lost majority does to the state (LAWS
// §6.12). Every slot's epoch and unclean count rise by 16, so that no number that the
// lost majority may have given out comes again. It changes no master. Open proposals
// are superseded. The members that With does not name belong to the past from then on:
// no node of the new generation talks to them.
//
// It is never proposed, since nobody could commit it: it comes into the log together
// with the configuration of the survivors (raftfsm.Node.Recover). The first leader that
// can read it writes the next entry, so it raises the feature level itself.
type RaiseGeneration struct {
	Generation slot.Generation `json:"generation"` // the one expected before
	With       []slot.NodeName `json:"with"`       // who goes on, the survivor that recovers among them
	End        LogEnd          `json:"end"`        // of the survivor's log, before this
	By         string          `json:"by,omitempty"`
	Why        string          `json:"why,omitempty"`
	WallTime   string          `json:"wall,omitempty"`
}

func (RaiseGeneration) kind() string { return "raise-generation" }

func (c RaiseGeneration) apply(s *State, index uint64) (Result, error) {
	if c.Generation != s.Generation {
		return Result{}, ErrStale{"generation of the cluster", uint64(c.Generation), uint64(s.Generation)}
	}
	for _, sl := range s.Slots {
		if sl.Epoch+recoveryStep > slot.MaxEpoch {
			return Result{}, ErrInvalid{"slot " + sl.ID.String(), "its epochs are used up"}
		}
	}
	if len(c.With) == 0 {
		return Result{}, ErrInvalid{"generation of the cluster", "nobody is named who goes on"}
	}
	for _, n := range c.With {
		if _, ok := s.Member(n); !ok {
			return Result{}, unknownMember(n)
		}
	}
	s.Generation++
	s.FeatureLevel = max(s.Features(), operatorFeatures)
	s.RecoveredAt = c.End
	for i := range s.Members {
		m := &s.Members[i]
		m.Behind = m.Behind || !slices.Contains(c.With, m.Name)
	}
	for i := range s.Slots {
		sl := &s.Slots[i]
		sl.Epoch += recoveryStep
		sl.Unclean += recoveryStep
		// What the lost majority recorded last is not known here: the master may
		// have gone on alone. It reports afresh in the new epoch.
		// One that had not begun still holds what its plan found, and hears first who
		// goes on of those that may have acknowledged more (law 1).
		sl.Awaits = sl.stillHears(c.With)
		sl.unprotect()
		sl.HandOver = nil
		sl.Version = index
	}
	why := fmt.Sprintf("the cluster was recovered: generation %d", s.Generation)
	for i := range s.Proposals {
		if s.Proposals[i].State == Open {
			s.Proposals[i] = s.Proposals[i].closed(Superseded, shown(c.By), why)
		}
	}
	s.trimProposals()
	s.record(Change{Kind: ChangeGeneration, By: shown(c.By), Why: shown(c.Why), WallTime: shown(c.WallTime), Unclean: true})
	return Result{}, nil
}

// stillHears lists whom the master hears before it begins, of those that go on.
func (sl Slot) stillHears(with []slot.NodeName) (out []slot.NodeName) {
	for _, n := range sl.Awaits {
		if !sl.Begun() && slices.Contains(with, n) {
			out = append(out, n)
		}
	}
	return out
}

// Belongs reports whether a member is of the cluster's generation. One that is not was
// left behind by a recovery: nobody talks to it, and it comes back by joining again,
// which makes it another member of its name.
func (s *State) Belongs(n slot.NodeName) bool {
	m, ok := s.Member(n)
	return ok && !m.Behind
}

// LeftBehind names the members that were left behind, by name.
func (s *State) LeftBehind() []slot.NodeName {
	var out []slot.NodeName
	for _, m := range s.Members {
		if m.Behind {
			out = append(out, m.Name)
		}
	}
	return out
}
