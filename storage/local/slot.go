// Package local is the mail store on disk: one Slot is this node's copy of one
// slot, as master (Serve gives the storage.Store that clients use) or as
// replica (ApplyEvent and the state transfer).
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
//	<dir>/quarantine/  what could not be applied, or what a diverged copy had
package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/disk"
	"mailnode/storage/event"
	"mailnode/storage/index"
	"mailnode/storage/slot"
)

// Options opens a copy.
type Options struct {
	FS        vfs.FS
	Dir       string
	PacksDir  string // "": packs below Dir; elsewhere it is another volume's
	Cluster   string
	Slot      slot.ID
	Logger    *slog.Logger
	Clock     storage.Clock
	Resources *Resources // shared by all copies of a node
	Passwords *Passwords // shared by all copies of a node
	// OnDamage is told of damage as it is met. It must return soon and must not
	// call the Slot.
	OnDamage func(Damage)
	// JournalEventsMax is how many events are kept for replicas; 0: 2,000,000.
	JournalEventsMax int
	// Undelete is how long, by the slot clock, what was removed can be brought
	// back; Master.Free forgets it afterwards. 0: 7 days; below 0: not at all.
	Undelete time.Duration
	// Refill says that the copy was here before: one that is empty now has lost
	// what it had, and is a building one until it has been filled again.
	Refill bool
	// OnStep is told what Open is doing, and how much of it is done, in percent; -1:
	// that is not known. It must return soon.
	OnStep func(step string, percent int)
	// HangAfter is how long the disk may take to answer before the copy fails; 0: 30 s.
	HangAfter time.Duration
	// Features gives the cluster's feature level: a master makes no event of a
	// newer kind. nil: the first. It must return at once.
	Features  func() slot.FeatureLevel
	uncounted bool // a Rebuild opens it, to compute its derived records
	// PackBytesMax is for tests; 0: blob's default.
	PackBytesMax int64
	sizes        sizes
}

// sizes are where changes are cut, refused, or prepared as large ones; tests have
// smaller ones, 0 is the ordinary.
type sizes struct {
	eventBytes int // of one event at most
	small      int // records of a RENAME from which on it is a large change
	copied     int // messages of a COPY
	applied    int // records of an event, at a replica
}

func (z sizes) withPresets() sizes {
	return sizes{cmp.Or(z.eventBytes, event.BytesMax), cmp.Or(z.small, smallMax), cmp.Or(z.copied, copyMax),
		cmp.Or(z.applied, 2*storage.MaxTxnRecords+closureSpare)}
}

func (o Options) features() slot.FeatureLevel {
	if o.Features == nil {
		return slot.FirstFeatureLevel
	}
	return o.Features()
}

// Slot is this node's copy of a slot.
type Slot struct {
	o     Options
	log   *slog.Logger
	db    *index.DB
	packs *blob.Store
	com   committer
	space space

	owner ownership
	dog   *disk.Watchdog

	checks []Check  // of Open
	wall   wallSeen // by Open

	dirty    bool // the last stop was unclean; set by Open, read by Serve
	durable  atomic.Pointer[view]
	known    event.Head     // of the last group that entered Pebble; Open's, then the committer's own
	readers  sync.WaitGroup // views that are not released
	views    atomic.Uint64  // how many there ever were
	building atomic.Bool
	// generation is raised in the committer when the whole state is replaced:
	// what was remembered of an older one is worth nothing (view_listing.go).
	generation atomic.Uint64
	doubt      bool // set by openIndex: the records must prove each other

	// indexTold and recordTold say that damage of a file of the index, or of a
	// record in it, has been told of.
	indexTold, recordTold atomic.Bool
	readTold              atomic.Bool // a compaction could not read a table: logged once

	latch *disk.Latch // trips when the copy can no longer commit

	stagedMu sync.Mutex
	staged   map[slot.BodyRef]staged // put, not yet in a committed batch
	stagings uint64                  // how many there ever were
	foreign  []slot.BodyRef          // of staged: those from elsewhere, oldest first
	pins     packPins

	usersAtOpen atomic.Pointer[int] // nil: not counted yet (CountUsers)

	recounting   chan struct{} // capacity 1: held by a Recount
	readingAside chan struct{} // capacity 1: held by a ReadAside

	watch    watchers
	heads    heads
	arrivals arrivals
}

// Open opens or makes a copy, after the checks of prove_start.go. Its error is *Refused
// and says which of them failed; or that of a Rebuild that was cut off, which has
// to end first.
func Open(o Options) (*Slot, error) {
	if _, pending := RebuildPending(o); pending {
		return nil, storage.Errorf(storage.ErrUnavailable, "open slot %s: the rebuild of its index was cut off: mailnode slot reindex %s", o.Slot, o.Slot)
	}
	return open(withPresets(o))
}

func withPresets(o Options) Options {
	if o.JournalEventsMax == 0 {
		o.JournalEventsMax = 2_000_000
	}
	if o.Undelete == 0 {
		o.Undelete = 7 * 24 * time.Hour
	}
	if o.PacksDir == "" {
		o.PacksDir = o.FS.PathJoin(o.Dir, "packs")
	}
	return o
}

