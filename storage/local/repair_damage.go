package local

import (
	"errors"
	"strings"

	"github.com/cockroachdb/pebble/v2"

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

// tell calls OnDamage, which knows what it was told before.
func (s *Slot) tell(d Damage) {
	if d.Slot = s.o.Slot; s.o.OnDamage != nil {
		s.o.OnDamage(d)
	} else {
		s.log.Error("damage found", "body", d.Body, "index", d.Index, "err", d.Err)
	}
}

// firstLine is an error cut to its first line: what Pebble writes below that is of no
// use to an operator.
type firstLine struct{ err error }

func (f firstLine) Error() string {
	text, _, _ := strings.Cut(f.err.Error(), "\n")
	return text
}

func (f firstLine) Unwrap() error { return f.err }

// bodyDamage marks an error that damaged has reported.
type bodyDamage struct{ error }

func (b *bodyDamage) Unwrap() error { return b.error }

// met returns the error of a read or a change as it is. When the error is damage of the
// index it reports that: of files once and of records once, until the state is replaced.
func (s *Slot) met(err error) error {
	var told *bodyDamage
	if err == nil || !errors.Is(err, storage.ErrCorrupt) || errors.As(err, &told) {
		return err
	}
	said := &s.recordTold
	if IndexLost(err) {
		said = &s.indexTold // also of a building copy, which would be filled in vain
	} else if s.building.Load() {
		return err
	}
	if said.CompareAndSwap(false, true) {
		s.tell(Damage{Index: true, Err: err})
	}
	return err
}

// tableDamaged is called for a table of the index that fails its checksums. Without it
// Pebble would take that for fatal, and the reader would hang; but one bad block is
// damage of what lies in it, not of the slot (law 9).
func (s *Slot) tableDamaged(i pebble.DataCorruptionInfo) {
	s.met(storage.Errorf(storage.ErrCorrupt, "read index: %q is damaged: %w: %w", i.Path, index.ErrDamaged, firstLine{i.Details}))
}
