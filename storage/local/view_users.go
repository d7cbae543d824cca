package local

import (
	"context"

	"mailnode/storage"
	"mailnode/storage/event"
)

// userCount is how many live accounts a state has, as far as the committer knows:
// since the copy was opened, or in all.
type userCount struct {
	n     int
	whole bool // n is all of them: the state was emptied since (BeginImport)
}

// namesLookMax is how many account records are looked at for a few names. Those of
// deleted accounts, which have none to show, must not make that a scan.
const namesLookMax = 64

// CountUsers counts the accounts that were here when the copy was opened, once;
// from then on changes of the number are counted. It reads all account records, so it
// is called where nobody waits for it; until it has ended Users does not know.
func (s *Slot) CountUsers(ctx context.Context) error {
	ctx, cancel := s.whileOpen(ctx)
	defer cancel()
	return s.read(func(v *view) error {
		if v.users.whole || s.usersAtOpen.Load() != nil {
			return nil
		}
		n := 0
		if err := each(v, event.SpanOf([]byte{event.PrefixAccount}), func(_, value []byte) error {
			if liveAccount(value) {
				n++
			}
			return ctx.Err()
		}); err != nil {
			return err
		}
		n -= v.users.n
		s.usersAtOpen.Store(&n)
		return nil
	})
}

// Users returns how many accounts this copy has, and the names of the first few, also
// while it is a replica. It scans nothing, so that its caller need not wait. It returns
// storage.ErrUnavailable while they are not counted yet.
func (s *Slot) Users(namesMax int) (count int, names []string, err error) {
	err = s.read(func(v *view) error {
		var counted bool
		if count, counted = s.countedUsers(v); !counted {
			return storage.Errorf(storage.ErrUnavailable, "count users of %s: they are not counted yet", s.o.Slot)
		}
		looked := 0
		return stopEarly(each(v, event.SpanOf([]byte{event.PrefixAccount}), func(_, value []byte) error {
			if looked++; len(names) >= namesMax || looked > max(namesLookMax, 2*namesMax) {
				return errEnough
			}
			a := &event.AccountRecord{}
			if err := unmarshal(value, a); err != nil || a.Deleted {
				return err
			}
			names = append(names, a.Address)
			return nil
		}))
	})
	return count, names, err
}

// UserCount is the count of Users alone, for which no disk is read; false: they are not
// counted yet.
func (s *Slot) UserCount() (count int, counted bool) {
	s.read(func(v *view) error { count, counted = s.countedUsers(v); return nil })
	return count, counted
}

func (s *Slot) countedUsers(v *view) (count int, counted bool) {
	base := s.usersAtOpen.Load()
	switch {
	case v.users.whole:
		return v.users.n, true
	case base != nil:
		return *base + v.users.n, true
	}
	return 0, false
}

// countUser counts that an account's record is about to become value; nil: deleted.
func (t *txn) countUser(key, value []byte) error {
	was, _, err := t.Get(key)
	if err != nil {
		return err
	}
	if liveAccount(was) {
		t.users.n--
	}
	if liveAccount(value) {
		t.users.n++
	}
	return nil
}

// countUsers calls countUser for an event's changes.
func (t *txn) countUsers(over *overlay) error {
	before := t.users
	for _, k := range over.order {
		if k[0] != event.PrefixAccount {
			continue
		}
		c := over.m[k]
		if c.delete {
			c.value = nil
		}
		if err := t.countUser([]byte(k), c.value); err != nil {
			t.users = before // the event leaves no trace
			return err
		}
	}
	return nil
}
