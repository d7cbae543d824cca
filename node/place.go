package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"mailnode/failover"
	"mailnode/node/admin"
	"mailnode/node/monitor"
	"mailnode/raftfsm/cluster"
)

// unplaced is what the slots that have no master wait for.
type unplaced struct {
	slots   int              // how many there are
	members []cluster.Member // that may take them
	few     string           // why a slot cannot have all its copies yet, "" when it can
	awaited string           // what `cluster init --nodes` waits for, "" when for nothing
}

// unplacedOf counts the members that were heard: a slot is given to no node that
// never came up.
func unplacedOf(st *cluster.State, v failover.View) unplaced {
	var u unplaced
	for _, sl := range st.Slots {
		if sl.Master == "" {
			u.slots++
		}
	}
	if u.slots == 0 {
		return u
	}
	mail, need := 0, st.DefaultReplicas+1
	for _, m := range st.Members {
		if v.Nodes[m.Name].Known {
			u.members = append(u.members, m)
			if m.Role != cluster.Witness {
				mail++
			}
		}
	}
	if mail < need {
		u.few = fmt.Sprintf("%d of %d nodes with mail have started, as many as a slot has copies", mail, need)
	}
	if len(u.members) < st.PlaceAt {
		u.awaited = fmt.Sprintf("%d of %d nodes have started, as many as `cluster init --nodes` said, witnesses included", len(u.members), st.PlaceAt)
	}
	return u
}

// tellUnplaced keeps the condition about slots without a master. Who has all the
// nodes that there will be says so.
func (n *Node) tellUnplaced(u unplaced) {
	t := monitor.Told{Detail: cmp.Or(u.few, u.awaited)}
	if u.few == "" {
		t.Next = "mailnode cluster place"
	}
	n.conditions.Tell(t.Detail != "", monitor.SlotsUnassigned, "", t)
}

// assign gives slots their first masters, once as many nodes are there as
// `cluster init --nodes` said, and as the copies need.
func (n *Node) assign(ctx context.Context) {
	u := unplacedOf(n.State(), n.evidence.Snapshot(n.clock.Mono()))
	if u.slots == 0 || u.few != "" || u.awaited != "" {
		return
	}
	if _, err := n.place(ctx, u, "first placement"); err != nil {
		n.log.Warn("assign slots", "err", err)
	}
}

// place gives slots their first masters and returns how many got one.
func (n *Node) place(ctx context.Context, u unplaced, by string) (placed int, err error) {
	st := n.State()
	for _, a := range cluster.Place(u.members, st.Slots, st.DefaultReplicas) {
		_, err := n.Propose(ctx, cluster.AssignSlot{Slot: a.Slot, Epoch: a.Epoch, Master: a.Master, Replicas: a.Replicas,
			By: by, WallTime: n.wallTime()})
		var stale cluster.ErrStale
		switch {
		case err == nil:
			placed++
		case !errors.As(err, &stale): // else the leader was faster
			return placed, fmt.Errorf("assign slot %s: %w", a.Slot, err)
		}
	}
	return placed, nil
}

// Place implements admin.Cluster.
func (m members) Place(ctx context.Context, r admin.PlaceRequest) (admin.Placed, error) {
	n := m.n
	if err := n.needQuorum(ctx, "place slots"); err != nil {
		return admin.Placed{}, err
	}
	u := unplacedOf(n.State(), n.evidence.Snapshot(n.clock.Mono()))
	switch {
	case u.slots == 0:
		return admin.Placed{}, &admin.Error{Text: "place slots: every slot has a master", Exit: admin.ExitNothing, Next: "mailnode slot list"}
	case u.few != "":
		return admin.Placed{}, &admin.Error{Text: "place slots: " + u.few, Exit: admin.ExitRefused, Next: "mailnode cluster token NODE"}
	}
	placed, err := n.place(ctx, u, r.By)
	return admin.Placed{Slots: placed}, err
}
