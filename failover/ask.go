package failover

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// How long a node may take to answer. One that is believed dead is asked too,
// but mail has to flow within 2 s of a confirmation.
const (
	askAlive  = time.Second
	askSilent = 500 * time.Millisecond
)

// maxNames is how many users a plan names.
const maxNames = 5

// answer is what one node said about all the copies it was asked for.
type answer struct {
	err    error
	copies map[slot.ID]CopyAnswer
}

type answers map[slot.NodeName]answer

// questions says which node to ask about which slots: all replicas, and a master
// that is not silent, since it may have come to itself after its last report.
func (pl planner) questions(p cluster.Proposal) map[slot.NodeName][]slot.ID {
	out := map[slot.NodeName][]slot.ID{}
	for _, ps := range p.Slots {
		sl, ok := pl.st.Slot(ps.Slot)
		if ps.Done || !ok {
			continue
		}
		for _, n := range sl.Replicas {
			out[n] = append(out[n], ps.Slot)
		}
		if pl.v.presence(sl.Master, pl.suspectAfter) != silent {
			out[sl.Master] = append(out[sl.Master], ps.Slot)
		}
	}
	return out
}

// serves says whether the old master serves the slot: by its answer, else by its
// last report.
func (pl planner) serves(sl cluster.Slot) bool {
	if c, ok := pl.answers[sl.Master].copies[sl.ID]; ok {
		return c.serving(sl.Epoch)
	}
	return pl.v.serves(sl, pl.suspectAfter)
}

// askAll asks all nodes at once. A node that is only late counts as one that does
// not answer; its goroutine ends when its context does.
func askAll(ctx context.Context, asker Asker, questions map[slot.NodeName][]slot.ID, v View, suspectAfter time.Duration) answers {
	out := make(answers, len(questions))
	var mu sync.Mutex
	var wg sync.WaitGroup
	for n, ids := range questions {
		limit := askAlive
		if v.presence(n, suspectAfter) == silent {
			limit = askSilent
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			got, err := asker.Ask(ctx, n, ids)
			a := answer{err: err, copies: make(map[slot.ID]CopyAnswer, len(got))}
			for _, c := range got {
				a.copies[c.Slot] = c
			}
			mu.Lock()
			defer mu.Unlock()
			out[n] = a
		})
	}
	wg.Wait()
	return out
}

// copyState is one replica of one slot, as it answered.
type copyState struct {
	CopyAnswer
	Node    slot.NodeName
	standby bool
	err     error // it did not answer
	missing bool  // it answered, and has no copy
}

// trouble says why a copy cannot be chosen, "" when it can.
func (c copyState) trouble() string {
	switch {
	case c.err != nil:
		return "does not answer"
	case c.missing:
		return "has no copy"
	}
	return c.fault()
}

func (c copyState) candidate() candidate {
	return candidate{node: c.Node, standby: c.standby, lineage: c.Lineage, position: c.Position}
}

// copies are the replicas of one slot.
type copies map[slot.NodeName]copyState

func (pl planner) asked(sl cluster.Slot) copies {
	out := make(copies, len(sl.Replicas))
	for _, n := range sl.Replicas {
		m, _ := pl.st.Member(n)
		a := pl.answers[n]
		c, ok := a.copies[sl.ID]
		out[n] = copyState{CopyAnswer: c, Node: n, standby: m.Standby, err: a.err, missing: a.err == nil && !ok}
	}
	return out
}

func (cs copies) sorted() []copyState {
	out := make([]copyState, 0, len(cs))
	for _, c := range cs {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b copyState) int { return strings.Compare(string(a.Node), string(b.Node)) })
	return out
}

// choose gives the target, nil when no viable copy answered. For a safe change
// it is the highest of the in-sync replicas: only that one surely holds every
// acknowledged event, so that the preference against standbys and for the
// recorded target decides ties only.
func (cs copies) choose(sl cluster.Slot, recorded slot.NodeName, safe bool) *copyState {
	better := func(a, b copyState) bool {
		x, y := a.candidate(), b.candidate()
		d := x.preferred(y)
		if ahead := x.ahead(y); safe && ahead != 0 {
			d = -ahead
		}
		return d < 0 || d == 0 && a.Node == recorded
	}
	var best *copyState
	for _, c := range cs.sorted() {
		if c.trouble() != "" || safe && !slices.Contains(sl.InSync, c.Node) {
			continue
		}
		if best == nil || better(c, *best) {
			best = &c
		}
	}
	return best
}

// describe fills in the other copies and the users.
func (cs copies) describe(out *PlanSlot) {
	for _, c := range cs.sorted() {
		why := c.trouble()
		switch {
		case why != "":
			out.NotChosen = append(out.NotChosen, fmt.Sprintf("%s %s", c.Node, why))
		case c.Node != out.To:
			out.OtherCopies = append(out.OtherCopies, string(c.Node))
			if chosen := cs[out.To]; c.candidate().ahead(chosen.candidate()) > 0 {
				out.NotChosen = append(out.NotChosen, fmt.Sprintf("%s%s holds more: %s", c.Node, standbyNote(c), c.Position))
			}
		}
		if c.err == nil && c.UsersKnown && (!out.UsersKnown || c.Node == out.To) {
			out.UsersKnown, out.Users = true, c.Users
			out.UserNames = append([]string{}, c.UserNames[:min(len(c.UserNames), maxNames)]...)
		}
	}
}

func standbyNote(c copyState) string {
	if c.standby {
		return " (standby)"
	}
	return ""
}
