package sim

import (
	"time"

	"mailnode/failover"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/repl/ack"
	"mailnode/storage/slot"
)

// handing is the hand-over in which a master is, as its node works on it.
type handing struct {
	term   int          // of the office, in which begun was looked at
	begun  uint64       // cluster.HandOver.Begun; 0: none
	record cluster.Slot // as it was when it began
	sealed bool         // no change begins
	asking bool         // a commit is under way
}

// handOver works towards what the node's Raft has of a hand-over.
func (n *node) handOver() {
	if !n.serving {
		return
	}
	sl := n.slot()
	var begun uint64
	if sl.HandOver != nil {
		begun = sl.HandOver.Begun
	}
	if n.handing.term == n.term && n.handing.begun == begun {
		return
	}
	n.handing = handing{term: n.term, begun: begun, record: sl, sealed: begun != 0}
	if begun != 0 {
		n.w.say("%s is sealed at %s, to hand over to %s", n.name, n.disk.head(), sl.HandOver.To)
	}
}

// tryHandOver has Raft record that the next master has everything, once it has.
func (n *node) tryHandOver() {
	w, h := n.w, n.handing
	if !n.serving || h.begun == 0 || h.asking || w.chance(3) {
		return
	}
	if len(n.mem) > 0 && !w.is(FaultSealedTooSoon) { // what had begun before becomes durable first
		n.sync()
	}
	p := n.disk.head()
	if n.m.Released() < p {
		n.step(ack.Asked{At: w.now, Position: p})
	}
	if !n.serving {
		return
	}
	inSync, lacks := n.m.HandOver(h.record.HandOver.To, p)
	if lacks != "" && !w.is(FaultTargetLacks) {
		return
	}
	n.commitHandOver(p, inSync)
}

// commitHandOver asks Raft, and whatever the answer is, or if none comes, the master
// stays sealed until it has applied what ends the hand-over.
func (n *node) commitHandOver(p slot.Position, inSync []slot.NodeName) {
	w, h := n.w, n.handing
	c := failover.CommitOf(h.record, n.slot().Replicas, p, inSync, n.m.WantsReplicas())
	same := func() bool { return n.serving && n.handing.term == h.term && n.handing.begun == h.begun }
	l := &letter{from: n, command: c, blind: w.unseen(n)}
	l.unknown = func() {
		if same() {
			n.handing.asking = false
			n.handing.sealed = !w.is(FaultUnsealedEarly)
		}
	}
	l.reply = func(err error) {
		if same() {
			n.handing.asking = err == nil
		}
	}
	w.say("%s hands over at %s to %s, with %v", n.name, p, h.record.HandOver.To, c.InSync)
	n.handing.asking = w.propose(l)
	if n.handing.asking && w.moves && w.chance(4) {
		l.arrives, w.late = w.now+time.Duration(w.rng.IntN(5000))*time.Millisecond, true
	}
}

// giveUpHandOvers is what Raft's leader does about hand-overs that take too long.
func (w *world) giveUpHandOvers(l *node) {
	var late []cluster.Command
	late, w.sealed = failover.GiveUp(l.state(), w.now, w.sealed)
	for _, c := range late {
		w.abort(l, c)
	}
}

// disturbHandOver does what a hand-over must survive. It is given up early, since how
// long a leader waits is no part of what keeps mail; or its master starts again. Then
// all but its target take what the master may take, while its word is under way.
func (w *world) disturbHandOver() {
	w.late = false
	l, sl := w.elect(), w.record()
	if l == nil || sl.HandOver == nil {
		return
	}
	m := w.byName[sl.Master]
	if w.chance(2) {
		w.abort(l, cluster.AbortHandOver{Slot: theSlot, Epoch: sl.Epoch, Begun: sl.HandOver.Begun, Why: "it takes too long"})
	} else if m.up {
		m.crash()
		m.start()
	}
	for range 1 + w.rng.IntN(3) {
		if w.chance(2) {
			m.converge()
		}
		for _, n := range w.nodes {
			if n.role == failover.RoleReplica && w.chance(2) {
				n.converge()
			}
			n.deliver()
			if n.runs() && (n.name != sl.HandOver.To || w.chance(4)) {
				n.receive(2)
				n.sync()
			}
		}
		w.settle()
	}
	if w.chance(2) {
		w.operate(l)
	}
}

func (w *world) abort(l *node, c cluster.Command) {
	_, err := w.commit(c, w.now)
	l.apply(len(w.states) - 1)
	w.say("%s gives the hand-over up: %v", l.name, err)
}

// wish is an operator's proposal to move a master.
func (w *world) wish(n *node, sl cluster.Slot) {
	if len(sl.Replicas) == 0 || !w.chance(3) {
		return
	}
	c := cluster.OpenProposal{By: "operator", Slots: []cluster.ProposedSlot{{Slot: theSlot, Epoch: sl.Epoch, From: sl.Master, To: pick(w, sl.Replicas)}}}
	if !w.moves || w.chance(3) {
		c.Node, c.Dead = sl.Master, true
	}
	_ = w.propose(&letter{from: n, reply: func(error) {}, unknown: func() {}, command: c})
}

// handedOver checks what a hand-over left behind: nothing. Its target has all that was
// acknowledged, unless its disk was restored or is being refilled, which it finds out
// before it serves.
func (w *world) handedOver(c cluster.CommitHandOver) {
	sl := w.record()
	w.begun(sl.Epoch, sl.Master)
	w.sent.clean[sl.Epoch] = true
	w.say("%s is to serve epoch %d, handed over", sl.Master, sl.Epoch)
	to := w.byName[sl.Master]
	if to.disk.building || to.wentBack == c.Epoch {
		return
	}
	for _, a := range w.sent.acked {
		switch {
		case a.givenUp, a.withoutRaft && a.epoch < c.Epoch:
		case to.disk.holds(a.event):
			a.withoutRaft = false
		default:
			w.broken("law 1: epoch %d is handed over to %s at %s, it ends at %s and lacks event %d at %s", c.Epoch, to.name, c.Position, to.disk.head(), a.id, a.position)
			return
		}
	}
	if to.disk.head() < c.Position {
		w.broken("law 1: epoch %d is handed over to %s at %s, it ends at %s", c.Epoch, to.name, c.Position, to.disk.head())
	}
}
