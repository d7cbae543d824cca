package local

import (
	"errors"
	"slices"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage"
	"mailnode/storage/index"
)

// IndexLost reports whether an error means that files of the index are damaged, so
// that only a Rebuild helps; a record that is merely wrong is put right by a Recount.
// When the folder, the packs or the disk of a copy fail a check of Open a person must
// look: the wrong disk may be mounted.
func IndexLost(err error) bool {
	var r *Refused
	if errors.As(err, &r) && len(r.Checks) > 0 {
		switch r.Checks[len(r.Checks)-1].Name {
		case "list of files", "index", "last stop", "newest events", "head", "records":
			return errors.Is(err, storage.ErrCorrupt)
		}
		return false
	}
	return errors.Is(err, index.ErrDamaged) || pebble.IsCorruptionError(err)
}

// indexThere refuses an index whose list of files is damaged, and packs without an
// index: there was one when the first pack was begun, and an empty one in its place
// would be a slot without mail.
func (s *Slot) indexThere() (string, error) {
	fs, dir := s.o.FS, s.o.FS.PathJoin(s.o.Dir, "index")
	names, err := fs.List(dir)
	if err != nil && !oserror.IsNotExist(err) {
		return "", err
	}
	if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "MANIFEST-") }) {
		if err := index.ProveManifest(fs, dir); err != nil {
			return "", storage.Errorf(storage.ErrCorrupt, "%w: mailnode slot reindex %s --from-packs", err, s.o.Slot)
		}
		return "matches its checksums", nil
	}
	packs, err := fs.List(s.o.PacksDir)
	if err != nil && !oserror.IsNotExist(err) {
		return "", err
	}
	if slices.ContainsFunc(packs, func(n string) bool { return strings.HasSuffix(n, ".pack") }) {
		return "", storage.Errorf(storage.ErrCorrupt, "the index is missing beside the packs: %w: mailnode slot reindex %s --from-packs", index.ErrDamaged, s.o.Slot)
	}
	return "a new copy", nil
}
