// Package ack is law 1's decision: when the master of a slot may acknowledge a
// change, and what Raft must have recorded before. It is pure: Step takes a State
// and an Event and returns the next State and the Actions to carry out. It has no
// clock (times come with the events), no lock, no I/O and no Raft; package repl's
// Feed drives it.
//
// Why a plan that says "safe" is safe. Raft's record of a slot is either
// "protected by a set of replicas" or "unprotected". A plan is safe when the
// record is "protected" and all of the set were asked: the one with the most is
// chosen. So a change may be acknowledged only when, for every record that Raft
// has or may yet come to have, one of its set holds the change: the record
// applied last, and every one that was proposed and whose outcome is not known
// (may). Which those are is known, because each record carries the version of the
// one that it was decided on and Raft refuses it once another came first; and a
// master that starts again in its epoch first replaces the record (claim), so
// that none of an earlier process can come true later. What is acknowledged with
// nobody's confirmation is first marked in the copy itself (MarkAlone): a restart
// does not forget it, and Raft is told before anything else is acknowledged. The
// one exception: a master that cannot reach a quorum goes on alone although Raft
// still says "protected" (law 1: mail must flow). That mail has its mark too, and
// is set aside and named when the node returns.
package ack

import (
	"fmt"
	"slices"
	"time"

	"mailnode/storage/slot"
)

// Record is Raft's record of how a slot is protected.
type Record struct {
	Version   uint64 // of the slot record, as applied; a proposed one: that it was decided on
	Protected bool
	InSync    []slot.NodeName // sorted; of a protected slot
	Since     slot.Position   // unprotected: what comes after is on the master alone
	// Begins is the epoch's first event while it is protected by what the hand-over said
	// that began it; 0 once the master has had that recorded itself.
	Begins slot.Position
}

func (r Record) same(o Record) bool {
	return r.Protected == o.Protected && slices.Equal(r.InSync, o.InSync)
}

// Leaver is a replica that Raft lists, and that is to be dropped. It may go as soon as
// no record counts it and another holds everything, or anyway.
type Leaver struct {
	Node   slot.NodeName
	Anyway bool
}

// Settings do not change while a master serves.
type Settings struct {
	// Waits is ack = "replica".
	Waits bool
	// AckTimeout is how long no byte may move before the master goes on alone. A
	// replica that works through a large event moves, though it ends nothing.
	AckTimeout time.Duration
	// ProtectAfter is how long a replica must be at the head to count.
	ProtectAfter time.Duration
}

// Start is what is known when a master begins to serve.
type Start struct {
	At       time.Duration
	Head     slot.Position // the last durable event: all of it counts as perhaps acknowledged
	Recorded Record
	Listed   []slot.NodeName // the replicas that Raft lists
	Leaving  []Leaver        // those of them that are to be dropped
	// Again says that this copy has served the epoch before: what an earlier
	// process proposed may still be on its way.
	Again bool
	// WithoutRaft says that a person lets it serve although no quorum can be asked: it
	// goes on as a master that has lost its quorum, alone and marked as such.
	WithoutRaft bool
	// Alone says that the copy bears a mark, set by this or an earlier process.
	Alone      bool
	AloneSince slot.Position
}

// Replica is what the master knows of one follower; it outlives connections.
type Replica struct {
	Name      slot.NodeName
	Conn      int // number of its newest connection: what is said on older ones is stale
	Connected bool
	Acked     slot.Position // applied and durable there
	Moved     uint64        // bytes received, keys read and written, on this connection
	Viable    bool
	Problem   string        // why not viable
	Progress  time.Duration // when it last moved
	Gone      time.Duration // when its last connection ended
	AtHead    bool
	HeadFrom  time.Duration // since when it is at the head
}

