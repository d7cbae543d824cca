package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// HangAfter is how long an operation may take: a disk that is only slow
// comes back sooner, one that is gone does not answer at all.
const HangAfter = 30 * time.Second

// hangTicks is in how many looks an operation must have been under way: a
// process that was stopped for a minute looks once afterwards, and nothing hangs.
const hangTicks = 20

// ErrHangs says that a disk has not answered for HangAfter, or as long as was said.
var ErrHangs = errors.New("the disk does not answer")

// Watchdog notices a disk that no longer answers. Whoever waits for it cannot be
// woken; what lies on it fails instead, so that it is served elsewhere (law 9). That
// concerns reads as well: who holds a record up holds up its slot. A nil Watchdog
// watches nothing.
type Watchdog struct {
	fail func(error)
	tick time.Duration // from one look to the next
	stop chan struct{}
	end  sync.Once

	mu   sync.Mutex // guards all below
	ops  map[*diskOp]struct{}
	open map[*watchedCloser]struct{} // files, folders and locks
	cut  *cutting                    // nil until Cut
}

// diskOp is one operation under way.
type diskOp struct {
	what, path string
	looks      int  // in how many it was seen
	long       bool // it is many in one, and may take long
}

// StartWatchdog watches until Close. fail is called, once, with the first operation
// that has not returned for as long as after.
func StartWatchdog(after time.Duration, fail func(error)) *Watchdog {
	w := &Watchdog{fail: fail, tick: after / hangTicks, stop: make(chan struct{}), ops: map[*diskOp]struct{}{}, open: map[*watchedCloser]struct{}{}}
	go func() {
		t := time.NewTicker(w.tick)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				if op := w.look(); op != nil {
					w.fail(fmt.Errorf("%w: %s of %q has not returned for %s", ErrHangs, op.what, op.path, after))
					return
				}
			case <-w.stop:
				return
			}
		}
	}()
	return w
}

// Close ends the watch.
func (w *Watchdog) Close() {
	if w != nil {
		w.end.Do(func() { close(w.stop) })
	}
}

// look returns an operation that hangs.
func (w *Watchdog) look() *diskOp {
	w.mu.Lock()
	defer w.mu.Unlock()
	for op := range w.ops {
		if op.looks++; op.looks > hangTicks && !op.long {
			return op
		}
	}
	return nil
}

// Slowest returns the operation that is under way for longest, and for how long it
// surely is.
func (w *Watchdog) Slowest() (what string, since time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var worst *diskOp
	for op := range w.ops {
		if op.looks > 1 && !op.long && (worst == nil || op.looks > worst.looks) {
			worst = op
		}
	}
	if worst == nil {
		return "", 0
	}
	return fmt.Sprintf("%s of %s", worst.what, filepath.Join(filepath.Base(filepath.Dir(worst.path)), filepath.Base(worst.path))), time.Duration(worst.looks-1) * w.tick
}

// During watches fn.
func (w *Watchdog) During(what, path string, fn func() error) error {
	if w == nil {
		return fn()
	}
	return w.during(&diskOp{what: what, path: path}, fn)
}

func (w *Watchdog) during(op *diskOp, fn func() error) error {
	if err := w.begin(op); err != nil {
		return err
	}
	defer w.over(op)
	return fn()
}

// FS returns fs with its operations watched. Those on files that lie in one of the spaces
// also tell how their disk is (Space.Trouble).
func (w *Watchdog) FS(fs vfs.FS, spaces ...*Space) vfs.FS { return watchedFS{fs, w, spaces} }

// watchedFS is a file system whose operations are watched.
type watchedFS struct {
	vfs.FS
	w      *Watchdog
	spaces []*Space
}

// Unwrap implements vfs.FS.
func (f watchedFS) Unwrap() vfs.FS { return f.FS }

