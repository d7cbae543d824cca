package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mailnode/node/admin"
	"mailnode/node/job"
	"mailnode/node/monitor"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

const (
	// reindexBytesPerSec leaves most of a disk to clients (law 12).
	reindexBytesPerSec = 100 << 20
	// rebuildAgainAfter is the pause after a rebuild that ended in an error.
	rebuildAgainAfter = time.Minute
	// countAgainAfter is how often damage may begin a count.
	countAgainAfter = 10 * time.Minute
)

// reindexing is what a keeper knows of damage of its copy's index. Damage is told
// of in the middle of reads, with locks held: it is noted, and the keeper woken.
type reindexing struct {
	broken  chan error        // capacity 1: files of the index are damaged
	wrong   chan error        // capacity 1: a derived record is
	parking chan *parked      // a rebuild wants the copy closed
	tried   time.Duration     // Clock.Mono of the last rebuild that failed
	running *job.Job          // the last rebuild that was begun
	pending local.RebuildMode // a rebuild that a restart cut off; guarded by keeper.mu
	cause   error             // why the index of the open copy is to be rebuilt
	counted time.Duration     // Clock.Mono of the last count that damage began; 0: none
}

// parked is a copy that is closed for a rebuild, until done is closed.
type parked struct {
	closed chan error // capacity 1: nil, or why it cannot be
	done   chan struct{}
}

func newReindexing() reindexing {
	return reindexing{broken: make(chan error, 1), wrong: make(chan error, 1), parking: make(chan *parked)}
}

