package sim

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"mailnode/failover"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/repl/ack"
	"mailnode/storage/slot"
)

// inconclusive ends a run in which a restored disk went unnoticed because no node
// that could be asked knew better: nothing is promised then.
const inconclusive = "inconclusive"

// Run plays steps of a seed, then heals everything and lets time pass. It returns
// the first broken invariant, "" when there is none.
func Run(seed uint64, steps int, f Fault, trace func(format string, args ...any)) string {
	w := newWorld(seed, f)
	w.trace = trace
	for range steps {
		w.act()
		if w.failed != "" {
			break
		}
	}
	if w.failed == "" {
		w.heal()
	}
	if w.failed == inconclusive {
		return ""
	}
	return w.failed
}

func (w *world) id() uint64 { w.lastID++; return w.lastID }

// act is one step.
func (w *world) act() {
	if w.forgets && w.chance(40) {
		w.forgetChange()
	}
	if w.drops && w.chance(20) {
		w.order(pick(w, w.nodes), w.wishDrop(w.record()))
	}
	if w.shifts && w.chance(15) {
		w.order(pick(w, w.nodes), w.wishMove(w.record()))
	}
	n := pick(w, w.nodes)
	switch k := w.rng.IntN(100); {
	case k < 18:
		w.pass(time.Duration(50+w.rng.IntN(400)) * time.Millisecond)
	case k < 22:
		w.pass(time.Duration(w.rng.IntN(4000)) * time.Millisecond)
	case k < 38:
		for _, m := range w.nodes {
			m.deliver()
		}
	case k < 54:
		if n.runs() {
			n.sync()
		}
	case k < 72:
		if n.runs() {
			n.receive(1 + w.rng.IntN(4))
			if w.chance(2) {
				n.sync()
			}
		}
	case k < 77:
		if n.runs() && n.applied < len(w.states)-1 {
			n.applied += 1 + w.rng.IntN(len(w.states)-1-n.applied)
			n.converge()
		}
	case k < 83:
		n.converge()
	case k < 89:
		w.operate(n)
	default:
		w.disturb(n)
	}
	w.settle()
}

// disturb is what goes wrong, and what is mended.
func (w *world) disturb(n *node) {
	switch w.rng.IntN(17) {
	case 16:
		w.disturbHandOver()
	case 0:
		if n.up {
			n.crash()
		}
	case 1:
		w.ambush = true
	case 2, 3, 4:
		w.revive(n)
	case 5:
		w.restoreOlder(n)
	case 6:
		if n.runs() {
			n.paused = true
			w.say("%s is paused", n.name)
		}
	case 7, 8, 9:
		w.sever(n, pick(w, w.nodes))
	case 10, 11:
		clear(w.cut)
		w.say("all links are good")
	case 12, 13:
		w.change(n)
	default:
		w.loseMaster()
	}
}

// sever cuts a link, often in one direction only.
func (w *world) sever(a, b *node) {
	if a == b {
		return
	}
	w.cut[[2]slot.NodeName{a.name, b.name}] = true
	if w.chance(2) {
		w.cut[[2]slot.NodeName{b.name, a.name}] = true
	}
	w.say("%s is cut off from %s", b.name, a.name)
}

// loseMaster takes the master away from some or all of the others, in one way or
// another, for long enough to be suspected.
func (w *world) loseMaster() {
	m := w.byName[w.record().Master]
	if !m.runs() {
		return
	}
	spared := pick(w, w.nodes)
	switch w.rng.IntN(6) {
	case 5:
		w.halfSeen(m, spared)
		return
	case 0:
		m.crash()
	case 1:
		m.paused = true
		w.say("%s is paused", m.name)
	case 2: // it comes back, and opens its copy while the others hear of it
		m.crash()
		m.start()
		m.opens = w.now + time.Duration(w.rng.IntN(10000))*time.Millisecond
		w.pass(2 * time.Second)
		fallthrough
	default:
		for _, o := range w.nodes {
			if o != m && (o != spared || w.chance(2)) {
				w.cut[[2]slot.NodeName{m.name, o.name}], w.cut[[2]slot.NodeName{o.name, m.name}] = true, true
			}
		}
		w.say("%s is isolated, but perhaps from %s", m.name, spared.name)
	}
	for range w.rng.IntN(6) {
		m.deliver()
		m.sync()
		for _, o := range w.nodes {
			o.receive(1)
			o.sync()
		}
		w.pass(time.Duration(w.rng.IntN(7000)) * time.Millisecond)
	}
	w.operate(pick(w, w.nodes))
}

