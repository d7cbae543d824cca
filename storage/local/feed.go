package local

import (
	"sync"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// watchers wakes sessions that watch a mailbox.
type watchers struct {
	mu sync.Mutex
	m  map[storage.Ref]map[chan struct{}]struct{}
}

func (w *watchers) init() { w.m = map[storage.Ref]map[chan struct{}]struct{}{} }

func (w *watchers) add(r storage.Ref) (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m[r] == nil {
		w.m[r] = map[chan struct{}]struct{}{}
	}
	w.m[r][c] = struct{}{}
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.m[r], c)
		if len(w.m[r]) == 0 {
			delete(w.m, r)
		}
	}
}

func (w *watchers) wake(touched map[storage.Ref]struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for r := range touched {
		for c := range w.m[r] {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
}

// heads wakes whoever waits for the head to move.
type heads struct {
	mu sync.Mutex
	c  chan struct{}
}

func (h *heads) init() { h.c = make(chan struct{}) }

func (h *heads) wake() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.c)
	h.c = make(chan struct{})
}

// HeadMoved gives a channel that is closed at the next durable change. Take it
// before reading the head.
func (s *Slot) HeadMoved() <-chan struct{} {
	s.heads.mu.Lock()
	defer s.heads.mu.Unlock()
	return s.heads.c
}

func journalStart(r reader) (slot.Position, error) {
	v, found, err := r.Get(localKey(keyJournalStart))
	if err != nil || !found {
		return 0, err
	}
	if len(v) != 8 {
		return 0, storage.Errorf(storage.ErrCorrupt, "read journal start: %d bytes", len(v))
	}
	return slot.Position(be.Uint64(v)), nil
}

// JournalAfter gives durable events after a position, in order and in the
// journal's encoding (event.Decode): at least one if there is any, and at most
// about bytesMax. ErrNotFound: the journal no longer goes back that far, or
// never had that position; the reader needs a state transfer.
func (s *Slot) JournalAfter(after slot.Position, bytesMax int) (events [][]byte, last slot.Position, err error) {
	err = s.read(func(v *view) error {
		start, err := journalStart(v)
		if err != nil {
			return err
		}
		head, _, err := v.head()
		if err != nil {
			return err
		}
		gone := storage.Errorf(storage.ErrNotFound, "read journal of %s after %s: it has %s to %s", s.o.Slot, after, start, head)
		if after < start || after > head {
			return gone
		}
		last = after
		it, err := v.iter(event.Span{Lower: event.JournalKey(after + 1), Upper: event.SpanOf([]byte{event.PrefixJournal}).Upper})
		if err != nil {
			return err
		}
		defer it.Close()
		size := 0
		for ok := it.First(); ok && size < bytesMax; ok = it.Next() {
			raw := append([]byte(nil), it.Value()...)
			ev, err := event.Decode(raw)
			if err != nil {
				return err
			}
			if slot.Position(ev.Previous) != last {
				return gone
			}
			events = append(events, raw)
			last = slot.Position(ev.Position)
			size += len(raw)
		}
		return it.Error()
	})
	return events, last, err
}

// arrivals tells the replication feed of bodies as they arrive, before their
// events. A feed that does not keep up misses some and asks for them later.
type arrivals struct {
	mu sync.Mutex
	m  map[chan slot.BodyRef]struct{}
}

func (a *arrivals) init() { a.m = map[chan slot.BodyRef]struct{}{} }

func (a *arrivals) announce(ref slot.BodyRef) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for c := range a.m {
		select {
		case c <- ref:
		default:
		}
	}
}

// Arrivals gives bodies that came in at this copy since the call, until stop.
func (s *Slot) Arrivals() (bodies <-chan slot.BodyRef, stop func()) {
	c := make(chan slot.BodyRef, 1024)
	s.arrivals.mu.Lock()
	defer s.arrivals.mu.Unlock()
	s.arrivals.m[c] = struct{}{}
	return c, func() {
		s.arrivals.mu.Lock()
		defer s.arrivals.mu.Unlock()
		delete(s.arrivals.m, c)
	}
}
