package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"mailnode/failover"
	"mailnode/node/admin"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/disk"
	"mailnode/storage/local"
)

// serving implements admin.Serving.
type serving struct{ n *Node }

const (
	// reopenWithin is how long `slot serve` waits for the copy: its proofs may take longer.
	reopenWithin = 20 * time.Second
	// roleWithin is how long it waits then for the copy's role.
	roleWithin = 5 * time.Second
)

// Serve implements admin.Serving: it opens this node's copy of a slot again. Whether the
// copy serves then is Raft's to say.
func (v serving) Serve(ctx context.Context, q admin.ServeRequest) (admin.Served, error) {
	n := v.n
	out := admin.Served{Slot: q.Slot, Node: n.cfg.Node.Name}
	sl, ok := n.State().Slot(q.Slot)
	if !ok {
		return out, cluster.ErrNotFound{Kind: "slot", Name: q.Slot.String()}
	}
	k := n.copies.keeper(q.Slot)
	if k == nil || !sl.Holds(n.cfg.Node.Name) {
		return out, n.noCopy("serve", sl, q.Slot.String())
	}
	show := "mailnode slot show " + q.Slot.String()
	s, refused := k.open.state()
	switch step := k.open.doing(); {
	case step != "":
		return out, &admin.Error{Text: fmt.Sprintf("serve slot %s: %s is opening its copy: %s", q.Slot, out.Node, step), Exit: admin.ExitNothing, Next: show}
	case s != nil && s.Failure() == nil:
		next := show
		if _, err := (alone{n}).Alone(ctx, q.Slot); err == nil { // it waits for a quorum, or for a person
			next = "mailnode slot serve " + q.Slot.String() + " --without-quorum"
		}
		return out, &admin.Error{Text: fmt.Sprintf("serve slot %s: the store of %s is open: it %s", q.Slot, out.Node, k.inRole()), Exit: admin.ExitNothing, Next: next}
	case s != nil:
		if err := s.Gone(); err != nil && sl.Master == out.Node { // an empty one would take its place
			return out, k.notReopened(fmt.Errorf("%w; put it back or mount it, then type this again", err))
		}
		out.Stopped = s.Failure().Error()
	case refused != nil:
		out.Stopped = refused.Error()
	}
	if q.Plan {
		return out, nil
	}
	n.log.Info("a person has the copy opened again", "slot", q.Slot, "by", q.By)
	out.Opened = true
	switch err, over := k.askReopen(ctx); {
	case !over:
		out.Opening = cmp.Or(k.open.doing(), "it waits for its turn")
	case errors.Is(err, errHalf) && k.rebuildMode(sl, "") != "":
		out.Opening = "what was lost with a disk is made again: mailnode job list"
	case err != nil:
		return out, k.notReopened(err)
	default:
		out.State = k.awaitRole(ctx)
	}
	return out, nil
}

// askReopen asks the run loop to open the copy again; over is false when that takes
// longer. It goes on then.
func (k *keeper) askReopen(ctx context.Context) (err error, over bool) {
	ctx, cancel := context.WithTimeout(ctx, reopenWithin)
	defer cancel()
	ask := make(chan error, 1)
	select {
	case k.reopen.asked <- ask:
	case <-ctx.Done():
		return nil, false
	}
	select {
	case err := <-ask:
		return err, true
	case <-ctx.Done():
		return nil, false
	}
}

// notReopened says what goes on when the copy was not opened.
func (k *keeper) notReopened(err error) error {
	out := &admin.Error{Text: fmt.Sprintf("serve slot %s: %v", k.id, err), Exit: admin.ExitRefused, Next: "mailnode slot show " + k.id.String()}
	refused := (*local.Refused)(nil)
	switch {
	case errors.As(err, &refused):
		out.Text = fmt.Sprintf("serve slot %s: %s check: %v; %s", k.id, refused.Checks[len(refused.Checks)-1].Name, refused.Err, refused.Next)
	case errors.Is(err, disk.ErrHangs), errors.Is(err, errNotEnded):
		out.Text += "; nothing was done. When the disk answers it is opened again by itself. If it does not: serve the slot elsewhere, then `systemctl restart mailnode`"
	}
	if sl, ok := k.n.State().Slot(k.id); ok && sl.Master == k.n.cfg.Node.Name && len(sl.Replicas) > 0 {
		out.Next = k.serveElsewhere()
	}
	return out
}

// doing returns the step of an opening that is under way, "" when there is none.
func (o *opening) doing() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.step
}

// awaitRole waits until the copy has its role, but not for long, and says in words what
// it does.
func (k *keeper) awaitRole(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, roleWithin)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if m, _, f := k.role.parts(); m != nil || f != nil {
			return k.inRole()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return k.inRole()
		}
	}
}

// inRole says what the copy does.
func (k *keeper) inRole() string {
	k.role.mu.Lock()
	defer k.role.mu.Unlock()
	switch {
	case k.role.master != nil:
		return "serves the slot as its master"
	case k.role.follower != nil:
		return "follows the slot's master"
	case k.role.kind == failover.RoleMaster:
		return "is the slot's master and does not serve yet: " + cmp.Or(k.role.waiting, "it has just been opened")
	}
	return "has no role yet"
}
