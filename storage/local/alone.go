package local

import (
	"mailnode/storage"
	"mailnode/storage/slot"
)

// keyAlone is where a master notes, before it acknowledges anything that no
// replica has confirmed, the position after which it goes on alone.
const keyAlone = "alone"

// Alone gives the position after which this copy, as master, acknowledged alone;
// ok is false when it did not, or is protected again (law 1).
func (s *Slot) Alone() (since slot.Position, ok bool, err error) {
	return aloneIn(s.get)
}

// aloneIn reads the mark of a copy, or of a state that was set aside.
func aloneIn(get func(key []byte) ([]byte, bool, error)) (since slot.Position, ok bool, err error) {
	v, found, err := get(localKey(keyAlone))
	if err != nil || !found {
		return 0, false, err
	}
	if len(v) != 8 {
		return 0, false, storage.Errorf(storage.ErrCorrupt, "read alone mark: %d bytes", len(v))
	}
	return slot.Position(be.Uint64(v)), true, nil
}
