package local

import (
	"errors"
	"testing"
	"time"

	"mailnode/storage"
	"mailnode/storage/event"
)

// A deleted mailbox with more messages than one event may free goes in several.
func TestFreeLargeMailbox(t *testing.T) {
	clock, s, m := undeleteBench(t)
	ctx := t.Context()
	a := account(t, m, "a@example.test")
	deliver(t, m, mail(1), a)
	box, _ := inbox(t, m, a)
	ref := storage.Ref{Account: a.ID, Mailbox: box.ID}
	if _, err := m.CreateMailbox(ctx, a.ID, "big", ""); err != nil {
		t.Fatal(err)
	}
	const n = storage.MaxTxnRecords + 5
	if _, err := m.Copy(ctx, ref, []storage.UID{1}, "big"); err != nil {
		t.Fatal(err)
	}
	big, err := m.Mailbox(ctx, a.ID, "big")
	if err != nil {
		t.Fatal(err)
	}
	for have := 1; have < n; have *= 2 { // it doubles
		var uids []storage.UID
		for u := range min(have, n-have) {
			uids = append(uids, storage.UID(u+1))
		}
		if _, err := m.Copy(ctx, storage.Ref{Account: a.ID, Mailbox: big.ID}, uids, "big"); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.DeleteMailbox(ctx, a.ID, "big"); err != nil {
		t.Fatal(err)
	}
	clock.mono += 8 * 24 * time.Hour
	if f := free(t, m); f.Messages != n || f.Mailboxes != 1 {
		t.Errorf("freed %+v, want %d messages and their mailbox", f, n)
	}
	if left := countKeys(t, s, event.PrefixMessage); left != 1 {
		t.Errorf("%d messages are left, want the one in INBOX", left)
	}
}

// Once the freeing of an account has begun it cannot be brought back in part.
func TestLaw07NoHalfAccountComesBack(t *testing.T) {
	clock, _, m := undeleteBench(t)
	ctx := t.Context()
	a := account(t, m, "a@example.test")
	deliver(t, m, mail(1), a)
	if err := m.DeleteAccount(ctx, a.ID); err != nil {
		t.Fatal(err)
	}
	clock.mono += 8 * 24 * time.Hour
	if _, err := m.UndeleteAccount(ctx, a.Address); err != nil {
		t.Fatalf("undelete after the window, before anything was freed: %v", err)
	}
	if _, got := inbox(t, m, a); len(got) != 1 {
		t.Errorf("it came back with %d messages, want 1", len(got))
	}
	if err := m.DeleteAccount(ctx, a.ID); err != nil {
		t.Fatal(err)
	}
	clock.mono += 8 * 24 * time.Hour
	free(t, m) // the first step takes the mailboxes, a later one the account
	if _, err := m.UndeleteAccount(ctx, a.Address); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("undelete of an account whose mail is gone: %v, want that there is none", err)
	}
	if left, err := m.DeletedAccounts(ctx); err != nil || len(left) != 0 {
		t.Errorf("deleted accounts: %+v, %v; want none", left, err)
	}
}
