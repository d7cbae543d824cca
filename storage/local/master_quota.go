package local

import (
	"errors"
	"sync"

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

// rooms knows how many records of a kind each account has at most, so that a limit
// costs no count of all of them: what was counted once, and each one made since.
// Those that were removed since are noticed when the limit seems to be reached.
type rooms struct {
	mu   sync.Mutex // guards most
	most map[storage.AccountID]int
}

// full reports whether an account has as many as it may have.
func (r *rooms) full(id storage.AccountID, limit int, count func() (int, error)) (bool, error) {
	r.mu.Lock()
	n, known := r.most[id]
	r.mu.Unlock()
	if known && n < limit {
		return false, nil
	}
	n, err := count()
	if err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.most == nil {
		r.most = map[storage.AccountID]int{}
	}
	r.most[id] = n
	return n >= limit, nil
}

// made notes one more; whether it will be there does not matter.
func (r *rooms) made(id storage.AccountID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n, known := r.most[id]; known {
		r.most[id] = n + 1
	}
}
