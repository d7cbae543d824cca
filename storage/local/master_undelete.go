package local

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"
	"unicode/utf8"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// DeleteAccount implements storage.Undelete.
func (m *Master) DeleteAccount(ctx context.Context, id storage.AccountID) error {
	return m.acknowledged(ctx, func(t *txn) error {
		a, err := loadAccount(t, id)
		if err != nil {
			return err
		}
		a.Deleted, a.DeletedClockMs = true, m.slotClock(t)
		t.endSessions()
		return m.emit(t, accountChange(a))
	}, id)
}

// endSessions wakes the watcher that ends the sessions of accounts (storage.Changes)
// once this transaction is durable.
func (t *txn) endSessions() { t.touched[storage.Ref{}] = struct{}{} }

// DeletedAccounts implements storage.Undelete.
func (m *Master) DeletedAccounts(ctx context.Context) ([]storage.DeletedAccount, error) {
	var out []storage.DeletedAccount
	err := m.view(ctx, func(v *view) error {
		now := m.clockNow(v)
		return each(v, event.SpanOf([]byte{event.PrefixAccount}), func(_, value []byte) error {
			a := &event.AccountRecord{}
			if err := unmarshal(value, a); err != nil || !a.Deleted {
				return err
			}
			held, err := holdsAddress(v, a)
			if err != nil || !held {
				return err // it is erased, and only its mail is left
			}
			shown, err := m.showDeleted(v, a, now)
			out = append(out, shown)
			return err
		})
	})
	sort.Slice(out, func(i, j int) bool { return out[i].Address < out[j].Address })
	return out, err
}

// DeletedAccount implements storage.Undelete.
func (m *Master) DeletedAccount(ctx context.Context, addr slot.Address) (storage.DeletedAccount, error) {
	var out storage.DeletedAccount
	err := m.view(ctx, func(v *view) error {
		a, _, err := deletedAccount(v, addr)
		if err != nil {
			return err
		}
		out, err = m.showDeleted(v, a, m.clockNow(v))
		return err
	})
	return out, err
}

func (m *Master) showDeleted(v *view, a *event.AccountRecord, now uint64) (storage.DeletedAccount, error) {
	shown, err := showAccount(v, a)
	ago := clockSince(now, a.DeletedClockMs)
	return storage.DeletedAccount{Account: shown, Ago: ago, Left: max(0, m.s.o.Undelete-ago)}, err
}

// UndeleteWindow is how long, on the slot clock, this slot's removed mail can be
// brought back; 0: not at all.
func (m *Master) UndeleteWindow() time.Duration { return max(0, m.s.o.Undelete) }

// clockNow is the slot clock as of a view.
func (m *Master) clockNow(v *view) uint64 {
	_, clock, err := v.head()
	if err != nil {
		clock = 0
	}
	return max(clock, m.clockBase+uint64((m.s.o.Clock.Mono()-m.since)/time.Millisecond))
}

func clockSince(nowMs, thenMs uint64) time.Duration {
	if thenMs > nowMs {
		return 0
	}
	return time.Duration(nowMs-thenMs) * time.Millisecond
}

// UndeleteAccount implements storage.Undelete.
func (m *Master) UndeleteAccount(ctx context.Context, addr slot.Address) (storage.Account, error) {
	var out storage.Account
	err := m.acknowledged(ctx, func(t *txn) error {
		a, _, err := deletedAccount(t, addr)
		if err != nil {
			return err
		}
		a.Deleted, a.DeletedClockMs = false, 0
		if out, err = showAccount(t, a); err != nil {
			return err
		}
		return m.emit(t, accountChange(a))
	})
	if err != nil {
		return storage.Account{}, err
	}
	return out, nil
}

// EraseAccount implements storage.Undelete. Free takes the mail.
func (m *Master) EraseAccount(ctx context.Context, addr slot.Address) error {
	return m.acknowledged(ctx, func(t *txn) error {
		a, rec, err := deletedAccount(t, addr)
		if err != nil {
			return err
		}
		event.EraseAddress(rec, a)
		return m.emit(t, addressChange(rec))
	})
}

