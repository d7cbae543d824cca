package node

import (
	"fmt"
	"time"

	"mailnode/failover"
	"mailnode/figures"
	"mailnode/node/monitor"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// clockAhead is how far a node's wall clock is ahead of this one's, by its last
// report, and whether that is known now. It is only shown (law 11).
func (n *Node) clockAhead(name slot.NodeName, v failover.View) (time.Duration, bool) {
	nv := v.Nodes[name]
	if !nv.Known || nv.WallUnix == 0 || !n.heardNow(name, v) || name == n.cfg.Node.Name {
		return 0, false
	}
	then := n.clock.Wall().Add(nv.HeardAt - v.Now)
	return time.Unix(nv.WallUnix, 0).Sub(then), true
}

// clocksDifferAfter is what is shown as a difference of two wall clocks.
const clocksDifferAfter = time.Minute

// lookAtClocks keeps the conditions about wall clocks.
func (n *Node) lookAtClocks(st *cluster.State, v failover.View) {
	agreed := false
	for _, m := range st.Members {
		ahead, known := n.clockAhead(m.Name, v)
		differs, side := ahead.Abs() > clocksDifferAfter, "ahead of"
		if ahead < 0 {
			side = "behind"
		}
		agreed = agreed || known && !differs
		n.conditions.Put(known && differs, monitor.ClockDiffers, string(m.Name), fmt.Sprintf("its clock is %s %s this node's", figures.Age(ahead.Abs()), side))
	}
	doubt := n.clockDoubt(agreed)
	n.conditions.Put(doubt != "", monitor.ClockBehind, "", doubt)
}

// clockDoubt says why this machine's wall clock cannot be right, "" when it can:
// as the first copy says that doubts it. agreed: another node's says the same.
func (n *Node) clockDoubt(agreed bool) string {
	for _, k := range n.copies.all() {
		if s := k.opened(); s != nil {
			if doubt := s.ClockDoubt(agreed); doubt != "" {
				return doubt
			}
		}
	}
	return ""
}
