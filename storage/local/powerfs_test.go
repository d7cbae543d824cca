package local

import (
	"bytes"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// powerFS is a crashable file system that calls a hook before and after each operation,
// and that can be photographed between two of them.
//
// MemFS alone keeps or loses whole blocks of 4 KiB and whole names, and has no hook after
// an operation; a disk tears at any sector and a file system at
// any byte. So a photograph is two clones of one moment, what is surely durable
// and all there is, and develop mixes any state in between.
type powerFS struct {
	vfs.FS // the MemFS
	mem    *vfs.MemFS

	mu   sync.RWMutex // held for reading by each change, for writing by photograph
	hook atomic.Pointer[func(op errorfs.Op, after bool) error]

	nodesMu sync.Mutex // guards nodes and what they point to
	nodes   map[string]*node
}

// node is a file or folder apart from its name: it may be synced while its name is not.
type node struct {
	synced []byte
	names  []string // of a folder, when it was last synced
}

func newPowerFS(mem *vfs.MemFS) *powerFS {
	return &powerFS{FS: mem, mem: mem, nodes: map[string]*node{}}
}

// node returns the file that has a name; one not seen before is on the disk whole.
func (p *powerFS) node(path string) *node {
	p.nodesMu.Lock()
	defer p.nodesMu.Unlock()
	if p.nodes[path] == nil {
		p.nodes[path] = &node{synced: contentOf(p.mem, path)}
	}
	return p.nodes[path]
}

func (p *powerFS) name(path string, n *node) {
	p.nodesMu.Lock()
	defer p.nodesMu.Unlock()
	if n == nil {
		delete(p.nodes, path)
		return
	}
	p.nodes[path] = n
}

// watch sets the hook; an error that it returns before an operation is that
// operation's error. Nil takes it away.
func (p *powerFS) watch(hook func(op errorfs.Op, after bool) error) {
	if hook == nil {
		p.hook.Store(nil)
		return
	}
	p.hook.Store(&hook)
}

func (p *powerFS) do(kind errorfs.OpKind, path string, fn func() error) error {
	op := errorfs.Op{Kind: kind, Path: path}
	hook := p.hook.Load()
	if hook != nil {
		if err := (*hook)(op, false); err != nil {
			return err
		}
	}
	p.mu.RLock()
	err := fn()
	p.mu.RUnlock()
	if hook != nil && err == nil {
		return (*hook)(op, true)
	}
	return err
}

// photo is the disk at one moment: what no power loss takes, and all there is.
type photo struct {
	what       string
	synced, at *vfs.MemFS
	durable    map[string]node // of those that have a name in at: what is synced of each
}

func (p *powerFS) photograph(what string) photo {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(0, 0))}
	ph := photo{what, p.mem.CrashClone(vfs.CrashCloneCfg{}), p.mem.CrashClone(all), map[string]node{}}
	p.nodesMu.Lock()
	defer p.nodesMu.Unlock()
	for path, n := range p.nodes {
		ph.durable[path] = *n
	}
	return ph
}

func (p *powerFS) file(path string, open func() (vfs.File, error), kind errorfs.OpKind) (f vfs.File, err error) {
	err = p.do(kind, path, func() (err error) {
		f, err = open()
		return err
	})
	if err != nil {
		return nil, err
	}
	return &powerFile{f, p, path, p.node(path)}, nil
}

func (p *powerFS) Unwrap() vfs.FS { return p.mem }

func (p *powerFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return p.file(name, func() (vfs.File, error) {
		p.name(name, &node{})
		return p.mem.Create(name, c)
	}, errorfs.OpCreate)
}

func (p *powerFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return p.file(to, func() (vfs.File, error) {
		p.name(to, p.node(from))
		p.name(from, nil)
		return p.mem.ReuseForWrite(from, to, c)
	}, errorfs.OpReuseForWrite)
}

func (p *powerFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	return p.file(name, func() (vfs.File, error) { return p.mem.Open(name, opts...) }, errorfs.OpOpen)
}

func (p *powerFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return p.file(name, func() (vfs.File, error) { return p.mem.OpenReadWrite(name, c, opts...) }, errorfs.OpOpen)
}

func (p *powerFS) OpenDir(name string) (vfs.File, error) {
	return p.file(name, func() (vfs.File, error) { return p.mem.OpenDir(name) }, errorfs.OpOpenDir)
}

