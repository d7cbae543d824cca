package local

import (
	"mailnode/storage/blob"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// Snapshot is a copy's durable state at one moment, for storage/check.
type Snapshot struct {
	s *Slot
	v *view
}

// Inspect calls fn with the durable state; the packs that it points into stay until fn
// returns.
func (s *Slot) Inspect(fn func(Snapshot) error) error {
	defer s.PinPacks()()
	return s.read(func(v *view) error { return fn(Snapshot{s, v}) })
}

// Get reads one record.
func (x Snapshot) Get(key []byte) ([]byte, bool, error) { return x.v.Get(key) }

// Each calls fn for the records of a span in key order.
func (x Snapshot) Each(sp event.Span, fn func(key, value []byte) error) error {
	return each(x.v, sp, fn)
}

// ProveBody reads a body whole and proves its checksum, and that of its note.
func (x Snapshot) ProveBody(ref slot.BodyRef) error {
	loc, err := x.s.locate(x.v, ref)
	if err != nil {
		return err
	}
	return x.s.at(ref, loc, func(loc blob.Location) error {
		b, err := x.s.packs.Open(ref, loc)
		if err != nil {
			return err
		}
		if err := b.Close(); err != nil {
			return err
		}
		_, err = x.s.packs.Note(ref, loc) // replicas and a rebuild need it
		return err
	})
}
