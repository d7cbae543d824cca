package node

import (
	"context"
	"time"

	"mailnode/node/job"
	"mailnode/storage"
	"mailnode/storage/local"
)

const (
	// freeRecordsPerSec leaves most of a slot's changes to clients (law 12).
	freeRecordsPerSec = 5000
	// compactBytesPerSec bounds what compaction reads and writes.
	compactBytesPerSec = 20 << 20
	// compressAfter is how long, by the slot clock, a pack is left as it came in.
	compressAfter = 7 * 24 * time.Hour
)

// upkeep does what one copy needs now and then.
func (k *keeper) upkeep(ctx context.Context) error {
	s := k.opened()
	m, _, _ := k.role.parts()
	if s == nil || s.Failure() != nil || s.Building() {
		return nil
	}
	if err := k.free(ctx, s, m); err != nil {
		return err
	}
	return k.compact(ctx, s)
}

// compact gives back the room of what was freed, on masters and replicas alike,
// and encodes older mail. What there is to do is a job of its own; it is waited
// for, so that one copy of a node at a time is compacted.
func (k *keeper) compact(ctx context.Context, s *local.Slot) error {
	o := local.CompactOptions{Compress: true, CompressAfter: compressAfter}
	if due, err := s.CompactionDue(ctx, o); err != nil || !due {
		return err
	}
	j := k.n.jobs.Start(job.Spec{Kind: job.Compact, Slot: k.id.String(), What: "packs", RateBytesPerSec: compactBytesPerSec, Alone: true},
		k.bounded(func(ctx context.Context, p *job.Progress) error {
			o.Spend = p.Spend
			o.Progress = func(at local.CompactProgress) { p.Total(2*at.BytesAll, 0) } // read and written
			got, err := s.CompactPacks(ctx, o)
			p.Finding("%d packs of %.1f MiB removed, %d bodies copied into %.1f MiB, %d packs kept because something needs them",
				got.Removed, float64(got.RemovedBytes)/(1<<20), got.Moved, float64(got.WrittenBytes)/(1<<20), got.Kept)
			return err
		}))
	select {
	case <-j.Over():
		return nil // its error is the job's
	case <-s.Failed():
		return s.Failure()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// free forgets what the undelete window no longer keeps: the master says what
// goes, in events; each copy trims its own journal.
func (k *keeper) free(ctx context.Context, s *local.Slot, m *local.Master) error {
	if m == nil {
		return k.trim(ctx, s)
	}
	if k.wouldRefill() {
		k.log.Info("nothing is freed now: a replica still takes what would go")
		return nil
	}
	freed, err := m.Free(ctx, spend)
	if freed != (local.Freed{}) {
		k.log.Info("freed", "messages", freed.Messages, "mailboxes", freed.Mailboxes, "accounts", freed.Accounts)
	}
	return err
}

// trim forgets, on a replica, events that are older than the undelete window.
func (k *keeper) trim(ctx context.Context, s *local.Slot) error {
	head, err := s.Head()
	if err != nil {
		return err
	}
	window := uint64(k.n.cfg.Replication.Undelete / time.Millisecond)
	if head.ClockMs <= window {
		return nil
	}
	return s.TrimJournalClock(ctx, head.ClockMs-window)
}

// wouldRefill reports whether a replica is connected that is as far behind as the
// undelete window is long: freeing now would make it fetch the whole state, when
// it only has to go on for a while.
func (k *keeper) wouldRefill() bool {
	_, feed, _ := k.role.parts()
	if feed == nil {
		return false
	}
	_, replicas := feed.State()
	for _, r := range replicas {
		if r.Connected && r.Lag > 0 && r.Lag >= k.n.cfg.Replication.Undelete {
			return true
		}
	}
	return false
}

// spend waits as long as so many records may take.
func spend(ctx context.Context, records int) error {
	if !pause(ctx, time.Duration(records)*time.Second/freeRecordsPerSec) {
		return storage.Errorf(storage.ErrUnavailable, "free: %w", ctx.Err())
	}
	return nil
}
