package blob

import (
	"fmt"
	"slices"

	"github.com/cockroachdb/errors/oserror"
)

// Pack is one that nobody writes any more.
type Pack struct {
	Number uint32
	Bytes  int64 // of records and of holes between them
}

// ClosedPacks lists the packs into which no record will be written any more, in
// order. A Put that returned before may have written to one of them.
func (s *Store) ClosedPacks() ([]Pack, error) {
	numbers, err := s.Packs()
	if err != nil {
		return nil, err
	}
	// Looked at after the list was made: what is not being written now, and was
	// there then, is no longer written.
	s.mu.Lock()
	busy := map[uint32]struct{}{}
	if s.active != nil {
		busy[s.active.number] = struct{}{}
	}
	for _, w := range s.full {
		busy[w.number] = struct{}{}
	}
	for n := range s.rewriting {
		busy[n] = struct{}{}
	}
	s.mu.Unlock()
	var out []Pack
	for _, n := range numbers {
		if _, ok := busy[n]; ok {
			continue
		}
		st, err := s.o.FS.Stat(s.path(n))
		if oserror.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list packs: %w", err)
		}
		out = append(out, Pack{Number: n, Bytes: max(0, st.Size()-preambleBytes)})
	}
	return slices.Clip(out), nil
}

// PackBytesMax is the size at which the next pack begins.
func (s *Store) PackBytesMax() int64 { return s.o.PackBytesMax }

// PutsFrom returns a number below which no Put that begins now will write.
func (s *Store) PutsFrom() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active != nil {
		return s.active.number
	}
	return s.next
}

// NewestPack returns the highest number that a pack may have now.
func (s *Store) NewestPack() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next - 1
}

// Rewritten reports whether a Rewriter made a pack: what shrinks in it is encoded.
func (s *Store) Rewritten(n uint32) (bool, error) {
	h, err := s.reader(n)
	if err != nil {
		return false, err
	}
	defer s.o.Handles.release(h)
	return h.rewritten, nil
}

// Remove removes a closed pack. Bodies of it that are open stay readable until
// they are closed. That it is gone need not survive a crash: it would come back
// as a pack that nothing needs.
func (s *Store) Remove(n uint32) error {
	s.goneMu.Lock()
	s.removed[n] = struct{}{}
	s.goneMu.Unlock()
	s.o.Handles.drop(handleKey{s, n})
	if err := s.o.FS.Remove(s.path(n)); err != nil && !oserror.IsNotExist(err) {
		s.goneMu.Lock()
		delete(s.removed, n)
		s.goneMu.Unlock()
		return fmt.Errorf("remove pack %q: %w", s.path(n), err)
	}
	return nil
}
