package local

import (
	"context"
	"errors"
	"sync"
	"time"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// sealPatience is how long a change waits for the end of a seal. A hand-over takes
// less than a second, and an MTA is not to wait for long (LAWS §6.14).
const sealPatience = 5 * time.Second

// seal keeps changes from beginning while a slot is handed over to another node.
// Reads go on.
type seal struct {
	mu       sync.Mutex
	ended    chan struct{} // closed when the seal ends; nil: there is none
	underWay int           // changes that have begun and are not answered
	drained  chan struct{} // closed when there is none; nil: nobody waits for that
}

// sealedError is the answer of admit to a change that is to wait.
type sealedError struct{ ended <-chan struct{} }

func (*sealedError) Error() string { return "the slot is sealed" }

func (s *seal) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = make(chan struct{})
	}
}

func (s *seal) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		close(s.ended)
		s.ended = nil
	}
}

func (s *seal) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sealed()
}

// sealed is err with s.mu held.
func (s *seal) sealed() error {
	if s.ended == nil {
		return nil
	}
	return &sealedError{s.ended}
}

// enter counts a change that begins, unless it may not.
func (s *seal) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.sealed(); err != nil {
		return err
	}
	s.underWay++
	return nil
}

func (s *seal) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.underWay--; s.underWay == 0 && s.drained != nil {
		close(s.drained)
		s.drained = nil
	}
}

// drain returns a channel that is closed when no change is under way.
func (s *seal) drain() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	drained := s.drained
	if drained == nil {
		drained = make(chan struct{})
		if s.underWay == 0 {
			close(drained)
		} else {
			s.drained = drained
		}
	}
	return drained
}

// Seal keeps every change from beginning, and returns the position of the last event
// when all that began before is durable here: nothing follows it until Unseal. When
// it returns an error the master is sealed all the same.
func (m *Master) Seal(ctx context.Context) (slot.Position, error) {
	m.seal.begin()
	var at slot.Position
	err := m.s.do(ctx, func(t *txn) error { at = t.head; return nil })
	return at, err
}

// Drained waits until every change that had begun before Seal is answered.
func (m *Master) Drained(ctx context.Context) error {
	select {
	case <-m.seal.drain():
		return nil
	case <-ctx.Done():
		return storage.Errorf(storage.ErrUnavailable, "drain slot %s: some changes are not answered yet: %w", m.s.o.Slot, ctx.Err())
	}
}

// Unseal lets changes begin again, those that wait first.
func (m *Master) Unseal() { m.seal.end() }

// unlessSealed runs a change. One that may not begin waits, and begins when the seal
// has ended; when the master has ended before, nothing was done (ErrMoved).
func (m *Master) unlessSealed(ctx context.Context, change func() error) error {
	for {
		err := m.seal.enter()
		if err == nil {
			err = change()
			m.seal.leave()
		}
		var sealed *sealedError
		if !errors.As(err, &sealed) {
			return err
		}
		patience := time.NewTimer(sealPatience)
		select {
		case <-sealed.ended:
			err = nil
		case <-m.done:
			err = m.live()
		case <-m.s.Failed():
			err = m.s.Failure()
		case <-ctx.Done():
			err = storage.Errorf(storage.ErrUnavailable, "slot %s: %w", m.s.o.Slot, ctx.Err())
		case <-patience.C:
			err = storage.Errorf(storage.ErrUnavailable, "slot %s is being handed over to another node: try again", m.s.o.Slot)
		}
		patience.Stop()
		if err != nil {
			return err
		}
	}
}
