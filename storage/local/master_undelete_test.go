package local

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

func undeleteBench(t *testing.T) (*handClock, *Slot, *Master) {
	t.Helper()
	o := options(t, newFS(t))
	clock := &handClock{now: time.Hour}
	o.Clock.Mono = clock.mono
	o.Undelete = 7 * 24 * time.Hour
	s := openSlot(t, o)
	return clock, s, serve(t, s, 1, 0)
}

func polite(context.Context, int) error { return nil }

func free(t *testing.T, m *Master) Freed {
	t.Helper()
	f, err := m.Free(t.Context(), polite)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func countKeys(t *testing.T, s *Slot, prefix byte) (n int) {
	t.Helper()
	if err := s.read(func(v *view) error {
		return each(v, event.SpanOf([]byte{prefix}), func(_, _ []byte) error { n++; return nil })
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// What was expunged comes back under new UIDs with its flags and dates, once; what
// was moved does not come back beside its other half.
func TestLaw02RestoreExpunged(t *testing.T) {
	clock, _, m := undeleteBench(t)
	a := account(t, m, "a@example.test")
	for i := range 4 {
		deliver(t, m, mail(i), a)
	}
	box, _ := inbox(t, m, a)
	ref := storage.Ref{Account: a.ID, Mailbox: box.ID}
	flags := storage.FlagChange{Op: storage.FlagsAdd, Flags: storage.Flags{System: storage.Flagged, Keywords: []string{"k"}}}
	if _, err := m.SetFlags(t.Context(), ref, []storage.UID{1, 2}, flags); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Move(t.Context(), ref, []storage.UID{4}, "Archive"); err != nil {
		t.Fatal(err)
	}
	_, before := inbox(t, m, a)
	expungeAll(t, m, ref)
	clock.add(time.Hour)
	got, err := m.Restore(t.Context(), a.ID, storage.Restore{Since: 2 * time.Hour, Mailbox: "inbox"})
	if err != nil || got.Messages != 3 || got.Gone != 0 || len(got.Mailboxes) != 0 {
		t.Fatalf("restored %+v, %v; want 3 messages", got, err)
	}
	now, after := inbox(t, m, a)
	if now.UIDNext != 8 || now.UIDValidity != box.UIDValidity {
		t.Errorf("mailbox is %+v", now)
	}
	if want := map[storage.UID]string{5: before[1], 6: before[2], 7: before[3]}; !maps.Equal(after, want) {
		t.Errorf("restored %v", cmp.Diff(want, after))
	}
	if err := m.Scan(t.Context(), ref, 5, 6, func(msg storage.Message) error {
		if !msg.Flags.Has(storage.Flagged) || msg.Flags.Has(storage.Deleted) || !slices.Equal(msg.Flags.Keywords, []string{"k"}) || msg.InternalDate.Unix() != 1_700_000_000 {
			t.Errorf("restored %+v", msg)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Restore(t.Context(), a.ID, storage.Restore{}); err != nil || got.Messages != 0 {
		t.Errorf("a second time: %+v, %v", got, err)
	}
}

// --since counts on the slot clock.
func TestLaw11RestoreSince(t *testing.T) {
	clock, _, m := undeleteBench(t)
	a := account(t, m, "a@example.test")
	deliver(t, m, mail(1), a)
	box, _ := inbox(t, m, a)
	ref := storage.Ref{Account: a.ID, Mailbox: box.ID}
	expungeAll(t, m, ref)
	clock.add(3 * time.Hour)
	deliver(t, m, mail(2), a)
	expungeAll(t, m, ref)
	clock.add(time.Hour)
	if got, err := m.Restore(t.Context(), a.ID, storage.Restore{Since: 2 * time.Hour}); err != nil || got.Messages != 1 {
		t.Errorf("restored %+v, %v; want the second message only", got, err)
	}
}

// A deleted mailbox comes back whole, under a UIDVALIDITY of its own; when its
// name is taken, under another.
func TestLaw02RestoreMailbox(t *testing.T) {
	_, _, m := undeleteBench(t)
	a := account(t, m, "a@example.test")
	ctx := t.Context()
	old, err := m.CreateMailbox(ctx, a.ID, "work/x", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Append(ctx, a.ID, storage.Append{Mailbox: "work/x", Body: spooled(mail(1))}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"work/x", "work"} {
		if err := m.DeleteMailbox(ctx, a.ID, name); err != nil {
			t.Fatal(err)
		}
	}
	fresh, err := m.CreateMailbox(ctx, a.ID, "work/x", "")
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.Restore(ctx, a.ID, storage.Restore{Mailbox: "work/x"})
	if err != nil || !slices.Equal(got.Mailboxes, []string{"work/x (2)"}) {
		t.Fatalf("restored %+v, %v", got, err)
	}
	back, err := m.Mailbox(ctx, a.ID, "work/x (2)")
	if err != nil || back.Messages != 1 || back.ID != old.ID || back.UIDValidity == old.UIDValidity || back.UIDValidity == fresh.UIDValidity {
		t.Errorf("mailbox %+v, %v; it was %+v", back, err, old)
	}
	if acc, err := m.Account(ctx, a.ID); err != nil || acc.UsedBytes != back.Bytes {
		t.Errorf("account %+v, %v; its mailbox has %d bytes", acc, err, back.Bytes)
	}
	if _, err := m.Restore(ctx, a.ID, storage.Restore{Mailbox: "never"}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a mailbox that never was: %v", err)
	}
}

// After the window a tombstone is forgotten, with its body and the journal up to
// it, and not before; what was restored or copied keeps its body.
func TestFreeAfterTheWindow(t *testing.T) {
	clock, s, m := undeleteBench(t)
	a := account(t, m, "a@example.test")
	for i := range 3 {
		deliver(t, m, mail(i), a)
	}
	box, _ := inbox(t, m, a)
	ref := storage.Ref{Account: a.ID, Mailbox: box.ID}
	if _, err := m.Copy(t.Context(), ref, []storage.UID{2}, "Archive"); err != nil {
		t.Fatal(err)
	}
	expungeAll(t, m, ref)
	clock.add(6 * 24 * time.Hour)
	if f := free(t, m); f != (Freed{}) {
		t.Fatalf("freed %+v within the window", f)
	}
	clock.add(25 * time.Hour)
	if f := free(t, m); f.Messages != 3 {
		t.Fatalf("freed %+v, want 3 messages", f)
	}
	if tomb, bodies, refs := countKeys(t, s, event.PrefixExpunged), countKeys(t, s, event.PrefixBody), countKeys(t, s, event.PrefixRefs); tomb != 0 || bodies != 1 || refs != 1 {
		t.Errorf("%d tombstones, %d bodies, %d counts are left; want 0, 1, 1", tomb, bodies, refs)
	}
	if n := countKeys(t, s, event.PrefixJournal); n > 2 {
		t.Errorf("%d events are kept, want those of the freeing", n)
	}
	cs, err := m.Changes(t.Context(), ref, 1)
	if err != nil || !slices.Equal(cs.Expunged, []storage.UID{1, 2, 3}) {
		t.Errorf("changes from below the floor: %+v, %v", cs, err)
	}
	if got, err := m.Restore(t.Context(), a.ID, storage.Restore{}); err != nil || got.Messages != 0 {
		t.Errorf("restored %+v, %v after the window", got, err)
	}
}

// A deleted account cannot be reached, comes back whole within the window, and
// is erased after it; its address then never repeats a UIDVALIDITY.
func TestLaw02DeletedAccount(t *testing.T) {
	clock, s, m := undeleteBench(t)
	ctx := t.Context()
	a := account(t, m, "a@example.test")
	deliver(t, m, mail(1), a)
	was, mails := inbox(t, m, a)
	if err := m.DeleteAccount(ctx, a.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Authenticate(ctx, a.ID, storage.Attempt{Password: "pw"}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("login to a deleted account: %v", err)
	}
	if _, err := m.CreateAccount(ctx, a.Address, "pw", 0); !errors.Is(err, storage.ErrExists) {
		t.Errorf("its address: %v, want that it is taken", err)
	}
	clock.add(24 * time.Hour)
	if d, err := m.DeletedAccounts(ctx); err != nil || len(d) != 1 || d[0].Left != 6*24*time.Hour {
		t.Errorf("deleted accounts: %+v, %v", d, err)
	}
	if _, err := m.UndeleteAccount(ctx, a.Address); err != nil {
		t.Fatal(err)
	}
	if box, now := inbox(t, m, a); box != was || !maps.Equal(now, mails) {
		t.Errorf("it came back as %+v %v", box, now)
	}
	if err := m.EraseAccount(ctx, a.Address); !errors.Is(err, storage.ErrInvalid) {
		t.Errorf("erase of a living account: %v", err)
	}
	if err := m.DeleteAccount(ctx, a.ID); err != nil {
		t.Fatal(err)
	}
	clock.add(8 * 24 * time.Hour)
	total := Freed{}
	for range 3 {
		f := free(t, m)
		total.Messages, total.Mailboxes, total.Accounts = total.Messages+f.Messages, total.Mailboxes+f.Mailboxes, total.Accounts+f.Accounts
	}
	if want := (Freed{Messages: 1, Mailboxes: 6, Accounts: 1}); total != want {
		t.Errorf("freed %+v, want %+v", total, want)
	}
	for _, p := range []byte{event.PrefixAccount, event.PrefixMailbox, event.PrefixMessage, event.PrefixBody, event.PrefixStats, event.PrefixSubscription, event.PrefixSummary} {
		if n := countKeys(t, s, p); n != 0 {
			t.Errorf("%d records %q are left", n, p)
		}
	}
	b := account(t, m, a.Address)
	if box, _ := inbox(t, m, b); box.UIDValidity <= was.UIDValidity {
		t.Errorf("the new account's UIDVALIDITY is %d, the old one had %d", box.UIDValidity, was.UIDValidity)
	}
	if _, err := m.UndeleteAccount(ctx, slot.Address("never@example.test")); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("undelete of what never was: %v", err)
	}
}

// An event that would free what a client can see is refused.
func TestLaw07FreeRefusesLiveMail(t *testing.T) {
	_, _, m := undeleteBench(t)
	a := account(t, m, "a@example.test")
	deliver(t, m, mail(1), a)
	box, _ := inbox(t, m, a)
	for _, x := range []*event.FreedRecord{
		{Account: uint64(a.ID), Mailbox: uint64(box.ID), Uids: []uint32{1}},
		{Account: uint64(a.ID), Mailbox: uint64(box.ID), Whole: true},
		{Account: uint64(a.ID), Whole: true},
	} {
		if err := m.change(t.Context(), func(t *txn) error { return m.emit(t, freedChange(x)) }); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("%v: %v, want it refused", x, err)
		}
	}
}

func expungeAll(t *testing.T, m *Master, r storage.Ref) {
	t.Helper()
	var uids []storage.UID
	if err := m.Scan(t.Context(), r, 1, ^storage.UID(0), func(msg storage.Message) error {
		uids = append(uids, msg.UID)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.SetFlags(t.Context(), r, uids, storage.FlagChange{Op: storage.FlagsAdd, Flags: storage.Flags{System: storage.Deleted}}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Expunge(t.Context(), r, nil); err != nil {
		t.Fatal(err)
	}
}
