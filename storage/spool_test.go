package storage

import (
	"bytes"
	"errors"
	"io"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"mailnode/storage/slot"
)

// A spool that could not be written says so at each further write, and neither
// hangs nor passes for a whole message.
func TestSpoolWriteErrorIsFinal(t *testing.T) {
	full := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileWrite {
			return syscall.ENOSPC
		}
		return nil
	})
	d := &SpoolDir{FS: errorfs.Wrap(vfs.NewMem(), full), Dir: "/"}
	d.large.Store(spoolLargeBytesMax)
	s := d.New()
	b := make([]byte, 300<<10)
	for i := range 5 {
		_, err := s.Write(b)
		if whole := (i+1)*len(b) <= spoolSmallBytes; whole != (err == nil) || !whole && !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("write %d: %v", i, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// What is read from a spool is what was written, in memory and on disk; closed
// spools give back all memory that the folder's budget counts.
func TestSpoolGivesBackWhatWasWritten(t *testing.T) {
	for name, room := range map[string]int64{"in memory": spoolLargeBytesMax, "some in memory": 2 * spoolPageBytes, "on disk": 0} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			d := &SpoolDir{FS: fs, Dir: "/"}
			d.large.Store(spoolLargeBytesMax - room)
			for _, size := range []int{0, 1, spoolPageBytes, spoolSmallBytes, spoolSmallBytes + 1, 3 << 20} {
				proveSpool(t, d, size)
			}
			if got := d.large.Load(); got != spoolLargeBytesMax-room {
				t.Errorf("%d bytes are still counted", got-spoolLargeBytesMax+room)
			}
			if names, err := fs.List("/"); err != nil || len(names) != 0 {
				t.Errorf("left in the folder: %q, %v", names, err)
			}
			if made := d.next.Load() > 0; made != (room < 3<<20) {
				t.Errorf("files were made: %v", made)
			}
		})
	}
}

func proveSpool(t *testing.T, d *SpoolDir, size int) {
	t.Helper()
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i * 7 / 5)
	}
	s := d.New()
	for rest := b; len(rest) > 0; {
		n := min(len(rest), 100_000)
		if _, err := s.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	got, err := io.ReadAll(io.NewSectionReader(s, 0, s.Size()))
	if err != nil || s.GUID() != slot.SumGUID(b) || slot.SumGUID(got) != s.GUID() {
		t.Errorf("%d bytes: %d read, %v", size, len(got), err)
	}
	for _, off := range []int{0, 1, size / 2, size - 1, size, size + 1} {
		p := make([]byte, 70_000)
		n, err := s.ReadAt(p, int64(max(off, 0)))
		if want := b[min(max(off, 0), size):min(max(off, 0)+len(p), size)]; !bytes.Equal(p[:n], want) || (err == io.EOF) != (n < len(p)) {
			t.Errorf("%d bytes, at %d: %d read, want %d, %v", size, off, n, len(want), err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
