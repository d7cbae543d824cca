package repl

import (
	"errors"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// coverage is how another copy's history stands to this master's.
type coverage int

const (
	coversAll     coverage = iota // the journal goes on where the copy ends
	coversTrimmed                 // it began later, and the history has all of the copy
	coversUnread                  // it is damaged there
	coversNot                     // the copy holds what this master does not have
)

// covers compares a copy that ends at a position with this master's history. head is the
// master's, read before.
func (f *Feed) covers(at slot.Position, l slot.Lineage, head event.Head) (coverage, error) {
	if l.Diverged(at, head.Lineage, head.Position) {
		return coversNot, nil
	}
	_, _, err := f.o.Slot.JournalAfter(at, 1)
	switch {
	case err == nil:
		return coversAll, nil
	case errors.Is(err, storage.ErrCorrupt):
		return coversUnread, nil
	case !errors.Is(err, storage.ErrNotFound):
		return coversUnread, err
	}
	// Where the journal has events and not this one, the copy has what this master
	// lost, or never had, in the same epoch. Where the journal begins is looked at
	// after it: it may have been trimmed since head.
	now, err := f.o.Slot.Head()
	if err != nil {
		return coversUnread, err
	}
	if at > now.KeptAfter {
		return coversNot, nil
	}
	return coversTrimmed, nil
}

// Covers reports whether this master holds all that a copy has which ends at a position.
// An error says that this is not known.
func (f *Feed) Covers(at slot.Position, l slot.Lineage) (bool, error) {
	head, err := f.o.Slot.Head()
	if err != nil {
		return false, err
	}
	c, err := f.covers(at, l, head)
	if err == nil && c == coversUnread {
		err = storage.Errorf(storage.ErrCorrupt, "compare a copy of %s at %s: the journal is damaged there", f.o.Slot.ID(), at)
	}
	return c == coversAll || c == coversTrimmed, err
}
