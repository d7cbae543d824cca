package ack

import (
	"slices"
	"time"

	"mailnode/storage/slot"
)

// Event is something that happened. Each carries its moment, by the process's
// monotonic clock.
type Event interface {
	event() time.Duration
}

// Asked: a change is durable on the master at a position, and waits.
type Asked struct {
	At       time.Duration
	Position slot.Position
}

// Connected: a replica follows, and holds everything up to a position.
type Connected struct {
	At       time.Duration
	Node     slot.NodeName
	Position slot.Position
}

// Refilled: a replica is told to drop its state: it holds nothing from now on.
type Refilled struct {
	At   time.Duration
	Node slot.NodeName
}

// Acked: a replica has applied a position and made it durable, or it moved.
type Acked struct {
	At       time.Duration
	Node     slot.NodeName
	Conn     int
	Position slot.Position
	Moved    uint64 // bytes received, keys read and written: it only grows
	Viable   bool
	Problem  string
}

// Disconnected: a replica's connection has ended.
type Disconnected struct {
	At   time.Duration
	Node slot.NodeName
	Conn int
}

// Recorded: this node has applied Raft's record of the slot, in this epoch.
type Recorded struct {
	At      time.Duration
	Record  Record
	Listed  []slot.NodeName
	Leaving []Leaver // of those listed
}

// Outcome is how the proposal of a record ended.
type Outcome int

// The outcomes. What was refused or not sent never comes true by this attempt; an
// earlier one of the same record may have been, or be, what comes true.
const (
	Unknown Outcome = iota // it may come true, now or later
	Done                   // Recorded has told of it, or will
	Refused                // the record of the slot is another by now
	NotSent                // nobody was there to take it
)

// Proposed: the proposal of a record has ended.
type Proposed struct {
	At      time.Duration
	Record  Record
	Outcome Outcome
}

// Dropped: the proposal to drop a replica has ended. Recorded tells of it when it was
// done.
type Dropped struct {
	At   time.Duration
	Node slot.NodeName
}

// Marked: the copy's mark is durable, or could not be written.
type Marked struct {
	At     time.Duration
	Since  slot.Position
	Failed bool
}

// EpochOver: somebody has proof that the epoch has ended.
type EpochOver struct{ At time.Duration }

// Tick: time has passed, and the master's last durable event is Head.
type Tick struct {
	At   time.Duration
	Head slot.Position
}

func (e Asked) event() time.Duration        { return e.At }
func (e Connected) event() time.Duration    { return e.At }
func (e Refilled) event() time.Duration     { return e.At }
func (e Acked) event() time.Duration        { return e.At }
func (e Disconnected) event() time.Duration { return e.At }
func (e Recorded) event() time.Duration     { return e.At }
func (e Proposed) event() time.Duration     { return e.At }
func (e Dropped) event() time.Duration      { return e.At }
func (e Marked) event() time.Duration       { return e.At }
func (e EpochOver) event() time.Duration    { return e.At }
func (e Tick) event() time.Duration         { return e.At }

// Action is something that the driver does. It tells how Propose, Drop and MarkAlone
// ended with Proposed, Dropped and Marked; marks are written one after the other.
type Action interface{ action() }

// Release: everything up to a position may be acknowledged.
type Release struct{ UpTo slot.Position }

// Propose: have Raft record this. One at a time.
type Propose struct {
	Record Record
	Why    string // for people
}

// Drop: have Raft drop a replica, if its record is still of Version. One at a time.
type Drop struct {
	Node    slot.NodeName
	Version uint64
}

// MarkAlone: make it durable in the copy that everything after a position is
// acknowledged with nobody's confirmation.
type MarkAlone struct{ Since slot.Position }

// ClearAlone: take the mark away: replicas hold everything again.
type ClearAlone struct{}

// End: stop the master at once, and acknowledge nothing more.
type End struct{}

func (Release) action()    {}
func (Propose) action()    {}
func (Drop) action()       {}
func (MarkAlone) action()  {}
func (ClearAlone) action() {}
func (End) action()        {}

