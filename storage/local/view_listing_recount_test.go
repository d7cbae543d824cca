package local

import (
	"context"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage"
	"mailnode/storage/event"
)

// scanned compares Scan with the records.
func scanned(t *testing.T, m *Master, ref storage.Ref, what string) {
	t.Helper()
	var got []storage.Message
	if err := m.Scan(context.Background(), ref, 0, ^storage.UID(0), collect(&got)); err != nil {
		t.Fatal(err)
	}
	if d := differ(plain(t, m, ref, 0, ^storage.UID(0)), got); d != "" {
		t.Errorf("%s: Scan and the records differ:\n%s", what, d)
	}
	uids, err := m.UIDs(context.Background(), ref)
	if err != nil || len(uids) != len(got) {
		t.Errorf("%s: %d UIDs of %d messages (%v)", what, len(uids), len(got), err)
	}
}

// A HIGHESTMODSEQ that a Recount lowers must not leave a listing that seems to be newer
// than everything that comes.
func TestListingIsForgottenWithWrongCounters(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	ref := fill(t, m, a, "box", 30)
	behind(t, s, func(b *pebble.Batch) {
		st := &event.MailboxStats{}
		if _, err := event.Load(s.durable.Load(), event.StatsKey(ref), st); err != nil {
			t.Fatal(err)
		}
		st.HighestModseq += 1 << 45
		b.Set(event.StatsKey(ref), event.Marshal(st), nil)
	})
	scanned(t, m, ref, "with wrong counters")
	if got, lines := runRecount(t, s, Scope{Account: ref.Account, Mailbox: ref.Mailbox}); got.Wrong != 1 {
		t.Fatalf("recount: %+v %q", got, lines)
	}
	scanned(t, m, ref, "after the recount")
	if _, err := m.Append(context.Background(), a.ID, storage.Append{Mailbox: "box", Body: spooled(mail(99))}); err != nil {
		t.Fatal(err)
	}
	scanned(t, m, ref, "with a new message")
}

// What a listing took from a change index with holes is not shown once the index
// has been mended.
func TestListingIsForgottenWithWrongChangeIndex(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	ref := fill(t, m, a, "box", 30)
	scanned(t, m, ref, "at first")
	if _, err := m.SetFlags(context.Background(), ref, []storage.UID{3}, storage.FlagChange{Op: storage.FlagsAdd, Flags: storage.Flags{System: storage.Flagged}}); err != nil {
		t.Fatal(err)
	}
	keys, _ := recordsOf(t, s, event.PrefixChanged)
	behind(t, s, func(b *pebble.Batch) {
		for _, k := range keys {
			if event.RefOf(k) == ref && event.UIDOf(k) == 3 {
				b.Delete(k, nil)
			}
		}
	})
	if err := m.Scan(context.Background(), ref, 0, ^storage.UID(0), func(storage.Message) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if got, lines := runRecount(t, s, Scope{Account: ref.Account, Mailbox: ref.Mailbox}); got.Wrong != 1 {
		t.Fatalf("recount: %+v %q", got, lines)
	}
	scanned(t, m, ref, "after the recount")
}

// A listing that is not shown, because the state was replaced while it was made,
// does not leave its older one behind: its arrays hold a part of the newer.
func TestListingOfReplacedStateLeavesNoHalf(t *testing.T) {
	ctx := context.Background()
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	ref := fill(t, m, a, "box", 30)
	scanned(t, m, ref, "at first")
	if _, err := m.Append(ctx, a.ID, storage.Append{Mailbox: "box", Body: spooled(mail(99)), Flags: storage.Flags{Keywords: []string{"first"}}}); err != nil {
		t.Fatal(err)
	}
	older := s.acquire()
	defer older.release()
	if _, err := m.SetFlags(ctx, ref, []storage.UID{31}, storage.FlagChange{Op: storage.FlagsReplace, Flags: storage.Flags{Keywords: []string{"second"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Append(ctx, a.ID, storage.Append{Mailbox: "box", Body: spooled(mail(98)), Flags: storage.Flags{Keywords: []string{"first"}}}); err != nil {
		t.Fatal(err)
	}
	newer := s.acquire()
	defer newer.release()
	s.generation.Add(1) // a state transfer begins; its commit is under way
	at := func(v *view) *listing {
		box, err := loadMailbox(v, ref)
		if err != nil {
			t.Fatal(err)
		}
		l, err := m.listing(ctx, v, box, true, true)
		if err != nil || l == nil {
			t.Fatalf("listing: %v, %v", l, err)
		}
		return l
	}
	first, second := at(older), at(newer)
	for _, want := range []struct {
		l       *listing
		uid     storage.UID
		keyword string
	}{{first, 31, "first"}, {second, 31, "second"}, {second, 32, "first"}} {
		if got := want.l.message(want.l.find(want.uid), 0).Flags.Keywords; !slices.Equal(got, []string{want.keyword}) {
			t.Errorf("UID %d has keywords %q, want %q", want.uid, got, want.keyword)
		}
	}
}