// damageMet implements local.Options.OnDamage.
func (k *keeper) damageMet(d local.Damage) {
	if d.Index {
		to := k.reindex.wrong
		if local.IndexLost(d.Err) {
			to = k.reindex.broken
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

// mendIndex begins to rebuild, when that may be done; cause says why.
func (k *keeper) mendIndex(cause error) {
	k.tellIndexDamage(cause)
	if cause == nil {
		return
	}
	sl, ok := k.n.raft.State().Slot(k.id)
	mode := k.rebuildMode(sl, k.reindex.pending)
	if !ok || mode == "" {
		return
	}
	if j := k.reindex.running; j != nil {
		select {
		case <-j.Over():
			if k.n.clock.Mono()-k.reindex.tried < rebuildAgainAfter {
				return
			}
		default:
			return
		}
	}
	k.reindex.running, k.reindex.tried = k.rebuild(mode, ""), k.n.clock.Mono()
}

// tellIndexDamage keeps the condition about this copy's index. What a master whose
// replicas know its mail better needs is another master.
func (k *keeper) tellIndexDamage(cause error) {
	t := monitor.Told{}
	if cause != nil {
		t.Detail = cause.Error()
	}
	if sl, ok := k.n.State().Slot(k.id); ok && sl.Master == k.n.cfg.Node.Name && len(sl.Replicas) > 0 {
		t.Next = serveElsewhere
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
	return k.n.jobs.Start(job.Spec{Kind: job.Reindex, Slot: k.id.String(), What: rebuildWhat(mode), By: by, RateBytesPerSec: reindexBytesPerSec, Alone: true},
		func(ctx context.Context, p *job.Progress) error { return k.rebuildIndex(ctx, p, mode) })
}

func (k *keeper) rebuildIndex(ctx context.Context, p *job.Progress, mode local.RebuildMode) error {
	w := &parked{closed: make(chan error, 1), done: make(chan struct{})}
	defer close(w.done)
	select {
	case k.reindex.parking <- w:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-w.closed:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return ctx.Err()
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
	got, err := local.Rebuild(ctx, o, local.RebuildOptions{Mode: mode, Epoch: sl.Epoch, Unclean: sl.Unclean,
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
	k.mu.Lock()
	s := k.copy
	k.mu.Unlock()
	if s != nil && s.Failure() != nil {
		w.closed <- fmt.Errorf("rebuild index of %s: its store has failed; systemctl restart mailnode: %w", k.id, s.Failure())
		return
	}
	if !k.end() {
		w.closed <- fmt.Errorf("rebuild index of %s: %w", k.id, errNotEnded)
		return
	}
	k.mu.Lock()
	k.copy, k.refused = nil, errors.New("its index is being made anew: mailnode job list")
	k.mu.Unlock()
	if s != nil {
		k.n.logErr("close slot", s.Close())
	}
	drain(k.reindex.broken)
	drain(k.reindex.wrong)
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

// optionsAt are those of the copy at a place.
func (k *keeper) optionsAt(p place) local.Options {
	n := k.n
	undelete := n.cfg.Replication.Undelete
	if undelete == 0 {
		undelete = -1 // none; 0 would be the default
	}
	return local.Options{
		FS: n.fs, Dir: slotDir(p.volume, k.id), PacksDir: packsDir(p.volume, k.id), Cluster: n.id.ClusterID(), Slot: k.id,
		Logger: n.log, Clock: n.clock, Resources: n.resources, Passwords: n.passwords, OnDamage: k.damageMet, OnStep: k.openingStep,
		Limits: local.Limits{JournalEventsMax: int(n.cfg.JournalMax), Undelete: undelete}, Refill: p.held,
		Features: func() slot.FeatureLevel { return n.State().Features() },
	}
}

// madeAnew says for as long as the report lies there that an index was rebuilt
// without a master: a person is to read what came back, and to move it away.
func (k *keeper) madeAnew() {
	dir := filepath.Join(k.dir, "quarantine")
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
	if _, _, follower := k.roles(); follower != nil {
		return // the mender has it fetch the state again
	}
	now := k.n.clock.Mono()
	if k.reindex.counted != 0 && now-k.reindex.counted < countAgainAfter {
		return
	}
	k.log.Warn("a record of the index is wrong: derived records are computed again", "err", why)
	k.reindex.counted = now
	k.recount(local.Scope{}, "derived records", "")
}

// recount starts a job that computes derived records of a serving copy.
func (k *keeper) recount(sc local.Scope, what, by string) *job.Job {
	return k.n.jobs.Start(job.Spec{Kind: job.Reindex, Slot: k.id.String(), What: what, By: by, RateBytesPerSec: reindexBytesPerSec, Alone: true},
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

// reindexer implements admin.Reindexing.
type reindexer struct{ n *Node }

// Reindex implements admin.Reindexing.
func (r reindexer) Reindex(ctx context.Context, q admin.ReindexRequest) (admin.Job, error) {
	k, sc, what, err := r.scope(q)
	if err != nil {
		return admin.Job{}, err
	}
	if !q.FromPacks {
		if r.n.copies.slot(k.id) == nil {
			return admin.Job{}, &admin.Error{Text: fmt.Sprintf("reindex slot %s: its copy here is not open", k.id), Exit: admin.ExitRefused,
				Next: fmt.Sprintf("mailnode slot reindex %s --from-packs", k.id)}
		}
		return k.recount(sc, what, q.By).Status(), nil
	}
	sl, _ := r.n.State().Slot(k.id)
	mode := k.rebuildMode(sl, "")
	switch {
	case sc != (local.Scope{}):
		return admin.Job{}, &admin.Error{Text: "--from-packs makes the index of a whole slot anew", Exit: admin.ExitUsage}
	case q.Alone:
		if sl.Master != r.n.cfg.Node.Name {
			return admin.Job{}, &admin.Error{Text: fmt.Sprintf("reindex slot %s alone: %q is its master, not this node", k.id, sl.Master), Exit: admin.ExitRefused,
				Next: fmt.Sprintf("mailnode slot reindex %s --from-packs", k.id)}
		}
		mode = local.Alone
	case mode == "":
		return admin.Job{}, &admin.Error{Text: fmt.Sprintf("reindex slot %s: this node is its master, and its replicas know its mail better than its packs do; once it is a replica it is rebuilt by itself (--alone insists)", k.id),
			Exit: admin.ExitRefused, Next: serveElsewhere}
	}
	return k.rebuild(mode, q.By).Status(), nil
}

// scope finds the copy and what of it is meant.
func (r reindexer) scope(q admin.ReindexRequest) (*keeper, local.Scope, string, error) {
	id, addr := q.Slot, slot.Address("")
	st := r.n.State()
	if q.Address != "" {
		addr = q.Address
		id = addr.Home(max(1, st.SlotCount))
	}
	for range 3 { // an account may have moved: its home slot says where to
		k := r.n.copies.keeper(id)
		if k == nil {
			sl, ok := st.Slot(id)
			if !ok {
				return nil, local.Scope{}, "", cluster.ErrNotFound{Kind: "slot", Name: id.String()}
			}
			return nil, local.Scope{}, "", r.n.noCopy("reindex", sl, strings.TrimSpace(cmp.Or(string(addr), id.String())+" "+q.Mailbox))
		}
		if addr == "" {
			return k, local.Scope{}, "derived records", nil
		}
		s := r.n.copies.slot(id)
		if s == nil {
			return nil, local.Scope{}, "", storage.Errorf(storage.ErrUnavailable, "reindex %s: the copy of slot %s here is not open", addr, id)
		}
		sc, in, err := s.Find(addr, q.Mailbox)
		if err != nil {
			return nil, sc, "", r.n.unknownOr(err, id)
		}
		if in == id {
			return k, sc, strings.TrimSpace(fmt.Sprintf("derived records of %s %s", addr, q.Mailbox)), nil
		}
		id = in
	}
	return nil, local.Scope{}, "", storage.Errorf(storage.ErrNotFound, "account %q: its slot points to another", addr)
}