func (p *powerFS) Link(from, to string) error {
	return p.do(errorfs.OpLink, to, func() error {
		p.name(to, p.node(from))
		return p.mem.Link(from, to)
	})
}

func (p *powerFS) Remove(name string) error {
	return p.do(errorfs.OpRemove, name, func() error { return p.mem.Remove(name) })
}

// Lock locks nothing: a process that was killed holds no lock.
func (p *powerFS) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

func (p *powerFS) RemoveAll(name string) error {
	return p.do(errorfs.OpRemoveAll, name, func() error { return p.mem.RemoveAll(name) })
}

func (p *powerFS) Rename(from, to string) error {
	return p.do(errorfs.OpRename, to, func() error {
		p.nodesMu.Lock()
		for path, n := range p.nodes { // a folder takes along what is in it
			if rest, in := strings.CutPrefix(path, from); in && (rest == "" || rest[0] == '/') {
				p.nodes[to+rest] = n
				delete(p.nodes, path)
			}
		}
		p.nodesMu.Unlock()
		return p.mem.Rename(from, to)
	})
}

// powerFile is a file of a powerFS.
type powerFile struct {
	vfs.File
	p    *powerFS
	path string
	node *node
}

// sync runs one, and notes what is durable now.
func (f *powerFile) sync(kind errorfs.OpKind, fn func() error) error {
	return f.p.do(kind, f.path, func() error {
		if err := fn(); err != nil {
			return err
		}
		st, err := f.File.Stat()
		if err != nil {
			return err
		}
		if st.IsDir() {
			names, err := f.p.mem.List(f.path)
			f.p.nodesMu.Lock()
			defer f.p.nodesMu.Unlock()
			f.node.names = names
			return err
		}
		f.p.nodesMu.Lock()
		defer f.p.nodesMu.Unlock()
		for path, n := range f.p.nodes { // under its name of now
			if n == f.node {
				r, err := f.p.mem.Open(path)
				if err != nil {
					return err
				}
				defer r.Close()
				n.synced, err = io.ReadAll(r)
				return err
			}
		}
		return nil
	})
}

func (f *powerFile) bytes(kind errorfs.OpKind, fn func() (int, error)) (n int, err error) {
	err = f.p.do(kind, f.path, func() (err error) {
		n, err = fn()
		return err
	})
	return n, err
}

func (f *powerFile) Read(b []byte) (int, error) {
	return f.bytes(errorfs.OpFileRead, func() (int, error) { return f.File.Read(b) })
}

func (f *powerFile) ReadAt(b []byte, at int64) (int, error) {
	return f.bytes(errorfs.OpFileReadAt, func() (int, error) { return f.File.ReadAt(b, at) })
}

// errShort, from a hook, makes a write end half way.
type errShort struct{ error }

func (f *powerFile) Write(b []byte) (int, error) {
	n, err := f.bytes(errorfs.OpFileWrite, func() (int, error) { return f.File.Write(b) })
	if short, ok := err.(errShort); ok && n == 0 {
		n, _ = f.File.Write(b[:len(b)/2])
		return n, short.error
	}
	return n, err
}

func (f *powerFile) WriteAt(b []byte, at int64) (int, error) {
	n, err := f.bytes(errorfs.OpFileWriteAt, func() (int, error) { return f.File.WriteAt(b, at) })
	if short, ok := err.(errShort); ok && n == 0 {
		n, _ = f.File.WriteAt(b[:len(b)/2], at)
		return n, short.error
	}
	return n, err
}

func (f *powerFile) Preallocate(at, n int64) error {
	return f.p.do(errorfs.OpFilePreallocate, f.path, func() error { return f.File.Preallocate(at, n) })
}

func (f *powerFile) Sync() error { return f.sync(errorfs.OpFileSync, f.File.Sync) }

func (f *powerFile) SyncData() error { return f.sync(errorfs.OpFileSyncData, f.File.SyncData) }

func (f *powerFile) SyncTo(n int64) (full bool, err error) {
	err = f.p.do(errorfs.OpFileSyncTo, f.path, func() (err error) {
		full, err = f.File.SyncTo(n)
		return err
	})
	return full, err
}

// changesDurability reports whether an operation decides what a power loss leaves.
func changesDurability(k errorfs.OpKind) bool {
	return slices.Contains([]errorfs.OpKind{errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpRename,
		errorfs.OpCreate, errorfs.OpReuseForWrite, errorfs.OpLink, errorfs.OpRemove, errorfs.OpRemoveAll}, k)
}

