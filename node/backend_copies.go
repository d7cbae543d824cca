package node

import (
	"context"
	"errors"
	"fmt"

	"mailnode/failover"
	"mailnode/node/admin"
	"mailnode/raftfsm/cluster"
)

// copying implements admin.Copying: the plan is package failover's, the wish is recorded
// in Raft, and every node works towards it.
type copying struct{ n *Node }

// copiesTriesMax bounds how often a plan is made again because the slot's record changed.
const copiesTriesMax = 50

// Copies implements admin.Copying.
func (c copying) Copies(ctx context.Context, r admin.CopiesRequest) (admin.CopiesAnswer, error) {
	if err := c.n.needQuorum(ctx, "change replicas"); err != nil {
		return admin.CopiesAnswer{}, err
	}
	w := failover.CopiesWish{Slot: r.Slot, Add: r.Add, Drop: r.Drop, Count: r.Count, Force: r.Force}
	done := 0
	for range copiesTriesMax {
		if err := c.n.Fresh(ctx); err != nil {
			return admin.CopiesAnswer{}, fmt.Errorf("change replicas of %s: this node cannot prove that what it knows is current: %w", r.Slot, err)
		}
		p := failover.PlanCopies(c.n.State(), c.n.view(), c.n.cfg.Replication.SuspectAfter, w)
		answer := admin.CopiesAnswer{Exit: p.ExitCode, Lines: p.Lines, Next: p.Next}
		switch {
		case r.Show:
			return answer, nil
		case len(p.Commands) == 0 && done == 0:
			return answer, nil
		case len(p.Commands) == 0 && p.ExitCode == admin.ExitNothing:
			return admin.CopiesAnswer{Lines: []string{"recorded; the nodes work towards it, whoever hangs up"}, Next: p.Next}, nil
		case len(p.Commands) == 0:
			answer.Lines = append([]string{"done in part"}, p.Lines...)
			return answer, nil
		}
		_, err := c.n.Propose(ctx, p.Commands[0])
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
