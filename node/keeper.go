package node

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"mailnode/failover"
	"mailnode/node/job"
	"mailnode/node/monitor"
	"mailnode/storage"
	"mailnode/storage/local"
	"mailnode/storage/repl"
	"mailnode/storage/slot"
)

// keeper keeps one copy in the role that Raft gives it.
type keeper struct {
	n   *Node
	id  slot.ID
	log *slog.Logger
	dir string // of the copy, set when it is opened
	// options are those of the copy, set when it is opened; the run loop's own.
	options local.Options
	poke    chan struct{} // look at Raft again now
	mend    *mender

	reindex reindexing // the run loop's own, and channels
	failed  bool       // the store has stopped for good; the run loop's own

	mu       sync.Mutex // guards all below
	copy     *local.Slot
	refused  error // why the copy could not be opened
	opening  openProgress
	role     failover.Role
	epoch    slot.Epoch
	term     uint64      // +1 whenever a role ends: one that was ended while it began is not taken
	waiting  string      // a master that does not serve yet: why
	lost     *lostEvents // a master whose copy has lost events: it must not serve
	told     toldEpochs
	master   *local.Master
	servedAt time.Duration // Clock.Mono when master began
	feed     *repl.Feed
	follower *repl.Follower
	leave    func()        // ends the role: at once what changes the mail, then it waits for the rest
	ended    chan struct{} // closed when the last role that was left has ended; nil: none was
	users    shownUsers
}

func (k *keeper) wake() {
	select {
	case k.poke <- struct{}{}:
	default:
	}
}

const retryRole = time.Second

// run opens the copy and converges until ctx ends.
func (k *keeper) run(ctx context.Context) {
	defer k.end()
	k.openCopy(ctx)
	k.n.wg.Go(func() { k.mend.run(ctx) })
	for ctx.Err() == nil {
		k.turn(ctx)
	}
}

// turn converges once, and waits for what makes it necessary again.
func (k *keeper) turn(ctx context.Context) {
	k.mu.Lock()
	s, refused := k.copy, k.refused
	k.mu.Unlock()
	if s == nil && errors.Is(refused, storage.ErrDiskFull) {
		k.openWhenRoom(ctx)
		return
	}
	changed := k.n.raft.Changed()
	var retry <-chan time.Time
	var failed <-chan struct{}
	switch {
	case s == nil: // a person must act and restart the process, unless it is the index
		if local.IndexLost(refused) || k.reindex.pending != "" {
			k.mendIndex(refused)
			retry = time.After(rebuildAgainAfter)
		}
	case !k.failed:
		failed = s.Failed()
		if cause := k.reindex.cause; cause != nil {
			k.mendIndex(cause) // this copy's part may have changed
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
		k.end()
		k.n.setCondition(monitor.SlotFailed, k.id.String(), s.Failure())
	case w := <-k.reindex.parking:
		k.park(ctx, w)
	case err := <-k.reindex.broken:
		k.reindex.cause = err
	case err := <-k.reindex.wrong:
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
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.copy
}

// roles returns what the copy is now.
func (k *keeper) roles() (*local.Master, *repl.Feed, *repl.Follower) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.master, k.feed, k.follower
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
