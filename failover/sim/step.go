package sim

import (
	"fmt"
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

// Run plays steps of a seed, then heals everything and lets time pass. It gives
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
	n := pick(w, w.nodes)
	switch k := w.rng.IntN(100); {
	case k < 18:
		w.pass(time.Duration(50+w.rng.IntN(400)) * time.Millisecond)
	case k < 24:
		w.pass(time.Duration(w.rng.IntN(6000)) * time.Millisecond)
	case k < 40:
		for _, m := range w.nodes {
			m.deliver()
		}
	case k < 56:
		if n.runs() {
			n.sync()
		}
	case k < 70:
		if n.runs() {
			n.receive(1 + w.rng.IntN(4))
			if w.chance(2) {
				n.sync()
			}
		}
	case k < 76:
		if n.runs() && n.applied < len(w.states)-1 {
			n.applied += 1 + w.rng.IntN(len(w.states)-1-n.applied)
			n.converge()
		}
	case k < 82:
		n.converge()
	case k < 86:
		w.operate(n)
	default:
		w.disturb(n)
	}
	w.settle()
}

// disturb is what goes wrong.
func (w *world) disturb(n *node) {
	switch w.rng.IntN(12) {
	case 0, 1:
		if n.up {
			n.crash()
		}
	case 2, 3, 4:
		w.revive(n)
	case 5:
		w.restoreOlder(n)
	case 6:
		if n.runs() && w.chance(2) {
			n.paused = true
			w.say("%s is paused", n.name)
		}
	case 7, 8:
		o := pick(w, w.nodes)
		w.cut[[2]slot.NodeName{n.name, o.name}] = true
		if w.chance(2) {
			w.cut[[2]slot.NodeName{o.name, n.name}] = true
		}
		w.say("%s is cut off from %s", o.name, n.name)
	case 9, 10:
		clear(w.cut)
		w.say("all links are good")
	case 11:
		w.change(n)
	}
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
		if w.chance(5) {
			n.opens = w.now + time.Duration(w.rng.IntN(30000))*time.Millisecond
		}
		n.start()
	}
}

// restoreOlder brings a node's disk back to an earlier state. Of a master, only
// while a copy that has it all can be asked.
func (w *world) restoreOlder(n *node) {
	if n.up || len(n.disk.journal) < 3 || n.disk.building {
		return
	}
	sl := w.record()
	if sl.Master == n.name && !slices.ContainsFunc(w.nodes, func(o *node) bool {
		return o != n && sl.Holds(o.name) && o.runs() && !o.disk.building && o.disk.head() == n.disk.head()
	}) {
		return
	}
	back := len(n.disk.journal) - 1 - w.rng.IntN(min(8, len(n.disk.journal)-2))
	n.disk.journal = slices.Clip(n.disk.journal[:back])
	n.disk.kept = min(n.disk.kept, back)
	n.disk.lineage = slices.DeleteFunc(n.disk.lineage.Clone(), func(b slot.Branch) bool { return b.After >= n.disk.head() })
	n.wentBack = sl.Epoch
	w.say("the disk of %s is restored to %s", n.name, n.disk.head())
}

// change is what operators do beside failovers, and what a copy does by itself.
func (w *world) change(n *node) {
	sl := w.record()
	var c cluster.Command
	switch w.rng.IntN(4) {
	case 0:
		c = cluster.AddReplica{Slot: theSlot, Epoch: sl.Epoch, Node: "n4"}
	case 1:
		c = cluster.DropReplica{Slot: theSlot, Epoch: sl.Epoch, Node: "n4", Force: w.chance(3)}
	case 2:
		n.refill = n.role == failover.RoleReplica && w.chance(2)
		if n.refill {
			n.follows = nil
		}
		return
	default:
		n.disk.kept = len(n.disk.journal)
		return
	}
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
		w.now = min(end, w.now+100*time.Millisecond)
		w.settle()
		second := w.now/time.Second != before
		for _, n := range w.nodes {
			if !n.runs() {
				continue
			}
			n.ev.Tick(w.now)
			if second {
				w.reports(n)
			}
			if n.serving {
				n.step(ack.Tick{At: w.now, Head: n.disk.head()})
			}
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
		if w.chance(3) && len(sl.Replicas) > 0 {
			_ = w.propose(&letter{from: n, reply: func(*letter, int, error) {}, unknown: func(*letter) {},
				command: cluster.OpenProposal{By: "operator", Slots: []cluster.ProposedSlot{{Slot: theSlot, Epoch: sl.Epoch, From: sl.Master, To: pick(w, sl.Replicas)}}}})
		}
		return
	}
	got := map[slot.NodeName]failover.Answer{}
	for _, o := range w.nodes {
		if a, ok := w.ask(n, o, sl.Epoch); ok {
			got[o.name] = a
		}
	}
	plan := failover.PlanOf(st, w.view(n), suspectAfter, p, got)
	for _, s := range plan.Slots {
		accept := !s.Safe && s.Accept != "" && w.chance(4)
		if s.Done || !s.Safe && !accept {
			continue
		}
		w.say("an operator at %s confirms %s -> %s at %s, safe %t, version %d", n.name, s.From, s.To, s.Position, s.Safe, s.Version)
		_ = w.propose(&letter{from: n, reply: func(*letter, int, error) {}, unknown: func(*letter) {}, blind: s.Safe && w.blind(n, sl),
			command: cluster.ConfirmSlot{Proposal: p.ID, Slot: theSlot, Epoch: s.Epoch, Version: s.Version, To: s.To, Position: s.Position, Unclean: true, AcceptLoss: accept}})
	}
}

// blind says whether a replica that counts has a restored disk, and no node that
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

// heal makes everything good, and wants the slot protected again.
func (w *world) heal() {
	w.say("everything is made good")
	clear(w.cut)
	for _, n := range w.nodes {
		n.opens = 0
		w.revive(n)
		n.local = false
		n.opens = 0
	}
	for range 70 {
		w.pass(time.Second)
		for _, n := range w.nodes {
			n.apply(len(w.states) - 1)
			n.converge()
			n.receive(1000)
			n.sync()
		}
		if w.failed != "" {
			return
		}
	}
	sl := w.record()
	m := w.byName[sl.Master]
	if m.serving && m.m.Settings().Waits && (!sl.Protected || len(sl.InSync) != len(sl.Replicas)) {
		w.broken("law 1: a minute after everything is good again, Raft has %+v", sl)
	}
}
