package node

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"mailnode/failover"
	"mailnode/node/job"
	"mailnode/node/monitor"
	"mailnode/storage"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// keeper keeps one copy in the role that Raft gives it.
type keeper struct {
	n    *Node
	id   slot.ID
	log  *slog.Logger
	poke chan struct{} // look at Raft again now
	mend *mender

	// The run loop's own.
	options local.Options // of the copy, set when it is opened
	failed  bool          // the store has stopped for good
	index   indexDamage   // its channels are anybody's
	handing handingOver
	dropped droppedCopy
	filling atomic.Pointer[job.Job] // the last state transfer

	open  opening
	role  roleState
	users shownUsers
}

func newKeeper(n *Node, id slot.ID) *keeper {
	k := &keeper{n: n, id: id, log: n.log.With("slot", id), poke: make(chan struct{}, 1), index: newIndexDamage(), dropped: droppedCopy{removing: make(chan *removal)}, role: roleState{kind: failover.RoleNone}}
	k.mend = newMender(k)
	return k
}

func (k *keeper) wake() {
	select {
	case k.poke <- struct{}{}:
	default:
	}
}

const retryRole = time.Second

// run opens the copy and converges until ctx ends, or the copy was removed.
func (k *keeper) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer k.role.end()
	k.openCopy(ctx)
	k.n.wg.Go(func() { k.mend.run(ctx) })
	for ctx.Err() == nil && !k.dropped.removed {
		k.turn(ctx)
	}
}

// turn converges once, and waits for what makes it necessary again.
func (k *keeper) turn(ctx context.Context) {
	s, refused := k.open.state()
	if s == nil && errors.Is(refused, storage.ErrDiskFull) {
		k.openWhenRoom(ctx)
		return
	}
	changed := k.n.raft.Changed()
	var retry <-chan time.Time
	var failed <-chan struct{}
	switch {
	case s == nil: // a person must act and restart the process, unless it is the index
		if local.IndexLost(refused) || k.index.pending != "" {
			k.beginRebuild(refused)
			retry = time.After(rebuildAgainAfter)
		}
	case !k.failed:
		failed = s.Failed()
		if cause := k.index.cause; cause != nil {
			k.beginRebuild(cause) // this copy's part may have changed
			retry = time.After(rebuildAgainAfter)
		}
		if sl, ok := k.n.raft.State().Slot(k.id); ok && !k.converge(ctx, sl) {
			retry = time.After(retryRole)
		}
	}
	select {
	case <-changed:
	case <-k.poke:
	case <-retry:
	case <-failed:
		k.failed = true
		k.role.end()
		k.n.setCondition(monitor.SlotFailed, k.id.String(), s.Failure())
	case w := <-k.index.parking:
		k.park(ctx, w)
	case w := <-k.dropped.removing:
		k.letGo(ctx, w)
	case err := <-k.index.broken:
		k.index.cause = err
	case err := <-k.index.wrong:
		k.countAgain(err)
	case <-ctx.Done():
	}
}

// others lists the nodes that Raft gives the slot's other copies.
func (k *keeper) others() []slot.NodeName {
	sl, _ := k.n.raft.State().Slot(k.id)
	return slices.DeleteFunc(append([]slot.NodeName{sl.Master}, sl.Replicas...), func(n slot.NodeName) bool {
		return n == "" || n == k.n.cfg.Node.Name
	})
}

// opened returns the copy, nil while it is not open.
func (k *keeper) opened() *local.Slot {
	s, _ := k.open.state()
	return s
}

// unlessFailed runs what reads a copy's disk, and no longer waits for it once the
// copy has failed: its disk may never answer, and others have their turn (law 9).
func (k *keeper) unlessFailed(ctx context.Context, fn func(context.Context) error) error {
	s := k.opened()
	if s == nil {
		return fn(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { defer cancel(); done <- fn(ctx) }()
	select {
	case err := <-done:
		return err
	case <-s.Failed():
	}
	cancel()
	grace := time.NewTimer(failedGrace)
	defer grace.Stop()
	select {
	case err := <-done:
		return err
	case <-grace.C:
		return s.Failure()
	}
}

// bounded is a job that gives its place to others when its copy fails.
func (k *keeper) bounded(run func(context.Context, *job.Progress) error) func(context.Context, *job.Progress) error {
	return func(ctx context.Context, p *job.Progress) error {
		return k.unlessFailed(ctx, func(ctx context.Context) error { return run(ctx, p) })
	}
}

// failedGrace is how long work on a copy that has failed may take to notice.
const failedGrace = time.Second
