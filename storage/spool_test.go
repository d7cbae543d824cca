package storage

import (
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
	s := (&SpoolDir{FS: errorfs.Wrap(vfs.NewMem(), full), Dir: "/"}).New()
	b := make([]byte, 300<<10)
	for i := range 5 {
		_, err := s.Write(b)
		if whole := (i+1)*len(b) <= spoolMemoryBytes; whole != (err == nil) || !whole && !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("write %d: %v", i, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// What is read from a spool is what was written, in memory and on disk.
func TestSpoolGivesBackWhatWasWritten(t *testing.T) {
	for _, size := range []int{0, 1, spoolMemoryBytes, spoolMemoryBytes + 1, 3 << 20} {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(i * 7)
		}
		s := (&SpoolDir{FS: vfs.NewMem(), Dir: "/"}).New()
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
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
