package node

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"mailnode/failover"
	"mailnode/figures"
	"mailnode/node/diary"
	"mailnode/node/monitor"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// happenings notes in this node's diary what changes. It compares how things are with
// how they were when it looked last: what nobody told it, it sees.
type happenings struct {
	n     *Node
	diary *diary.Diary

	// what follows belongs to the loop
	current    bool                          // Raft's state was proved to be that of now: what changes from here on is news
	conditions map[standingKey]time.Duration // since when, by Clock.Mono
	currentAt  time.Duration                 // Clock.Mono when it was so last; 0: never yet
	proposals  map[string]cluster.ProposalState
	slots      map[slot.ID]seenSlot
}

type standingKey struct {
	name  monitor.Name
	about string
}

// seenSlot is what was seen of a slot.
type seenSlot struct {
	epoch   slot.Epoch
	served  time.Duration // Clock.Mono of the last report of a master that it serves it; 0: none
	down    bool          // it was seen not to be served since
	cutOff  bool          // this node knew no leader at some moment since then
	lags    map[slot.NodeName]int64
	awaited time.Duration // Clock.Mono when it was served again and was not protected yet; 0: not waited for
}

const (
	happeningsEvery = 500 * time.Millisecond
	diaryWriteEvery = time.Second
	// newsFor is how long ago this node may have been current for what it learns to be
	// noted as of now: an election is shorter.
	newsFor = 10 * time.Second
)

func newHappenings(n *Node) *happenings {
	h := &happenings{n: n, conditions: map[standingKey]time.Duration{}, proposals: map[string]cluster.ProposalState{}, slots: map[slot.ID]seenSlot{}}
	var err error
	if h.diary, err = diary.Open(n.fs, filepath.Join(n.cfg.Node.Data, "diary"), n.clock); err != nil {
		n.log.Warn("this node's diary begins empty", "err", err)
	}
	h.diary.Add(diary.Entry{Kind: diary.Node, Text: "started, " + n.version})
	return h
}

// run looks until ctx ends.
func (h *happenings) run(ctx context.Context) { every(ctx, happeningsEvery, func() { h.look(ctx) }) }

// write keeps the diary on the disk. It has a loop of its own, because a disk may hang.
func (h *happenings) write(ctx context.Context) {
	failed := false
	every(ctx, diaryWriteEvery, func() {
		err := h.diary.Write()
		if err != nil && !failed {
			h.n.log.Warn("what happens is not written down", "err", err)
		}
		failed = err != nil
	})
	h.n.logErr("write diary", h.diary.Write())
	h.diary.Close()
}

func (h *happenings) look(ctx context.Context) {
	led := h.n.raft.Quorum()
	before := h.current
	h.current = led && (h.current || h.caughtUp(ctx))
	now := h.n.clock.Mono()
	news := h.current && (before || h.currentAt > 0 && now-h.currentAt < newsFor)
	if h.current {
		h.currentAt = now
	}
	st, v := h.n.State(), h.n.evidence.Snapshot(h.n.clock.Mono())
	h.lookAtConditions(v)
	h.lookAtProposals(st, news)
	for _, sl := range st.Slots {
		if sl.Master != "" {
			h.lookAtSlot(sl, v, led)
		}
	}
}

// caughtUp proves that this node's state is that of now. What it learns with that, at
// its start or after it was cut off for long, is old: the others have noted it when it was.
func (h *happenings) caughtUp(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, catchUpWithin)
	defer cancel()
	return h.n.currency.prove(ctx) == nil
}

// lookAtConditions notes pages and warnings that began or ended.
func (h *happenings) lookAtConditions(v failover.View) {
	now := map[standingKey]bool{}
	for _, c := range h.n.conditions.List() {
		k := standingKey{c.Name, c.About}
		if c.Severity == monitor.Info {
			continue
		}
		now[k] = true
		if _, known := h.conditions[k]; known {
			continue
		}
		age := time.Duration(c.SinceS) * time.Second
		if c.Name == monitor.NodeSilent {
			age = v.Silence(slot.NodeName(c.About))
		}
		h.conditions[k] = v.Now - age
		h.diary.Add(diary.Entry{Kind: diary.Began, Subject: string(c.Name), About: c.About, ForMs: age.Milliseconds()})
	}
	for k, since := range h.conditions {
		if !now[k] {
			delete(h.conditions, k)
			h.diary.Add(diary.Entry{Kind: diary.Ended, Subject: string(k.name), About: k.about, ForMs: (v.Now - since).Milliseconds()})
		}
	}
}

