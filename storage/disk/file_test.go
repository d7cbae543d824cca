package disk

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestFileIsOldOrNew: whichever operation of a replacement fails, and whatever of
// the rest a power loss keeps, the file is the old one or the new one; the new one
// once the replacement has returned.
func TestFileIsOldOrNew(t *testing.T) {
	const old, next = "the old line", "the new line, which is longer"
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for failing, ended := 0, false; !ended; failing++ {
		mem := vfs.NewCrashableMem()
		if err := mem.MkdirAll("/d", 0o700); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{"/", "/d"} {
			if err := SyncDir(mem, dir); err != nil {
				t.Fatal(err)
			}
		}
		if err := WriteSealed(mem, "/d/FILE", "test", old); err != nil {
			t.Fatal(err)
		}
		ops := 0
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() == errorfs.OpIsRead {
				return nil
			}
			if ops++; ops > failing {
				return syscall.EIO
			}
			return nil
		}))
		err := WriteSealed(fs, "/d/FILE", "test", next)
		ended = err == nil
		for range 20 {
			after := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
			line, found, readErr := ReadSealed(after, "/d/FILE")
			if readErr != nil || !found || line != next && (line != old || ended) {
				t.Errorf("operation %d fails (%v): the file says %q, found %v, %v", failing+1, err, line, found, readErr)
			}
		}
		if ended && ops < 4 { // write, sync, rename, sync of the folder
			t.Errorf("a replacement took %d operations", ops)
		}
	}
}

// TestReplaceFileIsItsOwners: nobody else reads it, also when a longer one, or what a
// crash left of another try, was readable for all.
func TestReplaceFileIsItsOwners(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	for _, before := range []string{path, path + newSuffix} {
		if err := os.WriteFile(before, []byte("what was there before"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := ReplaceFile(path, []byte("new")); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "new" {
		t.Errorf("%q, %v", got, err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if _, err := os.Stat(path + newSuffix); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its draft is left: %v", err)
	}
}

// TestLaw06SealedLine: a line that differs from what was written in any byte is
// damaged or the same.
func TestLaw06SealedLine(t *testing.T) {
	whole := Seal(`{"cluster":"c1"}`)
	for i := range whole {
		for bit := range 8 {
			bad := append([]byte(nil), whole...)
			bad[i] ^= 1 << bit
			if line, err := Unseal(bad); !errors.Is(err, ErrSeal) && line != `{"cluster":"c1"}` {
				t.Errorf("byte %d, bit %d: %q, %v", i, bit, line, err)
			}
		}
		if line, err := Unseal(whole[:i]); !errors.Is(err, ErrSeal) && i < len(whole)-1 {
			t.Errorf("cut to %d bytes: %q, %v", i, line, err)
		}
	}
	if line, err := Unseal(whole); err != nil || line != `{"cluster":"c1"}` {
		t.Errorf("%q, %v", line, err)
	}
}
