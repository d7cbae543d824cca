package failover

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// pauseAfter is the gap between two ticks after which this process was stopped:
// what it did not hear meanwhile says nothing about the others (LAWS §6.3).
const pauseAfter = 2 * time.Second

// Evidence is what one node knows about the others. Every node keeps it, so that
// a new leader does not start from zero. Safe for concurrent use; now is always
// this process's monotonic clock.
type Evidence struct {
	self slot.NodeName

	mu       sync.Mutex // guards what follows
	floor    time.Duration
	ticked   time.Duration
	ticking  bool
	nodes    map[slot.NodeName]*heardNode
	rejected map[string]time.Duration
	members  map[slot.NodeName]time.Duration // since when each is a member, as seen here
	owned    map[slot.ID]Owned               // by Raft, as seen here
}

// heardNode is what one node said last. Its maps are replaced, never written to:
// views share them.
type heardNode struct {
	boot, earlier string // this process of the node, and the one before
	seq           uint64
	at            time.Duration
	lastWords     string
	trouble       string
	wallUnix      int64
	abstains      bool
	raft          RaftReport
	freeBytes     *int64
	copies        map[slot.ID]CopyView
	since         time.Duration             // since when its reports come without a gap, from this process of it
	served        map[slot.ID]Served        // when it last said that it serves a slot
	heard         map[slot.NodeName]relayed // what it said of others
}

// gapAfter is how long a node that lives is not heard at most.
const gapAfter = 5 * time.Second

// relayed is what one node said of another.
type relayed struct {
	at       time.Duration // when that one was heard, on our clock
	unserved []Unserved
}

// NewEvidence starts with nothing: a node that is never heard counts as silent
// from now on.
func NewEvidence(self slot.NodeName, now time.Duration) *Evidence {
	return &Evidence{self: self, floor: now, nodes: map[slot.NodeName]*heardNode{}, rejected: map[string]time.Duration{}}
}

