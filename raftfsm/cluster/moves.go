package cluster

import (
	"fmt"
	"slices"

	"mailnode/storage/slot"
)

// Move is the wish that a copy of a slot goes to another node, that the slot gets one
// more, or that another copy is its master. It stands in the slot's record until it is
// done or taken back, so that no node's death forgets it: whoever leads works on it, one
// checked command at a time, and the data is copied first, the old copy dropped last.
//
//	wished     To holds nothing yet              BeginMove lists it as a replica
//	filling    To is listed and does not count   its node fills it
//	copied     To is in sync                     a proposal, when another is to be master
//	leaving    BeginDrop names From              its master drops it, once it may
//	done       From is not listed                FinishMove ends the wish
//
// A master is never changed by it: that is a person's confirmation of a proposal
// (law 4), and the move goes on when it has happened.
type Move struct {
	To    slot.NodeName `json:"t,omitempty"` // gets a copy; "": only the master is to change
	From  slot.NodeName `json:"f,omitempty"` // loses its copy; "": the slot keeps one more
	Lead  slot.NodeName `json:"m,omitempty"` // is to be master before From is dropped; "": whoever is
	Begun uint64        `json:"i"`           // Raft index of PlanMoves: its name, so that a late command never ends a later one
	By    string        `json:"by,omitempty"`
	Added bool          `json:"a,omitempty"` // To was listed by this move, and goes again when it is given up
	// GivenUp says why it is not to be; then only To is left to be dropped, if it was added.
	GivenUp string `json:"x,omitempty"`
	Stopped bool   `json:"st,omitempty"` // a person gave it up: nothing is remembered of it
}

// PlannedMove is one slot of PlanMoves.
type PlannedMove struct {
	Slot  slot.ID       `json:"slot"`
	Epoch slot.Epoch    `json:"epoch"`
	To    slot.NodeName `json:"to,omitempty"`
	From  slot.NodeName `json:"from,omitempty"`
	Lead  slot.NodeName `json:"lead,omitempty"`
}

// PlanMoves records moves of several slots, all of them or none. A slot that has an
// unfinished move keeps it, and the command is refused.
type PlanMoves struct {
	Moves []PlannedMove `json:"moves"`
	By    string        `json:"by,omitempty"`
}

// BeginMove lists the node that a copy goes to as a replica.
type BeginMove struct {
	Slot  slot.ID    `json:"slot"`
	Epoch slot.Epoch `json:"epoch"`
	Begun uint64     `json:"begun"`
}

// FinishMove ends a move whose old copy is gone.
type FinishMove struct {
	Slot  slot.ID    `json:"slot"`
	Epoch slot.Epoch `json:"epoch"`
	Begun uint64     `json:"begun"`
}

// GiveUpMove turns a move round: what it has added is to go.
type GiveUpMove struct {
	Slot  slot.ID `json:"slot"`
	Begun uint64  `json:"begun"`
	Why   string  `json:"why"`
}

// UndoMove ends a move that was given up, when what it added is gone, or has taken the
// place of an old copy that is. What a person
// stopped is forgotten; else the reason stands in the record until somebody has seen it.
type UndoMove struct {
	Slot  slot.ID    `json:"slot"`
	Epoch slot.Epoch `json:"epoch"`
	Begun uint64     `json:"begun"`
}

// StopMoves gives up the moves of all slots, and forgets those that were given up
// before. A move that only has to drop the old copy is left to end.
type StopMoves struct {
	By string `json:"by,omitempty"`
}

func (PlanMoves) kind() string  { return "plan-moves" }
func (BeginMove) kind() string  { return "begin-move" }
func (FinishMove) kind() string { return "finish-move" }
func (GiveUpMove) kind() string { return "give-up-move" }
func (UndoMove) kind() string   { return "undo-move" }
func (StopMoves) kind() string  { return "stop-moves" }

// Moving reports whether a move of the slot is under way, also one that is being
// taken back.
func (s Slot) Moving() bool { return s.Move != nil && (s.Move.GivenUp == "" || s.Move.Added) }

// Copied reports whether the copy that a move makes is as good as the one that it
// replaces: it is the master's, or counts (law 1).
func (s Slot) Copied() bool {
	m := s.Move
	return m != nil && (m.To == "" || s.Master == m.To || s.Protected && slices.Contains(s.InSync, m.To))
}

// Ending reports whether a move has only to drop the old copy.
func (s Slot) Ending() bool {
	m := s.Move
	return s.Replaced() || m != nil && m.GivenUp == "" && s.Copied() && (m.Lead == "" || m.Lead == s.Master)
}

