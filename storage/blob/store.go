package blob

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

var (
	// ErrDamaged says that what lies in a pack is not what was put there.
	ErrDamaged = errors.New("damaged")
	// ErrGone says that the pack is not there; such an error is ErrDamaged too,
	// unless the body was moved and its new place serves.
	ErrGone = errors.New("pack is gone")
)

// Unread reports whether damage is of the kind that passes: the system did not read
// (EIO of a loose cable, a folder that may not be entered), or there is no pack
// where one was (a volume that is not mounted). It says nothing of what lies there.
func Unread(err error) bool {
	var sys syscall.Errno
	return errors.As(err, &sys) || errors.Is(err, ErrGone)
}

// Location is where a body lies.
type Location struct {
	Pack   uint32
	Offset int64 // of the body's first byte, in the pack
	Size   int64 // of the body as received, in bytes
	// NoteBytes is the length of the birth note, which lies before the body.
	NoteBytes uint32
	Encoding  byte  // as in the record's header
	Stored    int64 // bytes of the body in the pack when it is encoded, else 0
}

func (l Location) stored() int64 {
	if l.Encoding == plainBody {
		return l.Size
	}
	return l.Stored
}

// headBytes is what lies before the body.
func (l Location) headBytes() int64 { return headerBytes + extra(l.Encoding) + int64(l.NoteBytes) }

// RecordBytes is the room that the body takes in its pack, all included.
func (l Location) RecordBytes() int64 {
	return (l.headBytes() + l.stored() + alignBytes - 1) &^ (alignBytes - 1)
}

// Options opens a Store.
type Options struct {
	FS      vfs.FS
	Dir     string // exists
	Cluster string
	Slot    slot.ID
	// PackBytesMax is the size at which the next pack begins; 0: 256 MiB.
	PackBytesMax int64
	// Handles is shared by the Stores of a node; nil: one of the Store's own.
	Handles *Handles
}

// Store is a slot's packs. Its methods may be called at the same time.
//
// Each open begins a pack of its own at the first Put, so that nothing is ever
// written behind a tail that a crash may have torn. A failed write or sync is
// final (Linux marks the pages clean): from then on Put and Sync return that
// error until the store is opened again.
type Store struct {
	o Options

	chunks sync.Pool  // of *[chunkBytes]byte
	syncMu sync.Mutex // held by Sync: one that finds nothing to do must not overtake one that does it

	mu        sync.Mutex // guards all below
	next      uint32     // number of the next pack
	active    *writing
	full      []*writing          // packs that are full but may still be written
	rewriting map[uint32]struct{} // packs that Rewriters are writing
	poison    error
	written   uint64 // Puts that have returned without an error
	synced    uint64 // and how many of them are known to be durable

	// goneMu guards all below. It is never held while the disk is waited for, as mu
	// is when a pack is begun: readers take only this one.
	goneMu  sync.Mutex
	removed map[uint32]struct{} // packs that this Store removed
	closed  bool
}

// newSuffix is what a pack is called until its preamble is durable.
const newSuffix = ".new"

// writing is a pack that this Store began.
type writing struct {
	f       vfs.File
	number  uint32
	end     int64 // first free offset
	writers int   // Puts that have a place in it and have not returned
	closing bool  // Close is over: the last writer closes it
}

// foreignLooks is how many damaged packs Open passes over on its search for one
// that says whose the folder is.
const foreignLooks = 4

