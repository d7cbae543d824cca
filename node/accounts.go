package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mailnode/node/admin"
	"mailnode/node/rpc"
	"mailnode/storage"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// restoreWithin is how long whoever asked for mail to be brought back waits for
// the slot's master, which goes on in any case.
const restoreWithin = 80 * time.Second

func waitFor(c *rpc.AccountCall) time.Duration {
	if c.GetRestore() != nil {
		return restoreWithin
	}
	return accountWithin
}

// openOutcome is added to the error of an order that was sent and not answered.
func openOutcome(c *rpc.AccountCall) string {
	switch c.Call.(type) {
	case *rpc.AccountCall_List, *rpc.AccountCall_Missing, *rpc.AccountCall_Deleted, *rpc.AccountCall_Show:
		return ""
	}
	return fmt.Sprintf("; the outcome is unknown, look at it: mailnode user show %s", c.Address)
}

// runAccount is an account call at its master.
func runAccount(ctx context.Context, m *local.Master, c *rpc.AccountCall) (*rpc.AccountReply, error) {
	switch c.Call.(type) {
	case *rpc.AccountCall_List:
		list, err := m.Accounts(ctx)
		return accountsReply(list, toAccount), err
	case *rpc.AccountCall_Deleted:
		list, err := m.DeletedAccounts(ctx)
		return accountsReply(list, toDeleted), err
	case *rpc.AccountCall_Missing:
		list, err := m.Missing(ctx)
		return missingReply(list), err
	}
	a, err := slot.ParseAddress(c.Address)
	if err != nil {
		return nil, storage.Errorf(storage.ErrInvalid, "%w", err)
	}
	switch x := c.Call.(type) {
	case *rpc.AccountCall_Add:
		made, err := m.CreateAccount(ctx, a, string(x.Add.Password), x.Add.QuotaBytes)
		return accountsReply([]storage.Account{made}, toAccount), err
	case *rpc.AccountCall_Show:
		shown, err := showAccount(ctx, m, a)
		return &rpc.AccountReply{Accounts: []*rpc.Account{shown}}, err
	case *rpc.AccountCall_Undelete:
		_, err := m.UndeleteAccount(ctx, a)
		return &rpc.AccountReply{}, err
	case *rpc.AccountCall_Erase:
		return &rpc.AccountReply{}, m.EraseAccount(ctx, a)
	}
	rec, err := m.Address(ctx, a)
	if err != nil {
		return nil, err
	}
	return changeAccount(ctx, m, rec.Account, c)
}

// changeAccount runs the account calls that change a living account.
func changeAccount(ctx context.Context, m *local.Master, id storage.AccountID, c *rpc.AccountCall) (*rpc.AccountReply, error) {
	done := &rpc.AccountReply{}
	switch x := c.Call.(type) {
	case *rpc.AccountCall_SetPassword:
		return done, m.SetPassword(ctx, id, string(x.SetPassword))
	case *rpc.AccountCall_SetQuota:
		return done, m.SetQuota(ctx, id, x.SetQuota)
	case *rpc.AccountCall_SetDisabled:
		return done, m.SetDisabled(ctx, id, x.SetDisabled)
	case *rpc.AccountCall_Delete:
		return done, m.DeleteAccount(ctx, id)
	case *rpc.AccountCall_Restore:
		// It may take longer than anybody waits, and is not left half done (law 12).
		got, err := m.Restore(context.WithoutCancel(ctx), id, storage.Restore{Since: time.Duration(x.Restore.SinceMs) * time.Millisecond, Mailbox: x.Restore.Mailbox})
		done.Restored = &rpc.Restored{Messages: int64(got.Messages), Gone: int64(got.Gone), Mailboxes: got.Mailboxes}
		return done, err
	}
	return nil, storage.Errorf(storage.ErrInvalid, "an account call that this release does not know: upgrade this node")
}

// showAccount finds an account, also one that is deleted.
func showAccount(ctx context.Context, m *local.Master, a slot.Address) (*rpc.Account, error) {
	out := &rpc.Account{}
	rec, unknown := m.Address(ctx, a)
	switch {
	case errors.Is(unknown, storage.ErrNotFound):
		d, err := m.DeletedAccount(ctx, a)
		if errors.Is(err, storage.ErrNotFound) {
			return nil, unknown
		}
		if err != nil {
			return nil, err
		}
		out = toDeleted(d)
	case unknown != nil:
		return nil, unknown
	default:
		living, err := m.Account(ctx, rec.Account)
		if err != nil {
			return nil, err
		}
		out = toAccount(living)
		boxes, err := m.Mailboxes(ctx, rec.Account)
		if err != nil {
			return nil, err
		}
		for _, b := range boxes {
			out.Messages += int64(b.Messages)
		}
	}
	out.UndeleteMs = m.UndeleteWindow().Milliseconds()
	return out, nil
}

