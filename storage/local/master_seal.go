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
// less than a second, and an MTA is not to wait for long (LAWS §6.6).
const sealPatience = 5 * time.Second

// seal keeps changes from beginning while a slot is handed over to another node.
// Reads go on.
type seal struct {
	mu    sync.Mutex
	ended chan struct{} // closed when the seal ends; nil: there is none
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
	if s.ended == nil {
		return nil
	}
	return &sealedError{s.ended}
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

// Unseal lets changes begin again, those that wait first.
func (m *Master) Unseal() { m.seal.end() }

// unlessSealed runs a change. One that may not begin waits, and begins when the seal
// has ended; when the master has ended before, nothing was done (ErrMoved).
func (m *Master) unlessSealed(ctx context.Context, change func() error) error {
	for {
		err := change()
		var sealed *sealedError
		if !errors.As(err, &sealed) {
			return err
		}
		patience := time.NewTimer(sealPatience)
		select {
		case <-sealed.ended:
			err = nil
		case <-m.done:
			err = m.moved()
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

// moved is the answer to a change that had not begun when the master ended.
func (m *Master) moved() error {
	return storage.Errorf(storage.ErrMoved, "slot %s: this node is no longer its master", m.s.o.Slot)
}
