package local

import (
	"errors"
	"sync/atomic"

	"mailnode/storage"
	"mailnode/storage/index"
	"mailnode/storage/slot"
)

// Damage is something on disk that is not what was put there, as a reader met it.
type Damage struct {
	Slot slot.ID
	// Body is the body that is damaged, or has no place here although the index
	// names it; zero when Index is set. Both zero: the damage is dealt with already.
	Body slot.BodyRef
	// Mailbox and UID are the message that was asked for; 0 when the body was met
	// in another way, and then several messages may name it.
	Mailbox storage.Ref
	UID     storage.UID
	// Index: the index or the journal is damaged.
	Index bool
	Err   error
}

// damaged reports damage and returns its error, of kind storage.ErrCorrupt.
func (s *Slot) damaged(d Damage) error {
	s.tell(d)
	return &bodyDamage{storage.Errorf(storage.ErrCorrupt, "slot %s: %w", s.o.Slot, d.Err)}
}

// tell calls OnDamage, which knows what it was told before. What a copy that has stopped
// cannot read says nothing of the files: they may have been given up (Release).
func (s *Slot) tell(d Damage) {
	if s.Failure() != nil {
		return
	}
	if d.Slot = s.o.Slot; s.o.OnDamage != nil {
		s.o.OnDamage(d)
	} else {
		s.log.Error("damage found", "body", d.Body, "index", d.Index, "err", d.Err)
	}
}

// bodyDamage marks an error that damaged has reported.
type bodyDamage struct{ error }

func (b *bodyDamage) Unwrap() error { return b.error }

// IndexLost reports whether an error means that files of the index are damaged, so
// that only a Rebuild helps; a record that is merely wrong is put right by a Recount.
// When the folder, the packs or the disk of a copy fail a check of Open a person must
// look: the wrong disk may be mounted.
func IndexLost(err error) bool {
	var r *Refused
	if errors.As(err, &r) && len(r.Checks) > 0 {
		switch r.Checks[len(r.Checks)-1].Name {
		case "list of files", "index", "last stop", "newest events", "head", "records":
			return errors.Is(err, storage.ErrCorrupt)
		}
		return false
	}
	return index.IsDamaged(err)
}

// told are the kinds of damage of the index that were reported: each is once.
type told struct{ index, record, unread atomic.Bool }

// forget is for a state that was replaced.
func (t *told) forget() {
	t.index.Store(false)
	t.record.Store(false)
}

// met returns the error of a read or a change as it is. When the error is damage of the
// index it reports that: of files once and of records once, until the state is replaced.
func (s *Slot) met(err error) error {
	var told *bodyDamage
	if err == nil || !errors.Is(err, storage.ErrCorrupt) || errors.As(err, &told) {
		return err
	}
	said := &s.told.record
	if IndexLost(err) {
		said = &s.told.index // also of a building copy, which would be filled in vain
	} else if s.building.Load() {
		return err
	}
	if said.CompareAndSwap(false, true) {
		s.tell(Damage{Index: true, Err: err})
	}
	return err
}

// tableDamaged is called for a table of the index that fails its checksums: that is
// damage of what lies in it, not of the slot (law 9).
func (s *Slot) tableDamaged(path string, err error) {
	s.met(storage.Errorf(storage.ErrCorrupt, "read index: %q is damaged: %w: %w", path, index.ErrDamaged, err))
}

// indexRetries is called when a compaction met damage, or could not read: readers of
// that table get the error as well, and compaction tries again hundreds of times a
// second.
func (s *Slot) indexRetries(err error) {
	if errors.Is(err, index.ErrRead) {
		if s.told.unread.CompareAndSwap(false, true) {
			s.log.Warn("index: a table cannot be read; compaction tries again", "err", err)
		}
		return
	}
	if !s.told.index.Load() {
		s.log.Warn("index", "err", err)
	}
}
