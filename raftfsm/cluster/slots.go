package cluster

import (
	"fmt"
	"slices"

	"mailnode/storage/slot"
)

func (c AssignSlot) apply(s *State, index uint64) (Result, error) {
	sl, err := s.slotFor(c.Slot, c.Epoch)
	if err != nil {
		return Result{}, err
	}
	what := "slot " + c.Slot.String()
	if sl.Master != "" {
		return Result{}, ErrExists{Kind: "master of slot", Name: c.Slot.String(), Why: fmt.Sprintf("it is %s; only a confirmed proposal changes it", sl.Master)}
	}
	if len(c.Replicas) > MaxReplicas {
		return Result{}, ErrInvalid{what, fmt.Sprintf("%d replicas, at most %d are allowed", len(c.Replicas), MaxReplicas)}
	}
	for i, n := range append([]slot.NodeName{c.Master}, c.Replicas...) {
		if err := s.mailNode(n); err != nil {
			return Result{}, err
		}
		if i > 0 && (n == c.Master || slices.Contains(c.Replicas[:i-1], n)) {
			return Result{}, ErrInvalid{what, fmt.Sprintf("%s is named twice", n)}
		}
	}
	sl.Epoch++
	sl.Master, sl.Replicas, sl.Home = c.Master, slices.Clone(c.Replicas), c.Master
	s.put(sl, index)
	s.record(Change{Kind: ChangeAssigned, Slot: c.Slot, Epoch: sl.Epoch, To: c.Master, By: shown(c.By), WallTime: shown(c.WallTime)})
	return Result{Epoch: sl.Epoch}, nil
}

func (c AddReplica) needs() slot.FeatureLevel {
	if c.Version != 0 {
		return operatorFeatures
	}
	return slot.FirstFeatureLevel
}

func (c AddReplica) apply(s *State, index uint64) (Result, error) {
	sl, err := s.ownedSlot(c.Slot, c.Epoch)
	if err != nil {
		return Result{}, err
	}
	if err := s.mailNode(c.Node); err != nil {
		return Result{}, err
	}
	if sl.Holds(c.Node) {
		return Result{}, ErrExists{Kind: "copy of slot " + c.Slot.String(), Name: string(c.Node)}
	}
	if c.Version != 0 && sl.Version != c.Version {
		return Result{}, ErrChanged{Slot: c.Slot, Want: c.Version, Have: sl.Version}
	}
	if len(sl.Replicas) >= MaxReplicas {
		return Result{}, ErrInvalid{"slot " + c.Slot.String(), fmt.Sprintf("it has %d replicas, the most it may have", MaxReplicas)}
	}
	sl.Replicas = append(slices.Clone(sl.Replicas), c.Node)
	s.put(sl, index)
	return Result{Epoch: sl.Epoch}, nil
}

func (c SetUnprotected) apply(s *State, index uint64) (Result, error) {
	sl, err := s.slotAt(c.Slot, c.Epoch, c.Version)
	if err != nil {
		return Result{}, err
	}
	since := c.Since
	if !sl.Protected && sl.UnprotectedSince != 0 {
		since = min(since, sl.UnprotectedSince)
	}
	sl.unprotect()
	sl.UnprotectedSince = since
	s.put(sl, index)
	return Result{Epoch: sl.Epoch}, nil
}

func (c SetProtected) apply(s *State, index uint64) (Result, error) {
	sl, err := s.slotAt(c.Slot, c.Epoch, c.Version)
	if err != nil {
		return Result{}, err
	}
	if sl.InSync, err = inSyncOf(sl, c.InSync); err != nil {
		return Result{}, err
	}
	sl.Protected, sl.Inherited, sl.UnprotectedSince = true, false, 0
	s.put(sl, index)
	return Result{Epoch: sl.Epoch}, nil
}