func toAccount(a storage.Account) *rpc.Account {
	return &rpc.Account{Id: uint64(a.ID), Address: string(a.Address), QuotaBytes: a.QuotaBytes, UsedBytes: a.UsedBytes, CreatedUnix: a.Created.Unix(), Disabled: a.Disabled}
}

func toDeleted(d storage.DeletedAccount) *rpc.Account {
	a := toAccount(d.Account)
	a.Deleted, a.DeletedAgoMs, a.LeftMs = true, d.Ago.Milliseconds(), d.Left.Milliseconds()
	return a
}

func accountsReply[T any](list []T, to func(T) *rpc.Account) *rpc.AccountReply {
	r := &rpc.AccountReply{}
	for _, a := range list {
		r.Accounts = append(r.Accounts, to(a))
	}
	return r
}

func missingReply(list []storage.Missing) *rpc.AccountReply {
	r := &rpc.AccountReply{}
	for _, x := range list {
		r.Missing = append(r.Missing, &rpc.MissingMessage{Address: string(x.Address), Mailbox: x.Mailbox, Uid: uint32(x.UID), Guid: x.GUID[:],
			Size: x.Size, InternalDateUnix: x.InternalDate.Unix(), AgoMs: x.Ago.Milliseconds()})
	}
	return r
}

// Show implements admin.UserBook.
func (u userBook) Show(ctx context.Context, addr slot.Address) (admin.User, error) {
	return u.one(ctx, addr, &rpc.AccountCall{Call: &rpc.AccountCall_Show{Show: &rpc.Empty{}}})
}

// Deleted implements admin.UserBook.
func (u userBook) Deleted(ctx context.Context) (admin.Users, error) {
	return u.all(ctx, &rpc.AccountCall{Call: &rpc.AccountCall_Deleted{Deleted: &rpc.Empty{}}}), nil
}

// Delete implements admin.UserBook.
func (u userBook) Delete(ctx context.Context, r admin.NamedUser) error {
	return u.change(ctx, r.Address, &rpc.AccountCall{Call: &rpc.AccountCall_Delete{Delete: &rpc.Empty{}}})
}

// Erase implements admin.UserBook.
func (u userBook) Erase(ctx context.Context, r admin.NamedUser) error {
	return u.change(ctx, r.Address, &rpc.AccountCall{Call: &rpc.AccountCall_Erase{Erase: &rpc.Empty{}}})
}

// Undelete implements admin.UserBook: a deleted account comes back as a whole, a
// living one gets back what was removed from it.
func (u userBook) Undelete(ctx context.Context, r admin.UndeleteUser) (admin.Undeleted, error) {
	now, err := u.Show(ctx, r.Address)
	if err != nil {
		return admin.Undeleted{}, err
	}
	if now.Deleted {
		if r.SinceS != 0 || r.Mailbox != "" {
			return admin.Undeleted{}, &admin.Error{Text: fmt.Sprintf("undelete %q: the account is deleted, it comes back as a whole", r.Address),
				Exit: admin.ExitUsage, Next: fmt.Sprintf("mailnode user undelete %s", r.Address)}
		}
		err := u.change(ctx, r.Address, &rpc.AccountCall{Call: &rpc.AccountCall_Undelete{Undelete: &rpc.Empty{}}})
		return admin.Undeleted{Account: true}, err
	}
	_, reply, err := u.call(ctx, r.Address, &rpc.AccountCall{Call: &rpc.AccountCall_Restore{Restore: &rpc.Restore{SinceMs: r.SinceS * 1000, Mailbox: r.Mailbox}}})
	if err != nil {
		return admin.Undeleted{}, err
	}
	got := reply.GetRestored()
	if got.GetMessages() == 0 && len(got.GetMailboxes()) == 0 {
		text := fmt.Sprintf("undelete %q: nothing that was removed is still kept", r.Address)
		if got.GetGone() > 0 {
			text = fmt.Sprintf("undelete %q: no body is left of %d messages", r.Address, got.GetGone())
		}
		return admin.Undeleted{}, &admin.Error{Text: text, Exit: admin.ExitNothing}
	}
	return admin.Undeleted{Messages: int(got.Messages), Gone: int(got.Gone), Mailboxes: got.Mailboxes}, nil
}

// SetQuota implements admin.UserBook.
func (u userBook) SetQuota(ctx context.Context, r admin.SetQuota) error {
	now, err := u.Show(ctx, r.Address)
	if err == nil && !now.Deleted && now.QuotaBytes == r.QuotaBytes {
		return &admin.Error{Text: fmt.Sprintf("set quota of %s: it is that already", r.Address), Exit: admin.ExitNothing}
	}
	return u.change(ctx, r.Address, &rpc.AccountCall{Call: &rpc.AccountCall_SetQuota{SetQuota: r.QuotaBytes}})
}

// SetDisabled implements admin.UserBook.
func (u userBook) SetDisabled(ctx context.Context, r admin.SetDisabled) error {
	return u.change(ctx, r.Address, &rpc.AccountCall{Call: &rpc.AccountCall_SetDisabled{SetDisabled: r.Disabled}})
}
