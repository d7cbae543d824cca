package repl

import (
	"context"
	"sync"

	"mailnode/storage/event"
)

const (
	applyMax = 256 // events in one commit
	// applyBytesMax is how many bytes of events, in the journal's form, go into one
	// commit, and as many again wait behind it. An event that is larger goes alone.
	applyBytesMax = 8 << 20
)

// eventQueue holds what has come and is not applied yet: at most applyMax events,
// and applyBytesMax bytes (law 9: what a master sends does not decide how much
// memory a replica needs). One goroutine puts, one takes.
type eventQueue struct {
	mu     sync.Mutex // guards list and bytes
	list   []queuedEvent
	bytes  int
	room   chan struct{} // capacity 1: something was taken
	filled chan struct{} // capacity 1: there is something to take
}

type queuedEvent struct {
	ev    *event.Event
	bytes int
}

func newEventQueue() *eventQueue {
	return &eventQueue{room: make(chan struct{}, 1), filled: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// put adds an event of so many bytes, when there is room for it.
func (q *eventQueue) put(ctx context.Context, ev *event.Event, bytes int) error {
	for !q.tryPut(ev, bytes) {
		select {
		case <-q.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	signal(q.filled)
	return nil
}

func (q *eventQueue) tryPut(ev *event.Event, bytes int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := len(q.list); n == applyMax || n > 0 && q.bytes+bytes > applyBytesMax {
		return false
	}
	q.list, q.bytes = append(q.list, queuedEvent{ev, bytes}), q.bytes+bytes
	return true
}

// take returns what one commit applies: all that waits, which is no more than that.
// It may be nothing.
func (q *eventQueue) take() []*event.Event {
	q.mu.Lock()
	list := q.list
	q.list, q.bytes = nil, 0
	q.mu.Unlock()
	signal(q.room)
	group := make([]*event.Event, 0, len(list))
	for _, e := range list {
		group = append(group, e.ev)
	}
	return group
}
