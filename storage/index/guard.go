package index

import (
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage/disk"
)

// guard is the file system as Pebble has it. Pebble answers an error of its
// write-ahead log by a panic, in a place where one ends the whole process
// ("unlock of unlocked mutex", when the log is changed). So such an error never
// reaches it: it becomes the failure of whoever has the index, and the goroutine is
// parked (law 9; LAWS §4.7 does the same for Raft's stores). Calls of Pebble that may
// wait for the log must not be waited for once it has failed. Only a write that finds
// no room is not the end: it waits.
type guard struct {
	vfs.FS
	dir    string
	o      Owner
	opened atomic.Bool // before, errors are those of pebble.Open, whose caller knows how to take them
}

func (g *guard) roomy(write func() error) error { return g.o.Roomy(g.opened.Load, write) }

// What Pebble calls the files that it writes.
const (
	walCategory        vfs.DiskWriteCategory = "pebble-wal"
	compactionCategory vfs.DiskWriteCategory = "pebble-compaction"
)

// poisoned parks the caller when err is one that Pebble must not see.
func (g *guard) poisoned(err error) error {
	if err == nil || err == io.EOF || !g.opened.Load() {
		return err
	}
	g.o.Fail(fmt.Errorf("write index: %w", err))
	select {}
}

// Unwrap implements vfs.FS.
func (g *guard) Unwrap() vfs.FS { return g.FS }

// others reports whether a file is none of the index: one of a state that is set
// aside, which can be refused for want of room. Nothing of the index waits for it.
func (g *guard) others(name string) bool {
	return g.PathDir(name) != g.dir
}

// Create implements vfs.FS. A marker names the manifest that is in force. Pebble
// makes both names durable with one sync of the folder, so that a power loss
// could keep the marker alone, and the index would not open again; the manifest's
// name is made durable first.
func (g *guard) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if g.others(name) {
		return g.FS.Create(name, c)
	}
	if strings.HasPrefix(g.PathBase(name), "marker.") {
		if err := g.poisoned(disk.SyncDir(g.FS, g.PathDir(name))); err != nil {
			return nil, err
		}
	}
	var f vfs.File
	err := g.roomy(func() (err error) { f, err = g.FS.Create(name, c); return err })
	return g.file(f, c, err)
}

// ReuseForWrite implements vfs.FS.
func (g *guard) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	var f vfs.File
	err := g.roomy(func() (err error) { f, err = g.FS.ReuseForWrite(oldname, newname, c); return err })
	return g.file(f, c, err)
}

func (g *guard) file(f vfs.File, c vfs.DiskWriteCategory, err error) (vfs.File, error) {
	switch {
	case c == walCategory:
		if err := g.poisoned(err); err != nil {
			return nil, err
		}
		return &logFile{f, g}, nil
	case err != nil:
		return nil, err
	case c == compactionCategory:
		return &compactionFile{roomyFile{f, g}}, nil
	}
	return &roomyFile{f, g}, nil
}

// compactionFile is a table that a compaction writes. A compaction can be put off,
// so it leaves some of the reserve to changes and flushes. It waits rather than
// fails: Pebble would begin it again at once, or, if what it was to merge lies below
// level 0, not before the next flush, which may be waiting for it. Whoever opens the
// index may wait for a compaction, and is not held up.
type compactionFile struct{ roomyFile }

// Write implements vfs.File.
func (f *compactionFile) Write(b []byte) (int, error) {
	if f.g.opened.Load() {
		if err := f.g.o.LeaveRoom(); err != nil {
			return 0, err
		}
	}
	return f.roomyFile.Write(b)
}

// roomyFile is a file of the index that waits for room: a list of files, or a table
// that a flush writes.
type roomyFile struct {
	vfs.File
	g *guard
}

// Write implements vfs.File.
func (f *roomyFile) Write(b []byte) (int, error) { return f.g.write(f.File, b) }

// write writes b from where the file ends, and what is left of it when there is
// room again.
func (g *guard) write(f vfs.File, b []byte) (done int, err error) {
	err = g.roomy(func() error {
		n, err := f.Write(b[done:])
		done += n
		return err
	})
	return done, err
}

// Open implements vfs.FS: what a table's reader gets says that it is a read.
func (g *guard) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := g.FS.Open(name, opts...)
	if oserror.IsNotExist(err) {
		return nil, err
	}
	if err != nil {
		return nil, readFailed(err)
	}
	return &readFile{f}, nil
}

// readFile marks errors of reads.
type readFile struct{ vfs.File }

func (f *readFile) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(b, off)
	return n, readFailed(err)
}

func (f *readFile) Read(b []byte) (int, error) {
	n, err := f.File.Read(b)
	return n, readFailed(err)
}

func readFailed(err error) error {
	if err == nil || err == io.EOF || err == io.ErrUnexpectedEOF {
		return err
	}
	return fmt.Errorf("%w: %w", ErrRead, err)
}

// OpenDir implements vfs.FS: a log's name is durable by a sync of its folder.
func (g *guard) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &logFile{f, g}, nil
}

// logFile is a write-ahead log, or the folder that names it.
type logFile struct {
	vfs.File
	g *guard
}

func (f *logFile) Write(b []byte) (int, error) {
	n, err := f.g.write(f.File, b)
	return n, f.g.poisoned(err)
}

func (f *logFile) WriteAt(b []byte, off int64) (n int, err error) {
	err = f.g.roomy(func() (err error) { n, err = f.File.WriteAt(b, off); return err })
	return n, f.g.poisoned(err)
}

func (f *logFile) Stat() (vfs.FileInfo, error) {
	st, err := f.File.Stat()
	return st, f.g.poisoned(err)
}

func (f *logFile) Sync() error     { return f.g.poisoned(f.File.Sync()) }
func (f *logFile) SyncData() error { return f.g.poisoned(f.File.SyncData()) }
func (f *logFile) Close() error    { return f.g.poisoned(f.File.Close()) }

func (f *logFile) SyncTo(length int64) (fullSync bool, err error) {
	fullSync, err = f.File.SyncTo(length)
	return fullSync, f.g.poisoned(err)
}

// Guarded runs what may end in Fatalf, which parks its goroutine, or in a panic of
// Pebble: for its caller both are an error, never a hang and never the end of the
// process (law 9). It returns the failure of a latch that has tripped, or trips
// meanwhile, and does not wait for fn then.
func Guarded(latch *disk.Latch, fn func() error) error {
	if err := latch.Err(); err != nil {
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
	case <-latch.Tripped():
		return latch.Err()
	}
}

// logger turns what Pebble takes for fatal into the failure of its owner. The
// goroutine is parked: returning would let Pebble go on after a failed sync, and
// ending the process would take the other slots down (law 9).
type logger struct{ o Owner }

func (logger) Infof(string, ...any) {}

func (l logger) Errorf(format string, args ...any) {
	l.o.Log.Warn("index", "err", fmt.Sprintf(format, args...))
}

func (l logger) Fatalf(format string, args ...any) {
	l.o.Fail(fmt.Errorf(format, args...))
	select {}
}
