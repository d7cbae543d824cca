package disk

import (
	"errors"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestLaw01CutLeavesNoWriter: whoever is cut off from his files changes nothing of
// them any more, whatever he has open, and another may have their lock at once.
func TestLaw01CutLeavesNoWriter(t *testing.T) {
	dir := t.TempDir()
	path, lock := filepath.Join(dir, "log"), filepath.Join(dir, "LOCK")
	w := StartWatchdog(time.Hour, func(err error) { t.Error(err) })
	defer w.Close()
	old := w.FS(vfs.Default)
	f, err := old.Create(path, "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("before")); err != nil {
		t.Fatal(err)
	}
	held, err := old.Lock(lock)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vfs.Default.Lock(lock); err == nil {
		t.Fatal("two have the lock")
	}
	for range 2 { // typed again
		if err := w.Cut(time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	again, err := vfs.Default.Lock(lock)
	if err != nil {
		t.Fatalf("the lock is held still: %v", err)
	}
	defer again.Close()
	_, write := f.Write([]byte("after"))
	_, create := old.Create(path, "test")
	_, second := old.Lock(lock)
	for what, err := range map[string]error{
		"write": write, "create": create, "lock": second, "sync": f.Sync(), "rename": old.Rename(path, path+"x"),
		"remove": old.Remove(path), "remove all": old.RemoveAll(dir),
	} {
		if !errors.Is(err, ErrCut) {
			t.Errorf("%s behind the cut: %v", what, err)
		}
	}
	if err := errors.Join(f.Close(), held.Close()); err != nil {
		t.Errorf("close behind the cut: %v", err)
	}
	if _, err := vfs.Default.Lock(lock); err == nil {
		t.Error("its late Close gave the lock of the next away")
	}
	next, err := vfs.Default.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if b, err := io.ReadAll(next); string(b) != "before" {
		t.Errorf("the file says %q, %v", b, err)
	}
}

// TestCutWaitsForWhatHangs: a write that is with the disk may still reach it. As long
// as it has not returned nobody else gets the files, and they are his when it has.
func TestCutWaitsForWhatHangs(t *testing.T) {
	mem := vfs.NewMem()
	began, goOn := make(chan struct{}), make(chan struct{})
	w := StartWatchdog(time.Hour, func(err error) { t.Error(err) })
	defer w.Close()
	old := w.FS(errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileWrite {
			close(began)
			<-goOn
		}
		return nil
	})))
	f, err := old.Create("log", "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.Lock("LOCK"); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { _, err := f.Write([]byte("late")); written <- err }()
	<-began
	if err := w.Cut(0); !errors.Is(err, ErrHangs) {
		t.Fatalf("cut in the middle of a write: %v", err)
	}
	if _, err := mem.Lock("LOCK"); err == nil {
		t.Error("the lock was given up while a write was under way")
	}
	close(goOn)
	if err := <-written; err != nil {
		t.Error(err)
	}
	if err := w.Cut(time.Minute); err != nil {
		t.Fatal(err)
	}
	if l, err := mem.Lock("LOCK"); err != nil {
		t.Errorf("the lock is held still: %v", err)
	} else {
		l.Close()
	}
}