func (w *world) revive(n *node) {
	switch {
	case n.paused:
		n.paused = false
		w.say("%s goes on", n.name)
		n.ev.Paused(w.now)
		if n.role == failover.RoleMaster { // pauseGate: nothing is acknowledged before it has asked
			n.end()
		}
	case !n.up:
		if w.chance(4) {
			n.local = !n.local
		}
		if w.chance(4) {
			n.opens = w.now + time.Duration(w.rng.IntN(30000))*time.Millisecond
		}
		n.start()
	}
}

// springAmbush restarts a master whose record of protection is under way, and
// lets it serve again, in one or another part of a split cluster, before the
// record arrives.
func (w *world) springAmbush() {
	l := w.ambushed
	w.ambush, w.ambushed = false, nil
	if !l.from.runs() {
		return
	}
	l.from.crash()
	l.from.start()
	l.from.converge()
	w.sever(l.from, pick(w, w.nodes))
	l.from.deliver()
	l.from.sync()
}

// halfSeen restarts the master, and cuts one node off from it which has heard only
// that it does not serve. What that node confirms comes while the master serves,
// and has Raft's ear.
func (w *world) halfSeen(m, o *node) {
	if o == m || !o.runs() {
		return
	}
	m.crash()
	m.start()
	m.opens = w.now + 1500*time.Millisecond
	w.pass(1300 * time.Millisecond)
	w.cut[[2]slot.NodeName{m.name, o.name}], w.cut[[2]slot.NodeName{o.name, m.name}] = true, true
	w.say("%s is cut off from %s, which starts", o.name, m.name)
	w.pass(1500 * time.Millisecond)
	for range 1 + w.rng.IntN(4) {
		w.operate(o)
		m.deliver()
		m.sync()
		for _, r := range w.nodes {
			if r != o {
				r.receive(3)
				r.sync()
			}
		}
		w.settle()
		o.converge()
	}
}

// restoreOlder brings a node's disk back to an earlier state. Of a master, only
// while a copy that has it all can be asked.
func (w *world) restoreOlder(n *node) {
	if len(n.disk.journal) < 3 || n.disk.building {
		return
	}
	sl := w.record()
	if sl.Master == n.name && !slices.ContainsFunc(w.nodes, func(o *node) bool {
		return o != n && sl.Holds(o.name) && o.runs() && !o.disk.building && o.disk.head() == n.disk.head()
	}) {
		return
	}
	if n.up {
		n.crash()
	}
	back := len(n.disk.journal) - 1 - w.rng.IntN(min(8, len(n.disk.journal)-2))
	n.disk.journal = slices.Clip(n.disk.journal[:back])
	n.disk.kept = min(n.disk.kept, back)
	n.disk.lineage = slices.DeleteFunc(n.disk.lineage.Clone(), func(b slot.Branch) bool { return b.After >= n.disk.head() })
	n.disk.promised = min(n.disk.promised, n.disk.lineage.Last()) // as it was then, at the least
	n.disk.alone = false
	n.wentBack, n.restored = sl.Epoch, w.now
	w.say("the disk of %s is restored to %s", n.name, n.disk.head())
	w.forget()
	n.start()
}

// forgetChange puts Raft's files of all nodes back to before the last change of
// masters, with what is remembered of them. All start, and can be asked. What was
// acknowledged in the forgotten epoch may be hidden: only a person who accepts the
// loss begins one above it.
func (w *world) forgetChange() {
	epoch := w.record().Epoch
	before := slices.IndexFunc(w.states, func(st *cluster.State) bool { sl, _ := st.Slot(theSlot); return sl.Epoch == epoch })
	if epoch == 1 {
		return
	}
	for _, n := range w.nodes {
		if n.up {
			n.crash()
		}
	}
	w.states = slices.Clip(w.states[:before])
	w.mail, w.acks, w.ambush, w.ambushed, w.late = nil, nil, false, nil, false
	clear(w.cut)
	for _, a := range w.sent.acked {
		a.givenUp = a.givenUp || a.epoch >= epoch
	}
	if w.sent.clean[epoch] { // its numbers went on where those of the epoch before ended
		maps.DeleteFunc(w.sent.numbers, func(_ uint64, x number) bool { return x.epoch >= epoch })
		delete(w.sent.clean, epoch)
	}
	maps.DeleteFunc(w.sent.losses, func(e slot.Epoch, _ bool) bool { return e >= epoch })
	w.say("raft forgets epoch %d on all nodes", epoch)
	for _, n := range w.nodes {
		n.known = min(n.known, len(w.states)-1)
		n.wentBack = min(n.wentBack, w.record().Epoch) // a disk that was restored since lacks what that epoch had
		n.opens = 0
		n.start()
	}
}

