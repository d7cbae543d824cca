package index

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/wal"
)

// TestLaw06DamagedLogIsNoTornOne: a log that is cut anywhere is what a crash may
// leave; a bit that is flipped where a later chunk says that it was synced is damage.
func TestLaw06DamagedLogIsNoTornOne(t *testing.T) {
	fs := vfs.NewMem()
	db, err := pebble.Open("/index", options(fs, quietLogger{}))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Set([]byte("first"), nil, pebble.Sync), db.Flush()); err != nil { // the first log is of the older form
		t.Fatal(err)
	}
	for i := range 20 {
		if err := db.Set(fmt.Appendf(nil, "key %d", i), []byte("value"), pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := fs.List("/index")
	if err != nil {
		t.Fatal(err)
	}
	all := logs(names)
	path := fs.PathJoin("/index", all[len(all)-1])
	whole := content(t, fs, path)
	number, _, _ := wal.ParseLogFilename(all[len(all)-1])
	prove := func(b []byte) error {
		f, err := fs.Create(path, "test")
		if err != nil {
			t.Fatal(err)
		}
		// A copy: in a build with -race vfs.NewMem makes what it was given unreadable.
		if _, err := f.Write(slices.Clone(b)); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		return proveLog(fs, path, uint32(number))
	}
	if err := prove(whole); err != nil {
		t.Fatalf("a sound log: %v", err)
	}
	for cut := range len(whole) {
		if err := prove(whole[:cut]); err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	}
	for at := range len(whole) / 2 {
		bad := slices.Clone(whole)
		bad[at] ^= 0x10
		if err := prove(bad); !errors.Is(err, ErrDamaged) {
			t.Fatalf("byte %d of %d is flipped, and later ones were synced: %v", at, len(whole), err)
		}
	}
}

func content(t *testing.T, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
