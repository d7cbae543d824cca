package local

import (
	"errors"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
)

// A SLOT file with any bit flipped, cut off or emptied is rewritten when the index proves
// whose it is, on one volume and on two.
func TestLaw09DamagedSlotFileIsMended(t *testing.T) {
	for _, packs := range []string{"", "/bulk/slots/s007/packs"} {
		o := options(t, newFS(t))
		o.PacksDir = packs
		filled(t, o, 2)
		o = withPresets(o)
		own, beside := o.FS.PathJoin(o.Dir, "SLOT"), o.FS.PathJoin(o.PacksDir, "SLOT")
		whole := map[string]string{own: contents(t, o.FS, own), beside: contents(t, o.FS, beside)}
		damages := []func([]byte) []byte{
			func([]byte) []byte { return nil },
			func(b []byte) []byte { return b[:len(b)/2] },
		}
		for i := range whole[own] {
			damages = append(damages, func(b []byte) []byte { b[i] ^= 1 << (i % 8); return b })
		}
		for n, damage := range damages {
			which := [][]string{{own}, {beside}, {own, beside}}[n%3]
			for _, path := range which {
				rewrite(t, o.FS, path, damage)
			}
			s := openSlot(t, o)
			if got := s.OwnerMended(); strings.Join(got, " ") != strings.Join(which, " ") {
				t.Fatalf("damage %d of %v: mended %v", n, which, got)
			}
			closeOnce(t, s)
			for path, want := range whole {
				if got := contents(t, o.FS, path); got != want {
					t.Fatalf("damage %d: %s is %q, it was %q", n, path, got, want)
				}
			}
		}
		s := openSlot(t, o)
		if got := s.OwnerMended(); len(got) > 0 {
			t.Errorf("mended once more: %v", got)
		}
	}
}

// When the index does not prove it, nothing is written, and the error names the way out.
func TestDamagedSlotFileOfADoubtfulDisk(t *testing.T) {
	for _, what := range []string{"foreign", "unproved", "no index"} {
		t.Run(what, func(t *testing.T) {
			o := options(t, newFS(t))
			filled(t, o, 2)
			bad := o
			index := o.FS.PathJoin(o.Dir, "index")
			switch what {
			case "foreign":
				bad.Cluster = "other"
			case "unproved":
				damageIndex(t, o, func(db *pebble.DB) error { return db.Delete(localKey(keyIdentity), pebble.Sync) })
			case "no index":
				if err := o.FS.RemoveAll(index); err != nil {
					t.Fatal(err)
				}
			}
			path := o.FS.PathJoin(o.Dir, "SLOT")
			rewrite(t, o.FS, path, func(b []byte) []byte { b[3] ^= 4; return b })
			before := contents(t, o.FS, path)
			s, err := Open(bad)
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			if !errors.Is(err, storage.ErrCorrupt) || !strings.Contains(err.Error(), "then filled from its master") {
				t.Errorf("it says %q", err)
			}
			if got := contents(t, o.FS, path); got != before {
				t.Error("the SLOT file was written")
			}
		})
	}
}

func contents(t *testing.T, fs vfs.FS, path string) string {
	t.Helper()
	var out string
	rewrite(t, fs, path, func(b []byte) []byte { out = string(b); return b })
	return out
}