// Restore implements storage.Undelete: deleted mailboxes first, then messages, in
// steps of at most storage.MaxTxnRecords.
func (m *Master) Restore(ctx context.Context, id storage.AccountID, r storage.Restore) (storage.Restored, error) {
	var out storage.Restored
	if r.Mailbox != "" {
		name, err := storage.CanonicalMailboxName(r.Mailbox)
		if err != nil {
			return out, err
		}
		r.Mailbox = name
	}
	var boxes, gone []*event.MailboxRecord
	var since uint64 // slot clock
	err := m.view(ctx, func(v *view) error {
		if _, err := loadAccount(v, id); err != nil {
			return err
		}
		if now := m.clockNow(v); r.Since > 0 && now > uint64(r.Since/time.Millisecond) {
			since = now - uint64(r.Since/time.Millisecond)
		}
		return each(v, event.MailboxesOf(id), func(_, value []byte) error {
			b := &event.MailboxRecord{}
			if err := unmarshal(value, b); err != nil || r.Mailbox != "" && b.Name != r.Mailbox {
				return err
			}
			switch {
			case !b.Deleted:
				boxes = append(boxes, b)
			case b.DeletedClockMs >= since:
				gone = append(gone, b)
			}
			return nil
		})
	})
	if err != nil {
		return out, err
	}
	if r.Mailbox != "" && len(boxes)+len(gone) == 0 {
		return out, storage.Errorf(storage.ErrNotFound, "restore mailbox %q: there is none, nor was one deleted that is still kept", r.Mailbox)
	}
	// Those above come before those below, so that the names below find them.
	slices.SortFunc(gone, func(x, y *event.MailboxRecord) int { return strings.Compare(x.Name, y.Name) })
	tried := map[string]int{}
	for _, b := range gone {
		name, err := m.restoreMailbox(ctx, b.Ref(), tried)
		if err != nil {
			return out, err
		}
		if name != "" {
			out.Mailboxes = append(out.Mailboxes, name)
		}
	}
	for _, b := range append(boxes, gone...) {
		if err := m.restoreMessages(ctx, b.Ref(), since, &out); err != nil {
			return out, err
		}
	}
	return out, nil
}

// restoreMailbox brings a deleted mailbox back with its messages, under a new
// UIDVALIDITY: to clients they are new (law 2). tried has, for each name, the number
// that the last mailbox of this name got: so a closure need not look at the many names
// that are taken.
func (m *Master) restoreMailbox(ctx context.Context, ref storage.Ref, tried map[string]int) (name string, err error) {
	was := ""
	if err := m.view(ctx, func(v *view) error {
		b := &event.MailboxRecord{}
		if found, err := event.Load(v, event.MailboxKey(ref), b); err != nil || !found {
			return err
		}
		was = b.Name
		_, tried[was], err = freeName(v, ref.Account, was, tried[was])
		return err
	}); err != nil {
		return "", err
	}
	err = m.growing(ctx, func(t *txn) error {
		a, err := loadAccount(t, ref.Account)
		if err != nil {
			return err
		}
		b := &event.MailboxRecord{}
		found, err := event.Load(t, event.MailboxKey(ref), b)
		if err != nil || !found || !b.Deleted {
			return err // freed, or restored by somebody else
		}
		if name, _, err = freeName(t, ref.Account, b.Name, tried[was]); err != nil {
			return err
		}
		parents, err := m.missingParents(t, a, name, map[string]bool{})
		if err != nil {
			return err
		}
		b.Name, b.Deleted, b.DeletedClockMs, b.Changed = name, false, 0, m.modSeq(t, a)
		if !event.NewUIDValidity(a, b, m.unclean) {
			return storage.Errorf(storage.ErrLimit, "restore mailbox %q: its UIDs, or the account's UIDVALIDITYs, are used up", name)
		}
		m.mailboxes.made(ref.Account, 1) // no limit keeps it from coming back
		return m.emit(t, append(parents, mailboxChange(b), accountChange(a))...)
	}, ref.Account)
	return name, err
}