const (
	// EvictAfter is how long a replica that counts may stand still before another
	// that holds everything takes its place.
	EvictAfter = 10 * time.Second
	// RecordWithin is how long Raft may take to record that a slot is
	// unprotected, before its master goes on without (law 1).
	RecordWithin = 2 * time.Second

	behindAfter = time.Second // a replica that lacks what is older is not at the head
	recordAgain = time.Second // after a record that is not known to be there
	headsKept   = 16
)

// State is what the decision rests on. It is a value: Step changes none that it
// was given.
type State struct {
	set      Settings
	began    time.Duration
	now      time.Duration
	listed   []slot.NodeName // the replicas that Raft lists
	leaving  []Leaver        // those of them that are to be dropped
	dropping dropping
	replicas []Replica // by name
	heads    [headsKept]headAt
	records
	progress
	joining condition // those whom the master is about to record; none: an empty set
	alone   mark
	free    bool          // acknowledges although Raft could not be told
	goAlone time.Duration // when it goes on although Raft was not told; 0: it does not mean to
	over    bool
}

// records are what Raft has of the slot, or may come to have.
type records struct {
	recorded Record     // as this node has applied it
	proposed []proposal // decided on that version, outcome not known: Raft may come to have one
	underWay *Record    // that of them which is being proposed
	tryAfter time.Duration
	claimed  bool // no record of an earlier process can come true any more
}

// progress is how far changes have come.
type progress struct {
	asked    slot.Position // the highest that a change waits for
	granted  slot.Position // the highest that may be acknowledged now
	released slot.Position // the highest that may have been acknowledged, by this or an earlier process
	waits    time.Duration // since when a change waits, or since the last was released
}

// proposal is a record on its way. What was sent once may come true, whatever
// becomes of its repetition.
type proposal struct {
	Record
	sent bool
}

// dropping is the drop of a replica that Raft is asked for.
type dropping struct {
	underWay slot.NodeName // "": none
	tryAfter time.Duration
}

// mark is what this process knows of the copy's mark "alone since".
type mark struct {
	set    bool // durable
	asked  bool // being written
	since  slot.Position
	failed time.Duration // not tried again before
}

type headAt struct {
	position slot.Position
	at       time.Duration
}

// New returns the state of a master that begins to serve, and what it does first.
func New(set Settings, st Start) (State, []Action) {
	s := State{set: set, began: st.At, now: st.At, listed: slices.Clone(st.Listed), leaving: slices.Clone(st.Leaving),
		records: records{recorded: st.Recorded, claimed: !st.Again || st.WithoutRaft}, free: st.WithoutRaft,
		progress: progress{released: st.Head, waits: st.At},
		alone:    mark{set: st.Alone, since: st.AloneSince}}
	s.heads[0] = headAt{st.Head, st.At}
	return s.decide()
}

// Released is the highest position that may be acknowledged. What an earlier
// process may have acknowledged is no part of it: a change that finds it done
// already waits like any other.
func (s State) Released() slot.Position { return s.granted }

// WantsReplicas reports whether changes are to wait for replicas: the setting says so,
// and Raft lists one that does not leave whatever becomes of the slot.
func (s State) WantsReplicas() bool {
	return s.set.Waits && slices.ContainsFunc(s.listed, func(n slot.NodeName) bool {
		l, leaves := s.leaves(n)
		return !leaves || !l.Anyway
	})
}

func (s State) leaves(n slot.NodeName) (Leaver, bool) {
	i := slices.IndexFunc(s.leaving, func(l Leaver) bool { return l.Node == n })
	if i < 0 {
		return Leaver{}, false
	}
	return s.leaving[i], true
}

// Over says that the epoch has ended: nothing more is acknowledged.
func (s State) Over() bool { return s.over }

// Recorded is Raft's record as this node has applied it.
func (s State) Recorded() Record { return s.recorded }

// Replicas lists what is known of the followers that Raft lists, by name.
func (s State) Replicas() []Replica {
	return slices.DeleteFunc(slices.Clone(s.replicas), func(r Replica) bool { return !s.Lists(r.Name) })
}

