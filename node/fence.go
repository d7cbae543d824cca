package node

import (
	"context"
	"sync"
	"time"

	"mailnode/failover"
	"mailnode/node/monitor"
	"mailnode/storage"
)

// fenceAfter is how long a node may be without a quorum before
// `fence_without_quorum` makes its slots read-only. An election is shorter; what
// Raft needs to notice is a few seconds more.
const fenceAfter = 5 * time.Second

// errFenced is what a change is told meanwhile.
var errFenced = storage.Errorf(storage.ErrUnavailable, "this node has no quorum, and `fence_without_quorum` makes its slots read-only")

// Admit implements local.Admission: the one gate that every change of every slot
// passes.
func (g pauseGate) Admit() error {
	if g.n.fenced.Load() {
		return errFenced
	}
	return nil
}

// fence makes this node's slots read-only while it has no quorum, when the
// settings say so: nothing is accepted that a failover elsewhere would hide
// (LAWS §6.10).
func (n *Node) fence(ctx context.Context) {
	if !n.cfg.Replication.FenceWithoutQuorum {
		return
	}
	had := n.clock.Mono()
	every(ctx, tickEvery, func() {
		now := n.clock.Mono()
		switch {
		case n.raft.Quorum():
			had = now
			if n.fenced.Load() {
				n.unfence()
			}
		case now-had >= fenceAfter && !n.fenced.Swap(true):
			n.log.Warn("no quorum: this node's slots are read-only")
			n.conditions.Set(monitor.SlotsFenced, "", "")
		}
	})
}

// unfence lets changes in again. Masters may have been changed meanwhile: each
// slot asks a leader first whether it is still this node's, as after a pause.
func (n *Node) unfence() {
	n.log.Info("a quorum again: the slots ask before they serve on")
	n.endMasters()
	n.fenced.Store(false)
	n.conditions.Clear(monitor.SlotsFenced, "")
}

// endMasters ends all roles of masters, which begin again when a leader has said
// that they may. Each end is bounded.
func (n *Node) endMasters() {
	var wg sync.WaitGroup
	for _, k := range n.copies.all() {
		if k.role.is() == failover.RoleMaster {
			wg.Go(func() { k.role.end(); k.wake() })
		}
	}
	wg.Wait()
}
