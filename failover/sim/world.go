// Package sim tries law 1 and law 4 by millions of seeds. One goroutine, one seed
// and virtual time drive the real decisions (the cluster's state machine,
// failover.Decide, Moves, PlanOf, MayServe, CommitOf and GiveUp, storage/repl/ack's Step,
// slot.Lineage) around model copies of one slot, whose journals lose what was not
// synced. What happens to them is drawn from the seed: crashes, disks that were
// restored, pauses, partitions (one-way too), Raft that is applied late, records,
// confirms and words of a hand-over that arrive late or whose answer is lost, settings
// that change, operators who confirm at any moment, move masters that serve and copies, and
// accept losses. Checks follow every step (check.go).
//
// The simulation itself is tested: a Fault puts one known fault back at the seam
// between a decision and what carries it out, and must be caught.
package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"mailnode/failover"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

const (
	suspectAfter = 15 * time.Second
	recordWait   = 2 * time.Second
	theSlot      = slot.ID(0)
	rogue        = slot.NodeName("n4") // follows whether Raft lists it or not
)

// world is one run.
type world struct {
	rng    *rand.Rand
	fault  Fault
	now    time.Duration
	tick   time.Duration
	nodes  []*node
	byName map[slot.NodeName]*node
	cut    map[[2]slot.NodeName]bool // [from, to]: nothing arrives
	raft
	acks   []ackLetter
	lastID uint64
	sent   ledger
	urgent bool                             // operators accept whatever loss
	trace  func(format string, args ...any) // nil: not wanted
	failed string                           // the first broken invariant
}

// raft is the cluster's state, and what is on its way into it.
type raft struct {
	states []*cluster.State // after each committed command
	leader slot.NodeName
	mail   []*letter // commands under way to the leader
	// forgets says that now and then Raft's files are put back to before a change of masters.
	forgets bool
	// ambush delays the next record of protection; ambushed is that record.
	ambush   bool
	ambushed *letter
	sealed   []failover.Sealed // hand-overs that the leader has seen
	// moves says that operators move masters that serve; else they take them for dead.
	moves bool
	drops bool // operators add and drop replicas all the time
	// shifts says that operators have copies moved, and masters with them.
	shifts bool
	stuck  []failover.StuckMove // moves that the leader has seen to be stuck
	late   bool                 // a master's word that it has handed over comes late: a hand-over is disturbed
}

// letter is a command on its way.
type letter struct {
	from    *node
	boot    int
	command cluster.Command
	sent    time.Duration
	arrives time.Duration
	expires time.Duration   // the sender gives up
	blind   bool            // it rests on a restored disk, and nobody knew
	given   bool            // the sender was told that the outcome is not known
	reply   func(err error) // the leader's answer has come
	unknown func()          // no answer came in time
}

// newWorld makes n1, the master, with the replicas n2 and n3; n4 votes. Operators add
// replicas and have them dropped.
func newWorld(seed uint64, f Fault) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 0x6d61696c)), fault: f, now: time.Minute, tick: 100 * time.Millisecond, byName: map[slot.NodeName]*node{}, cut: map[[2]slot.NodeName]bool{}}
	w.states, w.forgets = []*cluster.State{cluster.New()}, seed%8 == 7
	w.moves, w.drops, w.shifts = seed%2 == 0, seed%4 == 1, seed%16 == 5 || seed%16 == 10
	w.sent = ledger{acked: map[uint64]*acknowledged{}, numbers: map[uint64]number{}, masters: map[slot.Epoch]slot.NodeName{}, losses: map[slot.Epoch]bool{}, clean: map[slot.Epoch]bool{}}
	for i, name := range []slot.NodeName{"n1", "n2", "n3", "n4"} {
		m := cluster.Member{Name: name, ServerID: string(name) + "-1", Addr: "127.0.0.1:24", Role: cluster.Voter, Features: cluster.KnownFeatures}
		if i == 0 {
			w.must(cluster.Init{ClusterID: "sim", SlotCount: 1, DefaultReplicas: 2, First: m})
		} else {
			w.must(cluster.AddMember{Member: m})
		}
		n := &node{w: w, name: name, process: process{up: true, boot: 1}}
		w.nodes = append(w.nodes, n)
		w.byName[name] = n
	}
	w.must(cluster.AssignSlot{Slot: theSlot, Master: "n1", Replicas: []slot.NodeName{"n2", "n3"}})
	for _, n := range w.nodes {
		n.applied = len(w.states) - 1
		n.ev = failover.NewEvidence(n.name, w.now)
	}
	w.begin()
	return w
}

// begin makes the slot served, and protected by both replicas.
func (w *world) begin() {
	n1, n2, n3 := w.nodes[0], w.nodes[1], w.nodes[2]
	n1.converge()
	for _, n := range []*node{n2, n3} {
		n.converge()
		n.receive(1)
		n.sync()
	}
	w.settle()
	w.must(cluster.SetProtected{Slot: theSlot, Epoch: 1, Version: w.record().Version, InSync: []slot.NodeName{"n2", "n3"}})
	for _, n := range w.nodes {
		n.apply(len(w.states) - 1)
		n.known = n.applied
		n.ev.Tick(w.now)
		w.reports(n)
	}
	n1.learn()
}

