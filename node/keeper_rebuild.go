package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"mailnode/node/job"
	"mailnode/node/monitor"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/local"
)

const (
	// rebuildBytesPerSec leaves most of a disk to clients (law 12).
	rebuildBytesPerSec = 100 << 20
	// rebuildAgainAfter is the pause after a rebuild that ended in an error.
	rebuildAgainAfter = time.Minute
	// rebuildFreshWithin is how long a rebuild waits for a leader's word.
	rebuildFreshWithin = 30 * time.Second
	// countAgainAfter is how often damage may begin a count.
	countAgainAfter = 10 * time.Minute
)

// indexDamage is what a keeper knows of damage of its copy's index. Damage is told
// of in the middle of reads, with locks held: it is noted, and the keeper woken.
type indexDamage struct {
	broken    chan error             // capacity 1: files of the index are damaged
	wrong     chan error             // capacity 1: a derived record is
	parking   chan *parked           // a rebuild wants the copy closed
	tried     time.Duration          // Clock.Mono of the last rebuild that failed
	running   *job.Job               // the last rebuild that was begun
	pending   local.RebuildMode      // a rebuild that a restart cut off
	cause     error                  // why the index of the open copy is to be rebuilt
	packsLost bool                   // an empty disk is in the place of the one with the packs
	counted   time.Duration          // Clock.Mono of the last count that damage began; 0: none
	told      atomic.Pointer[string] // why the index is to be rebuilt, as others are told; nil: it is not
}

// parked is a copy that is closed for a rebuild, until done is closed.
type parked struct {
	closed chan error // capacity 1: nil, or why it cannot be
	done   chan struct{}
}

func newIndexDamage() indexDamage {
	return indexDamage{broken: make(chan error, 1), wrong: make(chan error, 1), parking: make(chan *parked)}
}

// damageMet implements local.Options.OnDamage.
func (k *keeper) damageMet(d local.Damage) {
	if d.Index {
		to := k.index.wrong
		if local.IndexLost(d.Err) {
			to = k.index.broken
		}
		select {
		case to <- d.Err:
		default: // it is known
		}
	}
	k.mend.report(d)
}

// rebuildMode says how the index may be rebuilt without a person: a replica's
// from its master; a master's from its own packs when Raft lists no other copy. A
// master that has others stays as it is, and a person confirms who is to serve
// (law 4). pending is a rebuild that was cut off, if there was one.
func (k *keeper) rebuildMode(sl cluster.Slot, pending local.RebuildMode) local.RebuildMode {
	me := k.n.cfg.Node.Name
	switch {
	case sl.Master == me && (len(sl.Replicas) == 0 || pending == local.Alone):
		return local.Alone
	case sl.Master != me && sl.Master != "" && sl.Holds(me):
		return local.Refill
	}
	return ""
}

// beginRebuild begins to rebuild, when that may be done; cause says why.
func (k *keeper) beginRebuild(cause error) {
	k.tellIndexDamage(cause)
	if cause == nil {
		return
	}
	sl, ok := k.n.raft.State().Slot(k.id)
	mode := k.rebuildMode(sl, k.index.pending)
	if !ok || mode == "" {
		return
	}
	if j := k.index.running; j != nil {
		select {
		case <-j.Over():
			if k.n.clock.Mono()-k.index.tried < rebuildAgainAfter {
				return
			}
		default:
			return
		}
	}
	k.index.running, k.index.tried = k.rebuild(mode, ""), k.n.clock.Mono()
}

// tellIndexDamage keeps the condition about this copy's index. What a master whose
// replicas know its mail better needs is another master.
func (k *keeper) tellIndexDamage(cause error) {
	t := monitor.Told{}
	if cause != nil {
		t.Detail = cause.Error()
	}
	if sl, ok := k.n.State().Slot(k.id); ok && sl.Master == k.n.cfg.Node.Name && len(sl.Replicas) > 0 {
		t.Next = k.serveElsewhere()
	}
	k.index.told.Store(nil)
	if local.IndexLost(cause) {
		k.index.told.Store(&t.Detail)
	}
	k.n.conditions.Tell(cause != nil, monitor.IndexDamaged, k.id.String(), t)
}

func rebuildWhat(mode local.RebuildMode) string {
	if mode == local.Alone {
		return "index, from what is left of it and from the packs"
	}
	return "index, from the packs and the master"
}

// rebuild starts a job that rebuilds the index. It goes on when whoever asked
// for it has gone, and after a restart (law 12).
func (k *keeper) rebuild(mode local.RebuildMode, by string) *job.Job {
	return k.n.jobs.Start(job.Spec{Kind: job.Reindex, Slot: k.id.String(), What: rebuildWhat(mode), By: by, RateBytesPerSec: rebuildBytesPerSec, Alone: true},
		func(ctx context.Context, p *job.Progress) error { return k.rebuildIndex(ctx, p, mode) })
}

