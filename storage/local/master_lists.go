package local

import (
	"cmp"
	"context"
	"slices"

	"mailnode/storage"
	"mailnode/storage/event"
)

// Scan implements storage.Messages.
func (m *Master) Scan(ctx context.Context, r storage.Ref, lo, hi storage.UID, fn func(storage.Message) error) error {
	return m.view(ctx, func(v *view) error {
		a, box, err := in(v, r)
		if err != nil || lo > hi {
			return err
		}
		l, err := m.listing(ctx, v, box, hi-lo >= directScanMax, false)
		if err != nil {
			return err
		}
		if l != nil {
			return l.scan(lo, hi, m.shownFloor(a), func(msg storage.Message) error {
				if err := v.ended(); err != nil {
					return err
				}
				return fn(msg)
			})
		}
		return scanRecords(v, r, lo, hi, m.shownFloor(a), fn)
	})
}

// scanRecords is listing.scan without a listing.
func scanRecords(v *view, r storage.Ref, lo, hi storage.UID, floor storage.ModSeq, fn func(storage.Message) error) error {
	return each(v, event.MessagesIn(r, lo, hi), func(_, value []byte) error {
		var rec event.Listed
		if err := event.ParseListed(value, &rec); err != nil {
			return err
		}
		return fn(rec.Message(floor))
	})
}

// UIDs implements storage.Messages.
func (m *Master) UIDs(ctx context.Context, r storage.Ref) ([]storage.UID, error) {
	var out []storage.UID
	err := m.view(ctx, func(v *view) error {
		_, box, err := in(v, r)
		if err != nil {
			return err
		}
		l, err := m.listing(ctx, v, box, true, false)
		if err != nil {
			return err
		}
		if l != nil {
			out = slices.Clip(l.uids)
			return nil
		}
		return each(v, event.MessagesIn(r, 0, ^storage.UID(0)), func(key, _ []byte) error {
			out = append(out, event.UIDOf(key))
			return nil
		})
	})
	return out, err
}

// Summary implements storage.Messages.
func (m *Master) Summary(ctx context.Context, r storage.Ref, uid storage.UID) ([]byte, error) {
	var out []byte
	err := m.view(ctx, func(v *view) error {
		b, found, err := v.Get(event.SummaryKey(r, uid))
		if err == nil && !found {
			err = storage.Errorf(storage.ErrNotFound, "message with UID %d does not exist", uid)
		}
		out = b
		return err
	})
	return out, err
}

// Summaries implements storage.Messages.
func (m *Master) Summaries(ctx context.Context, r storage.Ref, lo, hi storage.UID, fn func(storage.UID, []byte) error) error {
	return m.view(ctx, func(v *view) error {
		return each(v, event.SummariesIn(r, lo, hi), func(key, value []byte) error { return fn(event.UIDOf(key), value) })
	})
}

// Changes implements storage.Changes.
func (m *Master) Changes(ctx context.Context, r storage.Ref, since storage.ModSeq) (storage.ChangeSet, error) {
	var out storage.ChangeSet
	err := m.view(ctx, func(v *view) error {
		a, b, err := in(v, r)
		if err != nil {
			return err
		}
		floor := m.shownFloor(a)
		box, err := m.showMailbox(v, a, b)
		if err != nil {
			return err
		}
		if out.Head = box.HighestModSeq; out.Head == since {
			return nil
		}
		l, err := m.listing(ctx, v, b, since < floor, true)
		if err != nil {
			return err
		}
		if l != nil {
			out.UIDs = slices.Clip(l.uids)
		}
		take := func(msg storage.Message) error {
			out.Changed = append(out.Changed, msg)
			return nil
		}
		if err := changedSince(v, r, since, l, func(uid storage.UID, msg storage.Message, live bool) {
			if !live {
				out.Expunged = append(out.Expunged, uid)
			} else if msg.ModSeq = max(msg.ModSeq, floor); since >= floor {
				out.Changed = append(out.Changed, msg)
			}
		}); err != nil {
			return err
		}
		if since < storage.ModSeq(b.ExpungeFloorModseq) {
			if out.Expunged, err = absent(v, r, storage.UID(b.Uidnext)); err != nil {
				return err
			}
		}
		// Every message has at least the floor as its MODSEQ, so all have changed (law 3).
		switch {
		case since >= floor:
			return nil
		case l != nil:
			return l.scan(0, ^storage.UID(0), floor, take)
		}
		return scanRecords(v, r, 0, ^storage.UID(0), floor, take)
	})
	slices.Sort(out.Expunged)
	slices.SortFunc(out.Changed, func(x, y storage.Message) int { return cmp.Compare(x.UID, y.UID) })
	return out, err
}

// absent returns every UID below next that no message has: below the expunge floor
// nobody knows any more which of them have gone since (LAWS §4.12).
func absent(v *view, r storage.Ref, next storage.UID) ([]storage.UID, error) {
	var out []storage.UID
	uid := storage.UID(1)
	fill := func(to storage.UID) {
		for ; uid < to; uid++ {
			out = append(out, uid)
		}
		uid = to + 1
	}
	err := each(v, event.MessagesIn(r, 1, ^storage.UID(0)), func(key, _ []byte) error {
		fill(event.UIDOf(key))
		return nil
	})
	fill(next)
	return out, err
}

// changedSince calls fn for the UIDs that changed after since, in the order in
// which they did. l is v's listing, or nil.
func changedSince(v *view, r storage.Ref, since storage.ModSeq, l *listing, fn func(uid storage.UID, msg storage.Message, live bool)) error {
	return each(v, event.ChangedSince(r, since), func(key, _ []byte) error {
		uid := event.UIDOf(key)
		if l != nil {
			e := l.find(uid)
			if e == nil {
				fn(uid, storage.Message{}, false)
			} else {
				fn(uid, l.message(e, 0), true)
			}
			return nil
		}
		value, live, err := v.Get(event.MessageKey(r, uid))
		var rec event.Listed
		if err == nil && live {
			err = event.ParseListed(value, &rec)
		}
		if err != nil {
			return err
		}
		fn(uid, rec.Message(0), live)
		return nil
	})
}