// Hear takes in a report, also the node's own. Reports that were overtaken by a
// later one are dropped.
func (e *Evidence) Hear(now time.Duration, r Report) {
	if r.Node == "" {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.nodes[r.Node]
	switch {
	case n == nil:
		n = &heardNode{boot: r.Boot, at: now, since: now}
		e.nodes[r.Node] = n
	case r.Boot == n.boot && r.Seq <= n.seq, r.Boot != n.boot && r.Boot == n.earlier:
		return
	case r.Boot != n.boot:
		n.earlier, n.boot, n.since = n.boot, r.Boot, now
	}
	if now-n.at >= gapAfter {
		n.since = now
	}
	n.seq, n.at, n.lastWords, n.trouble, n.wallUnix, n.abstains, n.raft = r.Seq, max(now, n.at), r.LastWords, r.Trouble, r.WallUnix, r.Abstains, r.RaftReport
	n.freeBytes = r.FreeBytes
	copies := make(map[slot.ID]CopyView, len(r.Slots))
	served := maps.Clone(n.served)
	if served == nil {
		served = map[slot.ID]Served{}
	}
	for _, c := range r.Slots {
		was, known := n.copies[c.Slot]
		v := CopyView{CopyReport: c, Highest: c.highest(was, known), StillSince: now, FailedSince: now}
		if known && was.Position == c.Position {
			v.StillSince = was.StillSince
		}
		if known && (was.Failed != "" || was.Away != "") {
			v.FailedSince = was.FailedSince
		}
		copies[c.Slot] = v
		if c.serving(c.Epoch) {
			served[c.Slot] = Served{Epoch: c.Epoch, At: now}
		}
	}
	n.copies, n.served = copies, served
	n.heard = make(map[slot.NodeName]relayed, len(r.Heard))
	for _, h := range r.Heard {
		ago := time.Duration(min(max(h.AgoMs, 0), int64(time.Hour/time.Millisecond))) * time.Millisecond
		n.heard[h.Node] = relayed{now - ago, h.Unserved}
	}
}

// Heard is what goes into this node's own reports: whom it hears itself.
func (e *Evidence) Heard(now time.Duration) []Heard {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []Heard
	for _, name := range slices.Sorted(maps.Keys(e.nodes)) {
		if name != e.self {
			out = append(out, Heard{Node: name, AgoMs: (now - e.nodes[name].at).Milliseconds(), Unserved: e.unserved(name)})
		}
	}
	return out
}

// Owner returns whom Raft has as a slot's master, and since when, as seen here.
func (e *Evidence) Owner(id slot.ID) (Owned, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	own, known := e.owned[id]
	return own, known
}

// HeardAt returns when a node last reported to this process; false: never.
func (e *Evidence) HeardAt(name slot.NodeName) (time.Duration, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, ok := e.nodes[name]
	if !ok {
		return 0, false
	}
	return n.at, true
}

// unserved lists what a node does not serve of what Raft gives it.
func (e *Evidence) unserved(name slot.NodeName) []Unserved {
	var out []Unserved
	n := e.nodes[name]
	for _, id := range slices.Sorted(maps.Keys(e.owned)) {
		own := e.owned[id]
		if own.Master != name {
			continue
		}
		c, ok := n.copies[id]
		switch {
		case !ok:
			out = append(out, Unserved{Slot: id, Why: short(cmp.Or(n.trouble, noCopy))})
		case !c.serving(own.Epoch):
			out = append(out, Unserved{Slot: id, Why: short(c.idle(own.Epoch))})
		}
	}
	return out
}

// Tick is called by this process's own ticker, at least once a second. It
// notices by itself when it was paused, and says so.
func (e *Evidence) Tick(now time.Duration) (paused bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	paused = e.missed(now)
	if paused {
		e.floor = now
	}
	e.ticked, e.ticking = now, true
	return paused
}

// Paused says that this process was stopped until now: all silence counts from here.
func (e *Evidence) Paused(now time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.floor, e.ticked = now, now
}

func (e *Evidence) missed(now time.Duration) bool { return e.ticking && now-e.ticked >= pauseAfter }

// Observe remembers when each rejection was first seen, so that Decide does not
// open again what an operator has just rejected, and when each member was: one
// that has just joined is not silent yet. It is called on every node, with each
// new state, before Snapshot.
func (e *Evidence) Observe(now time.Duration, st *cluster.State) {
	e.mu.Lock()
	defer e.mu.Unlock()
	members := make(map[slot.NodeName]time.Duration, len(st.Members))
	for _, m := range st.Members {
		members[m.Name] = now
		if at, ok := e.members[m.Name]; ok {
			members[m.Name] = at
		} else if e.members == nil {
			members[m.Name] = e.floor // it was one before this process looked
		}
	}
	e.members = members
	owned := make(map[slot.ID]Owned, len(st.Slots))
	for _, sl := range st.Slots {
		if sl.Master == "" {
			continue
		}
		own, known := e.owned[sl.ID]
		if !known || own.Epoch != sl.Epoch || own.Master != sl.Master {
			own = Owned{Master: sl.Master, Epoch: sl.Epoch, Since: now}
			if e.owned == nil {
				own.Since = e.floor // it was so before this process looked
			}
		}
		owned[sl.ID] = own
	}
	if len(st.Slots) > 0 {
		e.owned = owned
	}
	seen := map[string]time.Duration{}
	for _, p := range st.Proposals {
		if p.State != cluster.Rejected {
			continue
		}
		seen[p.ID] = now
		if at, ok := e.rejected[p.ID]; ok {
			seen[p.ID] = at
		}
	}
	e.rejected = seen
}

// Snapshot returns what is known now. Whoever shows it to people sets View.Wall.
func (e *Evidence) Snapshot(now time.Duration) View {
	e.mu.Lock()
	defer e.mu.Unlock()
	v := View{Self: e.self, Now: now, Floor: e.floor, Nodes: make(map[slot.NodeName]NodeView, len(e.nodes)), Rejected: e.rejected, Members: e.members, Owned: e.owned}
	if e.missed(now) { // whoever woke up first asks before the ticker has ticked
		v.Floor = now
	}
	for name, n := range e.nodes {
		nv := v.Nodes[name]
		nv.Known, nv.HeardAt, nv.Since, nv.LastWords, nv.Trouble, nv.Copies, nv.Served = true, n.at, n.since, n.lastWords, n.trouble, n.copies, n.served
		nv.WallUnix, nv.Abstains, nv.Raft, nv.FreeBytes = n.wallUnix, n.abstains, n.raft, n.freeBytes
		v.Nodes[name] = nv
		for other, said := range n.heard {
			at := said.at
			if other == name || other == e.self {
				continue
			}
			ov := v.Nodes[other]
			if ov.RelayedBy == "" || at > ov.RelayedAt || at == ov.RelayedAt && name < ov.RelayedBy {
				ov.RelayedBy, ov.RelayedAt, ov.Unserved = name, at, said.unserved
			}
			v.Nodes[other] = ov
		}
	}
	return v
}
