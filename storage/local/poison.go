package local

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage/disk"
)

// poisonFS is the file system as the index has it. Pebble answers an error of
// its write-ahead log by a panic, in a place where one ends the whole process
// ("unlock of unlocked mutex", when the log is changed). So such an error never
// reaches it: it becomes the copy's failure, and the goroutine is parked (law 9;
// LAWS §4.7 does the same for Raft's stores). All calls of Pebble that may wait
// for the log go through Slot.guarded. Only a write that finds no room is not the
// end: it waits (space.go).
type poisonFS struct {
	vfs.FS
	s      *Slot
	opened atomic.Bool // before, errors are Open's, which knows how to take them
}

// What Pebble calls the files that it writes.
const (
	walCategory        vfs.DiskWriteCategory = "pebble-wal"
	compactionCategory vfs.DiskWriteCategory = "pebble-compaction"
)

// poisoned parks the caller when err is one that Pebble must not see.
func (p *poisonFS) poisoned(err error) error {
	if err == nil || err == io.EOF || !p.opened.Load() {
		return err
	}
	p.s.fail(fmt.Errorf("write index: %w", err))
	select {}
}

// Unwrap implements vfs.FS.
func (p *poisonFS) Unwrap() vfs.FS { return p.FS }

// others reports whether a file is none of the index: one of a state that is set
// aside, which can be refused for want of room. Nothing of the index waits for it.
func (p *poisonFS) others(name string) bool {
	return p.PathDir(name) != p.PathJoin(p.s.o.Dir, "index")
}

// Create implements vfs.FS. A marker names the manifest that is in force. Pebble
// makes both names durable with one sync of the folder, so that a power loss
// could keep the marker alone, and the index would not open again; the manifest's
// name is made durable first.
func (p *poisonFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if p.others(name) {
		return p.FS.Create(name, c)
	}
	if strings.HasPrefix(p.PathBase(name), "marker.") {
		if err := p.poisoned(disk.SyncDir(p.FS, p.PathDir(name))); err != nil {
			return nil, err
		}
	}
	var f vfs.File
	err := p.roomy(func() (err error) { f, err = p.FS.Create(name, c); return err })
	return p.file(f, c, err)
}

// ReuseForWrite implements vfs.FS.
func (p *poisonFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	var f vfs.File
	err := p.roomy(func() (err error) { f, err = p.FS.ReuseForWrite(oldname, newname, c); return err })
	return p.file(f, c, err)
}

func (p *poisonFS) file(f vfs.File, c vfs.DiskWriteCategory, err error) (vfs.File, error) {
	switch {
	case c == walCategory:
		if err := p.poisoned(err); err != nil {
			return nil, err
		}
		return &poisonFile{f, p}, nil
	case err != nil:
		return nil, err
	case c == compactionCategory:
		return &compactionFile{roomyFile{f, p}}, nil
	}
	return &roomyFile{f, p}, nil
}

// roomyFile is a file of the index that waits for room: a list of files, or a table
// that a flush writes.
type roomyFile struct {
	vfs.File
	p *poisonFS
}

// Write implements vfs.File.
func (f *roomyFile) Write(b []byte) (int, error) { return f.p.write(f.File, b) }

// write writes b from where the file ends, and what is left of it when there is
// room again.
func (p *poisonFS) write(f vfs.File, b []byte) (done int, err error) {
	err = p.roomy(func() error {
		n, err := f.Write(b[done:])
		done += n
		return err
	})
	return done, err
}

// errRead says that a file could not be read: nothing was lost by that.
var errRead = errors.New("read failed")

// Open implements vfs.FS: what a table's reader gets says that it is a read.
func (p *poisonFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := p.FS.Open(name, opts...)
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
	return fmt.Errorf("%w: %w", errRead, err)
}

// OpenDir implements vfs.FS: a log's name is durable by a sync of its folder.
func (p *poisonFS) OpenDir(name string) (vfs.File, error) {
	f, err := p.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &poisonFile{f, p}, nil
}

// poisonFile is a write-ahead log, or the folder that names it.
type poisonFile struct {
	vfs.File
	p *poisonFS
}

func (f *poisonFile) Write(b []byte) (int, error) {
	n, err := f.p.write(f.File, b)
	return n, f.p.poisoned(err)
}

func (f *poisonFile) WriteAt(b []byte, off int64) (n int, err error) {
	err = f.p.roomy(func() (err error) { n, err = f.File.WriteAt(b, off); return err })
	return n, f.p.poisoned(err)
}

func (f *poisonFile) Stat() (vfs.FileInfo, error) {
	st, err := f.File.Stat()
	return st, f.p.poisoned(err)
}

func (f *poisonFile) Sync() error     { return f.p.poisoned(f.File.Sync()) }
func (f *poisonFile) SyncData() error { return f.p.poisoned(f.File.SyncData()) }
func (f *poisonFile) Close() error    { return f.p.poisoned(f.File.Close()) }

func (f *poisonFile) SyncTo(length int64) (fullSync bool, err error) {
	fullSync, err = f.File.SyncTo(length)
	return fullSync, f.p.poisoned(err)
}
