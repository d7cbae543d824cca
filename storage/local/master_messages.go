package local

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/event"
)

// OpenBody implements storage.Messages.
func (m *Master) OpenBody(ctx context.Context, r storage.Ref, uid storage.UID) (storage.BodyReader, error) {
	var rec *event.MessageRecord
	var loc blob.Location
	err := m.view(ctx, func(v *view) error {
		var err error
		if rec, err = loadMessage(v, r, uid); err != nil {
			return err
		}
		if loc, err = m.s.locate(v, rec.Body()); errors.Is(err, storage.ErrNotFound) {
			return m.s.damaged(Damage{Body: rec.Body(), Mailbox: r, UID: uid, Err: err}) // a record without its body is damage
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	b, err := m.s.openFor(ctx, rec.Body(), loc)
	if err != nil {
		return nil, err // and no nil *blob.Body in an interface
	}
	return b, nil
}

// inChunks cuts uids as LAWS §4.3 asks, and finer: a closure of so many messages
// takes a few milliseconds.
func inChunks(uids []storage.UID, fn func([]storage.UID) error) error {
	uids = slices.Clone(uids)
	slices.Sort(uids)
	uids = slices.Compact(uids)
	for c := range slices.Chunk(uids, smallMax) {
		if err := fn(c); err != nil {
			return err
		}
	}
	return nil
}

// SetFlags implements storage.Messages. Flags are the one change that does not
// wait for a replica (law 1).
func (m *Master) SetFlags(ctx context.Context, r storage.Ref, uids []storage.UID, c storage.FlagChange) ([]storage.Reflagged, error) {
	c, err := c.Canonical()
	if err != nil {
		return nil, err
	}
	if err := m.roomForKeywords(ctx, r, c); err != nil {
		return nil, err
	}
	var out []storage.Reflagged
	err = inChunks(uids, func(uids []storage.UID) error {
		var part []storage.Reflagged
		err := m.change(ctx, func(t *txn) error {
			part = nil
			a, _, err := in(t, r)
			if err != nil {
				return err
			}
			recs, err := existing(t, r, uids)
			if err != nil {
				return err
			}
			var changes []*event.Change
			for _, rec := range recs {
				before := rec.Message(m.shownFloor(a)).ModSeq
				after := rec.FlagSet().Apply(c)
				if len(after.Keywords) > storage.MaxKeywordsPerMessage {
					return storage.Errorf(storage.ErrLimit, "set flags: a message has at most %d keywords", storage.MaxKeywordsPerMessage)
				}
				if !after.Equal(rec.FlagSet()) {
					rec.SystemFlags, rec.Keywords, rec.Modseq = uint32(after.System), after.Keywords, m.modSeq(t, a)
					changes = append(changes, messageChange(rec))
				}
				part = append(part, storage.Reflagged{Message: rec.Message(m.shownFloor(a)), Before: before})
			}
			if len(changes) == 0 {
				return nil
			}
			return m.emit(t, changes...)
		}, r.Account)
		out = append(out, part...)
		return err
	})
	if err == nil {
		err = m.await(ctx, 0) // no replica, but this node must still be the master
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Expunge implements storage.Messages.
func (m *Master) Expunge(ctx context.Context, r storage.Ref, uids []storage.UID) ([]storage.UID, error) {
	if uids == nil {
		if err := m.Scan(ctx, r, 1, ^storage.UID(0), func(msg storage.Message) error {
			if msg.Flags.Has(storage.Deleted) {
				uids = append(uids, msg.UID)
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	var out []storage.UID
	err := inChunks(uids, func(uids []storage.UID) error {
		return m.acknowledged(ctx, func(t *txn) error {
			a, _, err := in(t, r)
			if err != nil {
				return err
			}
			recs, err := existing(t, r, uids)
			if err != nil {
				return err
			}
			var changes []*event.Change
			var gone []storage.UID
			for _, rec := range recs {
				if rec.FlagSet().Has(storage.Deleted) {
					changes = append(changes, m.expunged(t, a, rec, false))
					gone = append(gone, storage.UID(rec.Uid))
				}
			}
			if len(changes) == 0 {
				return nil
			}
			if err := m.emit(t, changes...); err != nil {
				return err
			}
			out = append(out, gone...)
			return nil
		}, r.Account)
	})
	return out, err
}

// expunged makes the tombstone of a message; moved: the message lives on elsewhere.
func (m *Master) expunged(t *txn, a *event.AccountRecord, rec *event.MessageRecord, moved bool) *event.Change {
	gone := m.record(rec)
	gone.Modseq = m.modSeq(t, a)
	return expungedChange(&event.ExpungedRecord{Message: gone, SlotClockMs: m.slotClock(t), Moved: moved})
}

// record copies a message record, without the summary.
func (m *Master) record(r *event.MessageRecord) *event.MessageRecord {
	return &event.MessageRecord{Account: r.Account, Mailbox: r.Mailbox, Uid: r.Uid, Modseq: r.Modseq, SystemFlags: r.SystemFlags,
		Keywords: r.Keywords, InternalDateUnix: r.InternalDateUnix, Size: r.Size, Guid: r.Guid, BodyId: r.BodyId, SavedUnix: r.SavedUnix}
}

// withSummaries loads messages with their summaries, to be copied. It ends with an
// error when they are more than one event may have, so that no more are loaded.
func (t *txn) withSummaries(ref storage.Ref, uids []storage.UID) (recs []*event.MessageRecord, size int64, err error) {
	loaded := 0
	for _, u := range uids {
		rec, err := loadMessage(t, ref, u)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err == nil {
			rec.Summary, _, err = t.Get(event.SummaryKey(ref, u))
		}
		if err != nil {
			return nil, 0, err
		}
		if loaded += proto.Size(rec); loaded > t.s.o.sizes.eventBytes {
			return nil, 0, storage.Errorf(storage.ErrLimit, "copy %d messages: the records of the first %d have %d bytes, at most %d can be replicated at once",
				len(uids), len(recs)+1, loaded, t.s.o.sizes.eventBytes)
		}
		recs = append(recs, rec)
		size += rec.Size
	}
	return recs, size, nil
}

// Copy implements storage.Messages: one event, so that it copies all messages or
// none (RFC 3501, section 6.4.7).
func (m *Master) Copy(ctx context.Context, r storage.Ref, uids []storage.UID, to string) (storage.Copied, error) {
	var out storage.Copied
	if len(uids) > storage.MaxCopyMessages {
		return out, storage.Errorf(storage.ErrLimit, "copy %d messages: at most %d at a time", len(uids), storage.MaxCopyMessages)
	}
	uids = slices.Clone(uids)
	slices.Sort(uids)
	uids = slices.Compact(uids)
	enter := func(t *txn, q quotaCounts) error {
		out = storage.Copied{}
		a, _, err := in(t, r)
		if err != nil {
			return err
		}
		if _, err := mailboxByName(t, r.Account, to); err != nil {
			return err
		}
		recs, size, err := t.withSummaries(r, uids)
		if err != nil || len(recs) == 0 {
			return err
		}
		if err := q.check(t, a, size); err != nil {
			return err
		}
		changes, copied, err := m.copyInto(t, a, recs, to)
		if err != nil {
			return err
		}
		out = copied
		return m.emit(t, changes...)
	}
	err := m.withinQuota(ctx, r.Account, func(q quotaCounts) error {
		enter := func(t *txn) error { return enter(t, q) }
		if len(uids) > m.s.o.sizes.copied {
			return m.large(ctx, len(uids), r.Account, enter)
		}
		return m.growing(ctx, enter, r.Account)
	})
	return out, err
}

// copyInto makes the changes that put recs into the mailbox named to.
func (m *Master) copyInto(t *txn, a *event.AccountRecord, recs []*event.MessageRecord, to string) ([]*event.Change, storage.Copied, error) {
	b, err := mailboxByName(t, storage.AccountID(a.Id), to)
	if err != nil {
		return nil, storage.Copied{}, err
	}
	first, changes, err := m.takeUIDs(t, a, b, len(recs))
	if err != nil {
		return nil, storage.Copied{}, err
	}
	out := storage.Copied{UIDValidity: storage.UIDValidity(b.Uidvalidity)}
	for i, rec := range recs {
		uid := first + storage.UID(i)
		changes = append(changes, messageChange(m.born(t, rec, a, b, uid)))
		out.From, out.To = append(out.From, storage.UID(rec.Uid)), append(out.To, uid)
	}
	return changes, out, nil
}

// Move implements storage.Messages (RFC 6851).
func (m *Master) Move(ctx context.Context, r storage.Ref, uids []storage.UID, to string) (storage.Copied, error) {
	var out storage.Copied
	err := inChunks(uids, func(uids []storage.UID) error {
		return m.growing(ctx, func(t *txn) error {
			a, _, err := in(t, r)
			if err != nil {
				return err
			}
			recs, _, err := t.withSummaries(r, uids)
			if err != nil || len(recs) == 0 {
				return err
			}
			changes, copied, err := m.copyInto(t, a, recs, to)
			if err != nil {
				return err
			}
			for _, rec := range recs {
				changes = append(changes, m.expunged(t, a, rec, true))
			}
			if err := m.emit(t, changes...); err != nil {
				return err
			}
			out.UIDValidity = copied.UIDValidity
			out.From, out.To = append(out.From, copied.From...), append(out.To, copied.To...)
			return nil
		}, r.Account)
	})
	return out, err
}

// Watch implements storage.Changes.
func (m *Master) Watch(r storage.Ref) (<-chan struct{}, func()) { return m.s.watch.mailboxes.add(r) }
