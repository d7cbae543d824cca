package cluster

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mailnode/storage/slot"
)

// A hand-over ends in a clean epoch, which begins protected by those who hold all of
// the one before.
func TestHandOver(t *testing.T) {
	s := sample(t)
	begin := BeginHandOver{Proposal: "p1", Slot: 0, Epoch: 1, To: "n2", By: "eve", WallTime: "2026-11-27T03:31:07Z"}
	apply(t, s, 20, begin)
	apply(t, s, 21, begin) // typed again: nothing changes
	sl, _ := s.Slot(0)
	if diff := cmp.Diff(&HandOver{Proposal: "p1", To: "n2", Begun: 20, By: "eve", WallTime: "2026-11-27T03:31:07Z"}, sl.HandOver); diff != "" {
		t.Error(diff)
	}
	var exists ErrExists
	begin.To = "n3"
	if _, err := s.Apply(22, decidedOn(s, begin)); !errors.As(err, &exists) {
		t.Errorf("two targets: %v", err)
	}
	var invalid ErrInvalid
	if _, err := s.Apply(23, decidedOn(s, BeginDrop{Slot: 0, Epoch: 1, Node: "n2", Anyway: true})); !errors.As(err, &invalid) {
		t.Errorf("the target was dropped: %v", err)
	}
	apply(t, s, 24, CommitHandOver{Slot: 0, Epoch: 1, Position: slot.At(1, 9), InSync: names("n3", "n1")})
	sl, _ = s.Slot(0)
	want := Slot{ID: 0, Epoch: 2, Master: "n2", Wished: Wished{Home: "n1"}, Replicas: names("n3", "n1"), InSync: names("n1", "n3"),
		Protected: true, Inherited: true, AtLeast: slot.At(1, 9), Version: 24}
	if diff := cmp.Diff(want, sl); diff != "" {
		t.Error(diff)
	}
	if sl.Begun() {
		t.Error("the new master has begun before it has said so")
	}
	if p, _ := s.Proposal("p1"); p.State != Confirmed || p.ClosedBy != "eve" {
		t.Errorf("the proposal is %s by %q", p.State, p.ClosedBy)
	}
	apply(t, s, 25, SetProtected{Slot: 0, Epoch: 2, InSync: names("n1")})
	if sl, _ = s.Slot(0); sl.Inherited || !sl.Begun() {
		t.Errorf("after its first record: %+v", sl)
	}
}

// What was given up cannot be committed later, and what was begun again is another
// hand-over (law 4): the old master may have written in between.
func TestLaw04HandOverGivenUpIsOver(t *testing.T) {
	var invalid ErrInvalid
	s := sample(t)
	apply(t, s, 20, BeginHandOver{Proposal: "p1", Slot: 0, Epoch: 1, To: "n2"})
	late := CommitHandOver{Slot: 0, Epoch: 1, Begun: 20, Position: slot.At(1, 9), InSync: names("n1")}
	apply(t, s, 21, AbortHandOver{Slot: 0, Epoch: 1, Why: "n2 did not follow"})
	if _, err := s.Apply(22, late); !errors.As(err, &invalid) {
		t.Errorf("after it was given up: %v", err)
	}
	if p, _ := s.Proposal("p1"); p.State != Open || p.Slots[0].Note != "given up: n2 did not follow" {
		t.Errorf("the proposal: %+v", p)
	}
	apply(t, s, 23, BeginHandOver{Proposal: "p1", Slot: 0, Epoch: 1, To: "n2"})
	if _, err := s.Apply(24, late); !errors.As(err, &invalid) {
		t.Errorf("in the next one: %v", err)
	}
	if _, err := s.Apply(25, AbortHandOver{Slot: 0, Epoch: 1, Begun: 20}); !errors.As(err, &invalid) {
		t.Errorf("the first one's end: %v", err)
	}
}

// The end of its proposal, a change without the old master, and a recovered cluster
// end a hand-over too.
func TestHandOverEndsWithItsProposal(t *testing.T) {
	for name, end := range map[string]Command{
		"rejected":  RejectProposal{Proposal: "p1", By: "eve"},
		"withdrawn": WithdrawProposal{Proposal: "p1"},
		"confirmed": ConfirmSlot{Proposal: "p1", Slot: 0, Epoch: 1, To: "n3", Unclean: true},
		"recovered": RaiseGeneration{With: names("n1")},
	} {
		s := sample(t)
		apply(t, s, 20, BeginHandOver{Proposal: "p1", Slot: 0, Epoch: 1, To: "n2"})
		apply(t, s, 21, end)
		if sl, _ := s.Slot(0); sl.HandOver != nil || sl.Version != 21 {
			t.Errorf("%s: %+v", name, sl)
		}
	}
}
