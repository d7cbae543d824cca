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

// Whatever is done to accounts, in whatever order, and however often the copy is
// opened, filled anew or counted in the midst of it, the counter is what a scan
// gives: at the master and at its replica.
func TestUsersAreWhatAScanGives(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		ctx := context.Background()
		must := func(err error) {
			rt.Helper()
			if err != nil {
				rt.Fatal(err)
			}
		}
		om, or := options(t, newFS(t)), options(t, newFS(t))
		open := func(o Options) *Slot { s, err := Open(o); must(err); return s }
		lead, copied := open(om), open(or)
		defer func() { lead.Close(); copied.Close() }()
		m, err := lead.Serve(ctx, 1, 0, NoGate{})
		must(err)
		made := 0
		some := func() (storage.AccountID, slot.Address, bool) {
			list, err := m.Accounts(ctx)
			must(err)
			if len(list) == 0 {
				return 0, "", false
			}
			a := rapid.SampledFrom(list).Draw(rt, "account")
			return a.ID, a.Address, true
		}
		deleted := func() (slot.Address, bool) {
			list, err := m.DeletedAccounts(ctx)
			must(err)
			if len(list) == 0 {
				return "", false
			}
			return rapid.SampledFrom(list).Draw(rt, "deleted").Address, true
		}
		same := func(s *Slot) {
			want, err := scannedUsers(s)
			must(err)
			n, names, err := s.Users(3)
			if errors.Is(err, storage.ErrUnavailable) {
				return // not counted yet
			}
			if err != nil || n != want || len(names) != min(3, want) {
				rt.Fatalf("%d users, named %v, %v; a scan finds %d", n, names, err, want)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"create": func(*rapid.T) {
				made++
				_, err := m.CreateAccount(ctx, slot.Address(fmt.Sprintf("u%d@example.test", made)), "pw", 0)
				must(err)
			},
			"delete": func(*rapid.T) {
				if id, _, ok := some(); ok {
					must(m.DeleteAccount(ctx, id))
				}
			},
			"disable": func(*rapid.T) {
				if id, _, ok := some(); ok {
					must(m.SetDisabled(ctx, id, true))
				}
			},
			"undelete": func(*rapid.T) {
				if a, ok := deleted(); ok {
					_, err := m.UndeleteAccount(ctx, a)
					must(err)
				}
			},
			"erase": func(*rapid.T) {
				if a, ok := deleted(); ok {
					must(m.EraseAccount(ctx, a))
				}
			},
			"count": func(*rapid.T) { must(lead.CountUsers(ctx)); must(copied.CountUsers(ctx)) },
			"reopen": func(*rapid.T) {
				m.Stop()
				must(errors.Join(lead.Close(), copied.Close()))
				lead, copied = open(om), open(or)
				m, err = lead.Serve(ctx, 1, 0, NoGate{})
				must(err)
			},
			"follow": func(*rapid.T) {
				h, err := copied.Head()
				must(err)
				if !copied.Building() {
					_, err = copied.ApplyEvents(ctx, journalOf(t, lead, h.Position))
					must(err)
				}
			},
			"fetch the state": func(*rapid.T) { must(fetchState(lead, copied)) },
			"": func(*rapid.T) {
				same(lead)
				if !copied.Building() {
					same(copied)
				}
			},
		})
		must(lead.CountUsers(ctx))
		must(copied.CountUsers(ctx))
		same(lead)
		same(copied)
	})
}

// fetchState fills a copy anew with what another has, of which nothing has a body.
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

// Whoever asks how many users a slot has waits for no scan, however many there
// were and are.
func TestUsersAreNotScannedFor(t *testing.T) {
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
	if got := testing.AllocsPerRun(20, func() { s.Users(5) }); got > 10*namesLookMax {
		t.Errorf("%.0f allocations: it reads more records than it names", got)
	}
}
