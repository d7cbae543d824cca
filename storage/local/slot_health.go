package local

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"mailnode/storage/disk"
	"mailnode/storage/index"
)

// health is whether a copy can go on, and what is done so that nobody waits for one
// that cannot.
type health struct {
	latch   *disk.Latch    // trips when the copy can no longer commit
	dog     *disk.Watchdog // of its files; nil before Open
	closing sync.Once
	closed  error // by Close
}

func newHealth() health { return health{latch: disk.NewLatch()} }

// Failed is closed when the copy can no longer change; Failure returns why. It is then
// closed and released, and another Slot may be opened in its place (LAWS §4.7: a failed
// fsync is final for whoever wrote; Pebble cannot be closed after one).
func (h *health) Failed() <-chan struct{} { return h.latch.Tripped() }

// Failure returns why Failed is closed, nil before.
func (h *health) Failure() error { return h.latch.Err() }

// Hangs returns what the copy's disk has not answered yet, and for how long at least; ""
// while it answers. Many operations are slow for a moment.
func (h *health) Hangs() (what string, since time.Duration) { return h.dog.Slowest() }

// guarded runs a function that uses the index, or a disk that may hang (index.Guarded).
func (h *health) guarded(fn func() error) error { return index.Guarded(h.latch, fn) }

// hungGrace is how long a failed copy waits for what may hang.
const hungGrace = time.Second

// unlessHung waits for fn, but not for long once the copy has failed: its disk may never
// answer.
func (h *health) unlessHung(fn func()) {
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	select {
	case <-done:
		return
	case <-h.Failed():
	}
	grace := time.NewTimer(hungGrace)
	defer grace.Stop()
	select {
	case <-done:
	case <-grace.C:
	}
}

// releaseWithin is how long Release waits for what is with the disk.
const releaseWithin = 2 * time.Second

// Release gives up the files of a copy that has failed and was closed, its locks too.
// When it returns nil nothing of the copy reaches the disk any more, whatever its
// goroutines still hold or wait for, so that the files may be opened again. Its error is
// disk.ErrHangs: what is with the disk may yet be written. It may be called again.
func (s *Slot) Release() error {
	if s.Failure() == nil {
		return fmt.Errorf("release slot %s: it has not failed", s.o.Slot)
	}
	if err := s.dog.Cut(releaseWithin); err != nil {
		return fmt.Errorf("release slot %s: %w", s.o.Slot, err)
	}
	return nil
}

// Cause is why a copy has stopped, by what is needed to open it again.
type Cause int

// The causes.
const (
	CauseDisk Cause = iota // a failed write or sync, or files that are gone: a person looks at the disk
	CauseRoom              // there was no room
	CauseHang              // the disk did not answer
)

// Cause tells why the copy has stopped.
func (h *health) Cause() Cause {
	switch err := h.Failure(); {
	case errors.Is(err, disk.ErrHangs):
		return CauseHang
	case disk.NoRoom(err):
		return CauseRoom
	}
	return CauseDisk
}

// Roomy reports whether a copy has as much room as growth leaves. It asks the disk.
func (s *Slot) Roomy() bool {
	for _, sp := range s.space.each() {
		if _, err := sp.Hold(disk.Grow, 0); err != nil {
			return false
		}
	}
	return true
}
