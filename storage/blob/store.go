package blob

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage/slot"
)

// ErrDamaged says that what lies in a pack is not what was put there.
var ErrDamaged = errors.New("damaged")

// Location is where a body lies.
type Location struct {
	Pack   uint32
	Offset int64 // of the body's first byte, in the pack
	Size   int64 // of the body in bytes
	// NoteBytes is the length of the birth note, which lies before the body.
	NoteBytes uint32
}

// Options opens a Store.
type Options struct {
	FS      vfs.FS
	Dir     string // exists
	Cluster string
	Slot    slot.ID
	// PackBytesMax is the size at which the next pack begins; 0: 256 MiB.
	PackBytesMax int64
}

// Store is a slot's packs. Its methods may be called at the same time.
//
// Each open begins a pack of its own at the first Put, so that nothing is ever
// written behind a tail that a crash may have torn. A failed write or sync is
// final (Linux marks the pages clean): from then on Put and Sync give that
// error until the store is opened anew.
type Store struct {
	o Options

	chunks sync.Pool  // of *[chunkBytes]byte
	syncMu sync.Mutex // held by Sync: one that finds nothing to do must not overtake one that does it

	mu      sync.Mutex // guards all below
	next    uint32     // number of the next pack
	active  *writing
	full    []*writing          // packs that are full but may still be written
	readers map[uint32]vfs.File // kept open for the Store's life
	poison  error
	written uint64 // Puts that have returned without an error
	synced  uint64 // and how many of them are known to be durable
}

// newSuffix is what a pack is called until its preamble is durable.
const newSuffix = ".new"

// writing is a pack that this Store began.
type writing struct {
	f       vfs.File
	number  uint32
	end     int64 // first free offset
	writers int   // Puts that have a place in it and have not returned
}

// Open looks at the folder; damage of a pack's preamble refuses the Store.
func Open(o Options) (*Store, error) {
	if o.PackBytesMax == 0 {
		o.PackBytesMax = 256 << 20
	}
	s := &Store{o: o, readers: map[uint32]vfs.File{}, next: 1}
	if err := s.removeUnborn(); err != nil {
		return nil, err
	}
	numbers, err := s.Packs()
	if err != nil {
		return nil, err
	}
	for _, n := range numbers {
		s.next = n + 1
		if _, err := s.reader(n); err != nil {
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

// chunk gives a buffer; chunks.Put takes it back. Fresh memory for each body
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
	f, err := s.create(s.path(n))
	if err != nil {
		return fmt.Errorf("create pack %q: %w", s.path(n), err)
	}
	if s.active != nil {
		s.full = append(s.full, s.active)
	}
	s.active = &writing{f: f, number: n, end: preambleBytes}
	return nil
}

// create makes a pack under a name that no reader knows, and gives it its own
// when the preamble is durable: a crash in between, or a full disk, must not
// leave a pack that refuses the whole Store at the next open.
func (s *Store) create(path string) (vfs.File, error) {
	f, err := s.o.FS.Create(path+newSuffix, "mailnode-pack")
	if err != nil {
		return nil, err
	}
	if _, err = f.WriteAt(makePreamble(s.o.Cluster, s.o.Slot), 0); err == nil {
		err = f.Preallocate(0, min(s.o.PackBytesMax, 16<<20))
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
	if err := SyncDir(s.o.FS, s.o.Dir); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// SyncDir makes a folder's entries durable: a synced file in a folder that was
// not synced is lost with the power (FAULTS §1.5).
func SyncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Unsynced says whether a Put has returned that no finished Sync covers. While
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
	for _, w := range append(busy, last...) {
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

func (s *Store) reader(n uint32) (vfs.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.readers[n]; f != nil {
		return f, nil
	}
	f, err := s.o.FS.Open(s.path(n))
	if err != nil {
		return nil, fmt.Errorf("open pack %q: %w", s.path(n), err)
	}
	pre := make([]byte, preambleBytes)
	err = readFull(f, pre, 0)
	if err == nil {
		err = checkPreamble(pre, s.o.Cluster, s.o.Slot)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open pack %q: %w: %w", s.path(n), ErrDamaged, err)
	}
	s.readers[n] = f
	return f, nil
}

// Body reads a stored body.
type Body struct {
	*io.SectionReader
}

// Close does nothing: packs stay open.
func (Body) Close() error { return nil }

// Open proves a body against its GUID and opens it. ErrDamaged when it differs.
func (s *Store) Open(ref slot.BodyRef, loc Location) (Body, error) {
	p, err := s.reader(loc.Pack)
	if err != nil {
		return Body{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	b := Body{io.NewSectionReader(p, loc.Offset, loc.Size)}
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, io.NewSectionReader(p, loc.Offset, loc.Size), make([]byte, min(max(loc.Size, 1), 128<<10))); err != nil {
		return Body{}, fmt.Errorf("read body %s in %q: %w: %w", ref, s.path(loc.Pack), ErrDamaged, err)
	}
	if got := slot.GUID(h.Sum(nil)); got != ref.GUID {
		return Body{}, fmt.Errorf("read body %s in %q at %d: %w: its SHA-256 is %s", ref, s.path(loc.Pack), loc.Offset, ErrDamaged, got)
	}
	return b, nil
}

// Close closes all files. What was not synced may be lost.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	if s.active != nil {
		s.full = append(s.full, s.active)
	}
	for _, w := range s.full {
		errs = append(errs, w.f.Close())
	}
	for _, f := range s.readers {
		errs = append(errs, f.Close())
	}
	s.active, s.full, s.readers = nil, nil, map[uint32]vfs.File{}
	if s.poison == nil {
		s.poison = errors.New("the pack store is closed")
	}
	return errors.Join(errs...)
}
