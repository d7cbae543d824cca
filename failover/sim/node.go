package sim

import (
	"errors"
	"slices"
	"time"

	"mailnode/failover"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/repl/ack"
	"mailnode/storage/slot"
)

// node is one model node: its process, its copy, and the part that it plays.
type node struct {
	w    *world
	name slot.NodeName
	process
	store
	role  failover.Role
	epoch slot.Epoch
	candidacy
	office
	follows *follows
	refill  bool // it is told to fetch the whole state
}

// process is what runs on a node, and what it knows of the others.
type process struct {
	up      bool
	paused  bool
	boot    int
	seq     uint64
	local   bool // ack = "local"
	applied int  // of Raft's states
	known   int  // that of them which a start knows: it is written down within a second
	ev      *failover.Evidence
}

// store is a node's copy, on disk and in memory.
type store struct {
	opens    time.Duration // until then it is being opened
	disk     disk
	mem      []event    // applied and not synced
	wentBack slot.Epoch // the disk was restored in this epoch
	restored time.Duration
}

// candidacy is what a node has learned since Raft named it master, while it asks
// whether it may serve.
type candidacy struct {
	askedIn slot.Epoch
	asked   time.Duration // since when
	lostTo  slot.NodeName
	waiting string
}

// office is a master at work.
type office struct {
	serving bool
	unclean slot.UncleanCount
	told    bool // by a leader, that its epoch is over
	term    int  // +1 whenever it begins to serve: connections end with it
	m       ack.State
	todo    []ack.Action
	running bool    // the actions are being carried out
	waits   []event // durable here, clients wait
	handing handing
}

// follows is a replica's connection to its master.
type follows struct {
	master *node
	term   int // the master's
	epoch  slot.Epoch
	conn   int
	moves  bool // a state transfer is under way
}

func (n *node) runs() bool { return n.up && !n.paused }

func (n *node) apply(index int) { n.applied = max(n.applied, index) }

func (n *node) state() *cluster.State { return n.w.states[n.applied] }

func (n *node) slot() cluster.Slot { sl, _ := n.state().Slot(theSlot); return sl }

// fresh proves that this node's state is as new as now.
func (n *node) fresh() bool {
	l, ok := n.w.reaches(n)
	if !ok || !n.w.hears(l, n) {
		return false
	}
	if !n.w.is(FaultFreshIsOld) {
		n.apply(len(n.w.states) - 1)
	}
	return true
}

// end leaves the part that the node plays. What the committer has under way
// becomes durable; nobody is told.
func (n *node) end() {
	n.serving, n.waits, n.todo, n.handing = false, nil, nil, handing{}
	n.unfollow()
	for _, e := range n.mem {
		n.disk.append(e)
	}
	n.mem = nil
	n.role, n.epoch = failover.RoleNone, 0
}

func (n *node) crash() {
	n.w.say("%s crashes", n.name)
	n.mem = nil
	n.end()
	n.disk.unclean = true
	n.up, n.paused = false, false
	n.boot++
}

func (n *node) start() {
	n.up, n.applied = true, n.known
	n.ev = failover.NewEvidence(n.name, n.w.now)
	n.lostTo = ""
	n.w.say("%s starts, copy at %s", n.name, n.disk.head())
}

// sync makes durable what was applied.
func (n *node) sync() {
	for _, e := range n.mem {
		n.disk.append(e)
		if n.serving {
			n.w.shown(n, e)
			n.waits = append(n.waits, e)
		}
	}
	some := len(n.mem) > 0
	n.mem = nil
	if n.serving {
		if some { // nobody waits for the event with which an epoch begins
			n.step(ack.Asked{At: n.w.now, Position: n.disk.head()})
		}
	} else if n.follows != nil && !n.follows.moves {
		n.w.sendAck(n)
	}
}

// converge takes the part that the node's Raft says.
func (n *node) converge() {
	if !n.runs() || n.w.now < n.opens {
		return
	}
	sl := n.slot()
	want := failover.RoleNone
	switch {
	case sl.Master == n.name:
		want = failover.RoleMaster
	case sl.Holds(n.name), n.name == rogue: // which takes no notice of what Raft lists
		want = failover.RoleReplica
	}
	if n.role != want || n.epoch != sl.Epoch {
		n.end()
		n.role, n.epoch = want, sl.Epoch
	}
	switch {
	case want == failover.RoleMaster && !n.serving:
		n.lead(sl)
		if !n.w.is(FaultBeginsUnsealed) { // the record is newer now than sl
			n.handOver()
		}
	case want == failover.RoleMaster:
		n.learn()
		n.handOver()
	case want == failover.RoleReplica && n.follows == nil:
		n.follow(sl)
	case want == failover.RoleNone:
		n.retire()
	}
}