// Step returns the state after an event, and what is to be done.
func Step(s State, e Event) (State, []Action) {
	if s.over {
		return s, nil
	}
	s.now = max(s.now, e.event())
	switch e := e.(type) {
	case Asked:
		if s.asked <= s.granted {
			s.waits = s.now
		}
		s.asked = max(s.asked, e.Position)
		return s.release(nil)
	case Connected:
		s.renew(e.Node, Replica{Connected: true, Acked: e.Position, Viable: true})
	case Refilled:
		s.renew(e.Node, Replica{Problem: "the whole state is being fetched"})
	case Acked:
		return s.acked(e)
	case Disconnected:
		if r := s.Replica(e.Node); r.Conn == e.Conn {
			r.Connected, r.AtHead, r.Gone = false, false, s.now
			s.put(r)
		}
	case Recorded:
		s.applied(e)
	case Proposed:
		s.ended(e)
	case Dropped:
		if s.dropping.underWay == e.Node {
			s.dropping = dropping{tryAfter: s.now + recordAgain}
		}
	case Marked:
		s.alone.asked, s.alone.set, s.alone.since = false, !e.Failed, e.Since
		if e.Failed {
			s.alone.failed = s.now + recordAgain
		}
	case EpochOver:
		s.over = true
		return s, []Action{End{}}
	case Tick:
		s.observe(e.Head)
	}
	return s.decide()
}

// acked notes what a replica holds. Most acknowledgements change nothing but
// what may be released.
func (s State) acked(e Acked) (State, []Action) {
	r := s.Replica(e.Node)
	if r.Conn != e.Conn || e.Conn == 0 {
		return s, nil
	}
	if e.Viable && (e.Position > r.Acked || e.Moved > r.Moved) {
		r.Progress = s.now
	}
	turned := r.Viable != e.Viable
	r.Acked, r.Moved, r.Viable, r.Problem = e.Position, e.Moved, e.Viable, e.Problem
	s.put(r)
	if turned || s.joining.set != nil {
		return s.decide()
	}
	return s.release(nil)
}

// renew forgets what earlier connections of a replica said.
func (s *State) renew(n slot.NodeName, r Replica) {
	if !s.Lists(n) {
		return
	}
	r.Name, r.Conn, r.Progress = n, s.Replica(n).Conn+1, s.now
	s.put(r)
}

// put replaces a replica in a list of its own.
func (s *State) put(r Replica) {
	list := slices.Clone(s.replicas)
	if i := s.at(r.Name); i >= 0 {
		list[i] = r
	} else {
		list = append(list, r)
		slices.SortFunc(list, func(a, b Replica) int {
			if a.Name < b.Name {
				return -1
			}
			return 1
		})
	}
	s.replicas = list
}

// applied takes in what this node has applied. Whatever was decided on an older
// version can no longer come true.
func (s *State) applied(e Recorded) {
	s.listed, s.leaving = slices.Clone(e.Listed), slices.Clone(e.Leaving)
	s.joining.set = slices.DeleteFunc(slices.Clone(s.joining.set), func(n slot.NodeName) bool { _, leaves := s.leaves(n); return leaves || !s.Lists(n) })
	if len(s.joining.set) == 0 {
		s.joining = condition{}
	}
	list := slices.Clone(s.replicas)
	for i, r := range list {
		if !s.Lists(r.Name) { // what is still said on its connection counts for nothing, also when it is listed again
			list[i] = Replica{Name: r.Name, Conn: r.Conn + 1, Problem: "it was dropped"}
		}
	}
	s.replicas = list
	if e.Record.Version <= s.recorded.Version {
		return
	}
	s.recorded, s.proposed, s.claimed, s.tryAfter = e.Record, nil, true, 0
	s.dropping.tryAfter = 0
	if !s.recorded.Protected { // as it is: nothing is withheld from Raft any more
		s.free, s.goAlone = false, 0
	}
}

// ended notes how a proposal ended.
func (s *State) ended(e Proposed) {
	if u := s.underWay; u != nil && u.Version == e.Record.Version && u.same(e.Record) {
		s.underWay = nil
	}
	list := slices.Clone(s.proposed)
	i := slices.IndexFunc(list, func(p proposal) bool { return p.same(e.Record) && p.Version == e.Record.Version })
	if i < 0 {
		return // the record is another by now: what was proposed on the old one is settled
	}
	s.tryAfter = s.now + recordAgain
	if e.Outcome == Unknown || e.Outcome == Done { // done: this node may not have applied it yet
		list[i].sent = true
	} else if !list[i].sent { // else it may be just what the record was changed to
		list = slices.Delete(list, i, i+1)
	}
	s.proposed = list
}

// observe remembers where the head was, and who is at it.
func (s *State) observe(head slot.Position) {
	copy(s.heads[1:], s.heads[:headsKept-1])
	s.heads[0] = headAt{head, s.now}
	var before slot.Position // where the head was behindAfter ago
	for _, h := range s.heads {
		if before = h.position; s.now-h.at >= behindAfter {
			break
		}
	}
	list := slices.Clone(s.replicas)
	for i := range list {
		r := &list[i]
		at := r.Connected && r.Viable && r.Acked >= before
		if at && !r.AtHead {
			r.HeadFrom = s.now
		}
		r.AtHead = at
	}
	s.replicas = list
}
