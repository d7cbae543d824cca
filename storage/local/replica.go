package local

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"mailnode/storage"
	"mailnode/storage/disk"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// ApplyEvents applies events of the master in their order and returns when they
// are durable here. applied counts those that are; err is why the next one is not, and
// that event has left no trace: storage.ErrNotFound when one of its bodies is not here,
// storage.ErrDiverged when the event does not follow the head. It takes only as many as
// fit into one closure, or one large event.
func (s *Slot) ApplyEvents(ctx context.Context, evs []*event.Event) (applied int, err error) {
	if _, err := s.space.hold(disk.Change, 0); err != nil {
		return 0, err // the master hears no more of this copy until there is room
	}
	n, changes := 0, 0
	for ; n < len(evs) && (n == 0 || changes+records(evs[n]) <= storage.MaxTxnRecords); n++ {
		changes += records(evs[n])
	}
	if changes > s.o.sizes.applied {
		if err := s.applyLarge(ctx, evs[0]); err != nil {
			return 0, err
		}
		return 1, nil
	}
	var refused error
	err = s.do(ctx, func(t *txn) error {
		for _, ev := range evs[:n] {
			if refused = t.applyReplica(ev); refused != nil {
				return nil
			}
			applied++
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return applied, refused
}

// closureSpare is how many records an event has at most beside its messages and their
// tombstones: mailboxes, the account.
const closureSpare = 10

// records counts the records that an event changes.
func records(ev *event.Event) int {
	n := len(ev.Changes)
	for _, c := range ev.Changes {
		n += len(c.GetFreed().GetUids())
	}
	return n
}

// applyReplica applies one event; a panic in it is an error of that event alone (LAWS
// row 28).
func (t *txn) applyReplica(ev *event.Event) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = storage.Errorf(storage.ErrInvalid, "apply event %s: panic: %v", slot.Position(ev.Position), p)
		}
	}()
	if slot.Position(ev.Position) <= t.head {
		// An event that was applied, and whose acknowledgement was lost: the same bytes
		// lie in the journal. Anything else at or before the head is another history.
		have, found, err := t.Get(event.JournalKey(slot.Position(ev.Position)))
		if err != nil {
			return err
		}
		if found && bytes.Equal(have, event.Encode(ev)) {
			return nil
		}
		return storage.Errorf(storage.ErrDiverged, "apply event %s: the head is %s already", slot.Position(ev.Position), t.head)
	}
	return t.apply(ev)
}

// MissingBodies returns those bodies of an event that are not here.
func (s *Slot) MissingBodies(ev *event.Event) ([]slot.BodyRef, error) {
	var out []slot.BodyRef
	for _, ref := range ev.Bodies() {
		have, err := s.HasBody(ref)
		if err != nil {
			return nil, err
		}
		if !have {
			out = append(out, ref)
		}
	}
	return out, nil
}

// Quarantine keeps an event that could not be applied, with the reason, as two files in
// quarantine/. Nothing there is ever deleted by a program. The event's file gets its
// name when both are whole.
func (s *Slot) Quarantine(ev *event.Event, reason error) error {
	fs, dir := s.o.FS, s.o.FS.PathJoin(s.o.Dir, "quarantine")
	at := slot.Position(ev.Position)
	base := fs.PathJoin(dir, fmt.Sprintf("event-%d-%d", at.Epoch(), at.N()))
	err := disk.WriteFile(fs, base+".reason", "mailnode-quarantine", []byte(reason.Error()+"\n"))
	if err == nil {
		err = disk.WriteFile(fs, base+".event", "mailnode-quarantine", event.Encode(ev))
	}
	if err != nil {
		return fmt.Errorf("quarantine event %s: %w", at, err)
	}
	return nil
}

// Quarantined lists the names of what lies in quarantine/.
func (s *Slot) Quarantined() ([]string, error) {
	names, err := s.o.FS.List(s.o.FS.PathJoin(s.o.Dir, "quarantine"))
	if err != nil {
		return nil, fmt.Errorf("list quarantine of %s: %w", s.o.Slot, err)
	}
	out := names[:0]
	for _, n := range names {
		if !strings.HasSuffix(n, ".reason") && !strings.HasSuffix(n, ".new") { // the event's, or one that a crash cut off
			out = append(out, n)
		}
	}
	return out, nil
}

// Building reports whether a state transfer is under way or was cut off.
func (s *Slot) Building() bool { return s.building.Load() }