// lead begins to serve, if it may.
func (n *node) lead(sl cluster.Slot) {
	w := n.w
	n.waiting = "waits for a quorum"
	if n.askedIn != sl.Epoch {
		n.askedIn, n.asked, n.lostTo = sl.Epoch, w.now, ""
	}
	passed := map[slot.NodeName]slot.Position{}
	for {
		if !n.fresh() {
			return
		}
		now := n.slot()
		if now.Master != n.name || now.Epoch != sl.Epoch {
			return
		}
		s := failover.Start{Slot: now, Position: n.disk.head(), Lineage: n.disk.lineage.Last(), Building: n.disk.building,
			LostTo: n.lostTo, Waited: w.now - n.asked, Passed: passed, Answers: map[slot.NodeName]failover.CopyAnswer{}}
		for _, r := range now.Replicas {
			if a, ok := w.ask(n, w.byName[r], now.Epoch); ok && len(a.Copies) == 1 {
				s.Answers[r] = a.Copies[0]
			}
		}
		d := failover.MayServe(s)
		n.waiting = d.Why
		switch d.Begin {
		case failover.BeginServe:
			n.begin(now)
			return
		case failover.BeginLost:
			n.lostTo = d.From
			return
		case failover.BeginWait:
			return
		}
		passed[d.From] = s.Answers[d.From].Position
		if more, ok := w.byName[d.From].disk.after(n.disk.head()); ok {
			for _, e := range more {
				n.disk.append(e)
			}
		} else if s.Answers[d.From].Lineage == s.Lineage {
			return
		}
	}
}

// begin makes the node the master.
func (n *node) begin(sl cluster.Slot) {
	w := n.w
	again := n.disk.lineage.Last() == sl.Epoch
	_, served := w.sent.masters[sl.Epoch] // and Raft does not know it yet
	if (again || served && !sl.Begun()) && n.wentBack == sl.Epoch && n.lostMore() {
		w.failed = inconclusive // nobody was there to tell: a restored disk serves again
		return
	}
	if !again && slices.ContainsFunc(sl.Awaits, func(r slot.NodeName) bool { return w.byName[r].restored > w.sent.since }) {
		w.failed = inconclusive // what it had acknowledged since the plan is on no other disk
		return
	}
	st := ack.Start{At: w.now, Head: n.disk.head(), Recorded: n.recordOf(sl), Listed: n.listed(sl), Leaving: leaving(sl), Again: again, Alone: n.disk.alone && again, AloneSince: n.disk.since}
	if !again {
		n.disk.alone = false
	}
	if w.is(FaultAloneForgotten) {
		st.Alone, n.disk.alone = false, false
	}
	if w.is(FaultSettingIgnored) && n.local {
		st.Recorded, st.Again = ack.Record{Version: st.Recorded.Version}, false
	}
	if w.is(FaultNoClaim) {
		st.Again = false
	}
	var acts []ack.Action
	n.m, acts = ack.New(ack.Settings{Waits: !n.local, AckTimeout: 2 * time.Second, ProtectAfter: 10 * time.Second}, st)
	n.serving, n.waits, n.lostTo, n.waiting = true, nil, "", ""
	n.term++
	n.unclean, n.told = sl.Unclean, false
	head := n.disk.head()
	switch {
	case !again:
		n.disk.append(event{position: slot.At(sl.Epoch, 1), id: w.id(), branch: &slot.Branch{Epoch: sl.Epoch, After: head}})
	case n.disk.unclean:
		n.disk.append(event{position: head + 1000, id: w.id(), branch: &slot.Branch{Epoch: sl.Epoch, After: head}})
	}
	n.disk.unclean = false
	n.handing = handing{sealed: sl.HandOver != nil && !w.is(FaultBeginsUnsealed)}
	w.say("%s serves epoch %d from %s, local %t, record %+v", n.name, sl.Epoch, head, n.local, st.Recorded)
	w.checkServes(n, sl.Epoch)
	n.carryOut(acts)
}

