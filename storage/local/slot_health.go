package local

import (
	"time"

	"mailnode/storage/disk"
	"mailnode/storage/index"
)

// health is whether a copy can go on, and what is done so that nobody waits for one
// that cannot.
type health struct {
	latch *disk.Latch    // trips when the copy can no longer commit
	dog   *disk.Watchdog // of its files; nil before Open
}

func newHealth() health { return health{latch: disk.NewLatch()} }

// Failed is closed when the copy can no longer change; Failure returns why. The copy must
// then be closed, and opened by a new process (LAWS §4.7: a failed fsync is final; Pebble
// cannot be closed after one).
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