// freeName returns the first free name of "name", "name (2)", "name (3)", … from number
// n on, and its number.
func freeName(r reader, id storage.AccountID, name string, n int) (string, int, error) {
	for n = max(n, 1); ; n++ {
		try := name
		if n > 1 {
			suffix := fmt.Sprintf(" (%d)", n)
			for len(name)+len(suffix) > storage.MaxMailboxNameBytes {
				_, size := utf8.DecodeLastRuneInString(name)
				name = name[:len(name)-size]
			}
			try = name + suffix
		}
		if _, taken, err := mailboxID(r, id, try); err != nil || !taken {
			return try, n, err
		}
	}
}

// restoreMessages brings the expunged messages of a mailbox back, under new UIDs. A
// message that was moved lives on elsewhere, and stays there.
func (m *Master) restoreMessages(ctx context.Context, ref storage.Ref, since uint64, out *storage.Restored) error {
	var uids []storage.UID
	if err := m.view(ctx, func(v *view) error {
		return each(v, event.ExpungedIn(ref), func(key, value []byte) error {
			x := &event.ExpungedRecord{}
			err := unmarshal(value, x)
			if err == nil && restorable(x, since) {
				uids = append(uids, event.UIDOf(key))
			}
			return err
		})
	}); err != nil {
		return err
	}
	return inChunks(uids, func(uids []storage.UID) error {
		restored, gone := 0, 0
		if err := m.growing(ctx, func(t *txn) (err error) {
			restored, gone, err = m.restoreSome(t, ref, uids, since)
			return err
		}, ref.Account); err != nil {
			return err
		}
		out.Messages += restored
		out.Gone += gone
		return nil
	})
}

func restorable(x *event.ExpungedRecord, since uint64) bool {
	return x.Message != nil && !x.Moved && !x.Restored && x.SlotClockMs >= since
}

func (m *Master) restoreSome(t *txn, ref storage.Ref, uids []storage.UID, since uint64) (restored, gone int, err error) {
	a, b, err := in(t, ref)
	if err != nil {
		return 0, 0, err
	}
	var back []*event.ExpungedRecord
	for _, u := range uids {
		x := &event.ExpungedRecord{}
		if found, err := event.Load(t, event.ExpungedKey(ref, u), x); err != nil {
			return 0, 0, err
		} else if !found || !restorable(x, since) {
			continue
		}
		if _, missing, err := t.Get(event.MissingKey(ref, u)); err != nil {
			return 0, 0, err
		} else if missing { // TakeBack delivers it when its body turns up
			gone++
			continue
		}
		if have, err := t.hasBody(x.Message.Body()); err != nil {
			return 0, 0, err
		} else if !have {
			gone++
			continue
		}
		if x.Message.Summary, _, err = t.Get(event.SummaryKey(ref, u)); err != nil {
			return 0, 0, err
		}
		back = append(back, x)
	}
	if len(back) == 0 {
		return 0, gone, nil
	}
	first, changes, err := m.takeUIDs(t, a, b, len(back))
	if err != nil {
		return 0, 0, err
	}
	for i, x := range back {
		rec := m.born(t, x.Message, a, b, first+storage.UID(i))
		rec.SystemFlags &^= uint32(storage.Deleted)
		x.Message.Summary, x.Restored = nil, true
		changes = append(changes, messageChange(rec), expungedChange(x))
	}
	return len(back), gone, m.emit(t, changes...)
}

// Missing implements storage.Undelete.
func (m *Master) Missing(ctx context.Context) ([]storage.Missing, error) {
	var out []storage.Missing
	err := m.view(ctx, func(v *view) error {
		now := m.clockNow(v)
		return eachMissing(v, func(x *event.MissingRecord) error {
			out = append(out, showMissing(x, now))
			return nil
		})
	})
	return out, err
}
