// Package local is the mail store on disk: one Slot is this node's copy of one
// slot, as master (Serve gives the storage.Store that clients use) or as
// replica (ApplyEvent and the state transfer).
//
// A copy is one Pebble (index and journal, one atomic batch per group of
// changes) and the packs of storage/blob, all on Pebble's vfs.FS. One committer
// per copy runs all changes one after another, syncs the packs, commits the
// batch, and only then answers (committer.go). Readers use a snapshot taken
// after the last sync, so nobody sees what a crash could take back (view.go).
//
//	<dir>/SLOT         format version, cluster, slot (format.go)
//	<dir>/index/       Pebble
//	<dir>/packs/       bodies
//	<dir>/quarantine/  what could not be applied, or what a diverged copy had
package local

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// Options opens a copy.
type Options struct {
	FS        vfs.FS
	Dir       string
	Cluster   string
	Slot      slot.ID
	Logger    *slog.Logger
	Clock     storage.Clock
	Resources *Resources // shared by all copies of a node
	Passwords *Passwords // shared by all copies of a node
	// OnDamage is told of damage found while serving: what, and how it was met.
	OnDamage func(slot.ID, error)
	// OnIndexDamage is told of records of the index that cannot be read or cannot
	// be right; IndexLost says whether a Recount will do or a Rebuild is needed. It
	// is called while locks are held: it must only take note.
	OnIndexDamage func(slot.ID, error)
	// JournalEventsMax is how many events are kept for replicas; 0: 2,000,000.
	JournalEventsMax int
	// Undelete is how long, by the slot clock, what was removed can be brought
	// back; Master.Free forgets it afterwards. 0: 7 days;
	// below 0: not at all.
	Undelete time.Duration
	// Refill says that the copy was here before: one that is empty now has lost
	// what it had, and is a building one until it has been filled again.
	Refill bool
	// PackBytesMax is for tests; 0: blob's default.
	PackBytesMax int64
}

// Resources are the node-wide budgets that copies share.
type Resources struct {
	cache *pebble.Cache
	files *pebble.FileCache
	// OnSync, when set before the first Open, is told how long each group's
	// syncs took (packs and index).
	OnSync func(time.Duration)
}

func (r *Resources) observeSync(took time.Duration) {
	if r.OnSync != nil {
		r.OnSync(took)
	}
}

// NewResources makes a block cache of so many bytes and a file cache.
func NewResources(cacheBytes int64) *Resources {
	return &Resources{cache: pebble.NewCache(cacheBytes), files: pebble.NewFileCache(4, 4096)}
}

// Close gives the caches back, after all copies are closed.
func (r *Resources) Close() {
	r.files.Unref()
	r.cache.Unref()
}

// Slot is this node's copy of a slot.
type Slot struct {
	o      Options
	log    *slog.Logger
	format int // of the SLOT file
	db     *pebble.DB
	packs  *blob.Store
	com    committer
	space  spaceGuard

	dirty    bool // the last stop was unclean; set by Open, read by Serve
	durable  atomic.Pointer[view]
	readers  sync.WaitGroup // views that are not released
	building atomic.Bool

	failOnce sync.Once
	failed   chan struct{} // closed when the store can no longer commit
	failure  error         // why; set before failed is closed

	stagedMu sync.Mutex
	staged   map[slot.BodyRef]blob.Location // put, not yet in a committed batch
	foreign  []slot.BodyRef                 // of staged: those from elsewhere, oldest first

	recounting chan struct{} // capacity 1: held by a Recount
	imports    atomic.Int64  // +1 by each BeginImport

	watch    watchers
	heads    heads
	arrivals arrivals
}

// Open opens or makes a copy. A foreign, newer or damaged one is refused with
// storage.ErrCorrupt or a text that says what it is. A Rebuild that was cut off
// is gone on with first.
func Open(o Options) (*Slot, error) {
	o = withPresets(o)
	if err := resumeRebuild(o); err != nil {
		return nil, fmt.Errorf("open slot %s: %w", o.Slot, err)
	}
	return open(o)
}

func withPresets(o Options) Options {
	if o.JournalEventsMax == 0 {
		o.JournalEventsMax = 2_000_000
	}
	if o.Undelete == 0 {
		o.Undelete = 7 * 24 * time.Hour
	}
	return o
}

func newSlot(o Options) *Slot {
	s := &Slot{o: o, log: o.Logger.With("slot", o.Slot), failed: make(chan struct{}),
		staged: map[slot.BodyRef]blob.Location{}, recounting: make(chan struct{}, 1)}
	s.watch.init()
	s.heads.init()
	s.arrivals.init()
	s.space.init(o.FS, o.Dir, o.Clock)
	return s
}

func (s *Slot) openPacks() (*blob.Store, error) {
	o := s.o
	return blob.Open(blob.Options{FS: o.FS, Dir: o.FS.PathJoin(o.Dir, "packs"), Cluster: o.Cluster, Slot: o.Slot, PackBytesMax: o.PackBytesMax})
}

