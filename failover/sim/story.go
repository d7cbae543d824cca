package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"mailnode/failover"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/repl/ack"
	"mailnode/storage/slot"
)

// Verb is what a Word does. storage/repl plays the same words on real stores.
type Verb string

// The verbs. A disk that is held syncs nothing: what is written to it is lost in a
// crash. A node that stalls takes nothing in from its master.
const (
	VerbDeliver Verb = "deliver" // Count messages to Node, if it serves
	VerbHold    Verb = "hold"
	VerbSync    Verb = "sync" // ends hold
	VerbStall   Verb = "stall"
	VerbFlow    Verb = "flow"    // ends stall
	VerbCut     Verb = "cut"     // the link of Node and Other
	VerbMend    Verb = "mend"    // ends cut
	VerbIsolate Verb = "isolate" // cuts all links of Node, and Raft's
	VerbJoin    Verb = "join"    // mends all links of Node, but for those to others that are isolated
	VerbCrash   Verb = "crash"   // what was not synced is lost
	VerbStop    Verb = "stop"    // as it should be
	VerbStart   Verb = "start"   // after crash and stop
	VerbSave    Verb = "save"    // an image of the disk
	VerbRestore Verb = "restore" // the node crashes, and starts with that image
	VerbPromise Verb = "promise" // Node is asked under the epoch after Raft's
	VerbPromote Verb = "promote" // a person gives Node the slot, accepts the loss, and Node is told
	VerbLearn   Verb = "learn"   // Node applies what Raft has
	VerbTrim    Verb = "trim"    // the journal, whole
	VerbRefill  Verb = "refill"  // Node is told to fetch the whole state
	VerbPass    Verb = "pass"    // time, until everything has come to rest
)

// Word is one line of a story.
type Word struct {
	Verb  Verb
	Node  slot.NodeName
	Other slot.NodeName
	Count int
}

func (x Word) String() string {
	out := strings.TrimSpace(fmt.Sprintf("%s %s %s", x.Verb, x.Node, x.Other))
	if x.Count > 0 {
		out += fmt.Sprintf(" %d", x.Count)
	}
	return out
}

// Rest says for how many seconds a story rests after a word: 0, hardly at all. It
// is well over, or well under, each time that ack and the followers know, so that
// no two of them are in a race.
func (x Word) Rest() int {
	switch x.Verb {
	case VerbDeliver, VerbHold, VerbStall, VerbSave, VerbTrim, VerbPromise:
		return 0
	}
	return 30
}

// Moment is the rest after a word whose Rest is 0.
const Moment = 400 * time.Millisecond

// Story plays words on model copies; nothing is left to chance. n1 begins as the
// master, n2 and n3 are its replicas, n4 has no copy and leads Raft.
type Story struct {
	w       *world
	held    map[slot.NodeName]bool
	stalled map[slot.NodeName]bool
	saved   map[slot.NodeName]disk
	asked   bool // by the last word, under an epoch that is to come
	brief   int  // words in a row without rest
}

// last makes a rand.Rand give the last of whatever there is to choose from: nothing
// is delayed, and n4 leads.
type last struct{}

func (last) Uint64() uint64 { return 1<<64 - 1 }

// NewStory begins one.
func NewStory() *Story {
	w := newWorld(1, NoFault)
	w.rng, w.leader = rand.New(last{}), "" // n4 is elected
	s := &Story{w: w, held: map[slot.NodeName]bool{}, stalled: map[slot.NodeName]bool{}, saved: map[slot.NodeName]disk{}}
	s.rest(30)
	return s
}

// Play plays a word, and returns the ids of the messages that it delivered; 0 for
// one that nobody took.
func (s *Story) Play(x Word) (delivered []uint64) {
	for _, n := range s.w.nodes {
		n.known = n.applied // the real stage forgets none of Raft's states either
	}
	if x.Verb == VerbDeliver {
		for range x.Count {
			delivered = append(delivered, s.deliver(s.w.byName[x.Node]))
		}
	} else {
		s.play(x, s.w.byName[x.Node])
	}
	s.asked = x.Verb == VerbPromise
	if s.brief++; x.Rest() > 0 {
		s.brief = 0
	}
	s.rest(x.Rest())
	return delivered
}

func (s *Story) deliver(n *node) uint64 {
	before := len(n.mem)
	n.deliver()
	if len(n.mem) == before {
		return 0
	}
	id := n.mem[before].id
	s.flow()
	return id
}

