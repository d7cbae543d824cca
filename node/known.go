package node

import (
	"fmt"
	"time"

	"mailnode/failover"
	"mailnode/figures"
	"mailnode/node/admin"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/repl"
	"mailnode/storage/slot"
)

// known returns a figure that is known, and nil, null in JSON, for one that is not:
// nobody must take what is not known for 0.
func known[T any](is bool, v T) *T {
	if !is {
		return nil
	}
	return &v
}

const (
	// lateAfter is how old a node's last report may be until its figures are of the past.
	lateAfter = 3 * reportEvery
	// overdueAfter is when a report should have come: one alone may be late.
	overdueAfter = 3 * reportEvery / 2
)

// heardNow reports whether a node reports to this one. That others hear it keeps it
// alive, but brings no figures.
func (n *Node) heardNow(name slot.NodeName, v failover.View) bool {
	nv := v.Nodes[name]
	return name == n.cfg.Node.Name || nv.Known && v.Now-nv.HeardAt < lateAfter
}

// slotStatus shows a slot by what is heard of its copies, and by Raft's record.
func (n *Node) slotStatus(sl cluster.Slot, v failover.View) admin.SlotStatus {
	handOverTo := slot.NodeName("")
	if sl.HandOver != nil {
		handOverTo = sl.HandOver.To
	}
	out := admin.SlotStatus{Slot: sl.ID, HandOverTo: handOverTo, Move: moveText(sl), Epoch: sl.Epoch, Master: sl.Master, RecordedProtected: sl.Protected, RecordSource: n.recordSource(), Leaving: leavingOf(sl), Copies: []admin.CopyStatus{}}
	if sl.Master == "" {
		out.Waiting = "it has no master yet"
		return out
	}
	out.Protected, out.ProtectedSource = n.protection(sl, v)
	for _, name := range append([]slot.NodeName{sl.Master}, sl.Replicas...) {
		c := n.copyStatus(sl, name, v)
		if name == sl.Master {
			r, heard := v.Nodes[name].Copies[sl.ID]
			gone := c.State == "silent" || c.State == "stopped" // what it waited for is of the past
			out.Serving = !gone && v.Serves(sl, n.cfg.Replication.SuspectAfter)
			if !gone {
				out.Waiting = r.Waiting
			}
			switch {
			case out.Serving || out.Waiting != "":
			case r.Opening != "" && !gone:
				out.Waiting = fmt.Sprintf("its master %s is opening its copy: %s", name, openingText(r.CopyReport))
			case heard && r.Serving && c.State == "master": // by an old report
				out.Waiting = v.Idle(sl, n.cfg.Replication.SuspectAfter)
			default:
				out.Waiting = fmt.Sprintf("its master %s is %s", name, c.State)
			}
		}
		out.Copies = append(out.Copies, c)
	}
	return out
}

// copyStatus shows one copy by its node's last report.
func (n *Node) copyStatus(sl cluster.Slot, name slot.NodeName, v failover.View) admin.CopyStatus {
	c := admin.CopyStatus{Node: name, State: "unknown"}
	nv := v.Nodes[name]
	if nv.Known {
		c.HeardS = known(true, max(v.Now-nv.HeardAt, 0).Round(100*time.Millisecond).Seconds())
	}
	r, heard := nv.Copies[sl.ID]
	now := n.heardNow(name, v)
	if heard {
		c.Viable, c.State, c.Filling = r.Viable, stateOf(r.CopyReport), r.Filling
		c.Position = known(r.Failed == "" || r.Position > 0, r.Position)
		c.LagS = known(now && r.LagKnown && r.Failed == "", float64(r.LagMs)/1000)
	}
	switch {
	case nv.LastWords == failover.CleanStop:
		c.State, c.Viable, c.LagS = "stopped", false, nil
	case name != n.cfg.Node.Name && v.Silence(name) >= lateAfter:
		c.State, c.Viable = "silent", false
	}
	return c
}

