package local

import (
	"testing"

	"mailnode/storage/slot"
)

// The mark "alone since" belongs to one epoch. A master that has handed the slot over,
// and gets it back, begins without it; in the same epoch no start takes it away.
func TestMarkOfAnEarlierEpochGoes(t *testing.T) {
	o := options(t, newFS(t))
	s := openSlot(t, o)
	serve(t, s, 1, 0).Stop()
	if err := s.MarkAlone(t.Context(), slot.At(1, 1)); err != nil {
		t.Fatal(err)
	}
	serve(t, s, 1, 0).Stop()
	if since, alone, err := s.Alone(); err != nil || !alone || since != slot.At(1, 1) {
		t.Fatalf("in its own epoch: %s, %t, %v", since, alone, err)
	}
	serve(t, s, 3, 0).Stop()
	if since, alone, err := s.Alone(); err != nil || alone {
		t.Fatalf("in a later epoch: %s, %t, %v", since, alone, err)
	}
}