// unseen reports whether Raft may have forgotten an epoch that was served, of which
// nobody knows who can be asked.
func (w *world) unseen(n *node) bool {
	if !w.forgets {
		return false
	}
	served := slices.Max(slices.Collect(maps.Keys(w.sent.masters)))
	return !slices.ContainsFunc(w.nodes, func(o *node) bool { return w.linked(n, o) && w.now >= o.opens && o.disk.lineage.Last() >= served })
}

// change is what operators do beside failovers, and what a copy does by itself.
func (w *world) change(n *node) {
	sl := w.record()
	var c cluster.Command
	switch w.rng.IntN(6) {
	case 0:
		c = cluster.AddReplica{Slot: theSlot, Epoch: sl.Epoch, Node: "n4"}
	case 1, 4, 5:
		c = w.wishDrop(sl)
	case 2:
		n.refill = n.role == failover.RoleReplica && w.chance(2)
		if n.refill {
			n.unfollow()
		}
		return
	default:
		n.disk.kept = len(n.disk.journal)
		return
	}
	w.order(n, c)
}

// order gives a command at a node, and it is committed at once.
func (w *world) order(n *node, c cluster.Command) {
	if l, ok := w.reaches(n); ok {
		_, err := w.commit(c, w.now)
		l.apply(len(w.states) - 1)
		w.say("%+v: %v", c, err)
	}
}

// pass lets time pass, in ticks: reports, what a leader notices, what masters do.
func (w *world) pass(d time.Duration) {
	for end := w.now + d; w.now < end && w.failed == ""; {
		before := w.now / time.Second
		w.now = min(end, w.now+w.tick)
		w.settle()
		second := w.now/time.Second != before
		for _, n := range w.nodes {
			if !n.runs() {
				continue
			}
			n.ev.Tick(w.now)
			if second {
				w.reports(n)
				n.known = n.applied
			}
			if n.serving {
				n.step(ack.Tick{At: w.now, Head: n.disk.head()})
			}
			n.tryHandOver()
			if second && !w.chance(3) {
				n.converge()
			}
		}
		if second {
			w.lead()
		}
	}
}

// settle lets what is under way arrive, and ends what has broken.
func (w *world) settle() {
	w.post()
	if w.ambushed != nil {
		w.springAmbush()
	}
	if w.late {
		w.disturbHandOver()
	}
	w.takeAcks()
	for _, n := range w.nodes {
		if n.runs() {
			n.hangUp()
		}
	}
}

func (w *world) reports(n *node) {
	r := failover.Report{Node: n.name, Boot: fmt.Sprint(n.boot), Heard: n.ev.Heard(w.now)}
	n.seq++
	r.Seq = n.seq
	if n.slot().Holds(n.name) {
		r.Slots = []failover.CopyReport{n.report()}
	}
	for _, o := range w.nodes {
		if w.hears(n, o) {
			o.ev.Hear(w.now, r)
		}
	}
}

// lead is what Raft's leader does about what it noticed.
func (w *world) lead() {
	l := w.elect()
	if l == nil {
		return
	}
	l.apply(len(w.states) - 1)
	l.ev.Observe(w.now, l.state())
	for _, c := range failover.Decide(l.state(), l.ev.Snapshot(w.now), suspectAfter) {
		if _, err := w.commit(c, w.now); err != nil {
			w.broken("a leader's %T is refused: %v", c, err)
		}
		l.apply(len(w.states) - 1)
	}
	w.giveUpHandOvers(l)
	if w.shifts {
		w.moveCopies(l)
	}
}

// operate is an operator at a node: a proposal of his own, or a plan and its
// confirmation, which arrives when it arrives.
func (w *world) operate(n *node) {
	if !n.runs() || !n.fresh() {
		return
	}
	st := n.state()
	sl := n.slot()
	p, open := st.OpenProposalOf(theSlot)
	if !open {
		w.wish(n, sl)
		return
	}
	if sl.HandOver != nil && w.chance(6) {
		_ = w.propose(&letter{from: n, reply: func(error) {}, unknown: func() {}, command: cluster.RejectProposal{Proposal: p.ID, By: "operator"}})
		return
	}
	got := map[slot.NodeName]failover.Answer{}
	for _, o := range w.nodes {
		if a, ok := w.ask(n, o, sl.Epoch); ok {
			got[o.name] = a
		}
	}
	plan := failover.PlanOf(st, w.view(n), suspectAfter, p, got, p.Dead && (!w.moves || w.chance(2)))
	for _, s := range plan.Slots {
		accept := !s.Safe && s.Accept != "" && (w.urgent || w.chance(4))
		switch {
		case s.Done || !s.Safe && !accept:
		case s.HandOver:
			w.say("an operator at %s has %s handed over to %s, version %d", n.name, s.From, s.To, s.Version)
			_ = w.propose(&letter{from: n, reply: func(error) {}, unknown: func() {},
				command: cluster.BeginHandOver{Proposal: p.ID, Slot: theSlot, Epoch: s.Epoch, Version: s.Version, To: s.To}})
		default:
			w.say("an operator at %s confirms %s -> %s at %s, safe %t, version %d", n.name, s.From, s.To, s.Position, s.Safe, s.Version)
			_ = w.propose(&letter{from: n, reply: func(error) {}, unknown: func() {}, blind: s.Safe && w.blind(n, sl) || w.unseen(n),
				command: cluster.ConfirmSlot{Proposal: p.ID, Slot: theSlot, Epoch: s.Epoch, Seen: s.SeenEpoch, Version: s.Version, To: s.To, Position: s.Position, Unclean: true, AcceptLoss: accept}})
		}
	}
}

