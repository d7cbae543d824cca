package cluster

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mailnode/storage/slot"
)

// four is sample with a fourth node, in which copies may be moved.
func four(t *testing.T) *State {
	t.Helper()
	s := sample(t)
	s.FeatureLevel = KnownFeatures
	apply(t, s, 20, AddMember{Member: upToDate("n4", Voter)})
	return s
}

// moveOf is a slot's move, nil when there is none.
func moveOf(s *State, id slot.ID) *Move {
	sl, _ := s.Slot(id)
	return sl.Move
}

// A replica goes to another node: listed first, dropped when the new copy counts, and
// not before.
func TestMoveOfAReplica(t *testing.T) {
	s := four(t)
	apply(t, s, 21, PlanMoves{By: "eve", Moves: []PlannedMove{{Slot: 0, Epoch: 1, To: "n4", From: "n2"}, {Slot: 1, Epoch: 1, To: "n4", From: "n1"}}})
	if diff := cmp.Diff(&Move{To: "n4", From: "n2", Begun: 21, By: "eve"}, moveOf(s, 0)); diff != "" {
		t.Error(diff)
	}
	var exists ErrExists
	if _, err := s.Apply(22, PlanMoves{Moves: []PlannedMove{{Slot: 2, Epoch: 0, To: "n4"}, {Slot: 0, Epoch: 1, To: "n4", From: "n3"}}}); err == nil {
		t.Error("a slot without a master is moved")
	}
	if _, err := s.Apply(22, PlanMoves{Moves: []PlannedMove{{Slot: 0, Epoch: 1, To: "n4", From: "n3"}}}); !errors.As(err, &exists) {
		t.Errorf("planned twice: %v", err)
	}
	apply(t, s, 23, BeginMove{Slot: 0, Epoch: 1})
	apply(t, s, 24, BeginMove{Slot: 0, Epoch: 1}) // again: nothing changes
	sl, _ := s.Slot(0)
	if !slices.Equal(sl.Replicas, names("n2", "n3", "n4")) || sl.Copied() {
		t.Errorf("%+v", sl)
	}
	var invalid ErrInvalid
	for _, c := range []Command{BeginDrop{Slot: 0, Epoch: 1, Node: "n2"}, FinishMove{Slot: 0, Epoch: 1}} {
		if _, err := s.Apply(25, decidedOn(s, c)); !errors.As(err, &invalid) {
			t.Errorf("%T before the new copy counts: %v", c, err)
		}
	}
	apply(t, s, 26, SetProtected{Slot: 0, Epoch: 1, InSync: names("n2", "n3", "n4")})
	apply(t, s, 27, BeginDrop{Slot: 0, Epoch: 1, Node: "n2"})
	apply(t, s, 28, SetProtected{Slot: 0, Epoch: 1, InSync: names("n3")}) // n4 fell behind meanwhile
	if _, err := s.Apply(29, decidedOn(s, EndDrop{Slot: 0, Epoch: 1, Node: "n2"})); !errors.As(err, &invalid) {
		t.Errorf("dropped although the new copy counts no more: %v", err)
	}
	apply(t, s, 30, SetProtected{Slot: 0, Epoch: 1, InSync: names("n3", "n4")})
	apply(t, s, 31, EndDrop{Slot: 0, Epoch: 1, Node: "n2"})
	late := FinishMove{Slot: 0, Epoch: 1, Begun: moveBegun(s, 0)}
	apply(t, s, 32, late)
	if sl, _ = s.Slot(0); sl.Move != nil || !slices.Equal(sl.Replicas, names("n3", "n4")) || sl.Home != "n1" {
		t.Errorf("%+v", sl)
	}
	apply(t, s, 33, PlanMoves{Moves: []PlannedMove{{Slot: 0, Epoch: 1, To: "n2", From: "n3"}}})
	if _, err := s.Apply(34, late); !errors.As(err, &invalid) {
		t.Errorf("a late command ended the next move: %v", err)
	}
}

// A master's copy goes to another node: only after a person has confirmed another master,
// which is then the slot's home.
func TestLaw04MoveOfAMaster(t *testing.T) {
	s := four(t)
	apply(t, s, 21, RejectProposal{Proposal: "p1"})
	apply(t, s, 22, PlanMoves{Moves: []PlannedMove{{Slot: 0, Epoch: 1, To: "n4", From: "n1", Lead: "n4"}}})
	apply(t, s, 23, BeginMove{Slot: 0, Epoch: 1})
	apply(t, s, 24, SetProtected{Slot: 0, Epoch: 1, InSync: names("n3", "n4")})
	var invalid ErrInvalid
	for _, c := range []Command{BeginDrop{Slot: 0, Epoch: 1, Node: "n1"}, FinishMove{Slot: 0, Epoch: 1}} {
		if _, err := s.Apply(25, decidedOn(s, c)); !errors.As(err, &invalid) {
			t.Errorf("%T of a master: %v", c, err)
		}
	}
	p := apply(t, s, 26, OpenProposal{By: Mover, Slots: []ProposedSlot{{Slot: 0, Epoch: 1, From: "n1", To: "n4"}}}).Proposal
	apply(t, s, 27, ConfirmSlot{Proposal: p, Slot: 0, Epoch: 1, To: "n4", By: "eve"})
	apply(t, s, 28, SetProtected{Slot: 0, Epoch: 2, InSync: names("n3")})
	apply(t, s, 29, BeginDrop{Slot: 0, Epoch: 2, Node: "n1"})
	apply(t, s, 30, EndDrop{Slot: 0, Epoch: 2, Node: "n1"})
	apply(t, s, 31, FinishMove{Slot: 0, Epoch: 2})
	if sl, _ := s.Slot(0); sl.Move != nil || sl.Master != "n4" || sl.Home != "n4" || sl.Holds("n1") {
		t.Errorf("%+v", sl)
	}
}

