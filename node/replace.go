package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	"mailnode/failover"
	"mailnode/figures"
	"mailnode/node/admin"
	"mailnode/node/peer"
	"mailnode/raftfsm"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// joining is the command that lets a machine in: as a new member, or in the place of
// the one that has its name. A member that is heard keeps its place.
func (n *Node) joining(r peer.JoinRequest) (cluster.Command, error) {
	m := cluster.Member{Name: r.Name, ServerID: admin.JoinedServerID(r.Name, r.TokenID), Addr: r.Address,
		Zone: r.Zone, Standby: r.Standby, Role: cluster.Role(r.Role), Key: r.Key, Features: r.Features}
	hash := fmt.Sprintf("%x", r.SecretHash)
	st := n.State()
	was, taken := st.Member(r.Name)
	if !r.Replace || !taken || st.Absent(r.Name) || was.ServerID == m.ServerID {
		return cluster.AddMember{Token: r.TokenID, Hash: hash, Member: m}, nil
	}
	if why, known := n.lives(r.Name); why != "" {
		err := fmt.Errorf("replace node %q: %s", r.Name, why)
		if !known {
			err = fmt.Errorf("%w (%w)", err, peer.ErrAskAnother)
		}
		return nil, err
	}
	return cluster.ReplaceMember{Member: m, Was: was.ServerID, Token: r.TokenID, Hash: hash, By: "cluster join --replace", WallTime: n.wallTime()}, nil
}

// lives says why a node is not to be taken for lost; "": it is. known: it was heard,
// and it is not only this node that knows too little.
func (n *Node) lives(name slot.NodeName) (why string, known bool) {
	v, suspectAfter := n.evidence.Snapshot(n.clock.Mono()), n.cfg.Replication.SuspectAfter
	nv, silence := v.Nodes[name], v.Silence(name)
	switch {
	case name == n.cfg.Node.Name:
		return "it is the node that you ask, and it lives", true
	case nv.LastWords == failover.CleanStop || silence >= suspectAfter:
		return "", true
	case !nv.Known && nv.RelayedBy == "":
		return fmt.Sprintf("this node has started a moment ago and does not know whether it lives: repeat this in %s", figures.FineAge(suspectAfter-silence)), false
	}
	return fmt.Sprintf("it lives, it was heard %s ago. Is it off for good? `systemctl stop mailnode` there, or cut its power, and repeat this in %s", figures.FineAge(silence), figures.Age(suspectAfter)), true
}

// copiesOf lists of which slots a node is recorded to have a copy, or may have mail that
// nobody else has. Such a copy is kept whatever the operator says.
func (n *Node) copiesOf(name slot.NodeName) []peer.Copy {
	st, v := n.State(), n.evidence.Snapshot(n.clock.Mono())
	var out []peer.Copy
	for _, sl := range st.Slots {
		l := sl.OpenLoss
		lost := l != nil && (l.Node == name || slices.Contains(l.Also, name))
		if !sl.Holds(name) && !lost {
			continue
		}
		kept := lost || sl.Master == name || slices.Contains(sl.Awaits, name) || !v.Serves(sl, n.cfg.Replication.SuspectAfter)
		out = append(out, peer.Copy{Slot: sl.ID, Holds: sl.Holds(name), Kept: kept, Master: sl.Master == name})
	}
	return out
}

// commit proposes a command at this leader. One that is to be removed hands the
// leadership over first: a leader whom nobody listens to any more is none for long.
func (n *Node) commit(ctx context.Context, c cluster.Command) (cluster.Result, error) {
	if r, ok := c.(cluster.RemoveMember); ok && r.Name == n.cfg.Node.Name {
		if _, err := n.State().Clone().Apply(n.State().Index, c); err == nil {
			if err := n.raft.TransferLeadership(ctx); err != nil {
				return cluster.Result{}, cluster.ErrNotDone{Cause: err}
			}
			return cluster.Result{}, raftfsm.ErrNotLeader{}
		}
	}
	return n.raft.Propose(ctx, c)
}

const (
	// leftWithin is how long an order waits until a removed server has left Raft.
	leftWithin = 10 * time.Second
	// selfWithin is how long one waits that removes the node which is asked.
	selfWithin = 5 * time.Second
)

// Remove implements admin.Cluster.
func (m members) Remove(ctx context.Context, r admin.RemoveRequest) (admin.Removed, error) {
	n := m.n
	if err := n.needQuorum(ctx, "remove node"); err != nil {
		return admin.Removed{}, err
	}
	n.catchUp(ctx)
	st := n.State()
	me, is := st.Member(r.Node)
	if !is {
		return admin.Removed{}, n.noMember(st, r.Node)
	}
	out := admin.Removed{Node: r.Node, Needs: []admin.Need{}}
	for _, need := range st.Needs(r.Node) {
		out.Needs = append(out.Needs, admin.Need{Slot: need.Slot, Master: need.Master, Why: need.Why})
	}
	if len(out.Needs) > 0 {
		return out, nil
	}
	if err := n.votesWithout(me); err != nil {
		return admin.Removed{}, err
	}
	if r.Try {
		return out, nil
	}
	if r.Node == n.cfg.Node.Name { // it may never see that it is done
		own, cancel := context.WithTimeout(ctx, selfWithin)
		defer cancel()
		ctx = own
	}
	if err := n.order(ctx, cluster.RemoveMember{Name: r.Node, By: r.By, WallTime: n.wallTime()}); err != nil {
		return admin.Removed{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, leftWithin)
	defer cancel()
	for out.Left = false; !out.Left && r.Node != n.cfg.Node.Name; { // one that is gone itself does not hear of it
		if voting := n.voting(); voting != nil {
			_, there := voting[me.ServerID]
			out.Left = !there
		}
		if !out.Left && !pause(ctx, proposePause) {
			break
		}
	}
	out.Done = true
	return out, nil
}

// noMember says that there is nobody to be removed.
func (n *Node) noMember(st *cluster.State, name slot.NodeName) error {
	for _, f := range slices.Backward(st.Former) {
		if f.Name == name && !f.Replaced {
			by := ""
			if f.By != "" {
				by = " by " + f.By
			}
			return &admin.Error{Text: fmt.Sprintf("remove node %q: it was removed%s already", name, by), Exit: admin.ExitNothing, Next: "mailnode cluster members"}
		}
	}
	text := fmt.Sprintf("remove node %q: there is none; there are", name)
	for _, m := range st.Members {
		text += " " + string(m.Name)
	}
	return &admin.Error{Text: text, Exit: admin.ExitUsage, Next: "mailnode cluster members"}
}

// votesWithout refuses a removal after which those that are heard are no quorum.
func (n *Node) votesWithout(m cluster.Member) error {
	seats, err := n.seats()
	if err != nil {
		return err
	}
	voters, alive, votes := 0, 0, false
	for _, s := range seats {
		votes = votes || s.Votes && s.ServerID == m.ServerID
		if s.Votes && s.ServerID != m.ServerID {
			voters++
			if s.Alive {
				alive++
			}
		}
	}
	if !votes || alive > voters/2 {
		return nil
	}
	return &admin.Error{Text: fmt.Sprintf("remove node %q: of the %d voters that would be left %d are heard, fewer than a majority: bring another voter up, or let one in, first", m.Name, voters, alive),
		Exit: admin.ExitRefused, Next: "mailnode cluster members"}
}