func (f watchedFS) open(what, name string, open func() (vfs.File, error)) (vfs.File, error) {
	var file vfs.File
	var c *watchedCloser
	err := f.w.During(what, name, func() (err error) {
		if file, err = open(); err == nil {
			c, err = f.w.opened(file)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &watchedFile{file, c, name, f.w, nearest(f.spaces, name)}, nil
}

// Open implements vfs.FS.
func (f watchedFS) Open(name string, o ...vfs.OpenOption) (vfs.File, error) {
	return f.open("open", name, func() (vfs.File, error) { return f.FS.Open(name, o...) })
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
	return f.w.During("rename", newname, func() error { return f.FS.Rename(oldname, newname) })
}

// Remove implements vfs.FS.
func (f watchedFS) Remove(name string) error {
	return f.w.During("remove", name, func() error { return f.FS.Remove(name) })
}

// RemoveAll implements vfs.FS. It is many operations in one: how long it takes says
// nothing.
func (f watchedFS) RemoveAll(name string) error {
	return f.w.during(&diskOp{what: "remove", path: name, long: true}, func() error { return f.FS.RemoveAll(name) })
}

// Link implements vfs.FS.
func (f watchedFS) Link(oldname, newname string) error {
	return f.w.During("link", newname, func() error { return f.FS.Link(oldname, newname) })
}

// MkdirAll implements vfs.FS.
func (f watchedFS) MkdirAll(dir string, perm os.FileMode) error {
	return f.w.During("make folder", dir, func() error { return f.FS.MkdirAll(dir, perm) })
}

// Lock implements vfs.FS.
func (f watchedFS) Lock(name string) (c io.Closer, err error) {
	var held *watchedCloser
	err = f.w.During("lock", name, func() error {
		if c, err = f.FS.Lock(name); err == nil {
			held, err = f.w.opened(c)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return held, nil
}

// List implements vfs.FS.
func (f watchedFS) List(dir string) (names []string, err error) {
	err = f.w.During("list", dir, func() (err error) { names, err = f.FS.List(dir); return err })
	return names, err
}

// Stat implements vfs.FS.
func (f watchedFS) Stat(name string) (st vfs.FileInfo, err error) {
	err = f.w.During("stat", name, func() (err error) { st, err = f.FS.Stat(name); return err })
	return st, err
}

// GetDiskUsage implements vfs.FS.
func (f watchedFS) GetDiskUsage(path string) (u vfs.DiskUsage, err error) {
	err = f.w.During("statfs", path, func() (err error) { u, err = f.FS.GetDiskUsage(path); return err })
	return u, err
}

// watchedFile is a file or a folder that is open.
type watchedFile struct {
	vfs.File
	c     *watchedCloser
	path  string
	w     *Watchdog
	space *Space // nil: nobody asked how its disk is
}

// Close implements vfs.File.
func (f *watchedFile) Close() error { return f.c.Close() }

// Read implements vfs.File.
func (f *watchedFile) Read(b []byte) (n int, err error) {
	err = f.w.During("read", f.path, func() (err error) { n, err = f.File.Read(b); return err })
	f.space.wasRead(f.path, 0, err)
	return n, err
}

// ReadAt implements vfs.File.
func (f *watchedFile) ReadAt(b []byte, off int64) (n int, err error) {
	err = f.w.During("read", f.path, func() (err error) { n, err = f.File.ReadAt(b, off); return err })
	f.space.wasRead(f.path, off, err)
	return n, err
}

// Prefetch implements vfs.File.
func (f *watchedFile) Prefetch(off, n int64) error {
	return f.w.During("read ahead", f.path, func() error { return f.File.Prefetch(off, n) })
}

// Write implements vfs.File.
func (f *watchedFile) Write(b []byte) (n int, err error) {
	err = f.w.During("write", f.path, func() (err error) { n, err = f.File.Write(b); return err })
	return n, err
}

// WriteAt implements vfs.File.
func (f *watchedFile) WriteAt(b []byte, off int64) (n int, err error) {
	err = f.w.During("write", f.path, func() (err error) { n, err = f.File.WriteAt(b, off); return err })
	return n, err
}

// Preallocate implements vfs.File.
func (f *watchedFile) Preallocate(off, n int64) error {
	return f.w.During("preallocate", f.path, func() error { return f.File.Preallocate(off, n) })
}

func (f *watchedFile) sync(fn func() error) error {
	return f.space.synced(func() error { return f.w.During("sync", f.path, fn) })
}

// Sync implements vfs.File.
func (f *watchedFile) Sync() error { return f.sync(f.File.Sync) }

// SyncData implements vfs.File.
func (f *watchedFile) SyncData() error { return f.sync(f.File.SyncData) }

// SyncTo implements vfs.File.
func (f *watchedFile) SyncTo(length int64) (full bool, err error) {
	err = f.sync(func() (err error) { full, err = f.File.SyncTo(length); return err })
	return full, err
}
