package blob

import (
	"fmt"

	"mailnode/storage/disk"
)

// UncachePack makes the next reads of a pack come from the disk, as far as the
// system can do that.
func (s *Store) UncachePack(n uint32) error {
	f, err := s.o.FS.Open(s.path(n))
	if err != nil {
		return fmt.Errorf("open pack %q: %w", s.path(n), err)
	}
	defer f.Close()
	disk.Uncache(f)
	return nil
}
