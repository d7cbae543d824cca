package sim

import (
	"slices"
	"time"

	"mailnode/failover"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// giveUpMove is how long the node that a copy goes to may be unable to take it. How long
// is no part of what keeps mail.
const giveUpMove = 40 * time.Second

// wishMove is an operator who has a copy moved, or a master, or takes all that back.
func (w *world) wishMove(sl cluster.Slot) cluster.Command {
	if sl.Move != nil && w.chance(10) {
		return cluster.StopMoves{By: "operator"}
	}
	held := append([]slot.NodeName{sl.Master}, sl.Replicas...)
	pm := cluster.PlannedMove{Slot: theSlot, Epoch: sl.Epoch}
	for _, n := range w.nodes {
		if !slices.Contains(held, n.name) {
			pm.To = n.name
		}
	}
	switch {
	case pm.To == "": // only the master moves
		pm.Lead = pick(w, sl.Replicas)
	case w.chance(2):
		pm.From = pick(w, held)
	}
	if pm.From == sl.Master {
		pm.Lead = pick(w, append([]slot.NodeName{pm.To}, sl.Replicas...))
	}
	return cluster.PlanMoves{By: "operator", Moves: []cluster.PlannedMove{pm}}
}

// moveCopies is what Raft's leader does about the moves of copies. What it asks of the
// state is never refused.
func (w *world) moveCopies(l *node) {
	var cmds []cluster.Command
	cmds, w.stuck = failover.Moves(l.state(), l.ev.Snapshot(w.now), suspectAfter, giveUpMove, w.stuck)
	for _, c := range cmds {
		if _, err := w.commit(c, w.now); err != nil {
			w.broken("a leader's %T is refused: %v", c, err)
		}
		w.say("%s: %+v", l.name, c)
		l.apply(len(w.states) - 1)
	}
}

// unended reports whether a move still stands that could have ended: what is to go may go,
// as far as mail that is not rescued is concerned, and somebody else stays.
func unended(sl cluster.Slot) bool {
	return sl.Moving() && len(sl.Staying("")) > 0 && sl.Keeps(sl.Move.From) == "" && sl.Keeps(sl.Move.To) == ""
}
