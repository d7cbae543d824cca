package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// formatVersion is the newest slot format that this release reads and writes.
// It only ever goes up (migrate.go).
//
//	1  the first
//	2  bodies have counts of references
const formatVersion = 2

// identity is what the SLOT file says: one line of JSON, one line with its
// CRC-32C. A wrong or foreign disk is refused by it.
type identity struct {
	Format  int     `json:"format"`
	Cluster string  `json:"cluster"`
	Slot    slot.ID `json:"slot"`
}

func (s *Slot) openFolder() error {
	fs, dir := s.o.FS, s.o.Dir
	path := fs.PathJoin(dir, "SLOT")
	f, err := fs.Open(path)
	if err == nil {
		defer f.Close()
		return s.checkIdentity(path, f)
	}
	if !oserror.IsNotExist(err) {
		return err
	}
	// A folder with mail and no SLOT file is damage, never a new slot.
	if names, _ := fs.List(fs.PathJoin(dir, "index")); len(names) > 0 {
		return storage.Errorf(storage.ErrCorrupt, "%q is missing beside an index", path)
	}
	for _, sub := range []string{"", "index", "packs", "quarantine"} {
		if err := fs.MkdirAll(fs.PathJoin(dir, sub), 0o700); err != nil {
			return err
		}
	}
	return s.writeIdentity(path)
}

func (s *Slot) checkIdentity(path string, f vfs.File) error {
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return err
	}
	line, crc, _ := strings.Cut(string(b), "\n")
	var id identity
	if strings.TrimSpace(crc) != sumLine(line) || json.Unmarshal([]byte(line), &id) != nil {
		return storage.Errorf(storage.ErrCorrupt, "%q is damaged", path)
	}
	s.format = id.Format
	switch {
	case id.Format > formatVersion:
		return fmt.Errorf("%q has format %d, this release knows %d: install the newer release", path, id.Format, formatVersion)
	case id.Cluster != s.o.Cluster:
		return fmt.Errorf("%q belongs to cluster %q, this node to %q: is this the right disk?", path, id.Cluster, s.o.Cluster)
	case id.Slot != s.o.Slot:
		return fmt.Errorf("%q belongs to slot %s: is this the right folder?", path, id.Slot)
	}
	return nil
}

func (s *Slot) writeIdentity(path string) error {
	line, err := json.Marshal(identity{formatVersion, s.o.Cluster, s.o.Slot})
	if err != nil {
		return err
	}
	s.format = formatVersion
	fs := s.o.FS
	f, err := fs.Create(path+".new", "mailnode-slot")
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(string(line) + "\n" + sumLine(string(line)) + "\n"))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fs.Rename(path+".new", path)
	}
	if err != nil {
		return err
	}
	// The folders above must be durable too: a synced file in a folder that a
	// power loss forgets is lost (FAULTS §1.5).
	for d := s.o.Dir; ; d = fs.PathDir(d) {
		if err := blob.SyncDir(fs, d); err != nil {
			return err
		}
		if up := fs.PathDir(d); up == d || d == "." {
			return nil
		}
	}
}

func sumLine(line string) string {
	return fmt.Sprintf("crc32c %08x", event.Checksum([]byte(line)))
}

// Keys of what a copy knows of itself.
const (
	keyClean         = "clean"    // set by a clean Close
	keyBuilding      = "building" // set while a state transfer runs
	keyJournalStart  = "journal"  // position before the oldest event kept
	keyJournalEvents = "events"   // how many events the journal has
)

// openIndex opens Pebble, with the settings that the laws need.
func (s *Slot) openIndex() error {
	fs := &poisonFS{FS: s.o.FS, s: s}
	opts := &pebble.Options{
		FS:                          fs,
		Cache:                       s.o.Resources.cache,
		FileCache:                   s.o.Resources.files,
		FormatMajorVersion:          pebble.FormatWALSyncChunks, // law 6: see DESIGN §4
		MemTableSize:                8 << 20,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		MaxOpenFiles:                1000,
		Logger:                      pebbleLogger{s},
		EventListener:               &pebble.EventListener{BackgroundError: s.backgroundError, DataCorruption: s.dataCorruption},
	}
	var db *pebble.DB
	if err := s.guarded(func() (err error) {
		db, err = pebble.Open(s.o.FS.PathJoin(s.o.Dir, "index"), opts)
		return err
	}); err != nil {
		return storage.Errorf(storage.ErrCorrupt, "open index: %w", err)
	}
	s.db = db
	fs.opened.Store(true)
	return nil
}

// backgroundError is told of a flush or compaction that failed. Pebble tries
// again for ever, and its writers wait for it; but a failed sync is final. A
// full disk passes, and damage of one table is met by whoever reads it.
func (s *Slot) backgroundError(err error) {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || pebble.IsCorruptionError(err) {
		s.log.Warn("index", "err", err)
		return
	}
	s.fail(fmt.Errorf("write index: %w", err))
}

// guarded runs what may end in Fatalf, which parks its goroutine, or in a panic
// of Pebble: for its caller both are an error of the copy, never a hang and
// never the end of the process (law 9).
func (s *Slot) guarded(fn func() error) error {
	if err := s.Failure(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("index: %v", p)
			}
		}()
		done <- fn()
	}()
	select {
	case err := <-done:
		return err
	case <-s.failed:
		return s.failure
	}
}

// pebbleLogger turns what Pebble takes for fatal into the copy's failure. The
// goroutine is parked: returning would let Pebble go on after a failed sync, and
// ending the process would take the other slots down (law 9).
type pebbleLogger struct{ s *Slot }

func (pebbleLogger) Infof(string, ...any) {}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.s.log.Warn("index", "err", fmt.Sprintf(format, args...))
}

func (l pebbleLogger) Fatalf(format string, args ...any) {
	l.s.fail(fmt.Errorf(format, args...))
	select {}
}

func localKey(name string) []byte { return append([]byte{'l'}, name...) }
