package local

import (
	"github.com/cockroachdb/errors/oserror"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/index"
)

// tables lists the files of the index.
func (s *Slot) tables() ([]index.Table, error) {
	var list []index.Table
	err := s.read(func(*view) error { // so that Close waits for it
		return s.guarded(func() (err error) { list, err = index.Tables(s.db); return err })
	})
	if err != nil {
		return nil, storage.Errorf(storage.ErrUnavailable, "list tables of %s: %w", s.o.Slot, err)
	}
	return list, nil
}

// tables proves every block of the index.
func (x *scrubbing) tables() error {
	list, err := x.s.tables()
	if err != nil {
		return err
	}
	for _, t := range list {
		if err := x.o.Spend(x.ctx, t.Bytes); err != nil {
			return err
		}
		path := x.s.o.FS.PathJoin(x.s.o.Dir, "index", t.Name)
		err := index.ProveTable(x.s.o.FS, path)
		switch {
		case oserror.IsNotExist(err): // compacted meanwhile
		case err != nil && blob.Unread(err): // that tells nothing about the table
			x.found(ScrubFinding{Kind: IndexDamaged, Err: storage.Errorf(storage.ErrUnavailable, "%q: %w", path, err)})
		case err != nil:
			x.found(ScrubFinding{Kind: IndexDamaged, Err: storage.Errorf(storage.ErrCorrupt, "%w: %q: %w", index.ErrDamaged, path, firstLine{err})})
		}
	}
	return nil
}
