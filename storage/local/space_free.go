package local

import (
	"context"
	"slices"
	"time"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// Freed counts what one Free has forgotten.
type Freed struct {
	Messages  int // tombstones, and messages of deleted mailboxes
	Mailboxes int
	Accounts  int
}

// Free forgets what the undelete window no longer keeps: tombstones, deleted
// mailboxes and accounts. It is a change like any other, so that all copies agree
// (LAWS §4.12), in events of at most storage.MaxTxnRecords records; spend is called
// before each event with their number (law 12). It may be cut off at any point.
func (m *Master) Free(ctx context.Context, spend func(ctx context.Context, records int) error) (Freed, error) {
	f := freeing{m: m, ctx: ctx, spend: spend}
	var now uint64
	if err := m.view(ctx, func(v *view) error { now = m.clockNow(v); return nil }); err != nil {
		return f.out, err
	}
	window := uint64(max(0, m.s.o.Undelete) / time.Millisecond)
	if now < window {
		return f.out, nil
	}
	f.cutoff = now - window
	// The journal's events that are older than the window are forgotten first: else a
	// replica could need, for one of them, a body that is freed here.
	if err := m.s.TrimJournalClock(ctx, f.cutoff); err != nil {
		return f.out, err
	}
	for _, step := range []func() error{f.accounts, f.mailboxes, f.tombstones, f.missing} {
		if err := step(); err != nil {
			return f.out, err
		}
	}
	return f.out, nil
}

type freeing struct {
	m      *Master
	ctx    context.Context
	spend  func(ctx context.Context, records int) error
	cutoff uint64 // slot clock: what was removed before it goes
	out    Freed
}

// change makes one event, when fn returns changes.
func (f *freeing) change(records int, fn func(t *txn) ([]*event.Change, error), accounts ...storage.AccountID) error {
	if err := f.spend(f.ctx, records); err != nil {
		return err
	}
	_, err := f.m.change(f.ctx, func(t *txn) error {
		changes, err := fn(t)
		if err != nil || len(changes) == 0 {
			return err
		}
		return f.m.emit(t, changes...)
	}, accounts...)
	return err
}

// accounts marks the mailboxes of accounts whose time is over as deleted, and
// forgets accounts of which nothing is left.
func (f *freeing) accounts() error {
	var over []storage.AccountID
	if err := f.m.view(f.ctx, func(v *view) error {
		return each(v, event.SpanOf([]byte{event.PrefixAccount}), func(_, value []byte) error {
			a := &event.AccountRecord{}
			err := unmarshal(value, a)
			if err == nil && a.Deleted {
				over = append(over, storage.AccountID(a.Id))
			}
			return err
		})
	}); err != nil {
		return err
	}
	for _, id := range over {
		if err := f.account(id); err != nil {
			return err
		}
	}
	return nil
}

func (f *freeing) account(id storage.AccountID) error {
	over := false
	if err := f.change(1, func(t *txn) ([]*event.Change, error) {
		a, changes, err := f.over(t, id)
		over = a != nil
		return changes, err
	}, id); err != nil || !over {
		return err
	}
	if err := f.endMailboxes(id); err != nil {
		return err
	}
	if err := f.unsubscribe(id); err != nil {
		return err
	}
	gone := false
	err := f.change(1, func(t *txn) ([]*event.Change, error) {
		a, changes, err := f.over(t, id)
		if err != nil || a == nil {
			return nil, err
		}
		left := 0
		for _, sp := range []event.Span{event.MailboxesOf(id), event.SubscriptionsOf(id)} {
			n, err := countUpTo(t, sp, 1)
			if err != nil {
				return nil, err
			}
			left += n
		}
		if gone = left == 0; !gone {
			return changes, nil
		}
		return append(changes, freedChange(&event.FreedRecord{Account: a.Id, Whole: true})), nil
	}, id)
	if err == nil && gone {
		f.out.Accounts++
	}
	return err
}

// over loads an account whose time is over, or nil. The account loses its address with
// the first step: so nobody can undelete what is left of it later.
func (f *freeing) over(t *txn, id storage.AccountID) (*event.AccountRecord, []*event.Change, error) {
	a := &event.AccountRecord{}
	found, err := event.Load(t, event.AccountKey(id), a)
	if err != nil || !found || !a.Deleted {
		return nil, nil, err // undeleted meanwhile
	}
	held, err := holdsAddress(t, a)
	if err != nil || held && a.DeletedClockMs > f.cutoff {
		return nil, nil, err
	}
	if !held {
		return a, nil, nil
	}
	rec := &event.AddressRecord{}
	if _, err := event.Load(t, event.AddressKey(slot.Address(a.Address)), rec); err != nil {
		return nil, nil, err
	}
	event.EraseAddress(rec, a)
	return a, []*event.Change{addressChange(rec)}, nil
}

// endMailboxes marks an account's mailboxes as deleted long ago, in steps.
func (f *freeing) endMailboxes(id storage.AccountID) error {
	var refs []storage.Ref
	if err := f.m.view(f.ctx, func(v *view) error {
		return each(v, event.MailboxesOf(id), func(_, value []byte) error {
			b := &event.MailboxRecord{}
			err := unmarshal(value, b)
			if err == nil && !(b.Deleted && b.DeletedClockMs == 0) {
				refs = append(refs, b.Ref())
			}
			return err
		})
	}); err != nil {
		return err
	}
	for some := range slices.Chunk(refs, smallMax) {
		if err := f.change(len(some), func(t *txn) ([]*event.Change, error) {
			a, changes, err := f.over(t, id)
			if err != nil || a == nil {
				return nil, err
			}
			for _, ref := range some {
				b := &event.MailboxRecord{}
				if found, err := event.Load(t, event.MailboxKey(ref), b); err != nil {
					return nil, err
				} else if found {
					b.Deleted, b.DeletedClockMs, b.Changed = true, 0, f.m.modSeq(t, a)
					changes = append(changes, mailboxChange(b))
				}
			}
			return changes, nil
		}, id); err != nil {
			return err
		}
	}
	return nil
}

// unsubscribe takes an account's subscriptions away, in steps.
func (f *freeing) unsubscribe(id storage.AccountID) error {
	var names []string
	if err := f.m.view(f.ctx, func(v *view) error {
		sp := event.SubscriptionsOf(id)
		return each(v, sp, func(key, _ []byte) error {
			names = append(names, string(key[len(sp.Lower):]))
			return nil
		})
	}); err != nil {
		return err
	}
	for some := range slices.Chunk(names, storage.MaxTxnRecords) {
		if err := f.change(len(some), func(t *txn) ([]*event.Change, error) {
			a, changes, err := f.over(t, id)
			if err != nil || a == nil {
				return nil, err
			}
			for _, name := range some {
				changes = append(changes, subscriptionChange(a.Id, name, false))
			}
			return changes, nil
		}, id); err != nil {
			return err
		}
	}
	return nil
}

// mailboxes forgets deleted mailboxes with what is in them.
func (f *freeing) mailboxes() error {
	var over []storage.Ref
	if err := f.m.view(f.ctx, func(v *view) error {
		return each(v, event.SpanOf([]byte{event.PrefixMailbox}), func(_, value []byte) error {
			b := &event.MailboxRecord{}
			err := unmarshal(value, b)
			if err == nil && b.Deleted && b.DeletedClockMs <= f.cutoff {
				over = append(over, b.Ref())
			}
			return err
		})
	}); err != nil {
		return err
	}
	for _, ref := range over {
		if err := f.mailbox(ref); err != nil {
			return err
		}
	}
	return nil
}

func (f *freeing) mailbox(ref storage.Ref) error {
	for {
		more := false
		n := 0
		err := f.change(storage.MaxTxnRecords, func(t *txn) ([]*event.Change, error) {
			b := &event.MailboxRecord{}
			found, err := event.Load(t, event.MailboxKey(ref), b)
			if err != nil || !found || !b.Deleted || b.DeletedClockMs > f.cutoff {
				return nil, err // restored meanwhile
			}
			x := &event.FreedRecord{Account: b.Account, Mailbox: b.Id}
			for _, sp := range []event.Span{event.MessagesIn(ref, 0, ^storage.UID(0)), event.ExpungedIn(ref)} {
				if more, err = takeUIDsOf(t, sp, x); err != nil {
					return nil, err
				} else if more {
					break
				}
			}
			x.Whole, n = !more, len(x.Uids)
			return []*event.Change{freedChange(x)}, nil
		}, ref.Account)
		if err != nil {
			return err
		}
		f.out.Messages += n
		if !more {
			f.out.Mailboxes++
			return nil
		}
	}
}

// takeUIDsOf adds UIDs of a span until the record has as many as one event may.
func takeUIDsOf(t *txn, sp event.Span, x *event.FreedRecord) (more bool, err error) {
	it, err := t.iter(sp)
	if err != nil {
		return false, err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if len(x.Uids) == storage.MaxTxnRecords {
			return true, nil
		}
		x.Uids = append(x.Uids, uint32(event.UIDOf(it.Key())))
	}
	if err := it.Error(); err != nil {
		return false, readError(err)
	}
	return false, nil
}

// tombstones forgets expunged messages, and raises their mailboxes' floors.
func (f *freeing) tombstones() error {
	var ref storage.Ref
	var uids []uint32
	flush := func() error {
		if len(uids) == 0 {
			return nil
		}
		err := f.tombstonesOf(ref, uids)
		uids = nil
		return err
	}
	for from := event.SpanOf([]byte{event.PrefixExpunged}); ; {
		// The view is released before the changes wait for their commit.
		n := 0
		var last []byte
		if err := f.m.view(f.ctx, func(v *view) error {
			it, err := v.iter(from)
			if err != nil {
				return err
			}
			defer it.Close()
			x := &event.ExpungedRecord{}
			for ok := it.First(); ok && n < 10*storage.MaxTxnRecords && len(uids) < storage.MaxTxnRecords; ok = it.Next() {
				n++
				if r := event.RefOf(it.Key()); r != ref {
					if len(uids) > 0 {
						break
					}
					ref = r
				}
				last = append(last[:0], it.Key()...)
				if err := unmarshal(it.Value(), x); err != nil {
					return err
				}
				if x.SlotClockMs <= f.cutoff {
					uids = append(uids, uint32(event.UIDOf(last)))
				}
			}
			return it.Error()
		}); err != nil {
			return err
		}
		if err := flush(); err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		from.Lower = append(append([]byte(nil), last...), 0)
	}
}

func (f *freeing) tombstonesOf(ref storage.Ref, uids []uint32) error {
	n := 0
	err := f.change(len(uids), func(t *txn) ([]*event.Change, error) {
		b := &event.MailboxRecord{}
		found, err := event.Load(t, event.MailboxKey(ref), b)
		if err != nil || !found || b.Deleted {
			return nil, err // a deleted mailbox is freed whole
		}
		x := &event.FreedRecord{Account: b.Account, Mailbox: b.Id}
		for _, u := range uids {
			old := &event.ExpungedRecord{}
			if found, err := event.Load(t, event.ExpungedKey(ref, storage.UID(u)), old); err != nil {
				return nil, err
			} else if found && old.SlotClockMs <= f.cutoff {
				x.Uids = append(x.Uids, u)
				b.ExpungeFloorModseq = max(b.ExpungeFloorModseq, old.Message.GetModseq())
			}
		}
		if n = len(x.Uids); n == 0 {
			return nil, nil
		}
		return []*event.Change{mailboxChange(b), freedChange(x)}, nil
	}, ref.Account)
	f.out.Messages += n
	return err
}

// missing forgets the records of missing messages whose account is gone.
func (f *freeing) missing() error {
	var over []*event.MissingRecord
	if err := f.m.view(f.ctx, func(v *view) error {
		return each(v, event.SpanOf([]byte{event.PrefixMissing}), func(_, value []byte) error {
			x := &event.MissingRecord{}
			if err := unmarshal(value, x); err != nil {
				return err
			}
			_, there, err := v.Get(event.AccountKey(x.Message.Ref().Account))
			if err == nil && !there {
				x.Found = true
				over = append(over, x)
			}
			return err
		})
	}); err != nil {
		return err
	}
	for _, x := range over {
		if err := f.change(1, func(*txn) ([]*event.Change, error) {
			return []*event.Change{missingChange(x)}, nil
		}); err != nil {
			return err
		}
	}
	return nil
}