func (s *Story) play(x Word, n *node) {
	w := s.w
	switch x.Verb {
	case VerbHold:
		s.held[x.Node] = true
	case VerbSync:
		delete(s.held, x.Node)
	case VerbStall:
		s.stalled[x.Node] = true
	case VerbFlow:
		delete(s.stalled, x.Node)
	case VerbCut, VerbMend:
		s.link(x.Node, x.Other, x.Verb == VerbCut)
	case VerbIsolate, VerbJoin:
		for _, o := range w.nodes {
			if o != n && (x.Verb == VerbIsolate || !s.isolated(o.name)) {
				s.link(x.Node, o.name, x.Verb == VerbIsolate)
			}
		}
	case VerbCrash:
		n.crash()
		delete(s.held, x.Node)
	case VerbStop:
		n.end()
		n.up = false
		n.boot++
	case VerbStart:
		n.start()
	case VerbSave:
		s.saved[x.Node] = n.disk
	case VerbRestore:
		n.crash()
		n.disk = s.saved[x.Node]
		n.disk.unclean = true
		n.start()
	case VerbPromise:
		if n.runs() {
			w.promise(n, w.record().Epoch+1)
		}
	case VerbPromote:
		s.promote(x.Node)
	case VerbLearn:
		s.learn(n)
	case VerbTrim:
		n.disk.kept = len(n.disk.journal)
	case VerbRefill:
		n.refill = true
		n.unfollow()
	}
}

func (s *Story) isolated(n slot.NodeName) bool { return s.w.cut[[2]slot.NodeName{n, "n4"}] }

func (s *Story) link(a, b slot.NodeName, cut bool) {
	s.w.cut[[2]slot.NodeName{a, b}], s.w.cut[[2]slot.NodeName{b, a}] = cut, cut
}

// promote has Raft record another master.
func (s *Story) promote(to slot.NodeName) {
	w := s.w
	if w.elect() == nil {
		return
	}
	for _, c := range Promotion(w.latest(), to) {
		if _, err := w.commit(c, w.now); err != nil {
			return
		}
	}
	s.learn(w.byName[to])
}

// Promotion returns the commands by which a person makes a node the slot's master,
// whatever is lost.
func Promotion(st *cluster.State, to slot.NodeName) []cluster.Command {
	sl, _ := st.Slot(theSlot)
	var out []cluster.Command
	p, open := st.OpenProposalOf(theSlot)
	if !open {
		p.ID = fmt.Sprintf("p%d", st.NextProposal)
		out = append(out, cluster.OpenProposal{By: "operator", Slots: []cluster.ProposedSlot{{Slot: theSlot, Epoch: sl.Epoch, From: sl.Master, To: to}}})
	}
	return append(out, cluster.ConfirmSlot{Proposal: p.ID, Slot: theSlot, Epoch: sl.Epoch, Version: sl.Version, To: to, Unclean: true, AcceptLoss: true})
}

func (s *Story) learn(n *node) {
	if _, ok := s.w.reaches(n); ok && n.runs() {
		n.apply(len(s.w.states) - 1)
	}
}

// rest lets seconds pass, or a moment. Each second, nodes take the part that their
// Raft says, as far as they can.
func (s *Story) rest(seconds int) {
	if seconds == 0 {
		s.tick(int(Moment / (100 * time.Millisecond)))
	}
	for range seconds {
		for _, n := range s.w.nodes[:3] {
			n.converge()
		}
		s.tick(10)
	}
}

func (s *Story) tick(n int) {
	for range n {
		s.flow()
		s.w.now += 100 * time.Millisecond
		s.w.settle()
		for _, n := range s.w.nodes {
			if n.runs() && n.serving {
				n.step(ack.Tick{At: s.w.now, Head: n.disk.head()})
			}
		}
	}
}

// flow lets arrive, and makes durable, what can.
func (s *Story) flow() {
	for range 2 { // and what comes of it
		for _, n := range s.w.nodes {
			if n.runs() && !s.stalled[n.name] {
				n.receive(1 << 20)
			}
			if n.runs() && !s.held[n.name] {
				n.sync()
			}
		}
		s.w.settle()
	}
}

// Copy is what can be seen of one model copy, and of its node.
type Copy struct {
	Up, Serving bool
	Following   bool // a connection to its master stands
	Epoch       slot.Epoch
	Head        slot.Position
	Lineage     slot.Lineage
	Building    bool
	Promised    slot.Epoch
	Alone       bool
	AloneSince  slot.Position
	Aside       []slot.Position // where the states end that were set aside, each once
	Messages    map[uint64]uint64
}

// Copy returns a node's; Messages are the UIDs, by the ids that Play gave.
func (s *Story) Copy(name slot.NodeName) Copy {
	n := s.w.byName[name]
	d := n.disk
	c := Copy{Up: n.up, Serving: n.serving, Following: n.follows != nil, Epoch: n.epoch, Head: d.head(), Lineage: d.lineage, Building: d.building,
		Promised: d.promised, Alone: d.alone, AloneSince: d.since, Messages: map[uint64]uint64{}}
	for _, e := range d.journal {
		if e.number != 0 {
			c.Messages[e.id] = e.number
		}
	}
	for _, a := range d.aside {
		c.Aside = append(c.Aside, a[len(a)-1].position)
	}
	slices.Sort(c.Aside)
	c.Aside = slices.Compact(c.Aside)
	return c
}

// Record is Raft's.
func (s *Story) Record() cluster.Slot { return s.w.record() }

// Acknowledged reports whether a message's client was told OK.
func (s *Story) Acknowledged(id uint64) bool { return s.w.sent.acked[id] != nil }