func (w *world) must(c cluster.Command) {
	if _, err := w.commit(c, w.now); err != nil {
		panic(fmt.Sprintf("sim: %+v: %v", c, err))
	}
}

func (w *world) say(format string, args ...any) {
	if w.trace != nil {
		w.trace("%9s "+format, append([]any{w.now.Round(time.Millisecond)}, args...)...)
	}
}

func (w *world) broken(format string, args ...any) {
	if w.failed == "" {
		w.failed = fmt.Sprintf(format, args...)
		w.say("BROKEN: %s", w.failed)
	}
}

// chance is true once in n times.
func (w *world) chance(n int) bool { return w.rng.IntN(n) == 0 }

func pick[T any](w *world, list []T) T { return list[w.rng.IntN(len(list))] }

// latest is what Raft has committed.
func (w *world) latest() *cluster.State { return w.states[len(w.states)-1] }

func (w *world) record() cluster.Slot { sl, _ := w.latest().Slot(theSlot); return sl }

// commit applies a command that was sent at a time, and returns the index of the
// state after it.
func (w *world) commit(c cluster.Command, sent time.Duration) (int, error) {
	c = w.putBack(c)
	st := w.latest().Clone()
	if _, err := st.Apply(uint64(len(w.states)), c); err != nil {
		return len(w.states) - 1, err
	}
	w.taken(st, c)
	w.states = append(w.states, st)
	if len(w.nodes) > 0 {
		w.committed(c, sent)
	}
	return len(w.states) - 1, nil
}

// hears reports whether what from sends reaches to.
func (w *world) hears(from, to *node) bool {
	return from.runs() && to.runs() && (from == to || !w.cut[[2]slot.NodeName{from.name, to.name}])
}

// linked reports whether two nodes can talk.
func (w *world) linked(a, b *node) bool { return w.hears(a, b) && w.hears(b, a) }

// leads reports whether a node has a quorum around it.
func (w *world) leads(n *node) bool {
	count := 0
	for _, o := range w.nodes {
		if w.linked(n, o) {
			count++
		}
	}
	return n.runs() && count > len(w.nodes)/2
}

// elect returns the leader, a new one when the old one has lost its quorum; nil
// when nobody can have one.
func (w *world) elect() *node {
	if n := w.byName[w.leader]; n != nil && w.leads(n) {
		return n
	}
	w.leader = ""
	var can []*node
	for _, n := range w.nodes {
		if w.leads(n) {
			can = append(can, n)
		}
	}
	if len(can) == 0 {
		return nil
	}
	n := pick(w, can)
	w.leader, w.sealed, w.stuck = n.name, nil, nil
	n.apply(len(w.states) - 1) // its barrier
	w.say("%s leads", n.name)
	return n
}

// reaches returns the leader, if a node can send to it.
func (w *world) reaches(n *node) (*node, bool) {
	l := w.elect()
	return l, l != nil && w.hears(n, l)
}

// propose sends a command to the leader; false: nobody is there to take it.
func (w *world) propose(l *letter) bool {
	if _, ok := w.reaches(l.from); !ok {
		return false
	}
	l.boot, l.sent, l.arrives, l.expires = l.from.boot, w.now, w.now, w.now+recordWait
	_, confirm := l.command.(cluster.ConfirmSlot)
	if _, over := l.command.(cluster.CommitHandOver); over {
		confirm = true
	}
	switch k := w.rng.IntN(12); {
	case k < 2, k < 6 && confirm:
		l.arrives += time.Duration(w.rng.IntN(8000)) * time.Millisecond
	case k == 6:
		l.arrives = -1 // lost
	}
	if _, protects := l.command.(cluster.SetProtected); protects && w.ambush {
		l.arrives, w.ambushed = w.now+time.Duration(w.rng.IntN(5000))*time.Millisecond, l
	}
	w.mail = append(w.mail, l)
	return true
}

// post delivers what has arrived, and tells senders that waited too long.
func (w *world) post() {
	for i := 0; i < len(w.mail); i++ {
		l := w.mail[i]
		if l.arrives >= 0 && l.arrives <= w.now {
			l.arrives = -1
			w.deliver(l)
		}
		if !l.given && w.now >= l.expires {
			w.giveUp(l)
		}
		if l.arrives < 0 && l.given {
			i = slices.Index(w.mail, l)
			w.mail = slices.Delete(w.mail, i, i+1)
			i--
		}
	}
}

func (w *world) giveUp(l *letter) {
	l.given = true
	if l.from.runs() && l.from.boot == l.boot {
		l.unknown()
	}
}

func (w *world) deliver(l *letter) {
	leader := w.elect()
	if leader == nil {
		return // it ends with its sender's patience
	}
	l.blind = l.blind || w.restoredSince(l)
	index, err := w.commit(l.command, l.sent)
	leader.apply(len(w.states) - 1)
	if err == nil && l.blind {
		w.failed = inconclusive
	}
	w.say("Raft: %T from %s: %v", l.command, l.from.name, err)
	if l.given || !l.from.runs() || l.from.boot != l.boot || !w.hears(leader, l.from) {
		return
	}
	l.given = true
	if err == nil {
		l.from.apply(index)
	}
	l.reply(err)
}
