package local

import (
	"errors"
	"slices"
	"strings"

	"github.com/cockroachdb/errors/oserror"

	"mailnode/storage"
	"mailnode/storage/index"
)

// IndexLost says whether an error means that files of the index are damaged, so
// that only a Rebuild helps; a record that is merely wrong is a Recount's. A copy
// whose folder, packs or disk failed a check of Open is a person's: the wrong disk
// may be mounted.
func IndexLost(err error) bool {
	var r *Refused
	if errors.As(err, &r) && len(r.Checks) > 0 {
		switch r.Checks[len(r.Checks)-1].Name {
		case "list of files", "index", "last stop", "newest events", "head", "records":
			return errors.Is(err, storage.ErrCorrupt)
		}
		return false
	}
	return index.IsDamaged(err)
}

// indexThere refuses packs without an index, which was there when the first pack
// was begun (an empty one in its place would be a slot without mail), and an index
// whose list of files is damaged.
func (s *Slot) indexThere() (string, error) {
	fs, dir := s.o.FS, s.o.FS.PathJoin(s.o.Dir, "index")
	there, err := index.Exists(fs, dir)
	if err != nil {
		return "", err
	}
	if there {
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
