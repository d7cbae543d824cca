package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"mailnode/node/monitor"
	"mailnode/node/peer"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// admit refuses nodes that are no members: a removed one still has its certificate,
// and so has one whose place another machine has taken. Of those that have left Raft
// tells for good; for the rest, while this node knows no members at all, or may be
// behind, it believes certificates (LAWS §6.18).
func (n *Node) admit(name slot.NodeName, key string) error {
	<-n.raftOpened // the port listens before
	st := n.raft.State()
	if f, gone := st.FormerOf(name, key); gone {
		return fmt.Errorf("%w: %s", peer.ErrGone, goneText(f))
	}
	m, ok := st.Member(name)
	switch {
	case len(st.Members) == 0 || !n.raft.Quorum():
		return nil
	case !ok:
		return fmt.Errorf("node %q is not a member of this cluster", name)
	case m.Key != "" && m.Key != key:
		return fmt.Errorf("node %q has joined again with another key, from another data folder: stop this one", name)
	}
	return nil
}

// taken reports whether another machine answers at a member's address than the one
// that this node knows. In Raft it must not speak for that one, whose votes it does not
// know; when this node has heard that the place was taken, it may.
func (n *Node) taken(addr, key string) bool {
	return slices.ContainsFunc(n.raft.State().Members, func(m cluster.Member) bool { return m.Addr == addr && m.Key != "" && m.Key != key })
}

// goneText says what became of an installation, and how it comes back.
func goneText(f cluster.Former) string {
	what := fmt.Sprintf("%s was removed from this cluster", f.Name)
	if f.Replaced {
		what = fmt.Sprintf("another machine has taken the name and place of %s", f.Name)
	}
	if f.By != "" {
		what += " by " + f.By
	}
	if f.WallTime != "" {
		what += ", " + f.WallTime
	}
	return what + "; the data here is untouched; to bring it back: " + bringBack(f.Name)
}

func bringBack(name slot.NodeName) string {
	return fmt.Sprintf("`mailnode cluster token %s --replace` on a member, then here `systemctl stop mailnode` and `mailnode cluster join --replace %s`", name, name)
}

// cutAfter lets whoever has removed itself hear the answer.
const cutAfter = time.Second

// leaves keeps this node's connections in line with who has left the cluster, itself
// included: nobody of them is talked to on what was open before.
func (n *Node) leaves(ctx context.Context) {
	var last cluster.Former
	for ctx.Err() == nil {
		changed := n.raft.Changed()
		st := n.raft.State()
		if f, gone := st.FormerOf(n.cfg.Node.Name, n.id.KeyHash()); gone {
			n.isGone("this node's own record", goneText(f))
		}
		if k := len(st.Former); k > 0 && st.Former[k-1] != last && pause(ctx, cutAfter) {
			last = st.Former[k-1]
			n.log.Info("a node has left", "member", last.Name, "by", last.By, "replaced", last.Replaced, "connections_cut", n.id.Cut(n.admit))
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// isGone is told that this node is no member any more. There is no way back for this
// installation: it serves nothing from now on, and says so.
func (n *Node) isGone(by slot.NodeName, reason string) {
	if !n.gone.CompareAndSwap(nil, &reason) {
		return
	}
	n.log.Error("this node is no member any more, it serves nothing", "says", by, "reason", reason)
	n.conditions.Tell(true, monitor.RaftRemoved, "", monitor.Told{Detail: reason})
	go n.endMasters()
}

// membership returns why this node is no member any more, nil while it is one. It
// calls nobody then: they would only say the same again.
func (n *Node) membership() error {
	if why := n.gone.Load(); why != nil {
		return errors.New(*why)
	}
	return nil
}
