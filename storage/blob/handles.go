package blob

import (
	"container/list"
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/klauspost/compress/zstd"
)

// packFilesMax is how many packs a Store without shared Handles keeps open.
const packFilesMax = 64

// Handles are what the Stores of a node share to read with: packs that stay open
// between two reads, and the decoder of encoded bodies. Its methods may be called
// at the same time.
type Handles struct {
	max     int
	decoder *zstd.Decoder

	mu    sync.Mutex // guards all below
	open  map[handleKey]*handle
	order list.List // of *handle; front: used last
}

type handleKey struct {
	store *Store
	pack  uint32
}

// handle is a pack that is open for reading.
type handle struct {
	key       handleKey
	f         vfs.File
	rewritten bool // as its preamble says
	users     int
	dropped   bool          // not to be found any more: its last user closes it
	at        *list.Element // in order
}

// NewHandles makes Handles that keep so many packs open, and more only as long
// as more are being read at one time.
func NewHandles(filesMax int) *Handles {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(EncodedBytesMax),
		zstd.WithDecoderMaxWindow(2*EncodedBytesMax), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(fmt.Sprintf("make zstd decoder: %v", err)) // only for options that contradict each other
	}
	return &Handles{max: max(filesMax, 1), decoder: d, open: map[handleKey]*handle{}}
}

// Open counts the packs that are open.
func (hs *Handles) Open() int {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return len(hs.open)
}

// acquire returns an open pack, which the caller releases.
func (hs *Handles) acquire(key handleKey, open func() (*handle, error)) (*handle, error) {
	hs.mu.Lock()
	if h := hs.open[key]; h != nil {
		h.users++
		hs.order.MoveToFront(h.at)
		hs.mu.Unlock()
		return h, nil
	}
	hs.mu.Unlock()
	fresh, err := open() // a slow disk must not stop the readers of the others
	if err != nil {
		return nil, err
	}
	hs.mu.Lock()
	h := hs.open[key]
	idle := fresh
	if h == nil {
		h, idle = fresh, nil
		h.key, h.at = key, hs.order.PushFront(h)
		hs.open[key] = h
	}
	h.users++
	surplus := hs.evict()
	hs.mu.Unlock()
	closeFiles(append(surplus, idle))
	return h, nil
}

func (hs *Handles) release(h *handle) {
	hs.mu.Lock()
	h.users--
	surplus := hs.evict()
	if h.dropped && h.users == 0 {
		surplus = append(surplus, h)
	}
	hs.mu.Unlock()
	closeFiles(surplus)
}

// evict takes out the packs over the limit that nobody reads, the one that was
// used longest ago first.
func (hs *Handles) evict() (idle []*handle) {
	for e := hs.order.Back(); e != nil && len(hs.open) > hs.max; {
		h := e.Value.(*handle)
		e = e.Prev()
		if h.users == 0 {
			hs.forget(h)
			idle = append(idle, h)
		}
	}
	return idle
}

func (hs *Handles) forget(h *handle) {
	h.dropped = true
	delete(hs.open, h.key)
	hs.order.Remove(h.at)
}

// drop forgets a pack: at once when nobody reads it, else with its last reader.
func (hs *Handles) drop(key handleKey) {
	hs.mu.Lock()
	var idle []*handle
	if h := hs.open[key]; h != nil {
		hs.forget(h)
		if h.users == 0 {
			idle = append(idle, h)
		}
	}
	hs.mu.Unlock()
	closeFiles(idle)
}

func (hs *Handles) dropAll(s *Store) {
	hs.mu.Lock()
	var idle []*handle
	for key, h := range hs.open {
		if key.store != s {
			continue
		}
		hs.forget(h)
		if h.users == 0 {
			idle = append(idle, h)
		}
	}
	hs.mu.Unlock()
	closeFiles(idle)
}

func closeFiles(hs []*handle) {
	for _, h := range hs {
		if h != nil {
			h.f.Close() // nothing was written: its error says nothing
		}
	}
}

// reader returns a pack that is open for reading, its preamble proved; the caller
// releases it. ErrDamaged, also ErrGone, or an error of the system.
func (s *Store) reader(n uint32) (*handle, error) {
	s.goneMu.Lock()
	closed := s.closed
	s.goneMu.Unlock()
	if closed {
		return nil, errors.New("the pack store is closed")
	}
	key := handleKey{s, n}
	h, err := s.o.Handles.acquire(key, func() (*handle, error) { return s.openPack(n) })
	if err != nil {
		return nil, fmt.Errorf("open pack %q: %w", s.path(n), err)
	}
	s.goneMu.Lock()
	_, removed := s.removed[n]
	closed = s.closed
	s.goneMu.Unlock()
	if removed || closed { // between the two looks: it must not stay open
		s.o.Handles.drop(key)
		s.o.Handles.release(h)
		if closed {
			return nil, errors.New("the pack store is closed")
		}
		return nil, fmt.Errorf("open pack %q: %w: %w", s.path(n), ErrDamaged, ErrGone)
	}
	return h, nil
}

func (s *Store) openPack(n uint32) (*handle, error) {
	f, err := s.o.FS.Open(s.path(n))
	switch {
	case oserror.IsNotExist(err):
		return nil, fmt.Errorf("%w: %w", ErrDamaged, ErrGone)
	case outOfFiles(err):
		return nil, err // says nothing about the pack
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	h := &handle{f: f}
	pre := make([]byte, preambleBytes)
	if err = readFull(f, pre, 0); err == nil {
		h.rewritten, err = checkPreamble(pre, s.o.Cluster, s.o.Slot)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return h, nil
}
