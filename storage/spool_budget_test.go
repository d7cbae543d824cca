package storage

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage/disk"
)

// roomFS is a file system in memory that says what is free.
type roomFS struct {
	vfs.FS
	free *int64
}

func (f roomFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: uint64(*f.free)}, nil
}

// newBudget makes a SpoolDir on a disk that is asked again each time.
func newBudget(free *int64) *SpoolDir {
	fs := roomFS{vfs.NewMem(), free}
	now := time.Duration(0)
	tick := func() time.Duration { now += time.Second; return now }
	return &SpoolDir{FS: fs, Dir: "/", LargeBytesMax: -1, Space: (&disk.Disks{}).At(fs, "/", tick)}
}

// What was announced counts until its Spool is closed, for its owner and for all.
func TestAnnouncedMessagesCount(t *testing.T) {
	free := int64(1 << 40)
	d := newBudget(&free)
	one := SpoolOwner{Name: "one", BytesMax: 100 << 20, SpoolsMax: 3}
	announce := func(o SpoolOwner, size int64, want error) *Spool {
		t.Helper()
		s, err := d.Announce(o, size)
		if !errors.Is(err, want) {
			t.Fatalf("%d bytes of %s: %v, want %v", size, o.Name, err, want)
		}
		return s
	}
	first := announce(one, 150<<20, nil) // more than the share, and alone
	announce(one, 1, ErrLimit)
	first.Close()
	first.Close() // twice counts once
	second := announce(one, 60<<20, nil)
	announce(one, 41<<20, ErrLimit)
	third, fourth := announce(one, 40<<20, nil), announce(one, 0, ErrLimit)
	if fourth != nil {
		t.Fatal("a Spool beside an error")
	}
	second.Close()
	third.Close()
	few := []*Spool{announce(one, 10, nil), announce(one, 10, nil), announce(one, 10, nil)}
	announce(one, 10, ErrLimit) // too many
	for _, s := range few {
		s.Close()
	}

	var all []*Spool
	for i := range 12 { // three quarters of the node's budget
		all = append(all, announce(SpoolOwner{Name: string(rune('a' + i))}, SpoolBytesMax/16-100, nil))
	}
	announce(SpoolOwner{Name: "large"}, 1<<20, ErrDiskFull)
	small := announce(SpoolOwner{Name: "small"}, spoolSmallBytes, nil)
	for _, s := range append(all, small) {
		s.Close()
	}
	announce(SpoolOwner{Name: "large"}, 2<<30, nil).Close() // alone
	if d.budget.bytes != 0 || len(d.budget.owners) != 0 {
		t.Errorf("%d bytes are still counted for %d owners", d.budget.bytes, len(d.budget.owners))
	}
}

// A message of unknown size takes what it needs as it grows, and fails when it
// cannot have it.
func TestUnknownSizeGrowsInSteps(t *testing.T) {
	free := int64(disk.ReserveBytes + 3*spoolStepBytes)
	d := newBudget(&free)
	o := SpoolOwner{Name: "one"}
	s, err := d.Announce(o, 0)
	if err != nil {
		t.Fatal(err)
	}
	part := []byte(strings.Repeat("x", 100_000))
	wrote := 0
	for err == nil && wrote < 5<<20 {
		if _, err = s.Write(part); err == nil {
			wrote += len(part)
			free -= int64(len(part))
		}
	}
	if !errors.Is(err, ErrDiskFull) || wrote < 2*spoolStepBytes || wrote > 4*spoolStepBytes {
		t.Errorf("%d bytes fitted into %d: %v", wrote, 3*spoolStepBytes, err)
	}
	if _, err := d.Announce(o, 1<<20); !errors.Is(err, ErrDiskFull) {
		t.Errorf("another message beside it: %v", err)
	}
	s.Close()
	free += int64(wrote)
	if _, err := d.Announce(o, 1<<20); err != nil {
		t.Errorf("another message after it: %v", err)
	}
}

// The room for a message's file is kept before it is written, and not twice.
func TestSpoolKeepsRoomForItsFile(t *testing.T) {
	free := int64(disk.ReserveBytes + 2<<20)
	d := newBudget(&free)
	s, err := d.Announce(SpoolOwner{Name: "one"}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Announce(SpoolOwner{Name: "two"}, 1<<20+1); !errors.Is(err, ErrDiskFull) {
		t.Errorf("a byte more than there is: %v", err)
	}
	if _, err := s.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	free -= 1 << 20
	two, err := d.Announce(SpoolOwner{Name: "two"}, 1<<20)
	if err != nil {
		t.Errorf("what is left, beside a file: %v", err)
	}
	two.Close()
	s.Close()
}

// A sender must keep the pace in each window.
func TestPace(t *testing.T) {
	p := Pace{Window: time.Minute}
	for i, tt := range []struct {
		waited time.Duration
		bytes  int
		slow   bool
	}{
		{0, 1, false},
		{59 * time.Second, 1, false},
		{time.Second, 60<<10 - 2, false},
		{40 * time.Second, 100, false},
		{21 * time.Second, 100, true},
		{time.Second, 1 << 20, false},
		{200 * time.Second, 100, false},
	} {
		if got := p.TooSlow(tt.waited, tt.bytes); got != tt.slow {
			t.Errorf("step %d: too slow is %v", i, got)
		}
	}
}
