package node

import (
	"context"
	"fmt"

	"mailnode/failover"
	"mailnode/node/admin"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// moving implements admin.Moving.
type moving struct{ n *Node }

// Moves implements admin.Moving.
func (m moving) Moves(ctx context.Context, empty slot.NodeName) (admin.Moves, error) {
	m.n.catchUp(ctx)
	st, v := m.n.State(), m.n.view()
	out := admin.Moves{RatePerS: failover.MovesAtOnce * m.n.cfg.FillBytesPerSec}
	if _, ok := st.Member(empty); empty != "" && !ok {
		return out, &admin.Error{Text: fmt.Sprintf("move copies: there is no node %q", empty), Exit: admin.ExitUsage, Next: "mailnode cluster members"}
	}
	s := m.n.layoutNow(st, v)
	if empty != "" {
		s.Shut[empty] = true
	}
	plan := cluster.Rebalance(s, st.DefaultReplicas, empty)
	into := map[slot.NodeName]int64{}
	for _, pm := range plan.Moves {
		shown := admin.Move{Slot: pm.Slot, Epoch: pm.Epoch, To: pm.To, From: pm.From, Lead: pm.Lead}
		if pm.To != "" {
			shown.Bytes = s.Weights[pm.Slot].Bytes
			out.Bytes += shown.Bytes
			into[pm.To] += shown.Bytes
		}
		out.Planned = append(out.Planned, shown)
	}
	for _, bytes := range into {
		out.AboutS = max(out.AboutS, bytes/out.RatePerS+1)
	}
	out.Cannot = plan.Cannot
	for _, sl := range st.Slots {
		if mv := sl.Move; mv != nil {
			out.UnderWay = append(out.UnderWay, admin.Move{Slot: sl.ID, Epoch: sl.Epoch, To: mv.To, From: mv.From, Lead: mv.Lead, State: moveText(sl)})
		}
	}
	return out, nil
}

// StartMoves implements admin.Moving.
func (m moving) StartMoves(ctx context.Context, r admin.StartMoves) error {
	if err := m.n.needQuorum(ctx, "move copies"); err != nil {
		return err
	}
	c := cluster.PlanMoves{By: r.By}
	for _, pm := range r.Moves {
		c.Moves = append(c.Moves, cluster.PlannedMove{Slot: pm.Slot, Epoch: pm.Epoch, To: pm.To, From: pm.From, Lead: pm.Lead})
	}
	return m.n.moveOrder(ctx, c, "the plan is no longer true: ")
}

// StopMoves implements admin.Moving.
func (m moving) StopMoves(ctx context.Context, r admin.StopMoves) error {
	if err := m.n.needQuorum(ctx, "stop moves"); err != nil {
		return err
	}
	m.n.catchUp(ctx)
	for _, sl := range m.n.State().Slots {
		if sl.Move != nil && !sl.Move.Stopped {
			return m.n.moveOrder(ctx, cluster.StopMoves{By: r.By}, "")
		}
	}
	return &admin.Error{Text: "stop moves: nothing is moving", Exit: admin.ExitNothing, Next: "mailnode slot list"}
}

// moveOrder commits an order about moves; a refusal says what to type next.
func (n *Node) moveOrder(ctx context.Context, c cluster.Command, why string) error {
	err := n.order(ctx, c)
	if cluster.OutcomeOf(err) == cluster.Refused {
		err = &admin.Error{Text: why + err.Error(), Exit: admin.ExitRefused, Next: "mailnode slot rebalance"}
	}
	return err
}