// blind reports whether a replica that counts has a restored disk, and no node that
// can be asked has heard it hold more.
func (w *world) blind(n *node, sl cluster.Slot) bool {
	restored := false
	for _, name := range sl.InSync {
		r := w.byName[name]
		if r.wentBack != sl.Epoch {
			continue
		}
		restored = true
		for _, o := range w.nodes {
			if !w.linked(n, o) {
				continue
			}
			for _, s := range o.ev.Snapshot(w.now).Sightings(theSlot) {
				if s.Node == name && s.Lineage == sl.Epoch && s.Highest > r.disk.head() {
					return false
				}
			}
		}
	}
	return restored
}

// restoredSince reports whether a disk on which a plan rests was restored after it was
// made, while the confirmation was under way.
func (w *world) restoredSince(l *letter) bool {
	c, ok := l.command.(cluster.ConfirmSlot)
	return ok && !c.AcceptLoss && slices.ContainsFunc(w.record().InSync, func(r slot.NodeName) bool { return w.byName[r].restored > l.sent })
}

// view is a node's evidence.
func (w *world) view(n *node) failover.View {
	v := n.ev.Snapshot(w.now)
	if !w.is(FaultNoEvidence) {
		return v
	}
	nodes := map[slot.NodeName]failover.NodeView{}
	for name, nv := range v.Nodes {
		nv.Copies = nil
		nodes[name] = nv
	}
	v.Nodes = nodes
	return v
}

// helpOut is the operator who, after everything was made good, confirms what is
// proposed for a slot that nobody serves; in the end he accepts a loss.
func (w *world) helpOut(second int) {
	sl := w.record()
	m := w.byName[sl.Master]
	if second%5 != 0 || second > 90 || m.serving {
		return
	}
	w.urgent = second > 40
	if _, open := w.latest().OpenProposalOf(theSlot); open || w.urgent {
		w.operate(m)
	}
}

// heal makes everything good, and wants the slot protected again.
func (w *world) heal() {
	w.say("everything is made good")
	if m := w.record().Move; w.shifts && m != nil && (m.Lead != "" || w.chance(2)) { // else it ends by itself
		_, _ = w.commit(cluster.StopMoves{By: "operator"}, w.now)
	}
	w.ambush, w.ambushed, w.moves, w.late = false, nil, false, false
	clear(w.cut)
	for _, n := range w.nodes {
		n.opens = 0
		w.revive(n)
		n.local = false
		n.opens = 0
	}
	w.tick = 500 * time.Millisecond
	for i := range 120 {
		w.pass(time.Second)
		w.helpOut(i)
		for _, n := range w.nodes {
			n.apply(len(w.states) - 1)
			n.converge()
			n.receive(1000)
			n.sync()
		}
		if w.failed != "" {
			return
		}
		if sl := w.record(); i > 45 && w.byName[sl.Master].serving && sl.HandOver == nil && !unended(sl) && w.wantedProtection(sl, w.byName[sl.Master].m.WantsReplicas()) {
			break
		}
	}
	sl := w.record()
	m := w.byName[sl.Master]
	if slices.ContainsFunc(w.nodes, func(n *node) bool { return n.disk.promised > sl.Epoch }) {
		return // a promise to a forgotten epoch holds its master up
	}
	if unended(sl) {
		w.broken("long after everything is good again, %+v has not ended: %+v", *sl.Move, sl)
	}
	if !m.serving || sl.HandOver != nil {
		w.broken("law 4: long after everything is good again, %s does not serve (%s): %+v", m.name, m.waiting, sl)
	}
	for _, a := range w.sent.acked {
		if !a.givenUp && !a.withoutRaft && !m.disk.holds(a.event) {
			w.broken("law 1: in the end %s lacks event %d at %s, which was acknowledged", m.name, a.id, a.position)
		}
	}
	if m.serving && !w.wantedProtection(sl, m.m.WantsReplicas()) {
		w.broken("law 1: long after everything is good again, Raft has %+v", sl)
	}
}