// lookAtProposals notes what was opened and closed, when that is news.
func (h *happenings) lookAtProposals(st *cluster.State, news bool) {
	for _, p := range st.Proposals {
		was, known := h.proposals[p.ID]
		h.proposals[p.ID] = p.State
		if was == p.State || !news {
			continue
		}
		text := fmt.Sprintf("is %s: %s", p.State, p.Closed)
		switch {
		case p.State == cluster.Open:
			text = fmt.Sprintf("is opened by %s, %s: %s", p.OpenedBy, figures.Count(len(p.Slots), "slot"), p.Reason)
		case p.ClosedBy != "":
			text = fmt.Sprintf("is %s by %s %s", p.State, p.ClosedBy, p.Closed)
		}
		if p.State != cluster.Open && !known { // it was opened since the last look
			text += fmt.Sprintf(" (opened by %s: %s)", p.OpenedBy, p.Reason)
		}
		h.diary.Add(diary.Entry{Kind: diary.Proposed, Subject: p.ID, Text: text})
	}
	for id := range h.proposals {
		if _, known := st.Proposal(id); !known {
			delete(h.proposals, id)
		}
	}
}

// lookAtSlot notes for how long a slot was not served, when it is again, and when it
// is protected after that.
func (h *happenings) lookAtSlot(sl cluster.Slot, v failover.View, led bool) {
	was, known := h.slots[sl.ID]
	now := was
	now.cutOff = was.cutOff || !led
	serves := v.Serves(sl, h.n.cfg.Replication.SuspectAfter)
	said := v.Nodes[sl.Master].Served[sl.ID]
	if !serves || said.Epoch != sl.Epoch {
		now.down = true
		h.slots[sl.ID] = now
		return
	}
	if known && was.served > 0 && (was.down || was.epoch != sl.Epoch) {
		e := diary.Entry{Kind: diary.Served, Slot: &sl.ID, Epoch: sl.Epoch, At: sl.Master, ForMs: max(0, said.At-was.served).Milliseconds(), CutOff: now.cutOff}
		if lag, ok := was.lags[sl.Master]; ok && was.epoch != sl.Epoch {
			e.LagMs = &lag
		}
		h.diary.Add(e)
		now.awaited = v.Now
	}
	lags := map[slot.NodeName]int64{}
	best := int64(-1)
	for _, r := range sl.Replicas {
		if c, ok := v.Nodes[r].Copies[sl.ID]; ok && c.LagKnown && h.n.heardNow(r, v) {
			lags[r] = c.LagMs
			if best < 0 || c.LagMs < best {
				best = c.LagMs
			}
		}
	}
	master := v.Nodes[sl.Master].Copies[sl.ID]
	if now.awaited > 0 && best >= 0 && master.Protected != nil && *master.Protected {
		h.diary.Add(diary.Entry{Kind: diary.Protected, Slot: &sl.ID, Epoch: sl.Epoch, ForMs: (v.Now - now.awaited).Milliseconds(), LagMs: &best})
		now.awaited = 0
	}
	now.epoch, now.served, now.down, now.cutOff, now.lags = sl.Epoch, said.At, false, false, lags
	h.slots[sl.ID] = now
}

// noteStop is the last that is noted, twice: of a node that is being stopped, and of
// one whose clients are served.
func (h *happenings) noteStop(text string) {
	h.diary.Add(diary.Entry{Kind: diary.Node, Text: text})
}

// noted reports whether the same person said the same a short while ago: a dropped
// connection made him type it again.
func (h *happenings) noted(e diary.Entry) bool {
	return slices.ContainsFunc(h.diary.Since(noteAgain), func(t diary.Told) bool {
		return t.Kind == diary.Note && t.By == e.By && t.Text == e.Text
	})
}

// noteAgain is for how long the same words of the same person are the same note.
const noteAgain = 10 * time.Minute
