package sim

import (
	"slices"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/repl/ack"
	"mailnode/storage/slot"
)

// leaving is what the decision is told of the replicas that are to be dropped.
func leaving(sl cluster.Slot) (out []ack.Leaver) {
	for _, l := range sl.MayLeave() {
		out = append(out, ack.Leaver(l))
	}
	return out
}

// drop has Raft drop a replica that leaves.
func (n *node) drop(d ack.Drop) {
	epoch := n.epoch
	ended := func() {
		if n.serving && n.epoch == epoch {
			n.learn()
			n.step(ack.Dropped{At: n.w.now, Node: d.Node})
		}
	}
	n.w.say("%s has %s dropped", n.name, d.Node)
	c := cluster.EndDrop{Slot: theSlot, Epoch: epoch, Version: d.Version, Node: d.Node}
	if !n.w.propose(&letter{from: n, command: c, unknown: ended, reply: func(error) { ended() }}) {
		ended()
	}
}

// wishDrop is an operator who has a replica dropped, or takes that back, or adds one.
// The last that stays goes seldom.
func (w *world) wishDrop(sl cluster.Slot) cluster.Command {
	n := pick(w, w.nodes).name
	_, leaves := sl.Leaves(n)
	switch {
	case !slices.Contains(sl.Replicas, n):
		return cluster.AddReplica{Slot: theSlot, Epoch: sl.Epoch, Node: n}
	case leaves && w.chance(2):
		return cluster.CancelDrop{Slot: theSlot, Epoch: sl.Epoch, Version: sl.Version, Node: n}
	}
	return cluster.BeginDrop{Slot: theSlot, Epoch: sl.Epoch, Version: sl.Version, Node: n,
		Anyway: len(sl.Replicas)-len(sl.Leaving) > 1 && w.chance(4) || w.chance(20)}
}

// taken is what the known fault does with a wish: the replica is taken off the record at
// once, and whoever else counts is taken for one that holds everything.
func (w *world) taken(st *cluster.State, c cluster.Command) {
	d, ok := c.(cluster.BeginDrop)
	if !ok || !w.is(FaultDroppedUnproved) {
		return
	}
	sl := &st.Slots[theSlot]
	gone := func(n slot.NodeName) bool { return n == d.Node }
	sl.Replicas = slices.DeleteFunc(slices.Clone(sl.Replicas), gone)
	sl.InSync = slices.DeleteFunc(slices.Clone(sl.InSync), gone)
	sl.Leaving, sl.Protected = nil, sl.Protected && len(sl.InSync) > 0
}

// retire removes a copy that Raft no longer lists, once the master holds all of it; what
// has diverged is set aside and stays.
func (n *node) retire() {
	w := n.w
	if n.name == rogue || n.disk.head() == 0 && !n.disk.building || !n.fresh() {
		return
	}
	sl := n.slot()
	m := w.byName[sl.Master]
	if sl.Holds(n.name) || n.disk.promised > sl.Epoch || len(n.disk.aside) > 0 {
		return
	}
	d := n.disk
	if !w.is(FaultRemovedUnasked) && !d.building {
		if !w.linked(n, m) || !m.serving || m.epoch != sl.Epoch {
			return
		}
		_, has := m.disk.after(d.head())
		if d.lineage.Diverged(d.head(), m.disk.lineage, m.disk.head()) || !has && d.head() > m.disk.keptAfter() {
			n.disk.aside = append(slices.Clip(n.disk.aside), d.journal)
			w.say("%s is no longer listed, and keeps %s aside", n.name, d.head())
			return
		}
	}
	n.disk = disk{}
	w.say("%s removes its copy at %s", n.name, d.head())
	for _, e := range d.journal {
		if w.sent.acked[e.id] != nil && !w.keeps(e) {
			w.broken("law 7: %s removed event %d at %s, which nobody else has", n.name, e.id, e.position)
			return
		}
	}
}

// keeps reports whether an event lies on any disk.
func (w *world) keeps(e event) bool {
	return slices.ContainsFunc(w.nodes, func(n *node) bool {
		return n.disk.holds(e) || slices.ContainsFunc(n.disk.aside, func(s []event) bool { return disk{journal: s}.holds(e) })
	})
}

// wantedProtection reports whether Raft has what is wished in the end: who stays is in
// sync, and who leaves has gone, unless nobody takes its place.
func (w *world) wantedProtection(sl cluster.Slot, wants bool) bool {
	stay := sl.Staying("")
	for _, l := range sl.MayLeave() {
		if l.Anyway || len(stay) > 0 {
			return false
		}
	}
	if !wants {
		return !sl.Protected
	}
	return sl.Protected && !sl.Inherited && !slices.ContainsFunc(stay, func(n slot.NodeName) bool { return !slices.Contains(sl.InSync, n) })
}