// open opens a copy whose index is not being made anew.
func open(o Options) (*Slot, error) {
	s := newSlot(o)
	if err := s.indexThere(); err != nil {
		return nil, fmt.Errorf("open slot %s: %w", o.Slot, err)
	}
	if err := s.openFolder(); err != nil {
		return nil, fmt.Errorf("open slot %s: %w", o.Slot, err)
	}
	if err := s.openIndex(); err != nil {
		return nil, fmt.Errorf("open slot %s: %w", o.Slot, err)
	}
	packs, err := s.openPacks()
	if err != nil {
		s.guarded(s.db.Close)
		return nil, storage.Errorf(storage.ErrCorrupt, "open slot %s: %w", o.Slot, err)
	}
	s.packs = packs
	if err = s.migrate(); err == nil {
		err = s.start()
	}
	if err != nil {
		s.packs.Close()
		s.endViews()
		s.guarded(s.db.Close)
		return nil, storage.Errorf(storage.ErrCorrupt, "open slot %s: %w", o.Slot, err)
	}
	return s, nil
}

// start reads what the index says of the copy and starts the committer.
func (s *Slot) start() error {
	clean, wasClosed, err := s.get(localKey(keyClean))
	if err != nil {
		return err
	}
	_, hasHead, err := s.get(event.HeadKey())
	if err != nil {
		return err
	}
	s.dirty = hasHead && !(wasClosed && len(clean) > 0)
	if err := s.guarded(func() error { return s.db.Delete(localKey(keyClean), pebble.Sync) }); err != nil {
		return err
	}
	if s.o.Refill && !hasHead {
		if err := s.db.Set(localKey(keyBuilding), []byte{1}, pebble.Sync); err != nil {
			return err
		}
	}
	_, building, err := s.get(localKey(keyBuilding))
	if err != nil {
		return err
	}
	s.building.Store(building)
	s.swapView()
	if err := s.checkTail(); err != nil {
		return err
	}
	return s.com.start(s)
}

// checkTail proves the newest events against their checksums and the head.
func (s *Slot) checkTail() error {
	v := s.acquire()
	defer v.release()
	it, err := v.iter(event.SpanOf([]byte{event.PrefixJournal}))
	if err != nil {
		return err
	}
	defer it.Close()
	head, _, err := v.head()
	if err != nil {
		return err
	}
	if it.Last() {
		if p := event.PositionOf(it.Key()); p != head {
			return fmt.Errorf("the journal ends at %s, the head is %s", p, head)
		}
	}
	for n := 0; n < 64 && it.Valid(); n++ {
		if _, err := event.Decode(it.Value()); err != nil {
			return fmt.Errorf("event %s: %w", event.PositionOf(it.Key()), err)
		}
		it.Prev()
	}
	return it.Error()
}

func (s *Slot) get(key []byte) ([]byte, bool, error) { return pebbleGet(s.db, key) }

func pebbleGet(r pebble.Reader, key []byte) ([]byte, bool, error) {
	v, c, err := r.Get(key)
	if err == pebble.ErrNotFound {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, readError(err)
	}
	out := append([]byte(nil), v...)
	return out, true, c.Close()
}

// readError names damage by its kind.
func readError(err error) error {
	if pebble.IsCorruptionError(err) {
		return storage.Errorf(storage.ErrCorrupt, "read index: %w", err)
	}
	return storage.Errorf(storage.ErrUnavailable, "read index: %w", err)
}

// ID names the slot.
func (s *Slot) ID() slot.ID { return s.o.Slot }

// Failed is closed when the copy can no longer change; Failure says why. It
// must then be closed, and opened by a new process (DESIGN §4: a failed fsync is
// final; Pebble cannot be closed after one).
func (s *Slot) Failed() <-chan struct{} { return s.failed }

// Failure says why Failed is closed, nil before.
func (s *Slot) Failure() error {
	select {
	case <-s.failed:
		return s.failure
	default:
		return nil
	}
}

func (s *Slot) fail(err error) {
	s.failOnce.Do(func() {
		s.failure = storage.Errorf(storage.ErrUnavailable, "slot %s has stopped: %w", s.o.Slot, err)
		s.log.Error("slot stopped", "err", err)
		close(s.failed)
	})
}

// Close stops the committer, waits for readers, and closes the copy; after a
// failure nothing is marked clean, so that the next open checks.
func (s *Slot) Close() error {
	s.com.stop()
	// A master's unclean stop stays on record until it has jumped (law 3).
	if s.Failure() == nil && !s.dirty {
		if err := s.guarded(func() error { return s.db.Set(localKey(keyClean), []byte{1}, pebble.Sync) }); err != nil {
			s.fail(err)
		}
	}
	s.endViews()
	err := s.packs.Close()
	// After a failure Pebble may hold a parked goroutine that owns its locks:
	// closing could wait for it for ever. The process keeps the files, and the
	// lock on the folder, until it ends.
	if s.Failure() == nil {
		if dbErr := s.guarded(s.db.Close); dbErr != nil {
			err = fmt.Errorf("close slot %s: %w", s.o.Slot, dbErr)
		}
	}
	return err
}
