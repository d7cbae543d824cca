package index

import (
	"context"
	"fmt"

	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage/disk"
)

// Table is a file that holds records.
type Table struct {
	Name  string // in the index's folder
	Bytes int64
}

// Tables lists the tables that are in use, each once.
func (x *DB) Tables() ([]Table, error) {
	var list []Table
	if err := Guarded(x.o.Latch, func() (err error) { list, err = x.tables(); return err }); err != nil {
		return nil, err // fn may be under way
	}
	return list, nil
}

func (x *DB) tables() ([]Table, error) {
	levels, err := x.SSTables()
	var out []Table
	seen := map[string]bool{}
	for _, l := range levels {
		for _, t := range l {
			if name := t.BackingSSTNum.String() + ".sst"; !seen[name] {
				seen[name] = true
				out = append(out, Table{name, int64(t.Size)})
			}
		}
	}
	return out, err
}

// ProveTable proves every block of a table by its checksum, read from the file:
// Pebble's own readers may have a sound block in memory and rot on the disk.
func ProveTable(fs vfs.FS, path string) (err error) {
	defer func() { // what is damaged may lead its reader anywhere
		if p := recover(); p != nil {
			err = fmt.Errorf("it cannot be read: %v", p)
		}
	}()
	f, err := fs.Open(path)
	if err != nil {
		return err
	}
	disk.Uncache(f)
	r, err := readTable(f)
	if err != nil {
		return err
	}
	defer r.Close()
	return r.ValidateBlockChecksums()
}

// readTable begins to read a table. It closes f when it cannot; else the reader does.
func readTable(f vfs.File) (*sstable.Reader, error) {
	file, err := sstable.NewSimpleReadable(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	r, err := sstable.NewReader(context.Background(), file, sstable.ReaderOptions{})
	if err != nil {
		file.Close()
		return nil, err
	}
	return r, nil
}
