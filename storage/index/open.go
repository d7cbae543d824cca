package index

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage/disk"
)

// Owner is whoever has an index: what its file system asks, and what it is told of.
// What is told must return soon, and not call the index.
type Owner struct {
	Log   *slog.Logger
	Latch *disk.Latch // tripped when the index must not be waited for any more
	// Fail is told of what Pebble must not see, or takes for fatal. It trips Latch.
	Fail func(error)
	// Roomy runs a write, and again until there was room for it; before the index is
	// opened its error may be that there is none.
	Roomy func(opened func() bool, write func() error) error
	// LeaveRoom waits until a compaction may write; its error ends the compaction.
	LeaveRoom func() error
	// Damaged is told of a table that fails its checksums.
	Damaged func(path string, err error)
	// Retried is told, again and again, of a flush or compaction that Pebble begins
	// once more: a table is damaged (IsDamaged), or could not be read (ErrRead).
	Retried func(error)
	// Stalls is told that Pebble makes writers wait, and why; GoesOn, that it ends.
	Stalls func(reason string)
	GoesOn func()
}

// DB is one index: a Pebble that neither ends the process nor waits for ever for a
// disk that has failed.
type DB struct {
	*pebble.DB // nil until Open
	// Settled is closed when the list of files names the log in use. Settle begins it.
	Settled <-chan struct{}

	o      Owner
	shared *Shared
	share  *compactionShare
}

// New returns an index that is not open.
func New(shared *Shared, o Owner) *DB {
	return &DB{o: o, shared: shared, share: shared.compactions.share()}
}

// Open opens the index in dir, or makes it; mustExist refuses to make it. Its logs
// have been proved (Prove).
func (x *DB) Open(fs vfs.FS, dir string, mustExist bool) error {
	g := &guard{FS: fs, dir: dir, o: x.o}
	o := options(g, logger{x.o})
	o.Cache, o.FileCache, o.MemTableSize = x.shared.cache, x.shared.files, x.shared.memTableBytes()
	o.EventListener = &pebble.EventListener{
		BackgroundError: x.backgroundError,
		// Left to itself Pebble takes a damaged table for fatal, and its reader would
		// hang; but one bad block is damage of what lies in it (law 9).
		DataCorruption:  func(i pebble.DataCorruptionInfo) { x.o.Damaged(i.Path, FirstLine(i.Details)) },
		WriteStallBegin: func(i pebble.WriteStallBeginInfo) { x.o.Stalls(i.Reason) },
		WriteStallEnd:   x.o.GoesOn,
	}
	o.Experimental.CompactionScheduler = x.share
	o.ErrorIfNotExists = mustExist
	var db *pebble.DB
	if err := Guarded(x.o.Latch, func() (err error) {
		db, err = pebble.Open(dir, o)
		return err
	}); err != nil {
		return err
	}
	x.DB = db
	g.opened.Store(true)
	return nil
}

// Settle has Pebble write a table and an edit that name the log in use: a restart that
// finds another one is in doubt. It does not wait for them: a full disk may refuse
// them for long.
func (x *DB) Settle() error {
	var settled <-chan struct{}
	err := Guarded(x.o.Latch, func() (err error) {
		settled, err = x.AsyncFlush()
		return err
	})
	if err == nil {
		x.Settled = settled
	}
	return err
}

// Drop gives back the compactions that a failed index holds.
func (x *DB) Drop() { x.share.drop() }

// Pause lends the compactions that an index holds to others while one of its writes
// waits for room on its disk, which is not theirs (law 9).
func (x *DB) Pause() { x.share.pause() }

// Resume takes them back.
func (x *DB) Resume() { x.share.resume() }

// backgroundError is called when a flush or compaction failed. Pebble tries again for
// ever, and its writers wait for it; but a failed sync is final. A full disk is waited
// for, and damage of one table, or a read that fails, is an error of its readers (law 9).
func (x *DB) backgroundError(err error) {
	switch {
	case errors.Is(err, ErrRead):
		x.o.Retried(err)
	case disk.NoRoom(err): // a compaction that waited for room when the index was closed
	case IsDamaged(err):
		x.o.Retried(err)
	default:
		x.o.Fail(fmt.Errorf("write index: %w", err))
	}
}

// options returns the settings of every index.
func options(fs vfs.FS, logger pebble.Logger) *pebble.Options {
	o := &pebble.Options{
		FS:                          fs,
		Logger:                      logger,
		FormatMajorVersion:          pebble.FormatWALSyncChunks, // law 6: see LAWS §4.1
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
	}
	o.Levels[0].BlockSizeThreshold = blockThreshold // of the levels below too
	return o
}

// blockThreshold is how full, in percent, a block of a table must be to be ended before
// an entry that would make it larger than it is to be. By Pebble's preset of 90 a large
// event of the journal may share its block with small ones, and whoever looks for what
// lies before them has all of it read and unpacked: 20 ms for one that made 100,000
// mailboxes.
const blockThreshold = 1

// readOnly returns the settings for an index that is there and must not change.
func readOnly(fs vfs.FS, logger pebble.Logger) *pebble.Options {
	o := options(fs, logger)
	o.ReadOnly, o.ErrorIfNotExists = true, true
	return o
}

// ReadRecord reads one record of an index that is not open, without changing it. Of o
// it needs Log, Latch and Fail.
func ReadRecord(fs vfs.FS, dir string, o Owner, key []byte) ([]byte, bool, error) {
	var value []byte
	var found bool
	if err := Guarded(o.Latch, func() (err error) {
		db, err := pebble.Open(dir, readOnly(fs, logger{o}))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, db.Close()) }()
		value, found, err = Get(db, key)
		return err
	}); err != nil {
		return nil, false, err // fn may be under way
	}
	return value, found, nil
}

// Get reads one record.
func Get(r pebble.Reader, key []byte) (value []byte, found bool, err error) {
	v, c, err := r.Get(key)
	if err == pebble.ErrNotFound {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	value = append([]byte(nil), v...)
	return value, true, c.Close()
}