func newSlot(o Options) *Slot {
	o.sizes = o.sizes.withPresets()
	s := &Slot{o: o, log: o.Logger.With("slot", o.Slot), latch: disk.NewLatch(), recounting: make(chan struct{}, 1), readingAside: make(chan struct{}, 1),
		staged: map[slot.BodyRef]staged{}}
	s.db = index.New(o.Resources.index, s.indexOwner())
	s.com.quit = make(chan struct{})
	s.watch.init()
	s.heads.init()
	s.arrivals.init()
	s.space.init(s)
	return s
}

// open opens a copy whose index is not being made anew.
func open(o Options) (*Slot, error) {
	s := newSlot(o)
	if s.o.HangAfter == 0 {
		s.o.HangAfter = disk.HangAfter
	}
	s.dog = disk.StartWatchdog(s.o.HangAfter, s.fail)
	s.o.FS = s.dog.FS(o.FS)
	done := make(chan error, 1)
	s.unlessHung(func() { done <- s.open() })
	var err error
	select {
	case err = <-done:
	default: // whatever hangs may go on for ever, and keeps what it has opened
		text := s.Failure().Error()
		err = &Refused{Slot: o.Slot, Checks: []Check{{"disk", CheckFailed, text}}, Next: nextDamage, Err: s.Failure()}
	}
	if err != nil {
		s.dog.Close()
		return nil, err
	}
	return s, nil
}

func (s *Slot) open() error {
	if err := s.lint("identity", s.openFolder); err != nil {
		return err
	}
	if err := s.lintSpace(); err != nil {
		return err
	}
	if err := s.lint("list of files", s.indexThere); err != nil {
		return err
	}
	if err := s.lint("index", s.openIndex); err != nil {
		return err
	}
	if err := s.lint("packs folder", s.openPacks); err != nil {
		s.guarded(s.db.Close)
		return err
	}
	if err := s.start(); err != nil {
		s.packs.Close()
		s.endViews()
		s.guarded(s.db.Close)
		return err
	}
	return nil
}

func (s *Slot) openPacks() (text string, err error) {
	o := s.o
	if s.packs, err = blob.Open(blob.Options{FS: o.FS, Dir: o.PacksDir, Cluster: o.Cluster, Slot: o.Slot, PackBytesMax: o.PackBytesMax, Handles: o.Resources.packs}); err != nil {
		return "", storage.Errorf(storage.ErrCorrupt, "open packs: %w", err)
	}
	numbers, err := s.packs.Packs()
	if err == nil && len(numbers) == 0 {
		err = s.noBodies()
	}
	if err != nil {
		s.packs.Close()
	}
	return fmt.Sprintf("%d packs in %q", len(numbers), o.PacksDir), err
}

// noBodies refuses an index that knows bodies beside a folder without packs: it
// is a disk that is not mounted, or an emptied one, never a new slot.
func (s *Slot) noBodies() error {
	it, err := newIter(s.db, event.SpanOf([]byte{event.PrefixBody}))
	if err != nil {
		return err
	}
	defer it.Close()
	if it.First() {
		return storage.Errorf(storage.ErrCorrupt, "the index knows bodies, and there are no packs in %q: is the volume mounted?", s.o.PacksDir)
	}
	if err := it.Error(); err != nil {
		return readError(err)
	}
	return nil
}

// start checks what the index says of the copy, and starts the committer.
func (s *Slot) start() error {
	_, building, err := s.get(localKey(keyBuilding))
	if err != nil {
		return s.lint("index", func() (string, error) { return "", err })
	}
	s.building.Store(building)
	var newest tail
	s.install(s.newView())
	if err := s.lint("last stop", s.lastStop); err != nil {
		return err
	}
	if err := s.lint("newest events", func() (string, error) { return s.lintTail(&newest) }); err != nil {
		return err
	}
	if err := s.knowHead(); err != nil {
		return err
	}
	if err := s.lint("head", s.proveHead); err != nil {
		return err
	}
	if s.doubt && !building && !s.o.uncounted {
		if err := s.lint("records", s.proveRecords); err != nil {
			return err
		}
	}
	if err := s.lintBodies(&newest); err != nil {
		return err
	}
	s.wall = wallSeen{newestUnix: newest.wall, births: s.known.Births}
	s.note("clock", "not before what is recorded", s.ClockDoubt(false))
	return s.lint("committer", s.begin)
}

// knowHead reads the head, once: from here on it is kept in memory.
func (s *Slot) knowHead() error {
	v := s.acquire()
	defer v.release()
	h, err := headOf(v)
	if err != nil {
		return s.lint("head", func() (string, error) { return "", err })
	}
	s.known, v.known = h, h
	return nil
}

// lastStop reads whether the copy was closed as it should be.
func (s *Slot) lastStop() (string, error) {
	clean, wasClosed, err := s.get(localKey(keyClean))
	if err != nil {
		return "", err
	}
	_, hasHead, err := s.get(event.HeadKey())
	if err != nil {
		return "", err
	}
	s.dirty = hasHead && !(wasClosed && len(clean) > 0)
	switch {
	case s.dirty:
		return "unclean: a master jumps over the positions that it may have shown (law 3)", nil
	case !hasHead:
		return "never opened before", nil
	}
	return "clean", nil
}

