package cluster

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mailnode/storage/slot"
)

// TestLaw01RecoveryForgetsNoWaiting: a master that had not begun its epoch when the
// majority was lost still hears who goes on and may have acknowledged more, and still
// needs what its plan found. One that had begun waits for nobody.
func TestLaw01RecoveryForgetsNoWaiting(t *testing.T) {
	for name, tt := range map[string]struct {
		slot Slot
		want []slot.NodeName
	}{
		"not begun":  {Slot{Awaits: names("n1", "n3")}, names("n3")},
		"handed to":  {Slot{Awaits: names("n3"), Protected: true, Inherited: true, InSync: names("n3")}, names("n3")},
		"begun":      {Slot{Awaits: names("n1", "n3"), UnprotectedSince: slot.At(3, 1)}, nil},
		"waits gone": {Slot{Awaits: names("n1")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := sample(t)
			sl := tt.slot
			sl.ID, sl.Epoch, sl.Master, sl.Replicas, sl.AtLeast = 1, 3, "n2", names("n1", "n3"), slot.At(2, 7)
			s.Slots[1] = sl
			apply(t, s, 30, RaiseGeneration{With: names("n2", "n3")})
			got, _ := s.Slot(1)
			if got.AtLeast != slot.At(2, 7) || got.Epoch != 19 || got.Begun() {
				t.Errorf("%+v", got)
			}
			if diff := cmp.Diff(tt.want, got.Awaits); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestLaw02RecoveryServesNoEmptyReplacement: the machine that took a master's place holds
// something of its copy, or does not serve, also when the majority is lost after that.
func TestLaw02RecoveryServesNoEmptyReplacement(t *testing.T) {
	s := sample(t)
	apply(t, s, 21, AddToken{Token{ID: "r1", Hash: tokenHash, Node: "n2", LeftS: 60}})
	apply(t, s, 22, replaced(s, "r1", keyA))
	apply(t, s, 23, RaiseGeneration{With: names("n2")})
	if sl, _ := s.Slot(1); sl.Master != "n2" || sl.AtLeast == 0 {
		t.Errorf("%+v may serve an empty copy", sl)
	}
}

// A slot whose home was removed is at home where it is: another machine of that name is
// another node.
func TestRemovedNodeIsNobodysHome(t *testing.T) {
	s := sample(t)
	apply(t, s, 20, RejectProposal{Proposal: "p1"})
	for i := range s.Slots {
		s.Slots[i] = Slot{ID: slot.ID(i), Epoch: 2, Master: "n1", Replicas: names("n3"), Wished: Wished{Home: "n2"}}
	}
	apply(t, s, 21, RemoveMember{Name: "n2"})
	for _, sl := range s.Slots {
		if sl.Home != "n1" || sl.Version != 21 {
			t.Errorf("%+v", sl)
		}
	}
}

// What a person wished for and is delayed undoes nothing that was wished for since.
func TestLateWishesAreRefused(t *testing.T) {
	s := four(t)
	sl, _ := s.Slot(0)
	add := AddReplica{Slot: 0, Epoch: 1, Version: sl.Version, Node: "n4"}
	fewer := SetReplicas{Slot: 0, Epoch: 1, Version: sl.Version, Count: 0}
	apply(t, s, 21, add)
	apply(t, s, 22, BeginDrop{Slot: 0, Epoch: 1, Node: "n4"})
	sl, _ = s.Slot(0)
	keep := CancelDrop{Slot: 0, Epoch: 1, Version: sl.Version, Node: "n4"}
	apply(t, s, 23, keep)
	apply(t, s, 24, BeginDrop{Slot: 0, Epoch: 1, Node: "n4"})
	late := func(c Command) {
		t.Helper()
		if _, err := s.Apply(30, c); !errors.As(err, new(ErrChanged)) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	late(keep)
	apply(t, s, 25, EndDrop{Slot: 0, Epoch: 1, Node: "n4"})
	late(add)
	late(fewer)
	s.FeatureLevel = slot.FirstFeatureLevel
	if s.Permit(add) == nil || s.Permit(AddReplica{Slot: 0, Epoch: 1, Node: "n4"}) != nil {
		t.Error("a version is written where a member of an older release could not read it, or nothing is")
	}
}

// How many replicas a person wants of a slot is said once, and all who add, drop, or let a
// node go read it there.
func TestReplicasThatAreWantedOfASlot(t *testing.T) {
	s := four(t)
	less := SetReplicas{Slot: 0, Epoch: 1, Count: 0}
	more := SetReplicas{Slot: 1, Epoch: 1, Count: 2}
	apply(t, s, 21, less)
	apply(t, s, 22, more)
	apply(t, s, 23, more) // again: nothing changes
	if sl, _ := s.Slot(1); sl.Version != 22 || sl.Wants(s.DefaultReplicas) != 2 {
		t.Errorf("%+v", sl)
	}
	var grow []slot.ID
	for _, m := range Rebalance(Site{Members: s.Members, Slots: s.Slots, KeepMasters: true}, s.DefaultReplicas, "").Moves {
		if m.From == "" {
			grow = append(grow, m.Slot)
		}
	}
	if !slices.Equal(grow, []slot.ID{1, 3}) { // s003 has none of one, s001 one of two
		t.Errorf("replicas are added to %v", grow)
	}
	apply(t, s, 24, SetReplicas{Slot: 1, Epoch: 1, Count: s.DefaultReplicas})
	if sl, _ := s.Slot(1); sl.Want != nil {
		t.Errorf("what all have is remembered of one: %+v", sl)
	}
	s.FeatureLevel = slot.FirstFeatureLevel
	if _, err := s.Apply(25, more); err == nil {
		t.Error("written where a member of an older release could not read it")
	}
}
