package failover

import (
	"fmt"
	"slices"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// Start is a master that wants to begin to serve, or to serve again after a start
// or a pause, and all that it was told. Slot is Raft's record, proved fresh.
type Start struct {
	Slot     cluster.Slot
	Position slot.Position // last durable event of its copy
	Lineage  slot.Epoch    // newest epoch of its copy
	Building bool
	// LostTo is whom an earlier comparison found to hold events of this epoch that
	// this copy has lost; "": nobody.
	LostTo slot.NodeName
	// Waited is for how long it has been asking.
	Waited time.Duration
	// Answers are the replicas' that answered, asked under the slot's epoch: they
	// acknowledge nothing to an earlier one any more.
	Answers map[slot.NodeName]CopyAnswer
	// Passed are replicas whose answer was taken, and whose further events belong
	// to another line of history.
	Passed map[slot.NodeName]slot.Position
}

// Begin is what a starting master does next.
type Begin int

// The answers of MayServe.
const (
	BeginServe Begin = iota // it serves
	BeginWait               // it asks again soon
	BeginTake               // it takes From's events first, and asks again
	BeginLost               // it must not serve in this epoch: From, if known, has what it lost
)

// Decision says what a starting master does, and why it does not serve yet.
type Decision struct {
	Begin Begin
	From  slot.NodeName
	Why   string
}

// openingPatience is how long a master that serves its epoch again waits for a
// copy that is still being opened: it may prove that this one has lost events.
const openingPatience = 15 * time.Second

// MayServe decides whether a copy may begin to serve. It is pure. What it must
// not do is give out again what clients were shown (law 2), or hide what was
// acknowledged (law 1):
//
// A copy that begins an epoch first hears everyone who was in sync when the plan
// was confirmed (Awaits): they may have acknowledged more since the plan asked
// them, and from their answer on they acknowledge nothing more to the old master.
// It takes what they have more. It holds at least what the plan found (AtLeast).
// Where Raft's record says that the epoch was served, the copy has lost all of it.
//
// A copy that has served the epoch before compares with whoever answers: one that
// is ahead in this same epoch proves that this copy has lost what it had.
func MayServe(s Start) Decision {
	switch {
	case s.Building:
		return Decision{Begin: BeginLost, Why: "this copy is empty or half filled, and its node is the slot's master"}
	case s.Lineage > s.Slot.Epoch:
		return Decision{Begin: BeginWait, Why: fmt.Sprintf("this copy has seen epoch %d, Raft here knows %d: it is proposed, see `mailnode failover list`", s.Lineage, s.Slot.Epoch)}
	}
	begins := s.Lineage < s.Slot.Epoch
	if begins && s.Slot.Begun() {
		return Decision{Begin: BeginLost, Why: fmt.Sprintf("this copy has served epoch %d, and has no event of it: it has lost events that it had", s.Slot.Epoch)}
	}
	for _, n := range slices.Sorted(slices.Values(s.Slot.Replicas)) {
		a, answered := s.Answers[n]
		must := begins && slices.Contains(s.Slot.Awaits, n)
		if d, next := s.compare(n, a, answered, must, begins); !next {
			return d
		}
	}
	if begins && s.Position < s.Slot.AtLeast {
		return Decision{Begin: BeginLost, Why: fmt.Sprintf("the plan found %s in this copy, it ends at %s: it has lost events that it had", s.Slot.AtLeast, s.Position)}
	}
	return Decision{Begin: BeginServe}
}

// compare looks at one replica; next goes on to the next one.
func (s Start) compare(n slot.NodeName, a CopyAnswer, answered, must, begins bool) (d Decision, next bool) {
	opening := answered && a.opening()
	switch {
	case !answered && s.LostTo == n:
		return Decision{Begin: BeginLost, From: n, Why: fmt.Sprintf("%s holds events that this copy has lost, and does not answer", n)}, false
	case must && (!answered || opening || !a.Viable):
		return Decision{Begin: BeginWait, From: n, Why: fmt.Sprintf("%s was in sync when this was confirmed, may hold acknowledged mail, and %s", n, s.silence(a, answered))}, false
	case opening && !begins && s.Waited < openingPatience:
		return Decision{Begin: BeginWait, From: n, Why: fmt.Sprintf("%s is still opening its copy: what it holds is compared first", n)}, false
	case !answered || opening:
		return d, true
	case a.Lineage > s.Slot.Epoch:
		return Decision{Begin: BeginWait, From: n, Why: fmt.Sprintf("%s has seen epoch %d, Raft here knows %d: it is proposed, see `mailnode failover list`", n, a.Lineage, s.Slot.Epoch)}, false
	case !a.Viable || a.Position <= s.Position:
		return d, true
	case a.Lineage == s.Slot.Epoch:
		return Decision{Begin: BeginLost, From: n, Why: fmt.Sprintf("%s holds events up to %s, this copy ends at %s: it has lost events that it had", n, a.Position, s.Position)}, false
	case a.Lineage < s.Lineage || s.Passed[n] >= a.Position:
		return d, true // a dead tail of an older epoch: that copy sets it aside
	}
	return Decision{Begin: BeginTake, From: n, Why: fmt.Sprintf("%s holds events up to %s, this copy ends at %s", n, a.Position, s.Position)}, false
}

func (s Start) silence(a CopyAnswer, answered bool) string {
	switch {
	case !answered:
		return "does not answer"
	case a.opening():
		return "is still opening its copy"
	}
	return a.fault()
}

// opening says that a node has the copy, and does not know yet what is in it.
func (a CopyAnswer) opening() bool {
	return a.Opening != "" || a.Role == RoleNone && a.Failed == "" && !a.Viable && !a.Building
}
