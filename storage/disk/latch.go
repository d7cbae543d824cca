package disk

import "sync"

// Latch is a poison latch: the first failure of what lies on a disk is its end. After
// a failed sync the pages count as clean although the bytes are gone, and the next
// sync may report success (LAWS §4.7). So whoever wrote is kept from going on, and
// from answering; how, is the business of those who use a Latch.
type Latch struct {
	tripped chan struct{}

	mu  sync.Mutex
	err error // nil until tripped is closed
}

// NewLatch returns a Latch that has not tripped.
func NewLatch() *Latch { return &Latch{tripped: make(chan struct{})} }

// Trip ends it, and reports whether this was the first failure; only that counts.
func (l *Latch) Trip(cause error) (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return false
	}
	l.err = cause
	close(l.tripped)
	return true
}

// Tripped is closed by the first failure.
func (l *Latch) Tripped() <-chan struct{} { return l.tripped }

// Err returns the first failure, nil while there is none.
func (l *Latch) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}
