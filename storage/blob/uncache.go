package blob

import "fmt"

// UncachePack makes the next reads of a pack come from the disk, as far as the
// system can do that.
func (s *Store) UncachePack(n uint32) error {
	f, err := s.o.FS.Open(s.path(n))
	if err != nil {
		return fmt.Errorf("open pack %q: %w", s.path(n), err)
	}
	defer f.Close()
	Uncache(f)
	return nil
}