// protection reports whether acknowledgements of a slot wait for a replica now, as
// its master does it, and who says so. Raft's record is not asked: a master that
// is cut off goes on alone without one.
func (n *Node) protection(sl cluster.Slot, v failover.View) (protected *bool, source string) {
	nv := v.Nodes[sl.Master]
	r, heard := nv.Copies[sl.ID]
	ago := max(v.Now-nv.HeardAt, 0)
	said := "master " + string(sl.Master)
	switch {
	case !nv.Known || !heard:
		return nil, said + " was not heard yet"
	case nv.LastWords == failover.CleanStop:
		return nil, fmt.Sprintf("%s is stopped, last heard %s ago", said, figures.FineAge(ago))
	case !n.heardNow(sl.Master, v):
		return nil, fmt.Sprintf("%s is silent, last heard %s ago", said, figures.FineAge(ago))
	case r.Protected == nil || !r.Serving || r.Epoch != sl.Epoch:
		return nil, fmt.Sprintf("%s does not serve epoch %d", said, sl.Epoch)
	case ago >= overdueAfter && n.unheard(sl, v):
		return nil, fmt.Sprintf("no replica hears %s, last heard %s ago", said, figures.FineAge(ago))
	case nv.LastWords == failover.Stopping:
		said += ", which is stopping"
	}
	return r.Protected, fmt.Sprintf("%s, %s ago", said, figures.FineAge(ago))
}

// unheard reports whether replicas that are heard now hear their master no longer,
// and none hears it. One that is being built, or works at something else, does not
// say.
func (n *Node) unheard(sl cluster.Slot, v failover.View) bool {
	lost := false
	for _, name := range sl.Replicas {
		r, ok := v.Nodes[name].Copies[sl.ID]
		switch {
		case !ok || !n.heardNow(name, v) || stateOf(r.CopyReport) != "following":
		case r.LagKnown:
			return false
		default:
			lost = true
		}
	}
	return lost
}

// recordSource says how far Raft is on this node, and since when it may be behind.
func (n *Node) recordSource() string {
	if n.raft.Err() != nil {
		return "raft does not run on this node"
	}
	text := fmt.Sprintf("raft, applied index %d", n.raft.State().Index)
	if d, lost := n.leaderless(); lost {
		text += ", no leader for " + figures.FineAge(d)
	}
	return text
}

// recorded is recordSource for whole answers.
func (n *Node) recorded() admin.Recorded {
	_, lost := n.leaderless()
	return admin.Recorded{RecordSource: n.recordSource(), RecordStale: lost}
}

// leaderless says for how long this node has known no leader with a quorum, as
// watch saw it.
func (n *Node) leaderless() (time.Duration, bool) {
	if n.raft.Quorum() {
		return 0, false
	}
	return max(0, n.clock.Mono()-time.Duration(n.ledAt.Load())), true
}

// noQuorum says what this node knows of the voters while it knows no leader: they
// may well have one.
func (n *Node) noQuorum(st *cluster.State, v failover.View) string {
	if n.raft.Err() != nil {
		return "raft does not run on this node; the others may have a leader"
	}
	if n.halfRecovered() {
		return "a recovery has begun on this node and is not done; to go on with it: mailnode cluster recover"
	}
	voters, heard, abstain, voting := 0, 0, 0, n.voting()
	for _, m := range st.Members {
		if !votes(m, voting) {
			continue
		}
		if voters++; n.heardNow(m.Name, v) {
			heard++
			if v.Nodes[m.Name].Abstains || m.Name == n.cfg.Node.Name && n.raft.Abstains() {
				abstain++
			}
		}
	}
	d, _ := n.leaderless()
	text := fmt.Sprintf("no leader for %s; %d of %d voters are heard, this node among them", figures.FineAge(d), heard, voters)
	if abstain > 0 {
		text += fmt.Sprintf("; %d of them have lost raft's files and do not vote: bring back the other voters, or those files", abstain)
	}
	if heard <= voters/2 {
		text += "; the others may have a leader"
	}
	if heard-abstain <= voters/2 && n.membership() == nil && !n.isLeftBehind() {
		text += "; if so many are lost for good, this goes on without them: mailnode cluster recover"
	}
	return text
}

// bestLag is the lag of a master's best replica; ok is false when none is
// connected: then it is not known.
func bestLag(f *repl.Feed) (best time.Duration, ok bool) {
	_, replicas := f.State()
	for _, r := range replicas {
		if r.Connected && (!ok || r.Lag < best) {
			best, ok = r.Lag, true
		}
	}
	return best, ok
}