// develop returns a disk that the power loss may have left: what was synced, and
// of the rest a part by chance. The names of a folder are those that were synced, these
// and some new ones, or all. A file that has two states has either, or is torn at any
// byte or any sector; behind the tear lie the old bytes, the end, zeros or garbage.
func (ph photo) develop(t *testing.T, rng *rand.Rand) *vfs.MemFS {
	t.Helper()
	out := vfs.NewCrashableMem()
	if err := ph.mix(out, "/", rng); err != nil {
		t.Fatal(err)
	}
	return out.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng}) // all of it is on the disk
}

func (ph photo) mix(out *vfs.MemFS, dir string, rng *rand.Rand) error {
	if err := out.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	old, _ := ph.synced.List(dir) // a folder that only one of them has lists as empty
	now, _ := ph.at.List(dir)
	if n := ph.durable[dir]; n.names != nil && exists(ph.at, dir) {
		old = slices.DeleteFunc(slices.Clone(n.names), func(name string) bool {
			path := dir + "/" + name
			return !exists(ph.synced, path) && !exists(ph.at, path)
		})
	}
	names := slices.Clone(old)
	how := rng.IntN(3)
	if how == 0 && strings.HasSuffix(dir, "/index") {
		// Pebble names its MANIFEST and then the marker, with no sync of the folder
		// between: it counts on names that come in order, as ext4, XFS and btrfs
		// keep them after a sync of the file. Our own code may not.
		how = 1 + rng.IntN(2)
	}
	switch how {
	case 0:
		for _, n := range now {
			if !slices.Contains(names, n) && rng.IntN(2) == 0 {
				names = append(names, n)
			}
		}
	case 1:
		names = slices.Clone(now)
	}
	slices.Sort(names)
	for _, n := range names {
		path := strings.TrimSuffix(dir, "/") + "/" + n
		if isFolder(ph.synced, path) || isFolder(ph.at, path) {
			if err := ph.mix(out, path, rng); err != nil {
				return err
			}
			continue
		}
		f, err := out.Create(path, "test")
		if err != nil {
			return err
		}
		// Write may change what it is given, and with -race it does.
		if _, err := f.Write(slices.Clone(ph.content(path, rng))); err != nil {
			return err
		}
		f.Close()
	}
	return nil
}

// content returns what a file may have. A name that has come to mean another file
// means the one or the other.
func (ph photo) content(path string, rng *rand.Rand) []byte {
	before, was := contentOf(ph.synced, path), exists(ph.synced, path)
	n, seen := ph.durable[path]
	synced := n.synced
	if !seen {
		synced = before // nobody has opened it
	}
	if !exists(ph.at, path) || was && !bytes.Equal(before, synced) && rng.IntN(2) == 0 {
		return before
	}
	return tear(synced, contentOf(ph.at, path), rng)
}

func exists(fs *vfs.MemFS, path string) bool {
	_, err := fs.Stat(path)
	return err == nil
}

func isFolder(fs *vfs.MemFS, path string) bool {
	st, err := fs.Stat(path)
	return err == nil && st.IsDir()
}

// contentOf reads a file whole; nil when there is none.
func contentOf(fs *vfs.MemFS, path string) []byte {
	b, err := fs.UnsafeGetFileDataBuffer(path)
	if err != nil {
		return nil
	}
	return slices.Clone(b)
}

func tear(old, now []byte, rng *rand.Rand) []byte {
	if bytes.Equal(old, now) {
		return old
	}
	first := 0 // what both have
	for first < min(len(old), len(now)) && old[first] == now[first] {
		first++
	}
	switch rng.IntN(6) {
	case 0:
		return old
	case 1:
		return now
	case 2: // by sectors
		out := append(slices.Clone(old), make([]byte, max(0, len(now)-len(old)))...)
		for at := first &^ 511; at < len(now); at += 512 {
			if rng.IntN(2) == 0 {
				copy(out[at:], now[at:min(at+512, len(now))])
			}
		}
		return out
	}
	cut := first + rng.IntN(len(now)-first+1)
	out := slices.Clone(now[:cut])
	if cut < len(old) {
		out = append(out, old[cut:]...)
	}
	tail := make([]byte, rng.IntN(max(1, len(now)-len(out)+1)))
	if rng.IntN(2) == 0 {
		for i := range tail {
			tail[i] = byte(rng.Uint32())
		}
	}
	return append(out, tail...)
}
