package local

import (
	"errors"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage"
	"mailnode/storage/blob"
)

// dataCorruption is told of a block of the index that fails its checksum. Pebble
// would end the process; here it is the reader's error, and the node decides.
func (s *Slot) dataCorruption(i pebble.DataCorruptionInfo) {
	s.log.Error("index damaged", "file", i.Path, "err", i.Details)
	s.indexDamaged(storage.Errorf(storage.ErrCorrupt, "read index file %q: %w: %w", i.Path, errFileDamaged, i.Details))
}

// errFileDamaged says that a file of the index, not a record in it, is damaged.
var errFileDamaged = errors.New("index damaged")

// indexDamaged tells of damage of the index.
func (s *Slot) indexDamaged(err error) {
	if s.o.OnIndexDamage != nil {
		s.o.OnIndexDamage(s.o.Slot, err)
	}
}

// sawIndex tells of an error of a change or a read when it is damage of the
// index, and passes it on.
func (s *Slot) sawIndex(err error) error {
	if errors.Is(err, storage.ErrCorrupt) && !errors.Is(err, blob.ErrDamaged) && !errors.Is(err, storage.ErrNotFound) {
		s.indexDamaged(err)
	}
	return err
}

// IndexLost says whether an error means that files of the index are damaged, so
// that only a Rebuild helps; a record that is merely wrong is a Recount's.
func IndexLost(err error) bool {
	return errors.Is(err, errFileDamaged) || pebble.IsCorruptionError(err)
}

// indexThere refuses packs without an index: it was there when the first pack
// was begun, and an empty one in its place would be a slot without mail.
func (s *Slot) indexThere() error {
	fs := s.o.FS
	packs, _ := fs.List(fs.PathJoin(s.o.Dir, "packs"))
	if !slices.ContainsFunc(packs, func(n string) bool { return strings.HasSuffix(n, ".pack") }) {
		return s.manifestRefuses(fs.PathJoin(s.o.Dir, "index"))
	}
	names, _ := fs.List(fs.PathJoin(s.o.Dir, "index"))
	if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "MANIFEST-") }) {
		return s.manifestRefuses(fs.PathJoin(s.o.Dir, "index"))
	}
	return storage.Errorf(storage.ErrCorrupt, "the index is missing beside the packs: %w: mailnode slot reindex %s --from-packs", errFileDamaged, s.o.Slot)
}
