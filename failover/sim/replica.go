package sim

import (
	"slices"
	"time"

	"mailnode/failover"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/repl/ack"
	"mailnode/storage/slot"
)

// ackLetter is a replica's acknowledgement on its way.
type ackLetter struct {
	from, to *node
	f        *follows
	position slot.Position
	arrives  time.Duration
}

// follow connects to the master, as Server.Follow and Feed.serve decide.
func (n *node) follow(sl cluster.Slot) {
	w, m := n.w, n.w.byName[sl.Master]
	if m == nil || m == n || !w.linked(n, m) || !m.serving {
		return
	}
	if n.disk.promised == 0 && n.disk.head() == 0 { // a new copy knows of no promise
		if sl = n.slot(); !n.fresh() || n.slot().Epoch != sl.Epoch {
			return
		}
	}
	known := max(n.epoch, n.disk.lineage.Last())
	if !w.is(FaultNoPromise) {
		known = max(known, n.disk.promised)
	}
	if known > m.epoch {
		m.step(ack.EpochOver{At: w.now})
		return
	}
	m.learn()
	if !m.serving || !m.m.Lists(n.name) {
		return
	}
	d := n.disk
	diverged := !d.building && d.lineage.Diverged(d.head(), m.disk.lineage, m.disk.head())
	transfer := d.building || n.refill || diverged
	if !d.building && !diverged {
		if _, ok := m.disk.after(d.head()); !ok {
			transfer, diverged = true, d.head() > m.disk.keptAfter()
		}
	}
	n.mem = nil
	n.follows = &follows{master: m, term: m.term, epoch: m.epoch, moves: transfer}
	if !transfer {
		m.step(ack.Connected{At: w.now, Node: n.name, Position: d.head()})
		n.follows.conn = m.m.Replica(n.name).Conn
		return
	}
	m.step(ack.Refilled{At: w.now, Node: n.name})
	if diverged && !(w.is(FaultDroppedInSilence) && (n.refill || m.disk.kept > 0)) {
		n.disk.aside = append(slices.Clip(n.disk.aside), d.journal)
		w.say("%s sets %s aside", n.name, d.head())
	}
	w.say("%s fetches the state of %s", n.name, m.name)
	n.disk.building, n.disk.alone = true, false
	n.disk.journal, n.disk.lineage = m.disk.journal, m.disk.lineage.Clone()
	w.checkDropped(n, d)
	n.disk.journal, n.disk.lineage, n.disk.kept = nil, nil, 0
}

// transferred ends a state transfer.
func (n *node) transferred() {
	m := n.follows.master
	n.disk.journal, n.disk.lineage, n.disk.kept = slices.Clip(m.disk.journal), m.disk.lineage.Clone(), len(m.disk.journal)
	n.disk.building, n.refill, n.follows = false, false, nil
	n.w.say("%s has the state of %s at %s", n.name, m.name, n.disk.head())
}

// connected reports whether the connection to the master still stands.
func (n *node) connected() bool {
	f := n.follows
	return f != nil && f.master.term == f.term && f.master.serving && f.master.epoch == f.epoch && f.master.m.Lists(n.name) && n.w.linked(n, f.master) &&
		(f.moves || f.conn == f.master.m.Replica(n.name).Conn)
}

// hangUp ends a connection that has broken.
func (n *node) hangUp() {
	if n.follows != nil && !n.connected() {
		n.unfollow()
	}
}

// unfollow ends a connection, which its master notices.
func (n *node) unfollow() {
	f := n.follows
	n.follows = nil
	if f != nil && f.master.term == f.term && f.master.epoch == f.epoch && f.master.runs() {
		f.master.step(ack.Disconnected{At: n.w.now, Node: n.name, Conn: f.conn})
	}
}

// receive takes some events.
func (n *node) receive(most int) {
	if n.role != failover.RoleReplica || !n.connected() {
		return
	}
	if n.follows.moves {
		n.transferred()
		return
	}
	at := n.disk.head()
	if len(n.mem) > 0 {
		at = n.mem[len(n.mem)-1].position
	}
	more, ok := n.follows.master.disk.after(at)
	if !ok {
		n.unfollow()
		return
	}
	n.mem = append(n.mem, more[:min(most, len(more))]...)
}

// sendAck sends what is durable.
func (w *world) sendAck(n *node) {
	l := ackLetter{from: n, to: n.follows.master, f: n.follows, position: n.disk.head(), arrives: w.now}
	if w.chance(6) {
		l.arrives += time.Duration(w.rng.IntN(3000)) * time.Millisecond
	}
	w.acks = append(w.acks, l)
}

// takeAcks delivers acknowledgements; on a broken connection they are lost.
func (w *world) takeAcks() {
	for i := 0; i < len(w.acks); i++ {
		l := w.acks[i]
		if l.arrives > w.now {
			continue
		}
		w.acks = slices.Delete(w.acks, i, i+1)
		i--
		if l.from.follows == l.f && l.from.connected() {
			l.to.step(ack.Acked{At: w.now, Node: l.from.name, Conn: l.f.conn, Position: l.position, Viable: true})
		}
	}
}

// ask asks a node about its copy, under an epoch.
func (w *world) ask(from, to *node, e slot.Epoch) (failover.Answer, bool) {
	if !w.linked(from, to) {
		return failover.Answer{}, false
	}
	if from != to {
		w.promise(to, e)
	}
	v := to.ev.Snapshot(w.now)
	a := failover.Answer{Seen: v.Sightings(theSlot)}
	if w.is(FaultNoEvidence) {
		a.Seen = nil
	}
	if to.slot().Holds(to.name) || to.disk.head() > 0 {
		a.Copies = append(a.Copies, failover.CopyAnswer{CopyReport: to.report()})
	}
	return a, true
}

// promise notes that a node is asked under an epoch: it acknowledges nothing to a
// lower one any more.
func (w *world) promise(n *node, e slot.Epoch) {
	if w.is(FaultNoPromise) {
		return
	}
	n.disk.promised = max(n.disk.promised, e)
	if n.epoch < e && n.role != failover.RoleNone {
		w.say("%s is asked under epoch %d, and ends %d", n.name, e, n.epoch)
		n.end()
	}
}

// report is what a node says of its copy.
func (n *node) report() failover.CopyReport {
	r := failover.CopyReport{Slot: theSlot, Role: n.role, Serving: n.serving, Epoch: n.epoch}
	if n.w.now < n.opens {
		r.Opening = "opening"
		return r
	}
	if n.role == failover.RoleMaster && !n.serving {
		r.Waiting = n.waiting
	}
	r.Position, r.Lineage, r.Building = n.disk.head(), n.disk.lineage.Last(), n.disk.building
	r.Viable = !r.Building && r.Position > 0
	r.Counters.Events = r.Position.N()
	r.Head, r.HeadCount = r.Position, r.Counters
	r.LagKnown = n.follows != nil && n.connected() && n.disk.head() == n.follows.master.disk.head()
	r.AckLocal = n.serving && !n.m.WantsReplicas()
	if n.serving {
		r.AloneSince, r.Alone = n.m.Alone()
	}
	return r
}