// handed gives the run loop work for which it closes the copy, and waits until it has.
func handed[T any](ctx context.Context, loop chan<- T, work T, closed <-chan error) error {
	select {
	case loop <- work:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-closed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (k *keeper) rebuildIndex(ctx context.Context, p *job.Progress, mode local.RebuildMode) error {
	if mode == local.Refill {
		if err := k.knowEpoch(ctx); err != nil {
			return err
		}
	}
	w := &parked{closed: make(chan error, 1), done: make(chan struct{})}
	defer close(w.done)
	if err := handed(ctx, k.index.parking, w, w.closed); err != nil {
		return err
	}
	sl, _ := k.n.raft.State().Slot(k.id)
	if me := k.n.cfg.Node.Name; mode == local.Refill && sl.Master == me {
		return fmt.Errorf("rebuild index of %s: %q has become its master", k.id, me)
	}
	o := k.options // the run loop stands still
	if o.FS == nil {
		return fmt.Errorf("rebuild index of %s: it is not known where its files are: mailnode slot show %s", k.id, k.id)
	}
	o.OnDamage, o.OnStep, o.Refill = nil, nil, true
	got, err := local.Rebuild(ctx, o, local.RebuildOptions{Mode: mode, Epoch: sl.Epoch, Unclean: sl.Unclean, PacksLost: k.index.packsLost,
		RecountOptions: local.RecountOptions{Spend: p.Spend, Progress: progressOf(p), Found: func(line string) { p.Finding("%s", line) }}})
	if err != nil {
		return err
	}
	p.Finding("%d bodies found in the packs", got.Bodies)
	if mode == local.Refill {
		p.Finding("the master now gives the rest: mailnode slot show %s", k.id)
		return nil
	}
	p.Finding("%d messages kept their UIDs and flags, %d came back from the packs under new UIDs, %d mailboxes have a new UIDVALIDITY",
		got.Kept, got.FromPacks, got.NewUIDValidity)
	for _, a := range got.Made {
		p.Finding("account %s has no password: mailnode user passwd %s", a, a)
	}
	return nil
}

// knowEpoch returns when this node's Raft is as new as a leader with a quorum says. What
// the copy has promised may be lost with its index. It keeps to the epoch that Raft has then,
// and an old one would let it follow, and confirm to, a master whose epoch is over (law 1).
func (k *keeper) knowEpoch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, rebuildFreshWithin)
	defer cancel()
	for {
		err := k.n.Fresh(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("rebuild index of %s: waits for a quorum that says which epoch it is in: %w", k.id, err)
		case <-time.After(retryRole):
		}
	}
}

// progressOf turns counts so far into steps.
func progressOf(p *job.Progress) func(done, total int64) {
	last := int64(0)
	return func(done, total int64) {
		p.Total(0, total)
		if done > last {
			p.Items(done - last)
		}
		last = done
	}
}

// park closes the copy, holds still while its index is rebuilt, and opens it.
func (k *keeper) park(ctx context.Context, w *parked) {
	if err := k.giveUp(errors.New("its index is being rebuilt: mailnode job list")); err != nil {
		w.closed <- fmt.Errorf("rebuild index of %s: %w", k.id, err)
		return
	}
	w.closed <- nil
	<-w.done
	k.mend.indexMended()
	k.openCopy(ctx)
}

func drain(c chan error) {
	select {
	case <-c:
	default:
	}
}

// tellRebuilt says for as long as the report lies there that an index was rebuilt
// without a master: a person is to read what came back, and to move it away.
func (k *keeper) tellRebuilt() {
	dir := filepath.Join(k.options.Dir, "quarantine")
	reports, err := filepath.Glob(filepath.Join(dir, "index-*.reason"))
	k.n.logErr("look into quarantine", err)
	if len(reports) == 0 {
		k.n.setCondition(monitor.SlotReindexed, k.id.String(), nil)
		return
	}
	first, err := os.ReadFile(reports[len(reports)-1])
	k.n.logErr("read report", err)
	k.n.setCondition(monitor.SlotReindexed, k.id.String(), fmt.Errorf("%s; all of it is in %s, move that away when you have read it",
		strings.Join(strings.Split(strings.TrimSpace(string(first)), "\n")[1:4], ", "), reports[len(reports)-1]))
}

// countAgain computes derived records again because one of them is wrong. What a
// count cannot mend would have it begin again and again.
func (k *keeper) countAgain(why error) {
	if _, _, follower := k.role.parts(); follower != nil {
		return // the mender has it fetch the state again
	}
	now := k.n.clock.Mono()
	if k.index.counted != 0 && now-k.index.counted < countAgainAfter {
		return
	}
	k.log.Warn("a record of the index is wrong: derived records are computed again", "err", why)
	k.index.counted = now
	k.recount(local.Scope{}, "derived records", "")
}

// recount starts a job that computes derived records of a serving copy.
func (k *keeper) recount(sc local.Scope, what, by string) *job.Job {
	return k.n.jobs.Start(job.Spec{Kind: job.Reindex, Slot: k.id.String(), What: what, By: by, RateBytesPerSec: rebuildBytesPerSec, Alone: true},
		k.bounded(func(ctx context.Context, p *job.Progress) error {
			s := k.n.copies.slot(k.id)
			if s == nil {
				return storage.Errorf(storage.ErrUnavailable, "recount slot %s: its copy here is not open", k.id)
			}
			got, err := s.Recount(ctx, sc, local.RecountOptions{Spend: p.Spend, Progress: progressOf(p), Found: func(line string) { p.Finding("%s", line) }})
			if err == nil && got.Unreadable > 0 {
				err = fmt.Errorf("recount slot %s: %d records cannot be read: mailnode slot audit %s --repair", k.id, got.Unreadable, k.id)
			}
			return err
		}))
}
