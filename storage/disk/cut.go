package disk

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// ErrCut says that whoever uses a file has been cut off from its disk.
var ErrCut = errors.New("its files were given up")

// watchedCloser is something that is open, until it is closed once.
type watchedCloser struct {
	c io.Closer
	w *Watchdog
}

// opened notes what was opened; too late it is closed.
func (w *Watchdog) opened(c io.Closer) (*watchedCloser, error) {
	wc := &watchedCloser{c, w}
	w.mu.Lock()
	late := w.cut != nil
	if !late {
		w.open[wc] = struct{}{}
	}
	w.mu.Unlock()
	if late {
		c.Close() // nothing was written
		return nil, fmt.Errorf("open: %w", ErrCut)
	}
	return wc, nil
}

// Close implements io.Closer. What Cut has closed is closed.
func (c *watchedCloser) Close() error {
	c.w.mu.Lock()
	_, open := c.w.open[c]
	delete(c.w.open, c)
	cut := c.w.cut != nil
	c.w.mu.Unlock()
	if cut && !open {
		return nil
	}
	return c.c.Close()
}

// begin notes an operation, unless whoever begins it is cut off.
func (w *Watchdog) begin(op *diskOp) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut != nil {
		return fmt.Errorf("%s of %q: %w", op.what, op.path, ErrCut)
	}
	w.ops[op] = struct{}{}
	return nil
}

// over notes that an operation has returned.
func (w *Watchdog) over(op *diskOp) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.ops, op)
	if w.cut != nil && len(w.ops) == 0 {
		close(w.cut.quiet)
	}
}

// cutting is a Cut that was begun.
type cutting struct {
	quiet chan struct{} // closed when nothing is under way any more
	over  chan struct{} // closed when all is closed
}

// Cut cuts off whoever uses the watched file system: each operation that begins from
// here on fails with ErrCut. When those under way have returned, all that is open is
// closed, locks too, and nothing of it reaches the disk any more: the same files may be
// opened by somebody else. Cut waits for that as long as it is told; the error is
// ErrHangs and names what has not returned. It goes on by itself then, and may be
// called again.
func (w *Watchdog) Cut(within time.Duration) error {
	w.mu.Lock()
	if w.cut == nil {
		w.cut = &cutting{make(chan struct{}), make(chan struct{})}
		if len(w.ops) == 0 {
			close(w.cut.quiet)
		}
		go w.closeAll(w.cut)
	}
	over := w.cut.over
	w.mu.Unlock()
	late := time.NewTimer(within)
	defer late.Stop()
	select {
	case <-over:
		return nil
	case <-late.C:
	}
	select {
	case <-over:
		return nil
	default:
		return fmt.Errorf("%w: %s has not returned", ErrHangs, w.underWay())
	}
}

func (w *Watchdog) closeAll(c *cutting) {
	<-c.quiet
	w.mu.Lock()
	open := w.open
	w.open = nil // nothing is opened any more
	w.mu.Unlock()
	for c := range open {
		c.c.Close() // what it says was said by a sync, or concerns nobody any more
	}
	close(c.over)
}

// underWay names an operation that has not returned.
func (w *Watchdog) underWay() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for op := range w.ops {
		return fmt.Sprintf("%s of %q", op.what, op.path)
	}
	return "closing its files"
}
