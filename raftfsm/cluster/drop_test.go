package cluster

import (
	"errors"
	"testing"

	"mailnode/storage/slot"
)

// upToDate is a member whose release knows all commands.
func upToDate(name string, r Role) Member {
	m := member(name, r)
	m.Features = KnownFeatures
	return m
}

// dropping is a cluster in which s000 belongs to n1, and n2 and n3 protect it.
func dropping(t *testing.T) *State {
	t.Helper()
	s := New()
	apply(t, s, 1, Init{ClusterID: "c", SlotCount: 1, DefaultReplicas: 2, First: upToDate("n1", Voter)})
	for i, n := range []string{"n2", "n3", "n4"} {
		apply(t, s, uint64(2+i), AddMember{Member: upToDate(n, Voter)})
	}
	apply(t, s, 10, AssignSlot{Slot: 0, Master: "n1", Replicas: names("n2", "n3")})
	apply(t, s, 11, SetProtected{Slot: 0, Epoch: 1, InSync: names("n2", "n3")})
	return s
}

// TestLaw01DropEndsWhenTheRecordDoesNotCount: a wish changes nothing of who holds a copy;
// only a record that does not count the replica lets it go, and only while it stands.
func TestLaw01DropEndsWhenTheRecordDoesNotCount(t *testing.T) {
	s := dropping(t)
	apply(t, s, 20, BeginDrop{Slot: 0, Epoch: 1, Node: "n2"})
	at := s.Slots[0].Version
	if !s.Slots[0].Holds("n2") || len(s.Slots[0].InSync) != 2 {
		t.Fatalf("a wish: %+v", s.Slots[0])
	}
	apply(t, s, 21, BeginDrop{Slot: 0, Epoch: 1, Node: "n2"}) // typed again
	if s.Slots[0].Version != at {
		t.Errorf("the same wish again changed %+v", s.Slots[0])
	}
	for name, c := range map[string]Command{
		"in sync":      EndDrop{Slot: 0, Epoch: 1, Version: at, Node: "n2"},
		"not wished":   EndDrop{Slot: 0, Epoch: 1, Version: at, Node: "n3"},
		"another wish": BeginDrop{Slot: 0, Epoch: 1, Version: 11, Node: "n3"},
		"no wish":      CancelDrop{Slot: 0, Epoch: 1, Node: "n3"},
		"the master":   BeginDrop{Slot: 0, Epoch: 1, Version: at, Node: "n1"},
		"a stranger":   BeginDrop{Slot: 0, Epoch: 1, Version: at, Node: "n4"},
	} {
		if _, err := s.Apply(22, c); err == nil {
			t.Errorf("%s: %+v was taken", name, c)
		}
	}
	apply(t, s, 23, SetProtected{Slot: 0, Epoch: 1, InSync: names("n3")})
	late := EndDrop{Slot: 0, Epoch: 1, Version: s.Slots[0].Version, Node: "n2"}
	apply(t, s, 24, CancelDrop{Slot: 0, Epoch: 1, Node: "n2"})
	apply(t, s, 25, BeginDrop{Slot: 0, Epoch: 1, Node: "n2"})
	var changed ErrChanged
	if _, err := s.Apply(26, late); !errors.As(err, &changed) {
		t.Errorf("a drop that was decided before the wish was taken back: %v", err)
	}
	apply(t, s, 27, EndDrop{Slot: 0, Epoch: 1, Node: "n2"})
	if sl := s.Slots[0]; sl.Holds("n2") || !sl.Protected || len(sl.Leaving) != 0 {
		t.Errorf("dropped: %+v", sl)
	}
}

// TestLaw04LeaverBecomesMaster: the wish ends when a person makes the replica the master.
func TestLaw04LeaverBecomesMaster(t *testing.T) {
	s := dropping(t)
	apply(t, s, 20, BeginDrop{Slot: 0, Epoch: 1, Node: "n2"})
	p := apply(t, s, 21, OpenProposal{Slots: []ProposedSlot{{Slot: 0, Epoch: 1, From: "n1", To: "n2"}}}).Proposal
	var invalid ErrInvalid
	if _, err := s.Apply(22, decidedOn(s, BeginHandOver{Proposal: p, Slot: 0, Epoch: 1, To: "n2"})); !errors.As(err, &invalid) {
		t.Errorf("handed over to one that leaves: %v", err)
	}
	apply(t, s, 23, ConfirmSlot{Proposal: p, Slot: 0, Epoch: 1, To: "n2", Unclean: true})
	if sl := s.Slots[0]; sl.Master != "n2" || len(sl.Leaving) != 0 {
		t.Errorf("confirmed: %+v", sl)
	}
	if _, err := s.Apply(24, decidedOn(s, BeginDrop{Slot: 0, Epoch: 2, Node: "n3"})); !errors.As(err, &invalid) {
		t.Errorf("dropped, and the new master has not heard it: %v", err)
	}
}

// TestLaw07UnrescuedIsNotDropped: an old copy that may hold what nobody else has stays.
func TestLaw07UnrescuedIsNotDropped(t *testing.T) {
	s := dropping(t)
	p := apply(t, s, 20, OpenProposal{Slots: []ProposedSlot{{Slot: 0, Epoch: 1, From: "n1", To: "n2"}}}).Proposal
	apply(t, s, 21, ConfirmSlot{Proposal: p, Slot: 0, Epoch: 1, To: "n2", Unclean: true, AcceptLoss: true})
	var invalid ErrInvalid
	if _, err := s.Apply(22, decidedOn(s, BeginDrop{Slot: 0, Epoch: 2, Node: "n1", Anyway: true})); !errors.As(err, &invalid) {
		t.Errorf("dropped with an open loss: %v", err)
	}
	apply(t, s, 23, ResolveLoss{Slot: 0, Epoch: 2})
	apply(t, s, 24, SetUnprotected{Slot: 0, Epoch: 2, Since: slot.At(2, 1)})
	apply(t, s, 25, BeginDrop{Slot: 0, Epoch: 2, Node: "n1", Anyway: true})
	if got := s.Slots[0].MayLeave(); len(got) != 1 || !got[0].Anyway {
		t.Errorf("may leave: %+v", got)
	}
}
