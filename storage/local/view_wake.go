package local

import (
	"sync"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// watch is who waits at a copy: sessions, and replication.
type watch struct {
	mailboxes watchers
	head      heads
	bodies    arrivals
}

func (w *watch) init() {
	w.mailboxes.init()
	w.head.init()
	w.bodies.init()
}

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

// heads wakes those that wait for the head to move.
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

// next returns what the next wake closes.
func (h *heads) next() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.c
}

// HeadMoved returns a channel that is closed at the next durable change. Take it
// before reading the head.
func (s *Slot) HeadMoved() <-chan struct{} { return s.watch.head.next() }

// arrivals tells the replication feed of bodies as they arrive, before their
// events. A feed that does not keep up misses some, and asks for them later.
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

func (a *arrivals) add() (bodies <-chan slot.BodyRef, stop func()) {
	c := make(chan slot.BodyRef, 1024)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.m[c] = struct{}{}
	return c, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.m, c)
	}
}

// Arrivals returns bodies that came in at this copy since the call, until stop.
func (s *Slot) Arrivals() (bodies <-chan slot.BodyRef, stop func()) { return s.watch.bodies.add() }
