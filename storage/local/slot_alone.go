package local

import (
	"context"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// What a copy must remember of its master's promises and its own. It lies beside the state
// in the same index; no replica has it, and it is in no event.
const (
	keyAlone    = "alone"    // position: what comes after was acknowledged with nobody's confirmation
	keyPromised = "promised" // epoch: nothing is acknowledged to a lower one any more
)

// Alone returns the position after which this copy, as a master, has acknowledged changes
// that no replica confirmed, and whether there are any (law 1).
func (s *Slot) Alone() (since slot.Position, alone bool, err error) {
	n, alone, err := s.remembered(keyAlone)
	return slot.Position(n), alone, err
}

// MarkAlone makes the mark of that durable, before the first such acknowledgement.
func (s *Slot) MarkAlone(ctx context.Context, since slot.Position) error {
	return s.do(ctx, func(t *txn) error { return t.b.Set(localKey(keyAlone), be.AppendUint64(nil, uint64(since)), nil) })
}

// ClearAlone takes the mark away: replicas hold everything again.
func (s *Slot) ClearAlone(ctx context.Context) error {
	return s.do(ctx, func(t *txn) error { return t.b.Delete(localKey(keyAlone), nil) })
}

// Promised returns the highest epoch under which this copy was asked what it holds:
// as a replica it follows none that is lower.
func (s *Slot) Promised() (slot.Epoch, error) {
	n, _, err := s.remembered(keyPromised)
	return slot.Epoch(n), err
}

// Promise makes a promise durable. One that is lower than an earlier one changes nothing.
func (s *Slot) Promise(ctx context.Context, e slot.Epoch) error {
	return s.do(ctx, func(t *txn) error {
		n, _, err := numberAt(t, keyPromised)
		if err != nil || slot.Epoch(n) >= e {
			return err
		}
		return t.b.Set(localKey(keyPromised), be.AppendUint64(nil, uint64(e)), nil)
	})
}

func (s *Slot) remembered(key string) (n uint64, found bool, err error) {
	err = s.read(func(v *view) (err error) {
		n, found, err = numberAt(v, key)
		return err
	})
	return n, found, err
}

func numberAt(r reader, key string) (uint64, bool, error) {
	v, found, err := r.Get(localKey(key))
	if err != nil || !found {
		return 0, false, err
	}
	if len(v) != 8 {
		return 0, false, storage.Errorf(storage.ErrCorrupt, "read %q: %d bytes", key, len(v))
	}
	return be.Uint64(v), true, nil
}
