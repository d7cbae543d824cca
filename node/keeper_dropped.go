package node

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/errors/oserror"

	"mailnode/failover"
	"mailnode/figures"
	"mailnode/node/admin"
	"mailnode/node/job"
	"mailnode/node/monitor"
	"mailnode/node/rpc"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/slot"
)

const (
	// dropAskEvery is how often a copy that Raft no longer lists asks its master.
	dropAskEvery = 5 * time.Second
	// dropAskWithin is how long the master may take to answer.
	dropAskWithin = time.Second
	// dropBytesPerSec bounds how fast files of dropped copies are removed (law 12).
	dropBytesPerSec = 200 << 20
)

// droppedCopy is what a keeper knows of a copy that Raft no longer lists. Its channel is
// anybody's.
type droppedCopy struct {
	removing chan *removal // a job wants the copy closed, to remove it
	tried    time.Duration // Clock.Mono when the master was asked last
	running  *job.Job      // the last removal that was begun
	removed  bool          // the files are gone: the keeper ends
	told     atomic.Pointer[keptCopy]
}

// keptCopy is why the files of a dropped copy are still there.
type keptCopy struct {
	why   string
	head  slot.Position
	alone bool // it holds what its master does not have, and a person must look
}

// removal is a copy that is closed to be removed.
type removal struct {
	closed chan error // capacity 1: nil, or why it cannot be
	gone   chan bool  // capacity 1: whether it was removed
}

// errHoldsMore says that a dropped copy has what its master does not have.
var errHoldsMore = errors.New("it holds what the master does not have")

// retire works towards the end of a copy that Raft no longer lists: when its master holds
// all of it, its files go. What has anything of its own stays, and is told of (law 7). It
// reports whether nothing is left to do before something changes.
func (k *keeper) retire(ctx context.Context, sl cluster.Slot) bool {
	now := k.n.clock.Mono()
	switch s := k.opened(); {
	case s == nil, sl.Master == "":
		return true
	case k.dropped.tried != 0 && now-k.dropped.tried < k.n.dropAskEvery:
		return false
	}
	if j := k.dropped.running; j != nil {
		select {
		case <-j.Over():
			if j.Err() != nil && now-k.dropped.tried < rebuildAgainAfter {
				return false
			}
		default:
			return false
		}
	}
	k.dropped.tried = now
	head, err := k.opened().Head()
	if err == nil {
		err = k.unlessFailed(ctx, k.mayRemove)
	}
	if err != nil {
		kept := keptCopy{why: err.Error(), head: head.Position, alone: errors.Is(err, errHoldsMore)}
		if was := k.dropped.told.Swap(&kept); was == nil || was.why != kept.why {
			k.log.Info("a dropped copy is kept", "head", head.Position, "because", err)
		}
		return false
	}
	k.dropped.told.Store(&keptCopy{why: "its files are being removed", head: head.Position})
	k.dropped.running = k.n.jobs.Start(dropJob(k.id), k.remove)
	return false
}

