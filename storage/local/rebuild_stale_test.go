package local

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/event"
)

// copyIndex copies the index's files to where they were, or are to be, kept.
func copyIndex(t *testing.T, fs vfs.FS, from, to string) {
	t.Helper()
	if err := fs.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if ok, err := vfs.Clone(fs, fs, from, to, vfs.CloneSync); err != nil || !ok {
		t.Fatal(ok, err)
	}
}

// An index of an earlier day lies where the right one was: every checksum in it is right.
// By the HEAD file the copy is refused, and a rebuild must not believe that the old index
// is whole: newer mail is in the packs, and the UIDs that it had were given out.
func TestLaw02Law07RebuildOfAnIndexThatIsTooOld(t *testing.T) {
	fs := newFS(t)
	o, accounts, _ := written(t, fs, true)
	const index, kept = "/slots/s007/index", "/kept"
	copyIndex(t, fs, index, kept)
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	for i := range 5 {
		deliver(t, m, mail(5000+i), accounts...)
	}
	was := seenBy(t, m, accounts)
	closeOnce(t, s)
	copyIndex(t, fs, kept, index)
	for range 2 {
		if _, err := Open(o); !IndexLost(err) {
			t.Fatalf("an index of an earlier day was opened: %v", err)
		}
	}
	rebuildAlone(t, o)
	s = openSlot(t, o)
	m = serve(t, s, 1, 0)
	for i := range 5 {
		deliver(t, m, mail(6000+i), accounts...)
	}
	is := seenBy(t, m, accounts)
	sameNumbers(t, was, is)
	complete(t, was, is)
}

// stale makes a copy whose records do not belong together, as after an older list of
// files, beside a list of files whose end is torn.
func stale(t *testing.T) (Options, []storage.Account, shown) {
	t.Helper()
	fs := newFS(t)
	o, accounts, was := written(t, fs, true)
	s := openSlot(t, o)
	var ref storage.Ref
	if err := s.read(func(v *view) error {
		return each(v, event.SpanOf([]byte{event.PrefixMessage}), func(k, _ []byte) error {
			ref = event.RefOf(k)
			return nil
		})
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.db.Delete(event.MessageKey(ref, 1), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	tearManifest(t, fs)
	return o, accounts, was
}

// tearManifest tears the end of the list of files, as a crash may.
func tearManifest(t *testing.T, fs vfs.FS) {
	t.Helper()
	names := indexFiles(t, fs, "MANIFEST-")
	f, err := fs.OpenReadWrite("/slots/s007/index/"+names[len(names)-1], "test")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil {
		_, err = f.WriteAt([]byte{1, 2, 3, 4, 50, 0, 1, 9, 9}, st.Size())
	}
	if err = errors.Join(err, f.Sync()); err != nil {
		t.Fatal(err)
	}
}

// Opening an index that is in doubt wipes out what made it doubtful. It stays in
// doubt all the same until its records have proved each other.
func TestLaw07DoubtOutlivesTheOpen(t *testing.T) {
	o, _, _ := stale(t)
	for n := range 3 {
		s, err := Open(o)
		if err == nil {
			s.Close()
		}
		if !IndexLost(err) {
			t.Fatalf("open %d of an index whose records do not belong together: %v", n+1, err)
		}
	}
}

// An index whose records prove each other is no longer in doubt.
func TestDoubtEnds(t *testing.T) {
	fs := newFS(t)
	o, _, _ := written(t, fs, true)
	tearManifest(t, fs)
	for n, want := range []bool{true, false} {
		s, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.ContainsFunc(s.Checks(), func(c Check) bool { return c.Name == "records" }); got != want {
			t.Errorf("open %d proved the records: %v, want %v", n+1, got, want)
		}
		closeOnce(t, s)
	}
}

// A rebuild does not believe that an index in doubt is whole.
func TestLaw02RebuildOfAnIndexInDoubt(t *testing.T) {
	for _, opened := range []bool{false, true} {
		t.Run(fmt.Sprint("opened=", opened), func(t *testing.T) {
			o, accounts, was := stale(t)
			if opened {
				if _, err := Open(o); !IndexLost(err) {
					t.Fatal(err)
				}
			}
			rebuildAlone(t, o)
			s := openSlot(t, o)
			is := seenBy(t, serve(t, s, 1, 0), accounts)
			sameNumbers(t, was, is)
			complete(t, was, is)
			for k, v := range is.valid {
				if was.valid[k] == v {
					t.Errorf("%s has kept UIDVALIDITY %d", k, v)
				}
			}
		})
	}
}

// Of a damaged index an account's record is left as it was before a mailbox was made, and
// of that mailbox a message, but not its own record. The mailbox that is made for the
// message does not get the UIDVALIDITY of the one that is lost.
func TestLaw02RebuildWithAnOldAccountRecord(t *testing.T) {
	fs := newFS(t)
	o := options(t, fs)
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	ctx := t.Context()
	a := account(t, m, "u1@example.test")
	deliver(t, m, mail(1), a)
	_, old := recordsOf(t, s, event.PrefixAccount)
	box, err := m.CreateMailbox(ctx, a.ID, "Projects", "")
	if err != nil {
		t.Fatal(err)
	}
	ref := storage.Ref{Account: a.ID, Mailbox: box.ID}
	if _, err := m.Append(ctx, a.ID, storage.Append{Mailbox: "Projects", Body: body(t, mail(2))}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Copy(ctx, refOf(t, m, a, "INBOX"), []storage.UID{1}, "Projects"); err != nil {
		t.Fatal(err)
	}
	was := seenBy(t, m, []storage.Account{a})
	left := map[string][]byte{}
	for _, prefix := range salvaged() {
		keys, values := recordsOf(t, s, prefix)
		for i, k := range keys {
			left[string(k)] = values[i]
		}
	}
	closeOnce(t, s)
	left[string(event.AccountKey(a.ID))] = old[0]
	maps.DeleteFunc(left, func(k string, _ []byte) bool {
		return k[0] == event.PrefixJournal || k == string(event.MailboxKey(ref)) || k == string(event.MessageKey(ref, 2))
	})
	if err := fs.RemoveAll("/slots/s007/index"); err != nil {
		t.Fatal(err)
	}
	damageIndex(t, o, func(db *pebble.DB) error {
		for k, v := range left {
			if err := db.Set([]byte(k), v, pebble.Sync); err != nil {
				return err
			}
		}
		return nil
	})
	tearManifest(t, fs)
	rebuildAlone(t, o)
	s = openSlot(t, o)
	m = serve(t, s, 1, 0)
	if _, err := m.Append(ctx, a.ID, storage.Append{Mailbox: "Projects", Body: body(t, mail(3))}); err != nil {
		t.Fatal(err)
	}
	sameNumbers(t, was, seenBy(t, m, []storage.Account{a}))
}

// Quota use is derived: a wrong counter does not keep a copy in doubt down; it is
// reported, so that it is counted again.
func TestDoubtAcceptsAWrongQuotaCounter(t *testing.T) {
	fs := newFS(t)
	o, accounts, _ := written(t, fs, true)
	s := openSlot(t, o)
	behind(t, s, func(b *pebble.Batch) {
		b.Set(event.UsageKey(accounts[0].ID), event.Marshal(&event.AccountStats{Bytes: 12345}), nil)
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	tearManifest(t, fs)
	told := 0
	o.OnDamage = func(d Damage) {
		if d.Index && !IndexLost(d.Err) {
			told++
		}
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if told != 1 {
		t.Errorf("told %d times", told)
	}
	runRecount(t, s, Scope{})
	closeOnce(t, s)
}
