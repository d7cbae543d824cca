package local

import (
	"context"
	"errors"

	"mailnode/storage"
	"mailnode/storage/event"
)

// usage gives the bytes that an account uses. It is derived: a counter that
// cannot be read is reported, and its mailboxes are asked instead.
func usage(r reader, id storage.AccountID) (int64, error) {
	var u event.AccountStats
	_, err := event.Load(r, event.UsageKey(id), &u)
	if !errors.Is(err, storage.ErrCorrupt) {
		return u.Bytes, err
	}
	r.met(storage.Errorf(storage.ErrCorrupt, "quota use of account %016x: %w", uint64(id), err))
	return usedBytes(r, id)
}

// usedBytes adds up what an account's mailboxes say. Counters that cannot be
// read count nothing: they must not keep mail out.
func usedBytes(r reader, id storage.AccountID) (sum int64, err error) {
	err = each(r, event.MailboxesOf(id), func(k, value []byte) error {
		b, st := &event.MailboxRecord{}, &event.MailboxStats{}
		if len(k) != mailboxKeyBytes || unmarshal(value, b) != nil || b.Deleted {
			return nil
		}
		_, err := event.Load(r, event.StatsKey(event.RefOf(k)), st)
		if errors.Is(err, storage.ErrCorrupt) {
			return nil
		}
		sum += st.Bytes
		return err
	})
	return sum, err
}

// checkQuota refuses what would go over an account's quota. Before it refuses it
// asks the mailboxes: a counter that went wrong never blocks mail.
func checkQuota(r reader, a *event.AccountRecord, size int64) error {
	if a.QuotaBytes == 0 {
		return nil
	}
	id := storage.AccountID(a.Id)
	used, err := usage(r, id)
	if err != nil || used+size <= a.QuotaBytes {
		return err
	}
	counted := used
	if used, err = usedBytes(r, id); err != nil {
		return err
	}
	if used != counted {
		r.met(storage.Errorf(storage.ErrCorrupt, "quota use of account %q: %d bytes are counted, its mailboxes have %d", a.Address, counted, used))
	}
	if used+size > a.QuotaBytes {
		return storage.Errorf(storage.ErrOverQuota, "account %q: %d of %d bytes are used, the message has %d", a.Address, used, a.QuotaBytes, size)
	}
	return nil
}

// Fits returns ErrOverQuota when a message of so many bytes, 0 when that is not known,
// would go over an account's quota now. Whatever else is wrong with the account is told
// when the message is delivered.
func (m *Master) Fits(ctx context.Context, id storage.AccountID, bytes int64) error {
	err := m.view(ctx, func(v *view) error {
		a, err := loadAccount(v, id)
		if err != nil {
			return err
		}
		return checkQuota(v, a, max(bytes, 1))
	})
	if errors.Is(err, storage.ErrOverQuota) {
		return err
	}
	return nil
}

// met is how readers tell of a record that is wrong and does not stop them.
func (v *view) met(err error) { v.s.met(err) }
func (t *txn) met(err error)  { t.s.met(err) }

func (v *view) touch(int) {} // nobody waits for a reader
func (*sink) touch(int)   {}

func (*sink) ended() error { return nil }