// A rejected proposal of a move gives it up; what it has added goes, and the reason
// stands until somebody says that he has seen it.
func TestMoveIsGivenUp(t *testing.T) {
	s := four(t)
	apply(t, s, 21, RejectProposal{Proposal: "p1"})
	apply(t, s, 22, PlanMoves{Moves: []PlannedMove{{Slot: 0, Epoch: 1, To: "n4", From: "n1", Lead: "n2"}, {Slot: 1, Epoch: 1, To: "n4", From: "n1"}}})
	apply(t, s, 23, BeginMove{Slot: 0, Epoch: 1})
	apply(t, s, 24, SetProtected{Slot: 0, Epoch: 1, InSync: names("n2", "n3", "n4")})
	p := apply(t, s, 25, OpenProposal{By: Mover, Slots: []ProposedSlot{{Slot: 0, Epoch: 1, From: "n1", To: "n2"}}}).Proposal
	apply(t, s, 26, RejectProposal{Proposal: p, By: "ann"})
	if m := moveOf(s, 0); m.GivenUp != p+" was rejected by ann" || !m.Added {
		t.Errorf("%+v", m)
	}
	if _, err := s.Apply(27, decidedOn(s, UndoMove{Slot: 0, Epoch: 1})); !errors.As(err, new(ErrInvalid)) {
		t.Errorf("undone while n4 is listed: %v", err)
	}
	apply(t, s, 28, SetProtected{Slot: 0, Epoch: 1, InSync: names("n2", "n3")})
	apply(t, s, 29, BeginDrop{Slot: 0, Epoch: 1, Node: "n4"})
	apply(t, s, 30, EndDrop{Slot: 0, Epoch: 1, Node: "n4"})
	apply(t, s, 31, UndoMove{Slot: 0, Epoch: 1})
	if sl, _ := s.Slot(0); sl.Move == nil || sl.Moving() || sl.Holds("n4") {
		t.Errorf("%+v", sl)
	}
	apply(t, s, 32, StopMoves{By: "ann"})
	if moveOf(s, 0) != nil || moveOf(s, 1) != nil {
		t.Errorf("stopped: %+v, %+v", moveOf(s, 0), moveOf(s, 1))
	}
	if _, err := s.Apply(33, StopMoves{By: "ann"}); err == nil || !strings.Contains(err.Error(), "nothing to stop") {
		t.Errorf("stopped twice: %v", err)
	}
}

func TestMovesRefused(t *testing.T) {
	s := four(t)
	for name, pm := range map[string]PlannedMove{
		"to a witness":             {Slot: 0, Epoch: 1, To: "w1", From: "n2"},
		"to nobody":                {Slot: 0, Epoch: 1, From: "n2"},
		"to a stranger":            {Slot: 0, Epoch: 1, To: "n9", From: "n2"},
		"to a copy":                {Slot: 0, Epoch: 1, To: "n3", From: "n2"},
		"from nobody":              {Slot: 0, Epoch: 1, To: "n4", From: "n9"},
		"the master":               {Slot: 0, Epoch: 1, To: "n4", From: "n1"},
		"the master that leads":    {Slot: 0, Epoch: 1, To: "n4", From: "n1", Lead: "n1"},
		"the replica that leads":   {Slot: 0, Epoch: 1, To: "n4", From: "n2", Lead: "n2"},
		"a leader without a copy":  {Slot: 0, Epoch: 1, Lead: "n4"},
		"nothing":                  {Slot: 0, Epoch: 1},
		"another epoch":            {Slot: 0, Epoch: 2, To: "n4", From: "n2"},
		"a slot without a master":  {Slot: 2, Epoch: 0, To: "n4"},
		"a slot that there is not": {Slot: 77, Epoch: 1, To: "n4"},
	} {
		if _, err := s.Apply(21, PlanMoves{Moves: []PlannedMove{pm}}); OutcomeOf(err) != Refused {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Apply(21, PlanMoves{}); OutcomeOf(err) != Refused {
		t.Errorf("none: %v", err)
	}
}
