package disk

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// TestFirstFailureIsFinal: of many at once one counts, it is what everybody is told
// who was told that it has tripped, and it stays.
func TestFirstFailureIsFinal(t *testing.T) {
	l := NewLatch()
	select {
	case <-l.Tripped():
		t.Error("tripped at first")
	default:
	}
	var first atomic.Pointer[error]
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			err := fmt.Errorf("failure %d", i)
			if l.Trip(err) && !first.CompareAndSwap(nil, &err) {
				t.Error("two were the first")
			}
			if <-l.Tripped(); l.Err() == nil {
				t.Error("it has tripped, and there is no cause")
			}
		})
	}
	wg.Wait()
	if first.Load() == nil || l.Err() != *first.Load() {
		t.Errorf("the first was %v, it says %v", first.Load(), l.Err())
	}
}
