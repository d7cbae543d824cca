package cluster

import (
	"fmt"
	"slices"

	"mailnode/storage/slot"
)

// Leaver is a replica that is to be dropped. It is one like any other until the
// master, which alone knows who else holds what was acknowledged (law 1), has had
// recorded that it no longer counts, and then has it dropped.
type Leaver struct {
	Node   slot.NodeName `json:"n"`
	Anyway bool          `json:"a,omitempty"` // also when no other replica holds everything: a person said so
}

// BeginDrop records the wish that a replica be dropped. Version is that of the slot
// record on which it was decided: of two people who drop the last two copies, one is
// refused. Said again it changes nothing (LAWS §6.17).
type BeginDrop struct {
	Slot    slot.ID       `json:"slot"`
	Epoch   slot.Epoch    `json:"epoch"`
	Version uint64        `json:"version"`
	Node    slot.NodeName `json:"node"`
	Anyway  bool          `json:"anyway,omitempty"`
}

// CancelDrop takes the wish back: the replica stays. Version is as in BeginDrop.
type CancelDrop struct {
	Slot    slot.ID       `json:"slot"`
	Epoch   slot.Epoch    `json:"epoch"`
	Version uint64        `json:"version"`
	Node    slot.NodeName `json:"node"`
}

// EndDrop takes a replica that leaves off the list. Only the master says so, when the
// record of Version does not count it and, unless it leaves anyway, others hold what
// was acknowledged.
type EndDrop struct {
	Slot    slot.ID       `json:"slot"`
	Epoch   slot.Epoch    `json:"epoch"`
	Version uint64        `json:"version"`
	Node    slot.NodeName `json:"node"`
}

func (BeginDrop) kind() string  { return "begin-drop" }
func (CancelDrop) kind() string { return "cancel-drop" }
func (EndDrop) kind() string    { return "end-drop" }

func (c BeginDrop) apply(s *State, index uint64) (Result, error) {
	sl, err := s.ownedSlot(c.Slot, c.Epoch)
	if err != nil {
		return Result{}, err
	}
	what := "replica " + shown(string(c.Node)) + " of slot " + c.Slot.String()
	if l, leaves := sl.Leaves(c.Node); leaves && (l.Anyway || !c.Anyway) {
		return Result{Epoch: sl.Epoch}, nil
	}
	switch {
	case sl.Master == c.Node:
		return Result{}, ErrInvalid{what, "it is the master"}
	case !slices.Contains(sl.Replicas, c.Node):
		return Result{}, ErrNotFound{"replica of slot " + c.Slot.String(), shown(string(c.Node))}
	case sl.Version != c.Version:
		return Result{}, ErrChanged{Slot: c.Slot, Want: c.Version, Have: sl.Version}
	}
	if why := sl.Keeps(c.Node); why != "" {
		return Result{}, ErrInvalid{what, why}
	}
	sl.Leaving = append(sl.stays(c.Node), Leaver{c.Node, c.Anyway})
	s.put(sl, index)
	return Result{Epoch: sl.Epoch}, nil
}

func (c CancelDrop) apply(s *State, index uint64) (Result, error) {
	sl, err := s.ownedSlot(c.Slot, c.Epoch)
	if err != nil {
		return Result{}, err
	}
	if _, leaves := sl.Leaves(c.Node); !leaves {
		return Result{}, ErrNotFound{"replica of slot " + c.Slot.String() + " that is being dropped", shown(string(c.Node))}
	}
	if sl.Version != c.Version {
		return Result{}, ErrChanged{Slot: c.Slot, Want: c.Version, Have: sl.Version}
	}
	sl.Leaving = sl.stays(c.Node)
	s.put(sl, index)
	return Result{Epoch: sl.Epoch}, nil
}

func (c EndDrop) apply(s *State, index uint64) (Result, error) {
	sl, err := s.slotAt(c.Slot, c.Epoch, c.Version)
	if err != nil {
		return Result{}, err
	}
	what := "replica " + shown(string(c.Node)) + " of slot " + c.Slot.String()
	if _, leaves := sl.Leaves(c.Node); !leaves {
		return Result{}, ErrNotFound{"replica of slot " + c.Slot.String() + " that is being dropped", shown(string(c.Node))}
	}
	if slices.Contains(sl.InSync, c.Node) {
		return Result{}, ErrInvalid{what, "it is in sync"}
	}
	if why := sl.Keeps(c.Node); why != "" {
		return Result{}, ErrInvalid{what, why}
	}
	sl.unlist(c.Node)
	s.put(sl, index)
	return Result{Epoch: sl.Epoch}, nil
}

// Staying lists the replicas that are not to be dropped, but for one.
func (sl Slot) Staying(but slot.NodeName) (out []slot.NodeName) {
	for _, n := range sl.Replicas {
		if _, leaves := sl.Leaves(n); !leaves && n != but {
			out = append(out, n)
		}
	}
	return out
}

// Leaves finds a replica among those that are to be dropped.
func (sl Slot) Leaves(n slot.NodeName) (Leaver, bool) {
	i := slices.IndexFunc(sl.Leaving, func(l Leaver) bool { return l.Node == n })
	if i < 0 {
		return Leaver{}, false
	}
	return sl.Leaving[i], true
}

// MayLeave lists the replicas that are to be dropped and that nothing holds up.
func (sl Slot) MayLeave() []Leaver {
	var out []Leaver
	for _, l := range sl.Leaving {
		if sl.Keeps(l.Node) == "" {
			out = append(out, l)
		}
	}
	return out
}

// Keeps says why a replica cannot be dropped now, "" when it can.
func (sl Slot) Keeps(n slot.NodeName) string {
	l := sl.OpenLoss
	switch {
	case sl.HandOver != nil && sl.HandOver.To == n:
		return "the slot is being handed over to it"
	case l != nil && (l.Node == n || slices.Contains(l.Also, n)):
		return "it may hold mail that is not rescued yet: mailnode rescue list"
	case sl.Moving() && sl.Move.From == n && sl.Protected && !sl.Copied():
		return fmt.Sprintf("the copy on %s, which replaces it, does not count yet: mailnode slot show %s", sl.Move.To, sl.ID)
	case !sl.Begun() && slices.Contains(sl.Awaits, n):
		return "the new master hears it before it begins to serve"
	}
	return ""
}

// unlist takes a replica off the list. What it protects is the caller's to look at.
func (sl *Slot) unlist(n slot.NodeName) {
	sl.Replicas, sl.Awaits, sl.Leaving = without(sl.Replicas, n), without(sl.Awaits, n), sl.stays(n)
}

// stays returns the list of those that leave without one of them; nil when nobody is
// left, so that states compare by bytes.
func (sl Slot) stays(n slot.NodeName) []Leaver {
	var left []Leaver
	for _, l := range sl.Leaving {
		if l.Node != n {
			left = append(left, l)
		}
	}
	return left
}
