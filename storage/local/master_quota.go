package local

import (
	"context"
	"errors"

	"mailnode/storage"
	"mailnode/storage/event"
)

// usage returns the bytes that an account uses. It is derived: a counter that
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

// quotaCount is what an account's mailboxes had when they were counted.
type quotaCount struct {
	bytes int64
	over  int64 // by so much its counter said more; 0 when it could not be read
}

// quotaCounts are those of the accounts of one change.
type quotaCounts map[storage.AccountID]quotaCount

// check refuses what would go over an account's quota. Its counter is derived and
// may be wrong, which must not keep mail out: before it refuses, errUncounted, unless
// the account was counted. It reads one record.
func (q quotaCounts) check(r reader, a *event.AccountRecord, size int64) error {
	if a.QuotaBytes == 0 {
		return nil
	}
	id := storage.AccountID(a.Id)
	was, counted := q[id]
	var u event.AccountStats
	_, err := event.Load(r, event.UsageKey(id), &u)
	used := u.Bytes - was.over
	if errors.Is(err, storage.ErrCorrupt) {
		if !counted {
			return errUncounted
		}
		used, err = was.bytes, nil
	}
	switch {
	case err != nil || used+size <= a.QuotaBytes:
		return err
	case !counted:
		return errUncounted
	}
	return storage.Errorf(storage.ErrOverQuota, "account %q: %d of %d bytes are used, the message has %d", a.Address, used, a.QuotaBytes, size)
}

// count asks an account's mailboxes, and tells of a counter that is wrong.
func (q quotaCounts) count(r reader, a *event.AccountRecord) error {
	id := storage.AccountID(a.Id)
	var u event.AccountStats
	_, unread := event.Load(r, event.UsageKey(id), &u)
	if unread != nil && !errors.Is(unread, storage.ErrCorrupt) {
		return unread
	}
	bytes, err := usedBytes(r, id)
	if err != nil {
		return err
	}
	q[id] = quotaCount{bytes: bytes, over: u.Bytes - bytes}
	switch {
	case unread != nil:
		q[id] = quotaCount{bytes: bytes}
		r.met(storage.Errorf(storage.ErrCorrupt, "quota use of account %016x: %w", uint64(id), unread))
	case u.Bytes != bytes:
		r.met(storage.Errorf(storage.ErrCorrupt, "quota use of account %q: %d bytes are counted, its mailboxes have %d", a.Address, u.Bytes, bytes))
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

// checkQuota is check where it may count: not in a closure.
func checkQuota(r reader, a *event.AccountRecord, size int64) error {
	q := quotaCounts{}
	return counting(func() error { return q.check(r, a, size) }, func() error { return q.count(r, a) })
}

// countQuota is count for a change whose closure was refused.
func (m *Master) countQuota(ctx context.Context, q quotaCounts, id storage.AccountID) error {
	return m.view(ctx, func(v *view) error {
		a, err := loadAccount(v, id)
		if err != nil {
			return err
		}
		return q.count(v, a)
	})
}

// withinQuota runs a change of an account that checks its quota with q.
func (m *Master) withinQuota(ctx context.Context, id storage.AccountID, change func(q quotaCounts) error) error {
	q := quotaCounts{}
	return counting(func() error { return change(q) }, func() error { return m.countQuota(ctx, q, id) })
}
