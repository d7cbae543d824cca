package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"mailnode/failover"
	"mailnode/node/admin"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// copying implements admin.Copying: the plan is package failover's, the wish is recorded
// in Raft, and every node works towards it.
type copying struct{ n *Node }

// copiesTriesMax bounds how often a plan is made again because the slot's record changed.
const copiesTriesMax = 50

// PlanCopies implements admin.Copying.
func (c copying) PlanCopies(ctx context.Context, r admin.CopiesRequest) (admin.CopiesAnswer, error) {
	if err := c.n.needQuorum(ctx, "change replicas"); err != nil {
		return admin.CopiesAnswer{}, err
	}
	p, err := c.plan(ctx, r)
	return admin.CopiesAnswer{Exit: p.ExitCode, Lines: p.Lines, Next: p.Next}, err
}

func (c copying) plan(ctx context.Context, r admin.CopiesRequest) (failover.CopiesPlan, error) {
	if err := c.n.Fresh(ctx); err != nil {
		return failover.CopiesPlan{}, fmt.Errorf("change replicas of %s: this node cannot prove that what it knows is current: %w", r.Slot, err)
	}
	w := failover.CopiesWish{Slot: r.Slot, Add: r.Add, Drop: r.Drop, Count: r.Count, Force: r.Force}
	return failover.PlanCopies(c.n.State(), c.n.view(), c.n.cfg.Replication.SuspectAfter, w), nil
}

// ChangeCopies implements admin.Copying.
func (c copying) ChangeCopies(ctx context.Context, r admin.CopiesRequest) (admin.CopiesAnswer, error) {
	if err := c.n.needQuorum(ctx, "change replicas"); err != nil {
		return admin.CopiesAnswer{}, err
	}
	done := 0
	for range copiesTriesMax {
		p, err := c.plan(ctx, r)
		if err != nil {
			return admin.CopiesAnswer{}, err
		}
		answer := admin.CopiesAnswer{Exit: p.ExitCode, Lines: p.Lines, Next: p.Next}
		switch {
		case len(p.Commands) == 0 && done == 0:
			return answer, nil
		case len(p.Commands) == 0 && p.ExitCode == admin.ExitNothing:
			return admin.CopiesAnswer{Lines: []string{"recorded; the nodes work towards it, whoever hangs up"}, Next: p.Next}, nil
		case len(p.Commands) == 0:
			answer.Lines = append([]string{"done in part"}, p.Lines...)
			return answer, nil
		}
		_, err = c.n.Propose(ctx, p.Commands[0])
		switch outcome := cluster.OutcomeOf(err); {
		case outcome == cluster.Done, outcome == cluster.Unseen:
			c.n.log.Info("replicas of a slot are to change", "slot", r.Slot, "command", cluster.KindOf(p.Commands[0]), "by", r.By)
			done++
		case outcome == cluster.UnknownOutcome && ctx.Err() == nil: // it is looked at again
			done++
		case outcome == cluster.Refused && outdated(err):
		default:
			return admin.CopiesAnswer{}, fmt.Errorf("change replicas of %s: %w", r.Slot, err)
		}
	}
	return admin.CopiesAnswer{}, fmt.Errorf("change replicas of %s: its record changes all the time; try again", r.Slot)
}

// outdated says that a command was refused because of what was recorded since it was
// decided: it is decided again.
func outdated(err error) bool {
	return errors.As(err, new(cluster.ErrChanged)) || errors.As(err, new(cluster.ErrStale)) || errors.As(err, new(cluster.ErrExists)) || errors.As(err, new(cluster.ErrNotFound))
}

// leavingOf names the replicas of a slot that are to be dropped.
func leavingOf(sl cluster.Slot) (out []slot.NodeName) {
	for _, l := range sl.Leaving {
		out = append(out, l.Node)
	}
	return out
}

// droppedCopies shows the copies of a slot that Raft no longer lists and that are still
// there, by what their nodes say.
func (n *Node) droppedCopies(sl cluster.Slot) (out []admin.CopyStatus) {
	v := n.view()
	for name, nv := range v.Nodes {
		r, ok := nv.Copies[sl.ID]
		if !ok || sl.Holds(name) || sl.Master == "" {
			continue
		}
		c := admin.CopyStatus{Node: name, State: "dropped", Position: known(r.Failed == "", r.Position), Waiting: r.Waiting,
			HeardS: known(true, max(v.Now-nv.HeardAt, 0).Round(100*time.Millisecond).Seconds())}
		if r.Failed != "" {
			c.Waiting = r.Failed
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b admin.CopyStatus) int { return strings.Compare(string(a.Node), string(b.Node)) })
	return out
}
