package failover

import (
	"context"
	"fmt"
	"maps"
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

// answer is what one node said about all the slots that it was asked for.
type answer struct {
	err    error
	copies map[slot.ID]CopyAnswer
	seen   []Sighting
}

type answers map[slot.NodeName]answer

// questions says which nodes to ask: all that hold a copy, and every other that
// lives, for what it has heard. Of a silent master no answer is waited for: it
// was heard by nobody.
func (pl planner) questions(p cluster.Proposal) map[slot.NodeName][]Question {
	var all []Question
	whom := map[slot.NodeName]bool{}
	for _, m := range pl.st.Members {
		whom[m.Name] = pl.v.presence(m.Name, pl.suspectAfter) != silent
	}
	for _, ps := range p.Slots {
		sl, ok := pl.st.Slot(ps.Slot)
		if ps.Done || !ok {
			continue
		}
		all = append(all, Question{Slot: ps.Slot, Epoch: sl.Epoch})
		for _, n := range sl.Replicas {
			whom[n] = true
		}
	}
	out := map[slot.NodeName][]Question{}
	for n, ask := range whom {
		if ask && len(all) > 0 {
			out[n] = all
		}
	}
	return out
}

// sightings returns what the nodes that answered have heard of a slot's copies,
// the asker's own evidence first.
func (pl planner) sightings(id slot.ID) []Sighting {
	out := pl.v.Sightings(id)
	for _, n := range slices.Sorted(maps.Keys(pl.answers)) {
		if n == pl.v.Self {
			continue
		}
		for _, s := range pl.answers[n].seen {
			if s.Slot == id {
				s.By = n
				out = append(out, s)
			}
		}
	}
	return out
}

// serves reports whether the old master serves the slot: by its answer, else by its
// last report.
func (pl planner) serves(sl cluster.Slot) bool {
	if c, ok := pl.answers[sl.Master].copies[sl.ID]; ok {
		return c.serving(sl.Epoch)
	}
	return pl.v.serves(sl, pl.suspectAfter)
}

// askAll asks all nodes at once. A node that is only late counts as one that does
// not answer; its goroutine ends when its context does.
func askAll(ctx context.Context, asker Asker, questions map[slot.NodeName][]Question, v View, suspectAfter time.Duration) answers {
	out := make(answers, len(questions))
	var mu sync.Mutex
	var wg sync.WaitGroup
	for n, q := range questions {
		limit := askAlive
		if v.presence(n, suspectAfter) == silent {
			limit = askSilent
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			got, err := asker.Ask(ctx, n, q)
			mu.Lock()
			defer mu.Unlock()
			out[n] = answered(got, err)
		})
	}
	wg.Wait()
	return out
}

func answered(got Answer, err error) answer {
	a := answer{err: err, copies: make(map[slot.ID]CopyAnswer, len(got.Copies)), seen: got.Seen}
	for _, c := range got.Copies {
		a.copies[c.Slot] = c
	}
	return a
}

// copyState is one copy of one slot, as it answered.
type copyState struct {
	CopyAnswer
	Node    slot.NodeName
	standby bool
	err     error // it did not answer
	missing bool  // it answered, and has no copy
	leaves  bool  // nothing is handed over to it: it is being dropped
}

// trouble says why a copy cannot be chosen, "" when it can.
func (c copyState) trouble() string {
	switch {
	case c.err != nil:
		return "does not answer"
	case c.missing:
		return "has no copy"
	case c.leaves:
		return "is being dropped"
	}
	return c.fault()
}

// staying marks those that are to be dropped.
func (cs copies) staying(sl cluster.Slot) copies {
	out := maps.Clone(cs)
	for _, l := range sl.Leaving {
		if c, ok := out[l.Node]; ok {
			c.leaves = true
			out[l.Node] = c
		}
	}
	return out
}

func (c copyState) candidate() candidate {
	return candidate{node: c.Node, standby: c.standby, strained: c.Away != "", lineage: c.Lineage, position: c.Position}
}

// copies are the copies of one slot that may be chosen: its replicas, and the
// master's own when that node answers: a person who accepts the loss may let it
// begin again, without what it has lost or waits for.
type copies map[slot.NodeName]copyState

func (pl planner) asked(sl cluster.Slot) copies {
	out := make(copies, len(sl.Replicas)+1)
	for _, n := range append([]slot.NodeName{sl.Master}, sl.Replicas...) {
		m, _ := pl.st.Member(n)
		a, asked := pl.answers[n]
		c, ok := a.copies[sl.ID]
		if n == sl.Master && (!asked || !ok || c.serving(sl.Epoch)) {
			continue
		}
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

// choose returns the target, nil when no viable copy answered. For a safe change
// it is the highest of the in-sync replicas: only that one surely holds every
// acknowledged event, so that the preference against standbys and for the
// recorded target decides ties only. So it is when Raft has forgotten epochs: the
// copy of the highest holds what was acknowledged last.
func (cs copies) choose(sl cluster.Slot, recorded slot.NodeName, safe, forgotten bool) *copyState {
	better := func(a, b copyState) bool {
		x, y := a.candidate(), b.candidate()
		d := x.preferred(y)
		if ahead := x.ahead(y); (safe || forgotten) && ahead != 0 {
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
		case c.Node == out.From: // the master's own: what is wrong with it is the plan's reason
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
