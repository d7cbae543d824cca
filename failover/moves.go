package failover

import (
	"fmt"
	"slices"
	"time"

	"mailnode/figures"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

const (
	// MovesAtOnce is how many copies a node fills, or is the source of, at once for moves
	// (law 12).
	MovesAtOnce = 2
	// GiveUpMoveAfter is how long the node that a copy goes to may be unable to take it.
	GiveUpMoveAfter = 10 * time.Minute
	// movedLagMax is how far a copy may be behind that takes another's place.
	movedLagMax = 5 * time.Second
)

// StuckMove is a move whose target cannot take the copy, and since when a leader has
// seen that.
type StuckMove struct {
	Slot  slot.ID
	Begun uint64
	Since time.Duration
}

// Moves is what a leader does about the moves of copies that stand in Raft's records:
// the next command of each, and the proposal of the masters that are to change. It is
// pure, like Decide: every step follows from the records and the evidence, so that any
// leader goes on where another stopped. It changes no master (law 4), and has no copy
// dropped before the one that replaces it counts.
func Moves(st *cluster.State, v View, suspectAfter, giveUpAfter time.Duration, seen []StuckMove) ([]cluster.Command, []StuckMove) {
	w := &movers{watch: watch{st: st, v: v, suspectAfter: suspectAfter, freed: map[string]bool{}}, giveUpAfter: giveUpAfter, seen: seen, busy: map[slot.NodeName]int{}}
	for _, sl := range st.Slots {
		if m := sl.Move; m != nil && m.Added && m.GivenUp == "" && !sl.Copied() {
			w.busy[m.To]++
			w.busy[sl.Master]++
		}
	}
	for _, sl := range st.Slots {
		switch m := sl.Move; {
		case m == nil || m.GivenUp != "" && !m.Added:
		case m.GivenUp != "":
			w.takeBack(sl)
		default:
			w.goOn(sl)
		}
	}
	w.proposeLeads()
	return w.out, w.stuck
}

type movers struct {
	watch
	giveUpAfter time.Duration
	seen, stuck []StuckMove
	busy        map[slot.NodeName]int // fills under way, by who takes part in them
	ready       []cluster.Slot        // whose copies are there, and whose master is to change
	copying     bool                  // some of those are not there yet
	out         []cluster.Command
}

func (w *movers) do(c cluster.Command) { w.out = append(w.out, c) }

// goOn takes the next step of a move.
func (w *movers) goOn(sl cluster.Slot) {
	m := sl.Move
	why := hopeless(w.st, sl)
	if why == "" {
		why = w.stuckFor(sl)
	}
	_, leaves := sl.Leaves(m.From)
	switch {
	case sl.Replaced():
		w.do(cluster.FinishMove{Slot: sl.ID, Epoch: sl.Epoch, Begun: m.Begun})
	case why != "":
		w.do(cluster.GiveUpMove{Slot: sl.ID, Begun: m.Begun, Why: short(why)})
	case m.To != "" && !m.Added:
		w.copying = w.copying || m.Lead != ""
		if w.mayBegin(sl) {
			w.busy[m.To]++
			w.busy[sl.Master]++
			w.do(cluster.BeginMove{Slot: sl.ID, Epoch: sl.Epoch, Begun: m.Begun})
		}
	case !w.copied(sl):
		w.copying = w.copying || m.Lead != ""
	case m.Lead != "" && m.Lead != sl.Master:
		w.ready = append(w.ready, sl)
	case leaves:
	case sl.Holds(m.From):
		w.drop(sl, m.From, false)
	default:
		w.do(cluster.FinishMove{Slot: sl.ID, Epoch: sl.Epoch, Begun: m.Begun})
	}
}

// drop has a copy dropped, unless something holds that up: then it is looked at again.
func (w *movers) drop(sl cluster.Slot, n slot.NodeName, anyway bool) {
	if sl.Keeps(n) == "" {
		w.do(cluster.BeginDrop{Slot: sl.ID, Epoch: sl.Epoch, Version: sl.Version, Node: n, Anyway: anyway})
	}
}

// takeBack undoes what a move that was given up has done. When the new copy counts by
// then and the old one does not, the good one stays: so fewer copies never count for it.
func (w *movers) takeBack(sl cluster.Slot) {
	m := sl.Move
	_, fromLeaves := sl.Leaves(m.From)
	_, toLeaves := sl.Leaves(m.To)
	replaced := slices.Contains(sl.InSync, m.To) && m.From != "" && m.From != sl.Master && !slices.Contains(sl.InSync, m.From)
	switch {
	case sl.Replaced():
		w.do(cluster.UndoMove{Slot: sl.ID, Epoch: sl.Epoch, Begun: m.Begun})
	case replaced && fromLeaves:
	case replaced && sl.Holds(m.From):
		w.drop(sl, m.From, false)
	case fromLeaves:
		w.do(cluster.CancelDrop{Slot: sl.ID, Epoch: sl.Epoch, Version: sl.Version, Node: m.From})
	case toLeaves:
	case slices.Contains(sl.Replicas, m.To):
		w.drop(sl, m.To, len(sl.Replicas) == 1)
	default:
		w.do(cluster.UndoMove{Slot: sl.ID, Epoch: sl.Epoch, Begun: m.Begun})
	}
}

// hopeless says why a move cannot end, whoever lives; "": it can.
func hopeless(st *cluster.State, sl cluster.Slot) string {
	m := sl.Move
	to, known := st.Member(m.To)
	_, toLeaves := sl.Leaves(m.To)
	_, leadLeaves := sl.Leaves(m.Lead)
	switch {
	case m.To != "" && (!known || to.Role == cluster.Witness):
		return fmt.Sprintf("%s is no node with mail", m.To)
	case m.To != "" && !m.Added && sl.Holds(m.To):
		return fmt.Sprintf("%s holds a copy already", m.To)
	case m.To != "" && !m.Added && len(sl.Replicas) >= cluster.MaxReplicas:
		return fmt.Sprintf("it has %d replicas, the most it may have", cluster.MaxReplicas)
	case m.Added && !sl.Holds(m.To):
		return fmt.Sprintf("the copy on %s was dropped", m.To)
	case toLeaves: // a person said so since
		return fmt.Sprintf("the copy on %s is being dropped", m.To)
	case leadLeaves:
		return fmt.Sprintf("the copy on %s is being dropped", m.Lead)
	case m.Lead != "" && m.Lead != m.To && !sl.Holds(m.Lead):
		return fmt.Sprintf("%s holds no copy any more", m.Lead)
	case m.Lead == "" && m.From != "" && m.From == sl.Master:
		return fmt.Sprintf("%s has become its master", m.From)
	}
	return ""
}

// stuckFor says why a move's target has been unable to take its copy for too long.
func (w *movers) stuckFor(sl cluster.Slot) string {
	m := sl.Move
	if m.To == "" || sl.Copied() {
		return ""
	}
	why := w.unable(m.To, sl.ID)
	if why == "" {
		return ""
	}
	s := StuckMove{Slot: sl.ID, Begun: m.Begun, Since: w.v.Now}
	for _, was := range w.seen {
		if was.Slot == s.Slot && was.Begun == s.Begun {
			s.Since = was.Since
		}
	}
	w.stuck = append(w.stuck, s)
	if w.v.Now-s.Since < w.giveUpAfter {
		return ""
	}
	return fmt.Sprintf("%s %s, for %s", m.To, why, figures.Age(w.v.Now-s.Since))
}

// unable says why a node cannot take a copy now, "" when it can.
func (w *movers) unable(n slot.NodeName, id slot.ID) string {
	c, ok := w.v.copyOf(n, id)
	switch {
	case w.v.presence(n, w.suspectAfter) == silent:
		return "is silent"
	case !ok:
		return ""
	case c.Failed != "" || c.Hangs != "" || c.Diverged:
		return c.fault()
	case c.NoRoom:
		return "has no room"
	}
	return ""
}

// mayBegin reports whether the nodes of a move can begin to copy now, and have not
// enough to do.
func (w *movers) mayBegin(sl cluster.Slot) bool {
	m := sl.Move
	return w.busy[m.To] < MovesAtOnce && w.busy[sl.Master] < MovesAtOnce && w.v.serves(sl, w.suspectAfter) &&
		w.v.presence(m.To, w.suspectAfter) == alive
}

// copied reports whether a move's new copy is as good as the one that it replaces: by
// Raft's record, and by what its node says. A master that waits for nobody has nothing
// recorded: then what the node says is all.
func (w *movers) copied(sl cluster.Slot) bool {
	m := sl.Move
	switch {
	case m.To == "":
		return true
	case m.To == sl.Master:
		return w.v.serves(sl, w.suspectAfter)
	}
	master, known := w.v.copyOf(sl.Master, sl.ID)
	free := known && master.AckLocal && !sl.Protected && w.v.serves(sl, w.suspectAfter)
	return (sl.Copied() || free) && w.follows(m.To, sl)
}

// follows reports whether a replica is viable and close to its master.
func (w *movers) follows(n slot.NodeName, sl cluster.Slot) bool {
	c, ok := w.v.copyOf(n, sl.ID)
	return ok && w.v.reports(n, w.suspectAfter) && c.fault() == "" && c.Role == RoleReplica && c.Epoch == sl.Epoch &&
		c.LagKnown && time.Duration(c.LagMs)*time.Millisecond <= movedLagMax
}

// proposeLeads keeps one proposal for all masters that are to change, opened when
// nothing has to be copied for them any more: a person confirms once.
func (w *movers) proposeLeads() {
	open := false
	for _, p := range w.st.OpenProposals() {
		if p.OpenedBy != cluster.Mover {
			continue
		}
		if w.over(p) {
			w.do(cluster.WithdrawProposal{Proposal: p.ID, Why: "the moves that it was for have ended or changed"})
		}
		open = true
	}
	if open || w.copying {
		return
	}
	c := cluster.OpenProposal{By: cluster.Mover}
	w.countLoad()
	by := ""
	for _, sl := range w.ready {
		s := w.survey(sl)
		to := w.wished(s, sl.Move.Lead)
		if _, proposed := w.st.OpenProposalOf(sl.ID); proposed || to == nil {
			continue
		}
		by = sl.Move.By
		c.Slots = append(c.Slots, w.proposed(sl, s, to))
	}
	if len(c.Slots) == 0 {
		return
	}
	c.Reason = short(fmt.Sprintf("the rebalance of %s has copied what it needs: %s to change the master", by, figures.Count(len(c.Slots), "slot")))
	if t, ok := w.v.wallAt(0); ok {
		c.SinceWall = t.Format(wallFormat)
	}
	w.do(c)
}

// over reports whether nothing of a proposal is wanted as it stands.
func (w *movers) over(p cluster.Proposal) bool {
	for _, ps := range p.Slots {
		sl, ok := w.st.Slot(ps.Slot)
		m := sl.Move
		if !ps.Done && ok && sl.Epoch == ps.Epoch && m != nil && m.GivenUp == "" && m.Lead == ps.To {
			return false
		}
	}
	return true
}
