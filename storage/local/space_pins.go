package local

import (
	"fmt"
	"math"
	"strings"
	"sync"

	"github.com/cockroachdb/errors/oserror"

	"mailnode/storage/blob"
	"mailnode/storage/disk"
)

// packPins are the reasons for which packs stay although no body of the index lies in
// them: a reader has places from an older state, a state in quarantine points into them,
// or a Put is writing to them.
//
// Every pin holds all packs up to the one that was the newest when it began: packs that
// were begun later are no part of the state that it is for.
type packPins struct {
	compacting sync.Mutex // held by the one compaction that runs, and after Close

	mu   sync.Mutex // guards pins; held while a pack is removed
	pins map[*uint32]struct{}

	putsMu sync.Mutex
	puts   map[uint32]int // Puts under way, by the pack from which on they write
	seen   uint32         // the newest closed pack when the last compaction began
}

// PinPacks keeps all packs that exist now until release is called, for a backup or a
// transfer that reads bodies by the places that the index had at its start.
func (s *Slot) PinPacks() (release func()) {
	p := &s.pins
	p.mu.Lock()
	defer p.mu.Unlock()
	newest := s.packs.NewestPack()
	if p.pins == nil {
		p.pins = map[*uint32]struct{}{}
	}
	p.pins[&newest] = struct{}{}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.pins, &newest)
	}
}

// pinnedUpTo returns the newest pack that must stay. The lock is held.
func (s *Slot) pinnedUpTo() (uint32, error) {
	n, err := s.setAsideUpTo()
	for newest := range s.pins.pins {
		n = max(n, *newest)
	}
	return n, err
}

// removePack removes a pack that no body of the index lies in, unless a pin keeps it.
// For a pin that begins at the same time the pack is either kept, or gone with all its
// bodies durable elsewhere.
func (s *Slot) removePack(n uint32) (removed bool, err error) {
	s.pins.mu.Lock()
	defer s.pins.mu.Unlock()
	if err := s.Failure(); err != nil {
		return false, err
	}
	if upTo, err := s.pinnedUpTo(); err != nil || n <= upTo {
		return false, err
	}
	if err := s.packs.Remove(n); err != nil {
		return false, writeError(err)
	}
	return true, nil
}

// putting notes that a body is about to be put, until done is called; by then the body
// must be staged.
func (p *packPins) putting(packs *blob.Store) (done func()) {
	p.putsMu.Lock()
	defer p.putsMu.Unlock()
	from := packs.PutsFrom()
	if p.puts == nil {
		p.puts = map[uint32]int{}
	}
	p.puts[from]++
	return func() {
		p.putsMu.Lock()
		defer p.putsMu.Unlock()
		if p.puts[from]--; p.puts[from] == 0 {
			delete(p.puts, from)
		}
	}
}

// putsFrom returns the lowest pack that a Put under way may write to.
func (p *packPins) putsFrom() uint32 {
	p.putsMu.Lock()
	defer p.putsMu.Unlock()
	from := uint32(math.MaxUint32)
	for n := range p.puts {
		from = min(from, n)
	}
	return from
}

// seenClosed notes the packs that are closed when a compaction begins, and returns
// those that were closed when the one before began.
func (p *packPins) seenClosed(closed []blob.Pack) map[uint32]struct{} {
	p.putsMu.Lock()
	defer p.putsMu.Unlock()
	old := map[uint32]struct{}{}
	for _, c := range closed {
		if c.Number <= p.seen {
			old[c.Number] = struct{}{}
		}
	}
	if len(closed) > 0 {
		p.seen = closed[len(closed)-1].Number
	}
	return old
}

// unsettled returns a function that reports whether a pack holds a body that may still
// become part of the index by being staged. For a closed pack it goes from true to
// false only.
func (s *Slot) unsettled() func(pack uint32) bool {
	// Puts first: the body of one that ends in between is found on the stage.
	from := s.pins.putsFrom()
	in := s.onStage.packs()
	return func(pack uint32) bool {
		_, staged := in[pack]
		return staged || pack >= from
	}
}

// forgetForeign forgets bodies from other nodes that have waited in closed packs for
// their events since before the last compaction: most likely their deliveries were
// refused. When an event names one after all, it is asked for again.
func (s *Slot) forgetForeign(closed []blob.Pack) {
	s.onStage.forgetForeign(s.pins.seenClosed(closed))
}

// pinFile lies in each index that was set aside: one line with the newest pack
// that the index may point into, one line with its CRC-32C.
const (
	pinFile        = "PACKS"
	setAsidePrefix = "diverged-"
)

func (s *Slot) writePinFile(dir string) error {
	return disk.WriteSealed(s.o.FS, s.o.FS.PathJoin(dir, pinFile), "mailnode-quarantine", fmt.Sprint(s.packs.NewestPack()))
}

// setAsideUpTo returns the newest pack that a state in quarantine may point into; the
// highest possible number when the note of one cannot be read.
func (s *Slot) setAsideUpTo() (upTo uint32, err error) {
	fs := s.o.FS
	dir := fs.PathJoin(s.o.Dir, "quarantine")
	names, err := fs.List(dir)
	if err != nil && !oserror.IsNotExist(err) {
		return math.MaxUint32, fmt.Errorf("list quarantine of %s: %w", s.o.Slot, err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, setAsidePrefix) && !strings.HasSuffix(name, ".new") {
			upTo = max(upTo, s.readPinFile(fs.PathJoin(dir, name, pinFile)))
		}
	}
	return upTo, nil
}

func (s *Slot) readPinFile(path string) (upTo uint32) {
	line, found, err := disk.ReadSealed(s.o.FS, path)
	if _, scanErr := fmt.Sscan(line, &upTo); !found || err != nil || scanErr != nil {
		return math.MaxUint32
	}
	return upTo
}
