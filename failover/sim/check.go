package sim

import (
	"cmp"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// ledger is what the world knows and no node does.
type ledger struct {
	acked   map[uint64]*acknowledged     // by event
	numbers map[uint64]number            // that clients were shown
	masters map[slot.Epoch]slot.NodeName // who served it
	losses  map[slot.Epoch]bool          // epochs that began with an accepted loss
	clean   map[slot.Epoch]bool          // epochs that began with a hand-over
	since   time.Duration                // when the newest epoch was begun in Raft
}

// number is what a number that clients were shown names, and the epoch in which they were.
type number struct {
	event uint64
	epoch slot.Epoch
}

// acknowledged is an event whose client was told OK.
type acknowledged struct {
	event
	epoch slot.Epoch
	at    time.Duration
	// withoutRaft: its master could not reach a quorum, and Raft had, or may have
	// come to have, the slot as protected: the one exception of law 1. It ends as
	// soon as Raft has a record again that was sent later.
	withoutRaft bool
	givenUp     bool // hidden by a loss that a person accepted, or by the exception
}

// acknowledge notes that a client was told OK, and checks what it was told.
func (w *world) acknowledge(n *node, e event) {
	a := &acknowledged{event: e, epoch: n.epoch, at: w.now, withoutRaft: n.m.WithoutRaft()}
	w.sent.acked[e.id] = a
	for epoch := n.epoch + 1; epoch <= w.record().Epoch; epoch++ {
		a.givenUp = a.givenUp || w.sent.losses[epoch] // the loss that was accepted goes on until its master is told
	}
	w.shown(n, e)
	w.checkRecord("acknowledged")
	now := w.record().Epoch
	m := w.byName[w.sent.masters[now]]
	switch {
	case n.told:
		w.broken("law 1: %s acknowledges event %d in epoch %d, and was told by a leader that it is over", n.name, e.id, n.epoch)
	case now > n.epoch && m != nil && !a.withoutRaft && !a.givenUp && !m.disk.holds(e):
		w.broken("law 1: %s acknowledges event %d at %s in epoch %d, %s serves epoch %d and lacks it", n.name, e.id, e.position, n.epoch, m.name, now)
	}
}

// shown: a number is given out to clients once (law 2).
func (w *world) shown(n *node, e event) {
	if was, ok := w.sent.numbers[e.number]; ok && was.event != e.id {
		w.broken("law 2: number %d names events %d and %d, shown by %s", e.number, was.event, e.id, n.name)
	}
	w.sent.numbers[e.number] = number{e.id, n.epoch}
}

// committed looks at what Raft has taken.
func (w *world) committed(c cluster.Command, sent time.Duration) {
	switch c := c.(type) {
	case cluster.SetProtected, cluster.SetUnprotected:
		epoch := w.record().Epoch
		for _, a := range w.sent.acked {
			if a.epoch == epoch && a.at < sent {
				a.withoutRaft = false
			}
		}
		w.checkRecord("recorded")
	case cluster.ConfirmSlot:
		w.begun(c.Begins(), c.To)
		delete(w.sent.clean, c.Begins())
		w.sent.losses[c.Begins()] = c.AcceptLoss
		w.say("%s is to serve epoch %d, accepted loss %t", c.To, c.Begins(), c.AcceptLoss)
	case cluster.CommitHandOver:
		w.handedOver(c)
	}
}

// begun: an epoch that begins was never served before.
func (w *world) begun(begins slot.Epoch, at slot.NodeName) {
	w.sent.since = w.now
	for e, n := range w.sent.masters {
		if e >= begins {
			w.broken("law 4: epoch %d begins at %s, and %s has served epoch %d", begins, at, n, e)
		}
	}
}

// checkRecord: while Raft has the slot as protected, the copy that a safe plan
// would choose holds everything acknowledged.
func (w *world) checkRecord(when string) {
	sl := w.record()
	if !sl.Protected {
		return
	}
	var best *node
	for _, name := range sl.InSync {
		n := w.byName[name]
		inherits := sl.Inherited && n.disk.lineage.Last() == sl.AtLeast.Epoch() && n.disk.head() >= sl.AtLeast
		if n.disk.building || n.disk.lineage.Last() != sl.Epoch && !inherits || n.wentBack == sl.Epoch || inherits && n.wentBack == sl.AtLeast.Epoch() {
			return // a plan would not be safe
		}
		if best == nil || cmp.Or(cmp.Compare(n.disk.lineage.Last(), best.disk.lineage.Last()), cmp.Compare(n.disk.head(), best.disk.head())) > 0 {
			best = n
		}
	}
	for _, a := range w.sent.acked {
		if a.epoch <= sl.Epoch && !a.withoutRaft && !a.givenUp && !best.disk.holds(a.event) {
			w.broken("law 1: %s: Raft has the slot as protected by %v, and %s (%s) lacks event %d at %s", when, sl.InSync, best.name, best.disk.head(), a.id, a.position)
			return
		}
	}
}

// checkServes: whoever begins to serve has everything acknowledged, but for what a
// person gave up.
func (w *world) checkServes(n *node, e slot.Epoch) {
	if o, ok := w.sent.masters[e]; ok && o != n.name {
		w.broken("law 4: epoch %d is served by %s and was by %s", e, n.name, o)
	}
	w.sent.masters[e] = n.name
	for _, a := range w.sent.acked {
		switch {
		case a.givenUp || n.disk.holds(a.event):
		case a.withoutRaft && !(w.sent.clean[e] && a.epoch+1 == e), w.sent.losses[e]: // a clean epoch has all of the one before
			a.givenUp = true
		default:
			w.broken("law 1: %s serves epoch %d without event %d at %s, which was acknowledged", n.name, e, a.id, a.position)
			return
		}
	}
}

// checkDropped: what a copy gives up of what was acknowledged lies set aside, or
// the new state has it (law 7).
func (w *world) checkDropped(n *node, before disk) {
	for _, e := range before.journal {
		if w.sent.acked[e.id] == nil || n.disk.holds(e) {
			continue
		}
		aside := false
		for _, s := range n.disk.aside {
			aside = aside || disk{journal: s}.holds(e)
		}
		if !aside {
			w.broken("law 7: %s dropped event %d at %s in silence", n.name, e.id, e.position)
			return
		}
	}
}

// forget gives up what lies on no disk any more: so many were restored that nobody
// could keep it.
func (w *world) forget() {
	for _, a := range w.sent.acked {
		kept := false
		for _, n := range w.nodes {
			kept = kept || n.disk.holds(a.event)
			for _, s := range n.disk.aside {
				kept = kept || disk{journal: s}.holds(a.event)
			}
		}
		a.givenUp = a.givenUp || !kept
	}
}