// Draw chooses a word that means something now.
func (s *Story) Draw(rng *rand.Rand) Word {
	for name := range s.held { // the one that is held is settled soon
		switch k := rng.IntN(6); {
		case k < 3 && s.brief < 3:
			return Word{Verb: VerbDeliver, Node: s.master(rng), Count: 1 + rng.IntN(3)}
		case k < 5:
			return Word{Verb: VerbCrash, Node: name}
		}
		return Word{Verb: VerbSync, Node: name}
	}
	if s.asked { // a plan was made: it is confirmed
		for {
			if x := (Word{Verb: VerbPromote, Node: s.w.nodes[rng.IntN(3)].name}); s.means(x) {
				return x
			}
		}
	}
	if s.brief >= 3 || s.brief > 0 && len(s.stalled) > 0 {
		return Word{Verb: VerbPass}
	}
	for {
		if x := s.draw(rng); s.means(x) {
			return x
		}
	}
}

// master is a node that serves, most of the time.
func (s *Story) master(rng *rand.Rand) slot.NodeName {
	var serve []slot.NodeName
	for _, n := range s.w.nodes[:3] {
		if n.serving {
			serve = append(serve, n.name)
		}
	}
	if len(serve) == 0 || rng.IntN(12) == 0 {
		return s.w.nodes[rng.IntN(3)].name
	}
	return serve[rng.IntN(len(serve))]
}

func (s *Story) draw(rng *rand.Rand) Word {
	if rng.IntN(4) == 0 {
		return s.part(rng)
	}
	n, o := s.w.nodes[rng.IntN(3)].name, s.w.nodes[rng.IntN(3)].name
	verbs := []Verb{VerbHold, VerbStall, VerbFlow, VerbFlow, VerbCut, VerbMend, VerbIsolate, VerbJoin, VerbJoin, VerbCrash, VerbStop, VerbStart, VerbStart,
		VerbStart, VerbSave, VerbSave, VerbRestore, VerbRestore, VerbPromise, VerbPromote, VerbLearn, VerbLearn, VerbLearn, VerbTrim, VerbRefill, VerbRefill, VerbPass}
	if k := rng.IntN(len(verbs) * 3 / 2); k < len(verbs) {
		return Word{Verb: verbs[k], Node: n, Other: o}.plain()
	}
	return Word{Verb: VerbDeliver, Node: s.master(rng), Count: 1 + rng.IntN(3)}
}

// part promotes a copy that lacks what another has, or lets one that is behind, or
// on another line of history, learn of its master.
func (s *Story) part(rng *rand.Rand) Word {
	n, o := s.w.nodes[rng.IntN(3)], s.w.nodes[rng.IntN(3)]
	if n.disk.head() < o.disk.head() && o.serving {
		return Word{Verb: VerbPromote, Node: n.name}
	}
	return Word{Verb: VerbLearn, Node: n.name}
}

// plain takes away what the verb does not need.
func (x Word) plain() Word {
	if x.Verb != VerbCut && x.Verb != VerbMend {
		x.Other = ""
	}
	if x.Verb == VerbPass {
		x.Node = ""
	}
	return x
}

// means reports whether a word does anything that can be compared.
func (s *Story) means(x Word) bool {
	w, n := s.w, s.w.byName[x.Node]
	switch x.Verb {
	case VerbHold:
		return n.serving || n.connected() && !n.follows.moves && !s.stalled[x.Node]
	case VerbStall:
		return n.up && !s.stalled[x.Node]
	case VerbFlow:
		return s.stalled[x.Node]
	case VerbCut, VerbMend:
		return x.Node != x.Other && !s.isolated(x.Node) && !s.isolated(x.Other) && w.cut[[2]slot.NodeName{x.Node, x.Other}] == (x.Verb == VerbMend)
	case VerbIsolate, VerbJoin:
		return s.isolated(x.Node) == (x.Verb == VerbJoin)
	case VerbStart: // whoever stalls has its time-outs from the same moment
		return !n.up && len(s.stalled) == 0
	case VerbCrash, VerbStop, VerbSave:
		return n.up
	case VerbRestore:
		d, ok := s.saved[x.Node]
		return ok && n.up && len(s.stalled) == 0 && (d.head() != n.disk.head() || d.building != n.disk.building)
	case VerbPromise:
		return n.up && n.disk.promised <= w.record().Epoch && slices.ContainsFunc(w.record().Replicas, func(r slot.NodeName) bool {
			return s.means(Word{Verb: VerbPromote, Node: r})
		})
	case VerbPromote:
		sl := w.record()
		_, ok := w.reaches(n)
		return ok && n.up && slices.Contains(sl.Replicas, x.Node)
	case VerbLearn:
		return n.up && n.applied < len(w.states)-1
	case VerbTrim: // whoever stalls may have more under way than it has taken in
		return n.up && len(s.stalled) == 0 && !n.disk.building && n.disk.kept < len(n.disk.journal)
	case VerbRefill:
		return n.role == failover.RoleReplica && n.connected() && !n.follows.moves && n.disk.head() == n.follows.master.disk.head()
	}
	return true
}
