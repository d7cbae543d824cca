package cluster

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mailnode/storage/slot"
)

// A slot without a living copy starts empty on a node that had none: by a confirmed
// proposal whose loss is accepted, in an unclean epoch, with all old copies listed and
// an open loss of each.
func TestLaw04StartEmptyByConfirm(t *testing.T) {
	s := sample(t)
	s.FeatureLevel = operatorFeatures
	apply(t, s, 19, AddMember{Member: upToDate("n5", Voter)})
	apply(t, s, 20, UpdateProposal{Proposal: "p1", Slots: []ProposedSlot{{Slot: 0, Epoch: 1, From: "n1", To: "n5", Empty: true}}})
	sl, _ := s.Slot(0)
	good := ConfirmSlot{Proposal: "p1", Slot: 0, Epoch: 1, Version: sl.Version, To: "n5", Unclean: true, AcceptLoss: true, Empty: true, By: "eve"}
	for why, change := range map[string]func(c *ConfirmSlot){
		"differ in whether":         func(c *ConfirmSlot) { c.Empty = false },
		"the loss must be accepted": func(c *ConfirmSlot) { c.AcceptLoss = false },
		"not a clean one":           func(c *ConfirmSlot) { c.Unclean = false },
		"start empty on n5":         func(c *ConfirmSlot) { c.To = "n3" },
	} {
		c := good
		change(&c)
		var invalid ErrInvalid
		if _, err := s.Apply(21, c); !errors.As(err, &invalid) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", why, err)
		}
	}
	if _, err := s.Apply(21, UpdateProposal{Proposal: "p1", Slots: []ProposedSlot{{Slot: 0, Epoch: 1, From: "n1", To: "n2"}}}); err == nil {
		t.Error("a machine's evidence took back what a person wants")
	}
	if _, err := s.Apply(21, BeginHandOver{Proposal: "p1", Slot: 0, Epoch: 1, Version: sl.Version, To: "n5"}); err == nil {
		t.Error("nothing was handed over to an empty copy")
	}
	apply(t, s, 22, good)
	sl, _ = s.Slot(0)
	want := Slot{ID: 0, Epoch: 2, Unclean: 1, Master: "n5", Wished: sl.Wished, Replicas: names("n2", "n3", "n1"), Version: 22,
		OpenLoss: &OpenLoss{Node: "n1", Since: 2, Also: names("n2", "n3"), Empty: true}}
	if diff := cmp.Diff(want, sl); diff != "" {
		t.Error(diff)
	}
}

// No node of an older release is shown what it can't read.
func TestStartEmptyNeedsItsLevel(t *testing.T) {
	s := sample(t)
	s.FeatureLevel = 1
	for _, c := range []Command{
		OpenProposal{Slots: []ProposedSlot{{Slot: 1, Epoch: 1, From: "n2", To: "n3", Empty: true}}},
		UpdateProposal{Proposal: "p1", Slots: []ProposedSlot{{Slot: 0, Epoch: 1, From: "n1", To: "n5", Empty: true}}},
		ConfirmSlot{Proposal: "p1", Slot: 0, Epoch: 1, To: "n5", Unclean: true, AcceptLoss: true, Empty: true},
	} {
		if err := s.Permit(c); err == nil || !strings.Contains(err.Error(), "feature level 2") {
			t.Errorf("%s at level %d: %v", c.kind(), s.Features(), err)
		}
	}
	if err := s.Permit(ConfirmSlot{To: slot.NodeName("n2")}); err != nil {
		t.Errorf("a confirmation as before: %v", err)
	}
}
