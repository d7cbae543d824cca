package local

import (
	"context"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// trimStepEvents is how many events one group forgets: few enough that nobody
// waits for it, more than a group adds.
const trimStepEvents = 1000

func journalStart(r reader) (slot.Position, error) {
	v, found, err := r.Get(localKey(keyJournalStart))
	if err != nil || !found {
		return 0, err
	}
	if len(v) != 8 {
		return 0, storage.Errorf(storage.ErrCorrupt, "read journal start: %d bytes", len(v))
	}
	return slot.Position(be.Uint64(v)), nil
}

func journalSpan(start slot.Position) event.Span {
	return event.Span{Lower: event.JournalKey(start + 1), Upper: event.SpanOf([]byte{event.PrefixJournal}).Upper}
}

// journalEvents returns how many events the journal has: the number that the
// last group noted, else a count. Positions do not tell, because they jump.
func journalEvents(r reader) (int, error) {
	v, found, err := r.Get(localKey(keyJournalEvents))
	if err != nil {
		return 0, err
	}
	if found && len(v) == 8 {
		return int(be.Uint64(v)), nil
	}
	n := 0
	err = each(r, event.SpanOf([]byte{event.PrefixJournal}), func(_, _ []byte) error { n++; return nil })
	return n, err
}

// trim keeps the journal at JournalEventsMax, a step at a time, in the batch
// that adds to it. A replica that needs what is gone gets the whole state.
func (c *committer) trim(t *txn) error {
	if t.events == c.events || t.reload {
		return nil
	}
	if step := trimStepEvents; t.events >= c.s.o.JournalEventsMax+step {
		start, err := journalStart(t)
		if err != nil {
			return err
		}
		if err := t.forget(start, step, t.head); err != nil {
			return err
		}
	}
	return t.b.Set(localKey(keyJournalEvents), be.AppendUint64(nil, uint64(t.events)), nil)
}

// forget removes at most n events after start and at or below upTo.
func (t *txn) forget(start slot.Position, n int, upTo slot.Position) error {
	it, err := t.iter(journalSpan(start))
	if err != nil {
		return err
	}
	defer it.Close()
	last, gone := start, 0
	for ok := it.First(); ok && gone < n && event.PositionOf(it.Key()) <= upTo; ok = it.Next() {
		last, gone = event.PositionOf(it.Key()), gone+1
	}
	if err := it.Error(); err != nil || gone == 0 {
		return err
	}
	if err := t.b.DeleteRange(event.JournalKey(start+1), event.JournalKey(last+1), nil); err != nil {
		return err
	}
	t.events -= gone
	t.trimmed = true
	return t.b.Set(localKey(keyJournalStart), be.AppendUint64(nil, uint64(last)), nil)
}

// TrimJournal forgets all events at or below p.
func (s *Slot) TrimJournal(ctx context.Context, p slot.Position) error {
	return s.do(ctx, func(t *txn) error {
		start, err := journalStart(t)
		if err != nil || p <= start {
			return err
		}
		if err := t.forget(start, t.events, p); err != nil {
			return err
		}
		return t.b.Set(localKey(keyJournalEvents), be.AppendUint64(nil, uint64(t.events)), nil)
	})
}

// TrimJournalClock forgets events older than a time of the slot clock (ms), in
// steps. A replica that needs them gets the whole state.
func (s *Slot) TrimJournalClock(ctx context.Context, before uint64) error {
	for more := true; more; {
		if err := s.do(ctx, func(t *txn) error {
			start, err := journalStart(t)
			if err != nil {
				return err
			}
			upTo, n, err := t.olderThan(start, before)
			if more = n > 0; err != nil || n == 0 {
				return err
			}
			return t.forget(start, n, upTo)
		}); err != nil {
			return err
		}
	}
	return nil
}

// olderThan finds at most a step of events after start that are older than a
// time of the slot clock. The last event always stays: its position is the head's.
// Only the beginning of each event is read: large ones are too much for a closure.
func (t *txn) olderThan(start slot.Position, clock uint64) (upTo slot.Position, n int, err error) {
	it, err := t.iter(journalSpan(start))
	if err != nil {
		return 0, 0, err
	}
	defer it.Close()
	bytes := 0
	for ok := it.First(); ok && n < trimStepEvents && bytes < groupBytesMax && event.PositionOf(it.Key()) < t.head; ok = it.Next() {
		// A damaged one is as old as its neighbours, and has been applied.
		if at, ok := event.ClockOf(it.Value()); ok && at >= clock {
			break
		}
		bytes += len(it.Value())
		upTo, n = event.PositionOf(it.Key()), n+1
	}
	return upTo, n, it.Error()
}

// JournalAfter returns durable events after a position, in order and in the
// journal's encoding (event.Decode): at least one if there is any, and at most
// about bytesMax. ErrNotFound: the journal no longer goes back that far, or
// never had that position; the reader needs a state transfer.
func (s *Slot) JournalAfter(after slot.Position, bytesMax int) (events [][]byte, last slot.Position, err error) {
	err = s.read(func(v *view) error {
		start, err := journalStart(v)
		if err != nil {
			return err
		}
		head, _, err := v.head()
		if err != nil {
			return err
		}
		gone := storage.Errorf(storage.ErrNotFound, "read journal of %s after %s: it has %s to %s", s.o.Slot, after, start, head)
		if after < start || after > head {
			return gone
		}
		last = after
		it, err := v.iter(journalSpan(after))
		if err != nil {
			return err
		}
		defer it.Close()
		size := 0
		for ok := it.First(); ok && size < bytesMax; ok = it.Next() {
			raw := append([]byte(nil), it.Value()...)
			ev, err := event.Decode(raw)
			if err != nil {
				return err
			}
			if slot.Position(ev.Previous) != last {
				return gone
			}
			events = append(events, raw)
			last = slot.Position(ev.Position)
			size += len(raw)
		}
		if err := it.Error(); err != nil {
			return readError(err)
		}
		if last == after && after != head {
			return gone
		}
		return nil
	})
	return events, last, err
}
