package local

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// scannedUsers counts as Users did when it read every account.
func scannedUsers(s *Slot) (n int, err error) {
	err = s.read(func(v *view) error {
		return each(v, event.SpanOf([]byte{event.PrefixAccount}), func(_, value []byte) error {
			if liveAccount(value) {
				n++
			}
			return nil
		})
	})
	return n, err
}

// userSteps is a master and its replica, whose accounts come and go.
type userSteps struct {
	t            *testing.T
	rt           *rapid.T
	o            [2]Options
	lead, copied *Slot
	m            *Master
	made         int
}

func (u *userSteps) must(err error) {
	u.rt.Helper()
	if err != nil {
		u.rt.Fatal(err)
	}
}

func (u *userSteps) open() {
	var err error
	u.lead, err = Open(u.o[0])
	u.must(err)
	u.copied, err = Open(u.o[1])
	u.must(err)
	u.m, err = u.lead.Serve(context.Background(), 1, 0, NoGate{})
	u.must(err)
}

func (u *userSteps) close() { u.m.Stop(); u.must(errors.Join(u.lead.Close(), u.copied.Close())) }

// some picks an account.
func (u *userSteps) some() (id storage.AccountID, ok bool) {
	list, err := u.m.Accounts(context.Background())
	u.must(err)
	if len(list) == 0 {
		return 0, false
	}
	return rapid.SampledFrom(list).Draw(u.rt, "account").ID, true
}

func (u *userSteps) deleted() (a slot.Address, ok bool) {
	list, err := u.m.DeletedAccounts(context.Background())
	u.must(err)
	if len(list) == 0 {
		return "", false
	}
	return rapid.SampledFrom(list).Draw(u.rt, "deleted").Address, true
}

func (u *userSteps) count() {
	ctx := context.Background()
	u.must(errors.Join(u.lead.CountUsers(ctx), u.copied.CountUsers(ctx)))
}

func (u *userSteps) follow() {
	h, err := u.copied.Head()
	u.must(err)
	_, err = applyAll(context.Background(), u.copied, journalOf(u.t, u.lead, h.Position))
	u.must(err)
}

// same compares the counter with a scan, if the accounts are counted yet.
func (u *userSteps) same() {
	for _, s := range []*Slot{u.lead, u.copied} {
		want, err := scannedUsers(s)
		u.must(err)
		n, names, err := s.Users(3)
		if errors.Is(err, storage.ErrUnavailable) {
			continue
		}
		if err != nil || n != want || len(names) != min(3, want) {
			u.rt.Fatalf("%d users, named %v, %v; a scan finds %d", n, names, err, want)
		}
	}
}

// Accounts are changed in any way and order, and the copy is opened, filled again or
// counted in between: the counter equals a scan, at the master and at its replica.
func TestUsersEqualAScan(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		ctx := context.Background()
		u := &userSteps{t: t, rt: rt, o: [2]Options{options(t, newFS(t)), options(t, newFS(t))}}
		u.open()
		live := func(do func(storage.AccountID) error) func(*rapid.T) {
			return func(*rapid.T) {
				if id, ok := u.some(); ok {
					u.must(do(id))
				}
			}
		}
		gone := func(do func(slot.Address) error) func(*rapid.T) {
			return func(*rapid.T) {
				if a, ok := u.deleted(); ok {
					u.must(do(a))
				}
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"create": func(*rapid.T) {
				u.made++
				_, err := u.m.CreateAccount(ctx, slot.Address(fmt.Sprintf("u%d@example.test", u.made)), "pw", 0)
				u.must(err)
			},
			"delete":          live(func(id storage.AccountID) error { return u.m.DeleteAccount(ctx, id) }),
			"disable":         live(func(id storage.AccountID) error { return u.m.SetDisabled(ctx, id, true) }),
			"undelete":        gone(func(a slot.Address) error { _, err := u.m.UndeleteAccount(ctx, a); return err }),
			"erase":           gone(func(a slot.Address) error { return u.m.EraseAccount(ctx, a) }),
			"count":           func(*rapid.T) { u.count() },
			"reopen":          func(*rapid.T) { u.close(); u.open() },
			"follow":          func(*rapid.T) { u.follow() },
			"fetch the state": func(*rapid.T) { u.must(fetchState(u.lead, u.copied)) },
			"":                func(*rapid.T) { u.same() },
		})
		u.count()
		u.same()
		u.close()
	})
}

// fetchState fills a copy with the state of another, none of whose records has a body.
func fetchState(from, to *Slot) error {
	ctx := context.Background()
	if err := to.BeginImport(ctx); err != nil {
		return err
	}
	var own, recs []event.Record
	if err := from.ReadState(func(r event.Record) error {
		r = event.Record{Key: append([]byte(nil), r.Key...), Value: append([]byte(nil), r.Value...)}
		if r.Key[0] == event.PrefixSlot {
			own = append(own, r)
		} else {
			recs = append(recs, r)
		}
		return nil
	}); err != nil {
		return err
	}
	// Twice, as after a connection that broke: what is here already counts once.
	if err := errors.Join(to.ImportRecords(ctx, recs[:len(recs)/2]), to.ImportRecords(ctx, recs)); err != nil {
		return err
	}
	return to.FinishImport(ctx, own)
}

// The number of a slot's users is known without a scan, however many there are and were.
func TestUsersNeedNoScan(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	ctx := context.Background()
	if _, _, err := s.Users(1); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("before they are counted: %v", err)
	}
	const live, gone = 20_000, 20_000
	for lo := 0; lo < live+gone; lo += 10_000 {
		if err := s.do(ctx, func(t *txn) error {
			for i := lo; i < lo+10_000; i++ { // the deleted ones come first
				a := &event.AccountRecord{Id: uint64(i + 1), Address: fmt.Sprintf("u%d@example.test", i), Deleted: i < gone}
				if err := t.countUser(event.AccountKey(storage.AccountID(a.Id)), event.Marshal(a)); err != nil {
					return err
				}
				if err := t.b.Set(event.AccountKey(storage.AccountID(a.Id)), event.Marshal(a), nil); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CountUsers(ctx); err != nil {
		t.Fatal(err)
	}
	n, names, err := s.Users(5)
	if err != nil || n != live || len(names) != 0 {
		t.Errorf("%d users, named %v, %v", n, names, err)
	}
	// Whoever reads on meets a record that cannot be read.
	key, rec := event.AccountKey(namesLookMax+1), &event.AccountRecord{}
	put := func(value []byte) {
		t.Helper()
		if err := s.do(ctx, func(t *txn) error { return t.b.Set(key, value, nil) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.read(func(v *view) error { _, err := event.Load(v, key, rec); return err }); err != nil {
		t.Fatal(err)
	}
	put([]byte{0xff})
	if n, _, err := s.Users(5); err != nil || n != live {
		t.Errorf("%d users, %v: it reads more than %d records", n, err, namesLookMax)
	}
	put(event.Marshal(rec))
}
