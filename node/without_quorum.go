package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"mailnode/figures"
	"mailnode/node/admin"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// A master that starts without a quorum waits: somebody may have been given its slot
// meanwhile (LAWS §6.9). A person may decide that it serves all the same. The decision
// holds for the epoch and for this process: after a restart nobody knows again what was
// decided meanwhile, and it is asked for again. It replaces the quorum's word and
// nothing else: a copy that has lost events stays down. What is acknowledged then
// is alone and marked so (law 1). Whoever brings a higher epoch ends it.

// goesAlone reports whether the slot is served by that decision now.
func (k *keeper) goesAlone(sl cluster.Slot) bool {
	k.role.mu.Lock()
	defer k.role.mu.Unlock()
	return k.role.told.ordered == sl.Epoch && sl.Epoch > k.role.told.higher && !k.n.raft.Quorum() && !k.n.isLeftBehind() && k.n.gone.Load() == nil
}

// orderAlone notes the decision.
func (k *keeper) orderAlone(e slot.Epoch) {
	k.role.mu.Lock()
	k.role.told.ordered = e
	k.role.mu.Unlock()
	k.wake()
}

// alone implements admin.ServingAlone.
type alone struct{ n *Node }

// Alone implements admin.ServingAlone.
func (a alone) Alone(_ context.Context, id slot.ID) (admin.AlonePlan, error) {
	n := a.n
	refuse := func(exit int, next, format string, args ...any) (admin.AlonePlan, error) {
		return admin.AlonePlan{}, &admin.Error{Text: fmt.Sprintf("serve %s without a quorum: ", id) + fmt.Sprintf(format, args...), Exit: exit, Next: next}
	}
	show := "mailnode slot show " + id.String()
	sl, ok := n.State().Slot(id)
	k := n.copies.keeper(id)
	switch {
	case !ok:
		return refuse(admin.ExitUsage, "mailnode slot list", "there is no such slot")
	case n.membership() != nil:
		return refuse(admin.ExitRefused, "systemctl stop mailnode", "%v", n.membership())
	case n.isLeftBehind():
		return refuse(admin.ExitRefused, fmt.Sprintf("mailnode cluster token %s --replace, on a node that went on", n.cfg.Node.Name), "%s", n.leftBehindText())
	case sl.Master != n.cfg.Node.Name:
		return refuse(admin.ExitRefused, show, "its master is %s, by what this node knows: only there", cmp.Or(sl.Master, "nobody"))
	case k == nil:
		return refuse(admin.ExitRefused, show, "this node has no copy of it")
	}
	r := k.report()
	switch {
	case r.Serving && r.Epoch == sl.Epoch:
		return refuse(admin.ExitNothing, show, "nothing to do: it is served")
	case n.raft.Quorum():
		return refuse(admin.ExitRefused, show, "nothing was done: there is a leader, %s, and its word decides", n.leader())
	case r.Failed != "" || r.Opening != "" || r.Building:
		return refuse(admin.ExitRefused, show, "nothing was done: its copy is not ready: %s", cmp.Or(r.Failed, r.Opening, "it is empty or half filled"))
	}
	return admin.AlonePlan{Slot: id, Epoch: sl.Epoch, Node: n.cfg.Node.Name, Text: n.aloneText(sl)}, nil
}

// aloneText says what is not known, before a person decides.
func (n *Node) aloneText(sl cluster.Slot) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	v := n.evidence.Snapshot(n.clock.Mono())
	line("SERVE %s on %s without a quorum, in epoch %d", sl.ID, n.cfg.Node.Name, sl.Epoch)
	line("not known: whether another node was made its master while this one was down or cut off. If so there are two, and what this one takes from now on is set aside when they meet (mailnode rescue list)")
	for _, name := range sl.Replicas {
		c, ok := v.Nodes[name].Copies[sl.ID]
		switch {
		case ok && n.heardNow(name, v) && c.Lineage > sl.Epoch:
			line("  %s answers, and HAS SEEN EPOCH %d: another was made master", name, c.Lineage)
		case ok && n.heardNow(name, v):
			line("  %s answers: it holds events up to %s", name, c.Position)
		default:
			line("  %s is not heard for %s: it may hold more, and serve", name, figures.Age(v.Silence(name)))
		}
	}
	line("every change is on this node's disk alone until there is a quorum")
	if n.cfg.Replication.FenceWithoutQuorum {
		line("`fence_without_quorum` is set: it is read only, mail waits in the MTA")
	}
	line("it ends with this process; after a restart you are asked again")
	return b.String()
}

// Serve implements admin.ServingAlone.
func (a alone) Serve(ctx context.Context, r admin.AloneRequest) (admin.AloneOutcome, error) {
	plan, err := a.Alone(ctx, r.Slot)
	if err != nil {
		return admin.AloneOutcome{}, err
	}
	show := "mailnode slot show " + r.Slot.String()
	if plan.Epoch != r.Epoch {
		return admin.AloneOutcome{}, &admin.Error{Text: fmt.Sprintf("serve %s without a quorum: nothing was done: its epoch is %d, you have seen %d", r.Slot, plan.Epoch, r.Epoch), Exit: admin.ExitRefused, Next: show}
	}
	k := a.n.copies.keeper(r.Slot)
	a.n.log.Warn("a person lets a slot be served without a quorum", "slot", r.Slot, "epoch", r.Epoch, "by", r.By)
	k.orderAlone(r.Epoch)
	if left := a.n.awaitServe(ctx, []slot.ID{r.Slot}); slices.Contains(left, r.Slot) {
		return admin.AloneOutcome{}, &admin.Error{Text: fmt.Sprintf("serve %s without a quorum: it may, and does not serve yet: %s", r.Slot, cmp.Or(k.report().Waiting, "it does not say why")), Exit: admin.ExitFailed, Next: show}
	}
	return admin.AloneOutcome{Text: fmt.Sprintf("%s is served on %s, alone, until there is a quorum or %s ends\n", r.Slot, plan.Node, plan.Node)}, nil
}
