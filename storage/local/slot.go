// Package local is the mail store on disk: one Slot is this node's copy of one
// slot, as master (Serve returns the storage.Store that clients use) or as
// replica (ApplyEvents and the state transfer).
//
// A copy is one Pebble (index and journal, one atomic batch per group of
// changes) and the packs of storage/blob, all on Pebble's vfs.FS. One committer
// per copy runs all changes one after another, syncs the packs, commits the
// batch, and only then answers (commit.go). Readers use a snapshot taken
// after the last sync, so nobody sees what a crash could take back (view.go).
//
//	<dir>/SLOT         format version, cluster, slot (slot_format.go)
//	<dir>/index/       Pebble
//	<dir>/packs/       bodies
//	<dir>/quarantine/  what could not be applied, was damaged, or had diverged
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/index"
	"mailnode/storage/slot"
)

// Slot is this node's copy of a slot.
type Slot struct {
	o      Options
	log    *slog.Logger
	db     *index.DB
	packs  *blob.Store
	com    committer
	space  space
	health // whether it can go on
	views  // its states

	check   selfCheck // of Open
	found   found     // by Open
	onStage stage
	pins    packPins
	told    told
	watch   watch
	single  oneAtATime
}

// oneAtATime is long work of which a copy does one piece at a time: whoever does it
// has put a token in.
type oneAtATime struct{ recount, readAside chan struct{} } // capacity 1

func newSlot(o Options) *Slot {
	s := &Slot{o: o, log: o.Logger.With("slot", o.Slot), health: newHealth(), onStage: newStage(),
		single: oneAtATime{recount: make(chan struct{}, 1), readAside: make(chan struct{}, 1)}}
	s.check = selfCheck{slot: o.Slot, log: s.log, step: o.step}
	s.db = index.New(o.Resources.index, s.indexOwner())
	s.com.quit = make(chan struct{})
	s.watch.init()
	s.space.init(s)
	return s
}

// ID names the slot.
func (s *Slot) ID() slot.ID { return s.o.Slot }

// fail makes the copy one that has stopped: the first failure is its end.
func (s *Slot) fail(err error) {
	if s.latch.Trip(storage.Errorf(storage.ErrUnavailable, "slot %s has stopped: %w", s.o.Slot, err)) {
		s.log.Error("slot stopped", "err", err)
		go s.db.Drop() // the failing goroutine may hold Pebble's locks
	}
}

// StillThere stops the copy when its folders are gone: deleted under a running
// node, or no longer mounted. What is written to the open files would be lost with them,
// and must not be acknowledged (law 1).
func (s *Slot) StillThere() {
	if err := s.Gone(); err != nil {
		s.fail(err)
	}
}

// Gone says which of the copy's folders is not there; nil: both are, or that cannot be
// told.
func (s *Slot) Gone() error {
	for _, dir := range []string{s.o.Dir, s.o.PacksDir} {
		own := s.o.FS.PathJoin(dir, "SLOT")
		if _, err := s.o.FS.Stat(own); oserror.IsNotExist(err) {
			return fmt.Errorf("%q is gone: its folder was deleted or is no longer mounted", own)
		}
	}
	return nil
}

// whileOpen returns a context that also ends when the copy is closed or fails, for a
// read that is so slow that Close must not wait for it.
func (s *Slot) whileOpen(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-s.com.quit:
			cancel(errors.New("the copy is being closed"))
		case <-s.Failed():
			cancel(s.Failure())
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// markClean notes that the stop was a clean one, and which packs there are. A master's
// unclean stop stays on record until it has jumped (law 3).
func (s *Slot) markClean() {
	if s.Failure() != nil || s.found.dirty {
		return
	}
	if err := s.guarded(func() error {
		b := s.db.NewBatch()
		defer b.Close()
		if err := b.Set(localKey(keyClean), []byte{1}, nil); err != nil {
			return err
		}
		if err := b.Set(localKey(keyPacks), be.AppendUint32(nil, s.packs.NewestPack()), nil); err != nil {
			return err
		}
		return s.db.Apply(b, pebble.Sync)
	}); err != nil {
		s.fail(err)
	}
}

// Close stops the committer, waits for readers, and closes the copy; after a
// failure nothing is marked clean, so that the next open checks. It may be called again.
func (s *Slot) Close() error {
	s.closing.Do(func() { s.closed = s.close() })
	return s.closed
}

func (s *Slot) close() error {
	defer s.dog.Close()
	s.unlessHung(s.com.stop)
	if s.Failure() == nil {
		s.unlessHung(s.stopCompaction)
	}
	if h, err := s.Head(); err == nil && s.Failure() == nil && !h.Building {
		if err := s.writeWitness(h.Position); err != nil {
			s.log.Warn("head not written down", "err", err)
		}
	}
	s.endViews()
	s.o.Resources.listings.drop(s)
	var err error
	s.unlessHung(func() { err = s.packs.Close() })
	s.markClean() // behind the packs' end: no Put begins one any more
	// After a failure Pebble may hold a parked goroutine that owns its locks:
	// closing could wait for it for ever. It keeps the files, and the lock on the
	// folder, until Release.
	if failure := s.Failure(); failure != nil {
		return failure
	}
	if dbErr := s.guarded(s.db.Close); dbErr != nil {
		err = fmt.Errorf("close slot %s: %w", s.o.Slot, dbErr)
	}
	return err
}
