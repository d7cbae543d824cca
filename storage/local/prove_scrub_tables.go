package local

import (
	"github.com/cockroachdb/errors/oserror"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/index"
)

// tables lists the files of the index.
func (s *Slot) tables() (list []index.Table, err error) {
	err = s.read(func(*view) (err error) { // so that Close waits for it
		list, err = s.db.Tables()
		return err
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
		case err != nil && blob.Unread(err): // it says nothing about the table
			x.found(ScrubFinding{Kind: IndexDamaged, Err: storage.Errorf(storage.ErrUnavailable, "%q: %w", path, err)})
		case err != nil:
			x.found(ScrubFinding{Kind: IndexDamaged, Err: storage.Errorf(storage.ErrCorrupt, "%w: %q: %w", index.ErrDamaged, path, index.FirstLine(err))})
		}
	}
	return nil
}