// Open looks at the folder, and at the preamble of the newest pack: one of
// another cluster or slot refuses the Store, since then all of them are (a wrong
// volume was mounted). A pack that is damaged takes nobody down with it (law 9):
// what lies in it is found damaged by whoever reads it, body by body, and is
// fetched from another copy. So with thousands of packs Open reads one.
func Open(o Options) (*Store, error) {
	if o.PackBytesMax == 0 {
		o.PackBytesMax = 256 << 20
	}
	if o.Handles == nil {
		o.Handles = NewHandles(packFilesMax)
	}
	s := &Store{o: o, rewriting: map[uint32]struct{}{}, removed: map[uint32]struct{}{}, next: 1}
	if err := s.removeUnborn(); err != nil {
		return nil, err
	}
	numbers, err := s.Packs()
	if err != nil {
		return nil, err
	}
	if len(numbers) > 0 {
		s.next = numbers[len(numbers)-1] + 1
	}
	for _, n := range slices.Backward(numbers[max(0, len(numbers)-foreignLooks):]) {
		h, err := s.reader(n)
		if err == nil {
			o.Handles.release(h)
			break
		}
		if errors.Is(err, errForeign) {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// removeUnborn removes packs that a crash cut off before they had a name: no
// body was ever put into one.
func (s *Store) removeUnborn() error {
	names, err := s.o.FS.List(s.o.Dir)
	if err != nil {
		return fmt.Errorf("list packs %q: %w", s.o.Dir, err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".pack"+newSuffix) {
			if err := s.o.FS.Remove(s.o.FS.PathJoin(s.o.Dir, name)); err != nil {
				return fmt.Errorf("remove %q: %w", name, err)
			}
		}
	}
	return nil
}

// Packs lists the numbers of the packs on disk, in order.
func (s *Store) Packs() ([]uint32, error) {
	names, err := s.o.FS.List(s.o.Dir)
	if err != nil {
		return nil, fmt.Errorf("list packs %q: %w", s.o.Dir, err)
	}
	var out []uint32
	for _, name := range names {
		var n uint32
		if _, err := fmt.Sscanf(name, "%08d.pack", &n); err == nil && strings.HasSuffix(name, ".pack") {
			out = append(out, n)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i] < out[j] })
	return out, nil
}

func (s *Store) path(n uint32) string {
	return s.o.FS.PathJoin(s.o.Dir, fmt.Sprintf("%08d.pack", n))
}

// Put writes a body with its birth note. The body counts as kept only after the
// next Sync.
func (s *Store) Put(ref slot.BodyRef, note *BirthNote, body io.ReaderAt, size int64) (Location, error) {
	head, err := appendHead(nil, ref, size, note)
	if err != nil {
		return Location{}, err
	}
	w, loc, at, err := s.reserve(int64(len(head)), size)
	if err != nil {
		return Location{}, err
	}
	// The range is this call's own, so bodies are written side by side.
	err = s.writeRecord(w.f, at, head, body, size)
	s.mu.Lock()
	w.writers--
	if err == nil {
		s.written++
	}
	if w.closing && w.writers == 0 {
		w.f.Close()
	}
	s.mu.Unlock()
	if err != nil {
		// Nothing was promised: the place stays a hole, the store goes on.
		return Location{}, fmt.Errorf("write body %s to %q: %w", ref, s.path(loc.Pack), err)
	}
	return loc, nil
}

// chunkBytes is how much of a body is written at once; a smaller record is
// written whole.
const chunkBytes = 256 << 10

// chunk returns a buffer; chunks.Put takes it back. Fresh memory for each body
// would cost more than copying the body.
func (s *Store) chunk() *[chunkBytes]byte {
	if b, ok := s.chunks.Get().(*[chunkBytes]byte); ok {
		return b
	}
	return new([chunkBytes]byte)
}

func (s *Store) writeRecord(f vfs.File, at int64, head []byte, body io.ReaderAt, size int64) error {
	buf := s.chunk()
	defer s.chunks.Put(buf)
	if whole := int64(len(head)) + size; whole <= chunkBytes {
		rec := buf[:whole]
		copy(rec, head)
		if err := readFull(body, rec[len(head):], 0); err != nil {
			return err
		}
		_, err := f.WriteAt(rec, at)
		return err
	}
	for off := int64(0); off < size; off += chunkBytes {
		b := buf[:min(chunkBytes, size-off)]
		if err := readFull(body, b, off); err != nil {
			return err
		}
		if _, err := f.WriteAt(b, at+int64(len(head))+off); err != nil {
			return err
		}
	}
	_, err := f.WriteAt(head, at)
	return err
}

func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (s *Store) reserve(head, size int64) (*writing, Location, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.poison != nil {
		return nil, Location{}, 0, s.poison
	}
	if w := s.active; w == nil || w.end+head+size > s.o.PackBytesMax && w.end > preambleBytes {
		if err := s.roll(); err != nil {
			// Nothing was promised in the new pack: the next Put tries again.
			return nil, Location{}, 0, err
		}
	}
	w := s.active
	at := w.end
	w.end += (head + size + alignBytes - 1) &^ (alignBytes - 1)
	w.writers++
	return w, Location{Pack: w.number, Offset: at + head, Size: size, NoteBytes: uint32(head - headerBytes)}, at, nil
}

// roll begins the next pack; its name is durable before anything lies in it.
func (s *Store) roll() error {
	n := s.next
	s.next++ // also after an error: what became of the name is not known
	f, err := s.create(s.path(n), packMagic, min(s.o.PackBytesMax, 16<<20))
	if err != nil {
		return fmt.Errorf("create pack %q: %w", s.path(n), err)
	}
	if s.active != nil {
		s.full = append(s.full, s.active)
	}
	s.active = &writing{f: f, number: n, end: preambleBytes}
	return nil
}

// create makes a pack under a name that no reader knows, and renames it when the
// preamble is durable: a crash in between, or a full disk, must not
// leave a pack that refuses the whole Store at the next open.
func (s *Store) create(path, magic string, preallocateBytes int64) (vfs.File, error) {
	f, err := s.o.FS.Create(path+newSuffix, "mailnode-pack")
	if err != nil {
		return nil, err
	}
	if _, err = f.WriteAt(makePreamble(magic, s.o.Cluster, s.o.Slot), 0); err == nil && preallocateBytes > 0 {
		err = f.Preallocate(0, preallocateBytes)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = s.o.FS.Rename(path+newSuffix, path)
	}
	if err != nil {
		f.Close()
		s.o.FS.Remove(path + newSuffix)
		return nil, err
	}
	if err := disk.SyncDir(s.o.FS, s.o.Dir); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Unsynced reports whether a Put has returned that no finished Sync covers. While
// a Sync runs that may be so for bodies that it does cover.
func (s *Store) Unsynced() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written != s.synced || s.poison != nil
}

// Sync makes durable every body whose Put has returned; without one since the
// last Sync it does nothing. A full pack is closed by the first Sync that finds
// no Put in it.
func (s *Store) Sync() error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	s.mu.Lock()
	if s.poison != nil || s.active == nil || s.written == s.synced {
		defer s.mu.Unlock()
		return s.poison
	}
	active, upTo := s.active.f, s.written
	var last, busy []*writing
	for _, w := range s.full {
		if w.writers == 0 {
			last = append(last, w)
		} else {
			busy = append(busy, w)
		}
	}
	s.full = busy
	s.mu.Unlock()
	// Not append: what rolls meanwhile is appended to busy's own array.
	for _, w := range slices.Concat(busy, last) {
		if err := w.f.SyncData(); err != nil {
			return s.fail(fmt.Errorf("sync pack %q: %w", s.path(w.number), err))
		}
	}
	for _, w := range last {
		w.f.Close()
	}
	if err := active.SyncData(); err != nil {
		return s.fail(fmt.Errorf("sync pack: %w", err))
	}
	s.mu.Lock()
	s.synced = upTo
	s.mu.Unlock()
	return nil
}

func (s *Store) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.poison == nil {
		s.poison = err
	}
	return s.poison
}

// Close closes all files; those of bodies that are still being read or written, when
// that has ended. What was not synced may be lost.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	if s.active != nil {
		s.full = append(s.full, s.active)
	}
	for _, w := range s.full {
		if w.closing = w.writers > 0; !w.closing { // a copy that has failed does not wait for its disk
			errs = append(errs, w.f.Close())
		}
	}
	s.active, s.full = nil, nil
	s.goneMu.Lock()
	s.closed = true
	s.goneMu.Unlock()
	s.o.Handles.dropAll(s)
	if s.poison == nil {
		s.poison = errors.New("the pack store is closed")
	}
	return errors.Join(errs...)
}