// Replaced reports whether the old copy of a move is gone, so that the new one stays
// whatever becomes of it.
func (s Slot) Replaced() bool {
	m := s.Move
	return m != nil && m.Added && m.From != "" && !s.Holds(m.From) && s.Holds(m.To) && (m.GivenUp != "" || m.Lead == "" || m.Lead == s.Master)
}

func (c PlanMoves) apply(s *State, index uint64) (Result, error) {
	if len(c.Moves) == 0 {
		return Result{}, ErrInvalid{"plan moves", "it names no slot"}
	}
	planned := make([]Slot, 0, len(c.Moves))
	for i, pm := range c.Moves {
		if slices.ContainsFunc(c.Moves[:i], func(o PlannedMove) bool { return o.Slot == pm.Slot }) {
			return Result{}, ErrInvalid{"slot " + pm.Slot.String(), "it is named twice"}
		}
		sl, err := s.ownedSlot(pm.Slot, pm.Epoch)
		if err != nil {
			return Result{}, err
		}
		if err := s.movable(sl, pm); err != nil {
			return Result{}, err
		}
		sl.Move = &Move{To: pm.To, From: pm.From, Lead: pm.Lead, Begun: index, By: shown(c.By)}
		planned = append(planned, sl)
	}
	for _, sl := range planned {
		s.put(sl, index)
	}
	return Result{}, nil
}

// movable refuses a move that makes no sense, or that could lose mail.
func (s *State) movable(sl Slot, pm PlannedMove) error {
	what := "move of slot " + sl.ID.String()
	if sl.Moving() {
		return ErrExists{Kind: "move of slot", Name: sl.ID.String(), Why: fmt.Sprintf("it is moving already, for %s", sl.Move.By)}
	}
	if pm.To != "" {
		if err := s.mailNode(pm.To); err != nil {
			return err
		}
	}
	leads := slices.Contains(sl.Replicas, pm.Lead) || pm.Lead != "" && pm.Lead == pm.To
	switch {
	case pm.To != "" && sl.Holds(pm.To):
		return ErrInvalid{what, fmt.Sprintf("%s holds a copy already", pm.To)}
	case pm.To != "" && len(sl.Replicas) >= MaxReplicas:
		return ErrInvalid{what, fmt.Sprintf("it has %d replicas, the most it may have: drop one first", MaxReplicas)}
	case pm.To == "" && (pm.From != "" || pm.Lead == ""):
		return ErrInvalid{what, "it names no node that gets a copy"}
	case pm.From != "" && !sl.Holds(pm.From):
		return ErrInvalid{what, fmt.Sprintf("%s holds no copy", shown(string(pm.From)))}
	case pm.Lead != "" && !leads:
		return ErrInvalid{what, fmt.Sprintf("%s cannot be its master: it holds no copy, or is the master", shown(string(pm.Lead)))}
	case pm.Lead == pm.From && pm.From != "", pm.From == sl.Master && pm.Lead == "":
		return ErrInvalid{what, "it would drop its master"}
	case sl.lost(pm.From):
		return ErrInvalid{what, fmt.Sprintf("%s may hold mail that is not rescued yet: mailnode rescue list", pm.From)}
	}
	return nil
}

// lost reports whether a node's copy may hold what an open loss is about.
func (sl Slot) lost(n slot.NodeName) bool {
	l := sl.OpenLoss
	return l != nil && n != "" && (l.Node == n || slices.Contains(l.Also, n))
}

func (c BeginMove) apply(s *State, index uint64) (Result, error) {
	sl, err := s.moving(c.Slot, c.Epoch, c.Begun)
	if err != nil {
		return Result{}, err
	}
	m := *sl.Move
	what := "move of slot " + c.Slot.String()
	if m.GivenUp != "" {
		return Result{}, ErrInvalid{what, "it was given up: " + m.GivenUp}
	}
	if m.Added {
		return Result{Epoch: sl.Epoch}, nil
	}
	switch err := s.mailNode(m.To); {
	case err != nil:
		return Result{}, err
	case sl.Holds(m.To):
		return Result{}, ErrExists{Kind: "copy of slot " + c.Slot.String(), Name: string(m.To)}
	case len(sl.Replicas) >= MaxReplicas:
		return Result{}, ErrInvalid{what, fmt.Sprintf("the slot has %d replicas, the most it may have", MaxReplicas)}
	}
	m.Added = true
	sl.Move = &m
	sl.Replicas = append(slices.Clone(sl.Replicas), m.To)
	s.put(sl, index)
	return Result{Epoch: sl.Epoch}, nil
}

