package repl

import (
	"context"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"mailnode/storage/event"
)

// However large events are, what waits for one commit is bounded in number and in
// bytes, but for a single one; all come out, in their order.
func TestLaw09QueueIsBoundedByBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.SampledFrom([]int{1, 100, 1 << 20, applyBytesMax / 2, applyBytesMax, 3 * applyBytesMax}), 1, 600).Draw(t, "sizes")
		q := newEventQueue()
		var putting sync.WaitGroup
		putting.Go(func() {
			for i, n := range sizes {
				if err := q.put(context.Background(), &event.Event{Position: uint64(i)}, n); err != nil {
					panic(err)
				}
			}
		})
		for next := 0; next < len(sizes); {
			<-q.filled
			group, bytes := q.take(), 0
			for _, ev := range group {
				if ev.Position != uint64(next) {
					t.Fatalf("event %d came in the place of %d", ev.Position, next)
				}
				bytes += sizes[next]
				next++
			}
			if len(group) > applyMax || len(group) > 1 && bytes > applyBytesMax {
				t.Fatalf("%d events with %d bytes in one commit", len(group), bytes)
			}
		}
		putting.Wait()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if q.tryPut(&event.Event{}, applyBytesMax); q.put(ctx, &event.Event{}, 1) == nil {
			t.Fatal("there was room for more than may wait")
		}
	})
}
