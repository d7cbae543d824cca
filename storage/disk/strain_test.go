package disk

import (
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// strainedDisk is a disk on which syncs take time, by a clock that only moves then, and
// reads end in errors.
type strainedDisk struct {
	clock, took atomic.Int64
	unread      atomic.Bool
}

func (d *strainedDisk) String() string { return "strained" }

func (d *strainedDisk) mono() time.Duration { return time.Duration(d.clock.Load()) }

// MaybeError implements errorfs.Injector.
func (d *strainedDisk) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		d.clock.Add(d.took.Load())
	case errorfs.OpFileRead, errorfs.OpFileReadAt:
		if d.unread.Load() {
			return syscall.EIO
		}
	}
	return nil
}

// strainedFile makes a file on a watched disk that is called "/v".
func strainedFile(t *testing.T, d *strainedDisk) (*Space, vfs.File) {
	t.Helper()
	mem := vfs.NewMem()
	if err := mem.MkdirAll("/v", 0o700); err != nil {
		t.Fatal(err)
	}
	var disks Disks
	space := disks.At(mem, "/v", d.mono)
	w := StartWatchdog(time.Hour, func(error) {})
	t.Cleanup(w.Close)
	f, err := w.FS(errorfs.Wrap(mem, d), space).Create("/v/file", "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return space, f
}

// A disk is slow when most of its syncs are for a minute, and well again when most of
// them are quick for five: what is between the two changes nothing.
func TestLaw09Law11SlowDiskIsTold(t *testing.T) {
	d := &strainedDisk{}
	space, f := strainedFile(t, d)
	syncs := func(n int, took, rest time.Duration) {
		t.Helper()
		d.took.Store(int64(took))
		for range n {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
			d.clock.Add(int64(rest))
		}
	}
	told := func(want bool, when string) {
		t.Helper()
		if got := space.Trouble(); (got != "") != want {
			t.Errorf("%s: %q", when, got)
		}
	}
	syncs(1000, 100*time.Millisecond, 400*time.Millisecond)
	told(false, "a disk that is well")
	syncs(1, 5*time.Minute, 0)
	told(false, "after one sync of five minutes")
	syncs(60, SlowSync+time.Second, StrainWindow)
	told(false, "one slow sync in each window, as when packs are compacted")
	syncs(3, EasySync, StrainWindow)
	syncs(10, SlowSync+time.Second, 0)
	told(false, "slow for half a minute")
	syncs(20, SlowSync+time.Second, 0)
	told(true, "slow for a minute and a half")
	d.clock.Add(int64(24 * time.Hour))
	told(true, "after a day without a sync, which tells nothing")
	syncs(1000, EasySync+time.Millisecond, 0)
	told(true, "neither slow nor quick")
	syncs(200, EasySync, 500*time.Millisecond)
	told(true, "quick for 200 s")
	syncs(8, SlowSync+time.Second, 0)
	syncs(200, EasySync, 500*time.Millisecond)
	told(true, "quick for 200 s since it was slow for a moment")
	syncs(150, EasySync, 500*time.Millisecond)
	told(false, "quick for 350 s")
	for range 20 {
		syncs(2, SlowSync+time.Second, 0)
		syncs(3, EasySync, time.Second)
	}
	told(false, "fewer than half are slow")
}

// A disk fails when it cannot read several places; one bad sector that is read again and
// again is no failing disk, and neither are bytes that are only wrong.
func TestLaw09FailingDiskIsTold(t *testing.T) {
	d := &strainedDisk{}
	space, f := strainedFile(t, d)
	d.unread.Store(true)
	b := make([]byte, 1)
	read := func(at int64) {
		t.Helper()
		if _, err := f.ReadAt(b, at); !errors.Is(err, syscall.EIO) {
			t.Fatalf("read at %d: %v", at, err)
		}
	}
	for range 100 {
		read(4096)
	}
	for at := range int64(UnreadMax - 1) {
		read(at << 20)
	}
	if why := space.Trouble(); why != "" {
		t.Fatalf("%d places: %q", UnreadMax-1, why)
	}
	read(UnreadMax << 20)
	if why := space.Trouble(); !strings.HasPrefix(why, "its disk fails") {
		t.Fatalf("%d places: %q", UnreadMax, why)
	}
	d.clock.Add(int64(UnreadFor - time.Second))
	if space.Trouble() == "" {
		t.Error("it is forgotten too early")
	}
	read(0)
	d.clock.Add(int64(UnreadFor - time.Second))
	if space.Trouble() == "" {
		t.Error("it is forgotten although one more could not be read")
	}
	d.clock.Add(int64(time.Second))
	if why := space.Trouble(); why != "" {
		t.Errorf("a day later: %q", why)
	}
}