// lostMore reports whether a restored disk lacks what was acknowledged in its epoch.
func (n *node) lostMore() bool {
	for _, a := range n.w.sent.acked {
		if a.epoch == n.askedIn && !n.disk.holds(a.event) {
			return true
		}
	}
	for num := range n.w.sent.numbers {
		if num >= n.disk.next(n.slot().Unclean) {
			return true
		}
	}
	return false
}

func (n *node) recordOf(sl cluster.Slot) ack.Record {
	r := ack.Record{Version: sl.Version, Protected: sl.Protected, InSync: sl.InSync, Since: sl.UnprotectedSince}
	if sl.Inherited && !n.w.is(FaultNeverBegun) {
		r.Begins = slot.At(sl.Epoch, 1)
	}
	return r
}

func (n *node) listed(sl cluster.Slot) []slot.NodeName {
	if n.w.is(FaultUnlisted) {
		return []slot.NodeName{"n1", "n2", "n3", "n4"}
	}
	return sl.Replicas
}

// deliver takes a message in: not durable, not shown.
func (n *node) deliver() {
	if !n.serving || !n.runs() || n.handing.sealed {
		return
	}
	head, next := n.disk.head(), n.disk.next(n.unclean)
	for _, e := range n.mem {
		head, next = e.position, e.number+1
	}
	n.mem = append(n.mem, event{position: head + 1, id: n.w.id(), number: next})
}

// learn tells the decision what Raft has.
func (n *node) learn() {
	sl := n.slot()
	switch {
	case sl.Epoch > n.epoch:
		n.step(ack.EpochOver{At: n.w.now})
	case sl.Version > n.m.Recorded().Version:
		n.step(ack.Recorded{At: n.w.now, Record: n.recordOf(sl), Listed: n.listed(sl), Leaving: leaving(sl)})
	}
}

func (n *node) step(e ack.Event) {
	if !n.serving {
		return
	}
	var acts []ack.Action
	n.m, acts = ack.Step(n.m, e)
	n.carryOut(acts)
}

// carryOut does what the decision asks for, one after the other.
func (n *node) carryOut(acts []ack.Action) {
	n.todo = append(n.todo, acts...)
	if n.running {
		return
	}
	n.running = true
	defer func() { n.running = false }()
	for len(n.todo) > 0 && n.serving {
		a := n.todo[0]
		n.todo = n.todo[1:]
		switch a := a.(type) {
		case ack.Release:
			n.release()
		case ack.Propose:
			n.propose(a)
		case ack.Drop:
			n.drop(a)
		case ack.MarkAlone:
			n.disk.alone, n.disk.since = true, a.Since
			n.w.say("%s marks alone since %s", n.name, a.Since)
			n.step(ack.Marked{At: n.w.now, Since: a.Since})
		case ack.ClearAlone:
			n.disk.alone = false
		case ack.End:
			n.w.say("%s ends epoch %d", n.name, n.epoch)
			n.end()
		}
	}
}

func (n *node) release() {
	for len(n.waits) > 0 && n.waits[0].position <= n.m.Released() && n.serving {
		e := n.waits[0]
		n.waits = n.waits[1:]
		if e.number != 0 {
			n.w.say("%s acknowledges event %d at %s", n.name, e.id, e.position)
			n.w.acknowledge(n, e)
		}
	}
}

func (n *node) propose(a ack.Propose) {
	epoch := n.epoch
	r := a.Record
	var c cluster.Command = cluster.SetUnprotected{Slot: theSlot, Epoch: epoch, Version: r.Version, Since: r.Since}
	if r.Protected {
		c = cluster.SetProtected{Slot: theSlot, Epoch: epoch, Version: r.Version, InSync: r.InSync}
	}
	n.w.say("%s proposes %+v: %s", n.name, r, a.Why)
	ended := func(o ack.Outcome) {
		if n.serving && n.epoch == epoch {
			n.learn()
			n.step(ack.Proposed{At: n.w.now, Record: r, Outcome: o})
		}
	}
	l := &letter{from: n, command: c, unknown: func() { ended(ack.Unknown) }}
	l.reply = func(err error) {
		var stale cluster.ErrStale
		switch {
		case err == nil:
			ended(ack.Done)
		case errors.As(err, &stale) && n.w.is(FaultRefusalIsUnknown):
			n.told = n.serving && n.epoch == epoch
			ended(ack.Unknown)
		case errors.As(err, &stale):
			n.step(ack.EpochOver{At: n.w.now})
		default:
			ended(ack.Refused)
		}
	}
	if !n.w.propose(l) {
		ended(ack.NotSent)
	}
}