func (c FinishMove) apply(s *State, index uint64) (Result, error) {
	sl, err := s.moving(c.Slot, c.Epoch, c.Begun)
	if err != nil {
		return Result{}, err
	}
	m := *sl.Move
	what := "move of slot " + c.Slot.String()
	switch {
	case m.GivenUp != "":
		return Result{}, ErrInvalid{what, "it was given up: " + m.GivenUp}
	case m.To != "" && !sl.Holds(m.To):
		return Result{}, ErrInvalid{what, fmt.Sprintf("%s holds no copy", m.To)}
	case m.Lead != "" && m.Lead != sl.Master:
		return Result{}, ErrInvalid{what, fmt.Sprintf("%s is not its master yet", m.Lead)}
	case sl.Holds(m.From):
		return Result{}, ErrInvalid{what, fmt.Sprintf("%s holds a copy still", m.From)}
	}
	if m.Lead != "" || m.From == sl.Home {
		sl.Home = sl.Master // what was moved on purpose is not brought back
	}
	sl.Move = nil
	s.put(sl, index)
	return Result{Epoch: sl.Epoch}, nil
}

func (c GiveUpMove) apply(s *State, index uint64) (Result, error) {
	sl, ok := s.Slot(c.Slot)
	if !ok {
		return Result{}, ErrNotFound{"slot", c.Slot.String()}
	}
	if sl.Move == nil || sl.Move.Begun != c.Begun {
		return Result{}, ErrInvalid{"move of slot " + c.Slot.String(), "it has ended already"}
	}
	if sl.Move.GivenUp != "" {
		return Result{}, nil
	}
	if sl.Replaced() {
		return Result{}, ErrInvalid{"move of slot " + c.Slot.String(), fmt.Sprintf("it is done: %s has taken the place of %s", sl.Move.To, sl.Move.From)}
	}
	s.giveUpMove(sl, index, c.Why)
	return Result{}, nil
}

// giveUpMove turns a slot's move round. The old copy stays, in the same step: nothing
// replaces it any more.
func (s *State) giveUpMove(sl Slot, index uint64, why string) {
	m := *sl.Move
	m.GivenUp = shown(why)
	sl.Move, sl.Leaving = &m, sl.stays(m.From)
	s.put(sl, index)
}

func (c UndoMove) apply(s *State, index uint64) (Result, error) {
	sl, err := s.moving(c.Slot, c.Epoch, c.Begun)
	if err != nil {
		return Result{}, err
	}
	m := *sl.Move
	what := "move of slot " + c.Slot.String()
	switch {
	case m.GivenUp == "":
		return Result{}, ErrInvalid{what, "it was not given up"}
	case m.Added && slices.Contains(sl.Replicas, m.To) && (m.From == "" || sl.Holds(m.From)): // a master stays, and who has taken a place
		return Result{}, ErrInvalid{what, fmt.Sprintf("%s holds a copy still", m.To)}
	}
	m.Added = false
	sl.Move = &m
	if m.Stopped {
		sl.Move = nil
	}
	s.put(sl, index)
	return Result{Epoch: sl.Epoch}, nil
}

func (c StopMoves) apply(s *State, index uint64) (Result, error) {
	any := false
	for _, sl := range s.Slots {
		m := sl.Move
		switch {
		case m == nil || m.Stopped:
			continue
		case m.Added && sl.Ending():
			continue
		case !m.Added:
			sl.Move = nil
			s.put(sl, index)
		default:
			now := *m
			now.Stopped = true
			sl.Move = &now
			s.giveUpMove(sl, index, "stopped by "+c.By)
		}
		any = true
	}
	if !any {
		return Result{}, ErrInvalid{"stop moves", "there is nothing to stop"}
	}
	return Result{}, nil
}

// moving finds a slot for a command about one move of it.
func (s *State) moving(id slot.ID, expected slot.Epoch, begun uint64) (Slot, error) {
	sl, err := s.ownedSlot(id, expected)
	if err == nil && (sl.Move == nil || sl.Move.Begun != begun) {
		err = ErrInvalid{"move of slot " + id.String(), "it has ended already"}
	}
	return sl, err
}

// rejectMoves gives up the moves for which a proposal was open that a person rejected.
func (s *State) rejectMoves(p Proposal, index uint64, by string) {
	if p.OpenedBy != Mover {
		return
	}
	for _, ps := range p.Slots {
		if sl, ok := s.Slot(ps.Slot); ok && !ps.Done && sl.Move != nil && sl.Move.GivenUp == "" && sl.Move.Lead != "" {
			s.giveUpMove(sl, index, fmt.Sprintf("%s was rejected by %s", p.ID, by))
		}
	}
}

// Mover stands as OpenedBy in the proposals that moves need.
const Mover = "rebalance"