// mayRemove returns nil when the files of this copy may go: a leader with a quorum agrees
// that it is not listed, and the master, which serves, holds all of it (LAWS §6.17).
func (k *keeper) mayRemove(ctx context.Context) error {
	sl, err := k.unlisted(ctx)
	if err != nil {
		return err
	}
	dir := k.n.fs.PathJoin(k.options.Dir, "quarantine")
	if names, err := k.n.fs.List(dir); err != nil && !oserror.IsNotExist(err) {
		return fmt.Errorf("look into %s: %w", dir, err)
	} else if len(names) > 0 {
		return fmt.Errorf("something lies in %s, which no program removes: mailnode rescue list", dir)
	}
	s := k.opened()
	head, err := s.Head()
	if err != nil {
		return err
	}
	promised, err := s.Promised()
	if err != nil {
		return err
	}
	if promised > sl.Epoch {
		return fmt.Errorf("epoch %d was seen, and Raft has %d", promised, sl.Epoch)
	}
	ctx, cancel := context.WithTimeout(ctx, dropAskWithin)
	defer cancel()
	q := failover.Question{Slot: k.id, Epoch: sl.Epoch}
	if !head.Building { // else it has nothing that it did not get from a master
		q.Dropped = &failover.DroppedCopy{Position: head.Position, Lineage: head.Lineage}
	}
	got, err := k.n.Ask(ctx, sl.Master, []failover.Question{q})
	switch {
	case err != nil:
		return fmt.Errorf("waits for the word of its master: %w", err)
	case len(got.Copies) != 1 || !got.Copies[0].Serving || got.Copies[0].Epoch != sl.Epoch:
		return fmt.Errorf("waits until its master %s serves", sl.Master)
	}
	switch a := got.Copies[0]; {
	case q.Dropped == nil:
		return nil
	case a.Covers == nil:
		return fmt.Errorf("waits for the word of its master %s: %s", sl.Master, a.CoversNot)
	case !*a.Covers:
		return fmt.Errorf("%w (%s ends at %s); to have that listed: mailnode slot add-replica %s %s", errHoldsMore, sl.Master, a.Position, k.id, k.n.cfg.Node.Name)
	}
	return nil
}

// unlisted returns the slot as a leader with a quorum has it now, when that does not list
// this node.
func (k *keeper) unlisted(ctx context.Context) (cluster.Slot, error) {
	ctx, cancel := context.WithTimeout(ctx, freshWithin)
	defer cancel()
	if err := k.n.Fresh(ctx); err != nil {
		return cluster.Slot{}, fmt.Errorf("waits until a quorum agrees that it was dropped: %w", err)
	}
	sl, ok := k.n.raft.State().Slot(k.id)
	if !ok || sl.Master == "" || sl.Holds(k.n.cfg.Node.Name) {
		return sl, errors.New("it is listed again")
	}
	return sl, nil
}

// coversDropped answers, at a master, whether it holds all of a copy that was dropped. While
// it lacks a body itself, that copy may be the one that has it.
func (k *keeper) coversDropped(ctx context.Context, d failover.DroppedCopy, a *failover.CopyAnswer) {
	master, feed, _ := k.role.parts()
	if feed == nil {
		a.CoversNot = "it does not serve"
		return
	}
	all, err := feed.Covers(d.Position, d.Lineage)
	if err == nil && all {
		var missing []storage.Missing
		if missing, err = master.Missing(ctx); err == nil && len(missing) > 0 {
			err = fmt.Errorf("it lacks the bodies of %s, which this copy may have: mailnode slot missing %s", figures.Count(len(missing), "message"), k.id)
		} else if err == nil && k.mend.ails() {
			err = errors.New("its own copy is damaged, and being mended")
		}
	}
	if err != nil {
		a.CoversNot = err.Error()
		return
	}
	a.Covers = &all
}

// remove is the job that removes a dropped copy. What it decides is durable before the
// first file is touched, and a restart goes on with it.
func (k *keeper) remove(ctx context.Context, p *job.Progress) error {
	if err := k.takeAway(ctx); err != nil {
		return err
	}
	return k.n.volumes.sweep(ctx, k.id, p.Spend)
}

// takeAway has the copy closed, and decides that it goes. The keeper waits for that: it
// is told in any case, also when the job was stopped meanwhile.
func (k *keeper) takeAway(ctx context.Context) error {
	w := &removal{closed: make(chan error, 1), gone: make(chan bool, 1)}
	gone := false
	defer func() { w.gone <- gone }()
	if err := handed(ctx, k.dropped.removing, w, w.closed); err != nil {
		return err
	}
	_, err := k.unlisted(ctx) // nobody has written to it since the master was asked
	if err == nil {
		err = k.n.volumes.retire(k.id)
	}
	gone = err == nil
	return err
}

