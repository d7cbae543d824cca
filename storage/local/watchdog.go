package local

import (
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// hangAfter is how long a write or a sync may take: a disk that is only slow
// comes back sooner, one that is gone does not answer at all.
const hangAfter = 30 * time.Second

// hangTicks is in how many looks an operation must have been under way: a
// process that was stopped for a minute looks once afterwards, and nothing hangs.
const hangTicks = 4

// watchdog notices a disk that no longer answers. Whoever waits for it cannot be
// woken; the copy fails instead, so that the slot is served elsewhere (law 9).
// Reads are not watched: a reader that hangs holds up nobody else.
type watchdog struct {
	fail func(error)
	stop chan struct{}
	end  sync.Once

	mu  sync.Mutex
	ops map[*diskOp]struct{}
}

// diskOp is one operation under way.
type diskOp struct {
	what, path string
	looks      int // in how many it was seen
}

func startWatchdog(after time.Duration, fail func(error)) *watchdog {
	w := &watchdog{fail: fail, stop: make(chan struct{}), ops: map[*diskOp]struct{}{}}
	go func() {
		t := time.NewTicker(after / hangTicks)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				if op := w.look(); op != nil {
					w.fail(fmt.Errorf("the disk does not answer: %s of %q has not returned for %s", op.what, op.path, after))
					return
				}
			case <-w.stop:
				return
			}
		}
	}()
	return w
}

func (w *watchdog) close() { w.end.Do(func() { close(w.stop) }) }

// look gives an operation that hangs.
func (w *watchdog) look() *diskOp {
	w.mu.Lock()
	defer w.mu.Unlock()
	for op := range w.ops {
		if op.looks++; op.looks > hangTicks {
			return op
		}
	}
	return nil
}

// during watches fn.
func (w *watchdog) during(what, path string, fn func() error) error {
	op := &diskOp{what: what, path: path}
	w.mu.Lock()
	w.ops[op] = struct{}{}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.ops, op)
	}()
	return fn()
}

// watchedFS is a file system whose writes, syncs and changes of names are watched.
type watchedFS struct {
	vfs.FS
	w *watchdog
}

// Unwrap implements vfs.FS.
func (f watchedFS) Unwrap() vfs.FS { return f.FS }

func (f watchedFS) open(what, name string, open func() (vfs.File, error)) (vfs.File, error) {
	var file vfs.File
	err := f.w.during(what, name, func() (err error) { file, err = open(); return err })
	if err != nil {
		return nil, err
	}
	return &watchedFile{file, name, f.w}, nil
}

// Create implements vfs.FS.
func (f watchedFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open("create", name, func() (vfs.File, error) { return f.FS.Create(name, c) })
}

// ReuseForWrite implements vfs.FS.
func (f watchedFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open("create", newname, func() (vfs.File, error) { return f.FS.ReuseForWrite(oldname, newname, c) })
}

// OpenReadWrite implements vfs.FS.
func (f watchedFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return f.open("open", name, func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, o...) })
}

// OpenDir implements vfs.FS: folders are synced.
func (f watchedFS) OpenDir(name string) (vfs.File, error) {
	return f.open("open", name, func() (vfs.File, error) { return f.FS.OpenDir(name) })
}

// Rename implements vfs.FS.
func (f watchedFS) Rename(oldname, newname string) error {
	return f.w.during("rename", newname, func() error { return f.FS.Rename(oldname, newname) })
}

// Remove implements vfs.FS.
func (f watchedFS) Remove(name string) error {
	return f.w.during("remove", name, func() error { return f.FS.Remove(name) })
}

// watchedFile is a file that is written to, or a folder that is synced.
type watchedFile struct {
	vfs.File
	path string
	w    *watchdog
}

// Write implements vfs.File.
func (f *watchedFile) Write(b []byte) (n int, err error) {
	err = f.w.during("write", f.path, func() (err error) { n, err = f.File.Write(b); return err })
	return n, err
}

// WriteAt implements vfs.File.
func (f *watchedFile) WriteAt(b []byte, off int64) (n int, err error) {
	err = f.w.during("write", f.path, func() (err error) { n, err = f.File.WriteAt(b, off); return err })
	return n, err
}

// Preallocate implements vfs.File.
func (f *watchedFile) Preallocate(off, n int64) error {
	return f.w.during("preallocate", f.path, func() error { return f.File.Preallocate(off, n) })
}

// Sync implements vfs.File.
func (f *watchedFile) Sync() error { return f.w.during("sync", f.path, f.File.Sync) }

// SyncData implements vfs.File.
func (f *watchedFile) SyncData() error { return f.w.during("sync", f.path, f.File.SyncData) }

// SyncTo implements vfs.File.
func (f *watchedFile) SyncTo(length int64) (full bool, err error) {
	err = f.w.during("sync", f.path, func() (err error) { full, err = f.File.SyncTo(length); return err })
	return full, err
}