// begin makes the copy one that is open, on disk too, and starts the committer.
func (s *Slot) begin() (string, error) {
	b := s.db.NewBatch()
	defer b.Close()
	if err := b.Delete(localKey(keyClean), nil); err != nil {
		return "", err
	}
	_, hasHead, err := s.get(event.HeadKey())
	if err != nil {
		return "", err
	}
	refill := s.o.Refill && !hasHead
	if refill {
		if err := b.Set(localKey(keyBuilding), []byte{1}, nil); err != nil {
			return "", err
		}
	}
	if err := s.noteOwner(b); err != nil {
		return "", err
	}
	if err := s.guarded(func() error { return s.db.Apply(b, pebble.Sync) }); err != nil {
		return "", err
	}
	if err := s.mendOwner(); err != nil {
		return "", err
	}
	s.building.Store(s.building.Load() || refill)
	s.install(s.newView())
	if err := s.db.Settle(); err != nil {
		return "", err
	}
	return "changes are taken", s.com.start(s)
}

func (s *Slot) get(key []byte) ([]byte, bool, error) { return pebbleGet(s.db, key) }

func pebbleGet(r pebble.Reader, key []byte) ([]byte, bool, error) {
	v, found, err := index.Get(r, key)
	if err != nil {
		err = readError(err)
	}
	return v, found, err
}

// readError names damage by its kind.
func readError(err error) error {
	if index.IsDamaged(err) {
		return storage.Errorf(storage.ErrCorrupt, "read index: %w", index.FirstLine(err))
	}
	return storage.Errorf(storage.ErrUnavailable, "read index: %w", err)
}

// Hangs says what the copy's disk has not answered yet, and for how long it surely
// has not; "" while it answers. Much is slow for a moment.
func (s *Slot) Hangs() (what string, since time.Duration) { return s.dog.Slowest() }

// step tells whoever waits for Open how far it is.
func (s *Slot) step(what string, percent int) {
	if s.o.OnStep != nil {
		s.o.OnStep(what, percent)
	}
}

// ID names the slot.
func (s *Slot) ID() slot.ID { return s.o.Slot }

// Failed is closed when the copy can no longer change; Failure says why. It
// must then be closed, and opened by a new process (LAWS §4.7: a failed fsync is
// final; Pebble cannot be closed after one).
func (s *Slot) Failed() <-chan struct{} { return s.latch.Tripped() }

// Failure says why Failed is closed, nil before.
func (s *Slot) Failure() error { return s.latch.Err() }

func (s *Slot) fail(err error) {
	if s.latch.Trip(storage.Errorf(storage.ErrUnavailable, "slot %s has stopped: %w", s.o.Slot, err)) {
		s.log.Error("slot stopped", "err", err)
		go s.db.Drop() // whoever fails may hold Pebble's locks
	}
}

// StillThere stops the copy when its folders are gone: deleted under a running
// node, or no longer mounted. Whatever is written to the open files would be lost
// with them, and must not be acknowledged (law 1).
func (s *Slot) StillThere() {
	for _, dir := range []string{s.o.Dir, s.o.PacksDir} {
		own := s.o.FS.PathJoin(dir, "SLOT")
		if _, err := s.o.FS.Stat(own); oserror.IsNotExist(err) {
			s.fail(fmt.Errorf("%q is gone: its folder was deleted or is no longer mounted", own))
		}
	}
}

// whileOpen gives a context that also ends when the copy is closed or fails, for
// what reads so slowly that Close must not wait for it.
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

// Close stops the committer, waits for readers, and closes the copy; after a
// failure nothing is marked clean, so that the next open checks.
func (s *Slot) Close() error {
	defer s.dog.Close()
	s.unlessHung(s.com.stop)
	if s.Failure() == nil {
		s.unlessHung(s.stopCompaction)
	}
	// A master's unclean stop stays on record until it has jumped (law 3).
	if s.Failure() == nil && !s.dirty {
		if err := s.guarded(func() error { return s.db.Set(localKey(keyClean), []byte{1}, pebble.Sync) }); err != nil {
			s.fail(err)
		}
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
	// After a failure Pebble may hold a parked goroutine that owns its locks:
	// closing could wait for it for ever. The process keeps the files, and the
	// lock on the folder, until it ends.
	if failure := s.Failure(); failure != nil {
		return failure
	}
	if dbErr := s.guarded(s.db.Close); dbErr != nil {
		err = fmt.Errorf("close slot %s: %w", s.o.Slot, dbErr)
	}
	return err
}

// hungGrace is how long a failed copy waits for what may hang.
const hungGrace = time.Second

// unlessHung waits for fn, but not for long once the copy has failed: its disk
// may never answer.
func (s *Slot) unlessHung(fn func()) {
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	select {
	case <-done:
		return
	case <-s.Failed():
	}
	grace := time.NewTimer(hungGrace)
	defer grace.Stop()
	select {
	case <-done:
	case <-grace.C:
	}
}