// Replica returns one of them; one that never connected has connection 0.
func (s State) Replica(n slot.NodeName) Replica {
	if i := s.at(n); i >= 0 {
		return s.replicas[i]
	}
	return Replica{Name: n}
}

// Lists reports whether Raft lists a node as a replica: no other may follow or count.
func (s State) Lists(n slot.NodeName) bool { return slices.Contains(s.listed, n) }

// Waits reports whether a change that is made now waits for a replica.
func (s State) Waits() bool { return s.limit() < unlimited }

// Counts reports whether a replica's acknowledgement counts now.
func (s State) Counts(n slot.NodeName) bool {
	return slices.ContainsFunc(s.conditions(), func(c condition) bool { return slices.Contains(c.set, n) })
}

// Alone returns the copy's mark as this process knows it.
func (s State) Alone() (slot.Position, bool) { return s.alone.since, s.alone.set || s.alone.asked }

func (s State) at(n slot.NodeName) int {
	return slices.IndexFunc(s.replicas, func(r Replica) bool { return r.Name == n })
}

// HandOver reports whether the slot may be handed over to a replica at p, the last
// event of a master that takes no more changes: the replica holds all of it, and
// nothing waits any more. lacks says what is missing; "": nothing. inSync are the other
// replicas that hold it and whose acknowledgements count, sorted.
func (s State) HandOver(to slot.NodeName, p slot.Position) (inSync []slot.NodeName, lacks string) {
	switch r := s.Replica(to); {
	case !r.Connected:
		return nil, fmt.Sprintf("%s does not follow", to)
	case !r.Viable:
		return nil, fmt.Sprintf("the copy on %s is not viable: %s", to, r.Problem)
	case r.Acked < p:
		return nil, fmt.Sprintf("%s holds events up to %s, the last one is %s", to, r.Acked, p)
	case s.granted < p:
		return nil, "some changes are not acknowledged yet"
	}
	for _, r := range s.replicas {
		if r.Name != to && r.Viable && r.Acked >= p && s.Counts(r.Name) {
			inSync = append(inSync, r.Name)
		}
	}
	return inSync, ""
}

const unlimited slot.Position = 1<<64 - 1

// condition is a set of replicas, one of which must hold what is acknowledged.
type condition struct {
	set  []slot.NodeName
	from time.Duration // not stalled before this moment and AckTimeout
}

// conditions are what stands between a change and its acknowledgement: every
// record that Raft has or may yet have, and those whom the master is about to
// record.
func (s State) conditions() []condition {
	var out []condition
	if s.recorded.Protected {
		out = append(out, condition{set: s.recorded.InSync})
	}
	for _, p := range s.proposed {
		if p.Protected {
			out = append(out, condition{set: p.InSync})
		}
	}
	if s.joining.set != nil {
		out = append(out, s.joining)
	}
	return out
}

// limit is the highest position that no condition forbids to acknowledge.
func (s State) limit() slot.Position {
	p := unlimited
	if s.free {
		return p
	}
	for _, c := range s.conditions() {
		p = min(p, s.held(c.set))
	}
	return p
}

// may is the highest position that may be acknowledged now. What nobody confirms
// needs the mark first.
func (s State) may() slot.Position {
	p := s.limit()
	switch {
	case s.over || !s.claimed:
		return s.granted
	case p == unlimited && !s.alone.set:
		return s.granted
	}
	return p
}

// held is the highest position that a viable replica of the set has made durable.
func (s State) held(set []slot.NodeName) slot.Position {
	var p slot.Position
	for _, n := range set {
		if i := s.at(n); i >= 0 && s.replicas[i].Viable {
			p = max(p, s.replicas[i].Acked)
		}
	}
	return p
}

// WithoutRaft says that the master goes on although Raft could not be told: what
// it acknowledges now is only marked in its copy.
func (s State) WithoutRaft() bool { return s.free }