func (c ResolveLoss) apply(s *State, index uint64) (Result, error) {
	sl, err := s.ownedSlot(c.Slot, c.Epoch)
	if err != nil {
		return Result{}, err
	}
	l := sl.OpenLoss
	if l == nil || c.Node != "" && c.Node != l.Node && !slices.Contains(l.Also, c.Node) {
		return Result{}, ErrNotFound{"open loss of slot", c.Slot.String()}
	}
	from := c.Node
	left := without(append([]slot.NodeName{l.Node}, l.Also...), c.Node)
	if c.Node == "" || len(left) == 0 {
		from, sl.OpenLoss = l.Node, nil
		if c.Node != "" {
			from = c.Node
		}
	} else {
		sl.OpenLoss = &OpenLoss{Node: left[0], Since: l.Since, Also: without(left[1:], ""), Empty: l.Empty}
	}
	s.put(sl, index)
	s.record(Change{Kind: ChangeResolved, Slot: c.Slot, Epoch: sl.Epoch, From: from, By: shown(c.By), Why: shown(c.Why), WallTime: shown(c.WallTime)})
	return Result{Epoch: sl.Epoch}, nil
}

// slotFor finds a slot and compares its epoch with the one the command expects.
func (s *State) slotFor(id slot.ID, expected slot.Epoch) (Slot, error) {
	sl, ok := s.Slot(id)
	if !ok {
		return Slot{}, ErrNotFound{"slot", id.String()}
	}
	if sl.Epoch != expected {
		return Slot{}, ErrStale{"epoch of slot " + id.String(), uint64(expected), uint64(sl.Epoch)}
	}
	return sl, nil
}

// ownedSlot is slotFor for commands that need a master.
func (s *State) ownedSlot(id slot.ID, expected slot.Epoch) (Slot, error) {
	sl, err := s.slotFor(id, expected)
	if err == nil && sl.Master == "" {
		err = ErrInvalid{"slot " + id.String(), "it has no master yet"}
	}
	return sl, err
}

// slotAt is ownedSlot for commands that were decided on one version of the record.
func (s *State) slotAt(id slot.ID, expected slot.Epoch, version uint64) (Slot, error) {
	sl, err := s.ownedSlot(id, expected)
	if err == nil && sl.Version != version {
		err = ErrChanged{Slot: id, Want: version, Have: sl.Version}
	}
	return sl, err
}

// put stores a changed slot.
func (s *State) put(sl Slot, index uint64) {
	sl.Version = index
	s.Slots[sl.ID] = sl
	if s.Features() < operatorFeatures { // a member of an older release could not read it
		return
	}
	for i, m := range s.Members {
		if !m.Held && sl.Holds(m.Name) {
			s.Members[i].Held = true
		}
	}
}

// unprotect makes a slot one whose master has not yet reported a position.
func (sl *Slot) unprotect() {
	sl.Protected, sl.Inherited, sl.InSync, sl.UnprotectedSince = false, false, nil, 0
}

// Begun says that the master has had something recorded in this epoch: it served.
// That nothing is recorded proves nothing.
func (sl Slot) Begun() bool { return sl.Protected && !sl.Inherited || sl.UnprotectedSince != 0 }

// inSyncOf sorts and checks a set of in-sync replicas.
func inSyncOf(sl Slot, set []slot.NodeName) ([]slot.NodeName, error) {
	what := "slot " + sl.ID.String()
	if len(set) == 0 {
		return nil, ErrInvalid{what, "a protected slot has at least one replica in sync"}
	}
	sorted := slices.Clone(set)
	slices.Sort(sorted)
	for i, n := range sorted {
		if !slices.Contains(sl.Replicas, n) {
			return nil, ErrInvalid{what, fmt.Sprintf("%s is not one of its replicas", shown(string(n)))}
		}
		if i > 0 && sorted[i-1] == n {
			return nil, ErrInvalid{what, fmt.Sprintf("%s is named twice", n)}
		}
	}
	return sorted, nil
}

// without returns a new list; nil when nothing is left, so that states compare by bytes.
func without(list []slot.NodeName, n slot.NodeName) []slot.NodeName {
	var kept []slot.NodeName
	for _, m := range list {
		if m != n {
			kept = append(kept, m)
		}
	}
	return kept
}
