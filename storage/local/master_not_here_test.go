package local

import (
	"context"
	"errors"
	"testing"
	"time"

	"mailnode/storage"
)

// A caller that has an account's ID got it from this store. When the account is not here,
// because it was deleted, has moved, or is missing in this copy, that does not mean
// "unknown": each operation returns an error that every protocol takes for "not now"
// (law 7).
func TestLaw07AccountThatIsNotHereIsNotUnknown(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	m := serve(t, openSlot(t, options(t, newFS(t))), 1, 0)
	a, err := m.CreateAccount(ctx, "u@example.test", "pw", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.DeleteAccount(ctx, a.ID); err != nil {
		t.Fatal(err)
	}
	for name, id := range map[string]storage.AccountID{"deleted": a.ID, "of another slot": a.ID + 1} {
		ref := storage.Ref{Account: id, Mailbox: 1}
		for what, err := range map[string]error{
			"deliver": m.Deliver(ctx, storage.Delivery{Body: body(t, "Subject: x\r\n\r\nx\r\n"), InternalDate: time.Unix(1, 0),
				Recipients: []storage.Recipient{{Account: id, Address: "u@example.test"}}})[0],
			"authenticate": second(m.Authenticate(ctx, id, storage.Attempt{Password: "pw"})),
			"set password": m.SetPassword(ctx, id, "pw"),
			"account":      second(m.Account(ctx, id)),
			"list":         second(m.Mailboxes(ctx, id)),
			"select":       second(m.Mailbox(ctx, id, "INBOX")),
			"by ID":        second(m.MailboxByID(ctx, ref)),
			"create":       second(m.CreateMailbox(ctx, id, "x", "")),
			"rename":       m.RenameMailbox(ctx, id, "INBOX", "x"),
			"delete":       m.DeleteMailbox(ctx, id, "x"),
			"subscribe":    m.Subscribe(ctx, id, "x", true),
			"restore":      second(m.Restore(ctx, id, storage.Restore{})),
		} {
			if !errors.Is(err, storage.ErrNotFound) || !errors.Is(err, storage.ErrUnavailable) {
				t.Errorf("%s, account %s: %v, want an error that is not found and unavailable", what, name, err)
			}
		}
	}
	if _, err := m.Address(ctx, "u@example.test"); !errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("the address itself: %v, want not found", err)
	}
}

func second[T any](_ T, err error) error { return err }
