package node

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"mailnode/failover"
	"mailnode/node/monitor"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

// moveCopies is a leader's part in the moves of copies: the next step of each.
func (n *Node) moveCopies(ctx context.Context, seen []failover.StuckMove) []failover.StuckMove {
	v := n.evidence.Snapshot(n.clock.Mono())
	v.Wall = n.clock.Wall()
	cmds, stuck := failover.Moves(n.State(), v, n.cfg.Replication.SuspectAfter, n.moveWithin, seen)
	for _, c := range cmds {
		_, err := n.Propose(ctx, c)
		if cluster.OutcomeOf(err) == cluster.Refused { // the record is another by now: the next turn looks again
			n.log.Info("move copies", "command", cluster.KindOf(c), "err", err)
			continue
		}
		if err != nil {
			n.log.Warn("move copies", "command", cluster.KindOf(c), "err", err)
			break
		}
		n.log.Info("move copies", "command", cluster.KindOf(c), "what", fmt.Sprintf("%+v", c))
	}
	return stuck
}

// layoutNow is all that a placement rests on, as it is known here. A node that is not
// heard gets nothing, and a slot that nobody serves stays as it is: there is nobody to
// copy it from.
func (n *Node) layoutNow(st *cluster.State, v failover.View) cluster.Site {
	s := cluster.Site{Members: st.Members, Slots: st.Slots, Weights: map[slot.ID]cluster.Weight{},
		Free: map[slot.NodeName]int64{}, Shut: map[slot.NodeName]bool{}, Busy: map[slot.ID]bool{}}
	for _, m := range st.Members {
		nv := v.Nodes[m.Name]
		s.Shut[m.Name] = !nv.Known || v.Silence(m.Name) >= n.cfg.Replication.SuspectAfter
		if nv.FreeBytes != nil {
			s.Free[m.Name] = *nv.FreeBytes
		}
	}
	for _, sl := range st.Slots {
		s.Busy[sl.ID] = !v.Serves(sl, n.cfg.Replication.SuspectAfter)
		c := v.Nodes[sl.Master].Copies[sl.ID]
		s.Weights[sl.ID] = cluster.Weight{Bytes: int64(c.Bytes), Messages: int64(c.Messages)}
	}
	return s
}

// placeTurns is at how many of its turns a leader looks for nodes that have joined.
const placeTurns = 10

// placeNewNodes gives replicas to nodes that have never held a copy, as long as no slot
// has a user: there is nothing to copy, and nothing to lose. Masters stay where they
// are: after a slot's first only a person changes one (law 4).
func (n *Node) placeNewNodes(ctx context.Context) {
	st, v := n.State(), n.evidence.Snapshot(n.clock.Mono())
	fresh := func(name slot.NodeName) bool {
		m, ok := st.Member(name)
		return ok && m.Role != cluster.Witness && !m.Held
	}
	if !slices.ContainsFunc(st.Members, func(m cluster.Member) bool { return fresh(m.Name) }) || st.Features() < cluster.KnownFeatures {
		return
	}
	for _, sl := range st.Slots {
		if sl.Master == "" || sl.Move != nil || v.Nodes[sl.Master].Copies[sl.ID].Messages > 0 {
			return
		}
	}
	s := n.layoutNow(st, v)
	s.KeepMasters = true
	plan := cluster.PlanMoves{By: "first placement"}
	for _, m := range cluster.Rebalance(s, st.DefaultReplicas, "").Moves {
		if fresh(m.To) {
			plan.Moves = append(plan.Moves, m)
		}
	}
	if len(plan.Moves) == 0 || !n.userless(ctx, st) {
		return
	}
	if _, err := n.Propose(ctx, plan); err != nil {
		n.log.Warn("place replicas on a node that has joined", "err", err)
	}
}

// userless asks the masters of all slots, and reports whether each has answered that it
// has no user.
func (n *Node) userless(ctx context.Context, st *cluster.State) bool {
	asked := map[slot.NodeName][]failover.Question{}
	for _, sl := range st.Slots {
		asked[sl.Master] = append(asked[sl.Master], failover.Question{Slot: sl.ID, Epoch: sl.Epoch})
	}
	ctx, cancel := context.WithTimeout(ctx, compareWithin)
	defer cancel()
	for master, questions := range asked {
		got, err := n.Ask(ctx, master, questions)
		if err != nil || len(got.Copies) != len(questions) {
			return false
		}
		for _, a := range got.Copies {
			if !a.UsersKnown || a.Users > 0 || a.Messages > 0 {
				return false
			}
		}
	}
	return true
}

// watchMove keeps the conditions about a slot's move.
func (n *Node) watchMove(sl cluster.Slot) {
	about := sl.ID.String()
	given := ""
	if sl.Move != nil {
		given = sl.Move.GivenUp
	}
	n.conditions.Put(sl.Moving(), monitor.SlotMoving, about, moveText(sl))
	n.conditions.Put(given != "" && !sl.Move.Stopped, monitor.MoveGivenUp, about, given)
	st := n.State()
	could := 0
	for _, m := range st.Members {
		if m.Role != cluster.Witness && !st.Absent(m.Name) {
			could++
		}
	}
	wants := sl.Wants(st.DefaultReplicas)
	n.conditions.Put(sl.Master != "" && !sl.Moving() && len(sl.Replicas) < min(wants, could-1), monitor.ReplicaMissing, about,
		fmt.Sprintf("%d of %d", len(sl.Replicas), wants))
}

// moveText says what a slot's move is about and how far it is, "" when there is none.
func moveText(sl cluster.Slot) string {
	m := sl.Move
	if m == nil {
		return ""
	}
	what := "a new copy on " + string(m.To)
	switch {
	case m.To == "":
		what = fmt.Sprintf("from master %s to master %s", sl.Master, m.Lead)
	case m.From != "":
		what = fmt.Sprintf("from %s to %s", m.From, m.To)
	}
	_, leaves := sl.Leaves(m.From)
	switch {
	case m.GivenUp != "" && m.Added:
		return what + ": taken back, " + m.GivenUp
	case m.GivenUp != "":
		return what + ": " + m.GivenUp
	case m.To != "" && !m.Added:
		return what + ": waits for its turn"
	case leaves:
		return what + ": the old copy is being dropped"
	case sl.Copied() && m.Lead != "" && m.Lead != sl.Master:
		return fmt.Sprintf("%s: copied, %s is to be master", what, m.Lead)
	case sl.Copied():
		return what + ": copied"
	}
	return what + ": being filled"
}

// freeSpace is how much the disks of this node have free, as they have said last.
type freeSpace struct {
	mu   sync.Mutex // guards free
	free map[string]uint64
}

func (r *freeSpace) note(dir string, free uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.free == nil {
		r.free = map[string]uint64{}
	}
	r.free[dir] = free
}

// of is what some folders' file systems have free beyond what is kept back, each
// counted once as far as that can be seen; nil when one has not said.
func (r *freeSpace) of(dirs []string) *int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var sizes []uint64
	for _, dir := range dirs {
		free, known := r.free[dir]
		if !known {
			return nil
		}
		if !slices.Contains(sizes, free) { // two folders of one file system say the same
			sizes = append(sizes, free)
		}
	}
	sum := int64(0)
	for _, free := range sizes {
		sum += max(0, int64(free)-disk.ReserveBytes)
	}
	return &sum
}
