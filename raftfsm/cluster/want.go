package cluster

import (
	"fmt"

	"mailnode/storage/slot"
)

// SetReplicas records how many replicas a person wants of one slot, whatever the
// cluster's number is. It adds and drops none: what does goes by it (Slot.Wants).
type SetReplicas struct {
	Slot    slot.ID    `json:"slot"`
	Epoch   slot.Epoch `json:"epoch"`
	Version uint64     `json:"version"` // of the slot record on which it was decided
	Count   int        `json:"count"`
}

func (SetReplicas) kind() string { return "set-replicas" }

func (c SetReplicas) apply(s *State, index uint64) (Result, error) {
	sl, err := s.ownedSlot(c.Slot, c.Epoch)
	switch {
	case err != nil:
		return Result{}, err
	case c.Count < 0 || c.Count > MaxReplicas:
		return Result{}, ErrInvalid{"replicas of slot " + c.Slot.String(), fmt.Sprintf("%d is not between 0 and %d", c.Count, MaxReplicas)}
	case sl.Wants(s.DefaultReplicas) == c.Count:
		return Result{Epoch: sl.Epoch}, nil
	case sl.Version != c.Version:
		return Result{}, ErrChanged{Slot: c.Slot, Want: c.Version, Have: sl.Version}
	}
	sl.Want = nil
	if c.Count != s.DefaultReplicas {
		sl.Want = &c.Count
	}
	s.put(sl, index)
	return Result{Epoch: sl.Epoch}, nil
}

// Wants is how many replicas the slot is to have: what a person said of it, else the
// cluster's number. It is the only place that says so.
func (sl Slot) Wants(cluster int) int {
	if sl.Want != nil {
		return *sl.Want
	}
	return cluster
}