// letGo closes the copy, holds still while it is removed, and opens it again when that was
// not done.
func (k *keeper) letGo(ctx context.Context, w *removal) {
	if sl, ok := k.n.raft.State().Slot(k.id); !ok || sl.Holds(k.n.cfg.Node.Name) {
		w.closed <- errors.New("it is listed again")
		return
	}
	if err := k.giveUp(errors.New("it was dropped, and its files are being removed")); err != nil {
		w.closed <- fmt.Errorf("remove copy of %s: %w", k.id, err)
		return
	}
	w.closed <- nil
	select {
	case k.dropped.removed = <-w.gone:
	case <-ctx.Done():
		return
	}
	if !k.dropped.removed {
		k.openCopy(ctx)
		return
	}
	k.log.Info("the dropped copy was removed: its master holds all of it")
}

// droppedBefore starts keepers for copies that this node holds and Raft does not list, and
// goes on removing files where a restart, an error or a person cut that off.
func (c *copies) droppedBefore(ctx context.Context) {
	c.n.logErr("move dropped copies away", c.n.volumes.finishRetires())
	c.sweep()
	for ctx.Err() == nil && c.n.Fresh(ctx) != nil { // what is listed is not known yet
		if !pause(ctx, retryRole) {
			return
		}
	}
	held, err := c.n.volumes.heldSlots()
	c.n.logErr("look for copies that were dropped", err)
	for _, id := range held {
		c.keep(ctx, id)
	}
	for pause(ctx, c.n.upkeepEvery) {
		c.sweep()
	}
}

// sweep starts jobs that remove what is left of dropped copies.
func (c *copies) sweep() {
	for _, id := range c.n.volumes.retired() {
		c.n.jobs.Start(dropJob(id), func(ctx context.Context, p *job.Progress) error { return c.n.volumes.sweep(ctx, id, p.Spend) })
	}
}

func dropJob(id slot.ID) job.Spec {
	return job.Spec{Kind: job.Drop, Slot: id.String(), What: "files of a dropped copy", RateBytesPerSec: dropBytesPerSec, Alone: true}
}

// dropShown is how long a drop may take before it is a condition.
const dropShown = 5 * time.Minute

// tellLeaving keeps the condition about replicas that are to be dropped and still needed.
func (n *Node) tellLeaving(sl cluster.Slot, v failover.View) {
	t := monitor.Told{After: dropShown}
	if len(sl.Leaving) > 0 {
		t.Detail = failover.LeavingFor(n.State(), v, n.cfg.Replication.SuspectAfter, sl)
	}
	n.conditions.Tell(len(sl.Leaving) > 0, monitor.ReplicaLeaving, sl.ID.String(), t)
}

// tellDropped keeps the condition about this node's copy, if that was dropped.
func (k *keeper) tellDropped() {
	t := monitor.Told{After: dropShown}
	kept := k.dropped.told.Load()
	if kept != nil {
		t.Detail = kept.why
	}
	k.n.conditions.Tell(kept != nil, monitor.CopyDropped, k.id.String(), t)
}

// droppedName stands for a dropped copy among what was set aside.
const droppedName = "dropped-copy"

// keptAlone lists the dropped copies that hold what their masters do not have.
func (c *copies) keptAlone() (out []failover.AsideReport) {
	for _, k := range c.all() {
		if kept := k.dropped.told.Load(); kept != nil && kept.alone {
			out = append(out, failover.AsideReport{Slot: k.id, Name: droppedName, Trouble: kept.why})
		}
	}
	return out
}

// showDropped shows a dropped copy that is kept for what it alone has.
func (k *keeper) showDropped(q *rpc.RescueCall) (admin.Aside, bool) {
	kept := k.dropped.told.Load()
	if kept == nil || !kept.alone || q.GetDismiss() != nil || q.What != "" && q.What != k.id.String() && q.What != droppedName {
		return admin.Aside{}, false
	}
	return admin.Aside{Node: k.n.cfg.Node.Name, Slot: k.id, Name: droppedName, Was: "replica", Acknowledged: true, Head: kept.head, Trouble: kept.why}, true
}

// removed forgets a keeper whose copy was removed. The slot may be listed here again.
func (c *copies) removed(k *keeper) {
	c.mu.Lock()
	delete(c.m, k.id)
	c.mu.Unlock()
	select {
	case c.again <- struct{}{}:
	default:
	}
}
