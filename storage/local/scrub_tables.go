package local

import (
	"context"
	"fmt"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/index"
)

// tables lists the files of the index, each once.
func (s *Slot) tables() ([]pebble.SSTableInfo, error) {
	var out []pebble.SSTableInfo
	seen := map[string]bool{}
	err := s.read(func(*view) error { // so that Close waits for it
		return s.guarded(func() error {
			levels, err := s.db.SSTables()
			for _, l := range levels {
				for _, t := range l {
					if name := t.BackingSSTNum.String(); !seen[name] {
						seen[name] = true
						out = append(out, t)
					}
				}
			}
			return err
		})
	})
	if err != nil {
		return nil, storage.Errorf(storage.ErrUnavailable, "list tables of %s: %w", s.o.Slot, err)
	}
	return out, nil
}

// tables proves every block of the index by its checksum, read from the files:
// Pebble's own readers may have a sound block in memory and rot on the disk.
func (x *scrubbing) tables() error {
	list, err := x.s.tables()
	if err != nil {
		return err
	}
	for _, t := range list {
		if err := x.o.Spend(x.ctx, int64(t.Size)); err != nil {
			return err
		}
		path := x.s.o.FS.PathJoin(x.s.o.Dir, "index", t.BackingSSTNum.String()+".sst")
		err := x.table(path)
		switch {
		case oserror.IsNotExist(err): // compacted meanwhile
		case err != nil && blob.Unread(err): // it says nothing about the table
			x.found(ScrubFinding{Kind: IndexDamaged, Err: storage.Errorf(storage.ErrUnavailable, "%q: %w", path, err)})
		case err != nil:
			x.found(ScrubFinding{Kind: IndexDamaged, Err: storage.Errorf(storage.ErrCorrupt, "%w: %q: %w", index.ErrDamaged, path, firstLine{err})})
		}
	}
	return nil
}

func (x *scrubbing) table(path string) (err error) {
	defer func() { // what is damaged may lead its reader anywhere
		if p := recover(); p != nil {
			err = fmt.Errorf("it cannot be read: %v", p)
		}
	}()
	f, err := x.s.o.FS.Open(path)
	if err != nil {
		return err
	}
	blob.Uncache(f)
	file, err := sstable.NewSimpleReadable(f)
	if err != nil {
		f.Close()
		return err
	}
	r, err := sstable.NewReader(context.Background(), file, sstable.ReaderOptions{})
	if err != nil {
		file.Close()
		return err
	}
	defer r.Close()
	return r.ValidateBlockChecksums()
}
