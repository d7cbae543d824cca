package failover

import (
	"fmt"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// View is the evidence at one moment. It is a plain value; its maps are not
// written to.
type View struct {
	Self     slot.NodeName
	Now      time.Duration // monotonic
	Floor    time.Duration // silence counts from here: our start, or the end of our last pause
	Nodes    map[slot.NodeName]NodeView
	Rejected map[string]time.Duration        // proposal: when its rejection was first seen here
	Members  map[slot.NodeName]time.Duration // since when a node is a member, as seen here
	Owned    map[slot.ID]Owned               // who is to serve a slot, and since when, as seen here
	Wall     time.Time                       // the wall clock at Now, shown only (law 11); zero is not shown
}

// NodeView is what is known about one node.
type NodeView struct {
	Known     bool          // it reported to this process
	HeardAt   time.Duration // when it last did
	RelayedBy slot.NodeName // another node that heard it, "" when none said so
	RelayedAt time.Duration // when that was, on our clock
	Unserved  []Unserved    // what it does not serve, by RelayedBy
	Since     time.Duration // since when its reports come without a gap, from this process of it
	LastWords string
	Trouble   string
	Abstains  bool                 // see Report
	WallUnix  int64                // its wall clock at HeardAt, shown only (law 11)
	FreeBytes *int64               // see Report
	Copies    map[slot.ID]CopyView // by its last report
	Served    map[slot.ID]Served   // when it last reported that it serves a slot
	Raft      RaftReport           // by its last report
}

// Served is when a node last said that it serves a slot in an epoch.
type Served struct {
	Epoch slot.Epoch
	At    time.Duration
}

// Owned is whom Raft has as a slot's master, and when that was first seen here.
type Owned struct {
	Master slot.NodeName
	Epoch  slot.Epoch
	Since  time.Duration
}

// CopyView is a copy's last report, with what only a listener knows.
type CopyView struct {
	CopyReport
	Highest     slot.Position // that it has reported in its lineage's newest epoch
	StillSince  time.Duration // when its position last changed
	FailedSince time.Duration // while Failed or Away is set: when that was first heard
}

// presence is what can be said about a node's life.
type presence int

const (
	unknown presence = iota // not heard, and not for long enough to say more
	alive
	silent
)

// presence reports whether a node lives. Right after our own start or pause the
// answer is unknown, which neither opens nor withdraws anything.
func (v View) presence(n slot.NodeName, suspectAfter time.Duration) presence {
	if n == v.Self {
		return alive
	}
	nv := v.Nodes[n]
	if nv.Known && v.Now-nv.HeardAt < suspectAfter || nv.RelayedBy != "" && v.Now-nv.RelayedAt < suspectAfter {
		return alive
	}
	if v.Silence(n) >= suspectAfter {
		return silent
	}
	return unknown
}

// Silence says for how long nobody has heard a node, counted from Floor at the
// earliest.
func (v View) Silence(n slot.NodeName) time.Duration {
	if n == v.Self {
		return 0
	}
	return max(0, v.Now-v.lastHeard(n))
}

// lastHeard is when silence began to count.
func (v View) lastHeard(n slot.NodeName) time.Duration {
	return max(v.Floor, v.Members[n], v.word(n))
}

// word is when a node was really heard last; our start or pause when it never was.
func (v View) word(n slot.NodeName) time.Duration {
	nv := v.Nodes[n]
	switch {
	case nv.Known && nv.RelayedBy != "":
		return max(nv.HeardAt, nv.RelayedAt)
	case nv.Known:
		return nv.HeardAt
	case nv.RelayedBy != "":
		return nv.RelayedAt
	}
	return v.Floor
}

// reports reports whether a node's copies are known first-hand and fresh.
func (v View) reports(n slot.NodeName, suspectAfter time.Duration) bool {
	nv := v.Nodes[n]
	return nv.Known && (n == v.Self || v.Now-nv.HeardAt < suspectAfter)
}

// copyOf returns the last report about a copy, however old.
func (v View) copyOf(n slot.NodeName, id slot.ID) (CopyView, bool) {
	c, ok := v.Nodes[n].Copies[id]
	return c, ok
}

// noCopy is said of a node that reports nothing about a slot that is its own.
const noCopy = "it reports no copy"

// serves reports whether a slot's master lives and serves it under its epoch, as it
// says itself; when it is not heard, as somebody says who hears it.
func (v View) serves(sl cluster.Slot, suspectAfter time.Duration) bool {
	if v.presence(sl.Master, suspectAfter) != alive {
		return false
	}
	if v.reports(sl.Master, suspectAfter) || v.Nodes[sl.Master].RelayedBy == "" {
		c, ok := v.copyOf(sl.Master, sl.ID)
		return ok && c.serving(sl.Epoch)
	}
	_, not := v.relayedUnserved(sl)
	return !not
}

// Serves is what is known here of whether a slot is served.
func (v View) Serves(sl cluster.Slot, suspectAfter time.Duration) bool {
	return v.serves(sl, suspectAfter)
}

// Unserved says that nobody has served a slot for suspectAfter, and why; "" when
// that is not so, or not for so long.
func (v View) Unserved(sl cluster.Slot, suspectAfter time.Duration) string {
	if sl.Master == "" || !v.unserved(sl, suspectAfter) {
		return ""
	}
	return v.Idle(sl, suspectAfter)
}

// relayedUnserved says what is relayed of a slot that its master does not serve.
func (v View) relayedUnserved(sl cluster.Slot) (why string, unserved bool) {
	for _, u := range v.Nodes[sl.Master].Unserved {
		if u.Slot == sl.ID {
			return u.Why, true
		}
	}
	return "", false
}

// UnservedSince is since when nobody serves a slot that has a master, as far as can
// be seen from here: by what its master said last, not before our start or pause,
// and not before Raft gave it the slot.
func (v View) UnservedSince(sl cluster.Slot, suspectAfter time.Duration) time.Duration {
	if v.serves(sl, suspectAfter) {
		return v.Now
	}
	since := max(v.Floor, v.Members[sl.Master])
	if own := v.Owned[sl.ID]; own.Epoch == sl.Epoch && own.Master == sl.Master {
		since = max(since, own.Since)
	}
	nv := v.Nodes[sl.Master]
	if was := nv.Served[sl.ID]; was.Epoch == sl.Epoch {
		since = max(since, was.At)
	}
	return since
}

// unserved says that nobody has served a slot for suspectAfter.
func (v View) unserved(sl cluster.Slot, suspectAfter time.Duration) bool {
	return v.Now-v.UnservedSince(sl, suspectAfter) >= suspectAfter
}

// Idle says why a slot is not served, "" when it is.
func (v View) Idle(sl cluster.Slot, suspectAfter time.Duration) string {
	if v.serves(sl, suspectAfter) {
		return ""
	}
	n := sl.Master
	c, ok := v.copyOf(n, sl.ID)
	why, relayed := v.relayedUnserved(sl)
	switch p := v.presence(n, suspectAfter); {
	case p == silent:
		return fmt.Sprintf("%s is silent", n)
	case p == unknown:
		return fmt.Sprintf("%s was not heard yet", n)
	case !v.reports(n, suspectAfter) && relayed:
		return fmt.Sprintf("%s lives (%s hears it) and does not serve %s: %s", n, v.Nodes[n].RelayedBy, sl.ID, why)
	case !ok:
		why := noCopy
		if trouble := v.Nodes[n].Trouble; trouble != "" {
			why = trouble
		}
		return fmt.Sprintf("%s lives and does not serve %s: %s", n, sl.ID, why)
	}
	return fmt.Sprintf("%s lives and does not serve %s: %s", n, sl.ID, c.idle(sl.Epoch))
}

// failed says why a living master's store does not work, "" when it does.
func (v View) failed(sl cluster.Slot, suspectAfter time.Duration) string {
	c, ok := v.copyOf(sl.Master, sl.ID)
	if !ok || !v.reports(sl.Master, suspectAfter) {
		return ""
	}
	return c.Failed
}

// away says why a master that serves a slot is to hand it over, "" when it may keep it.
func (v View) away(sl cluster.Slot, suspectAfter time.Duration) string {
	c, ok := v.copyOf(sl.Master, sl.ID)
	if !ok || len(sl.Replicas) == 0 || !v.reports(sl.Master, suspectAfter) || !v.serves(sl, suspectAfter) {
		return ""
	}
	return c.Away
}

// wallAt returns the wall time of a moment in the past, for showing.
func (v View) wallAt(ago time.Duration) (time.Time, bool) {
	if v.Wall.IsZero() {
		return time.Time{}, false
	}
	return v.Wall.Add(-ago), true
}
