package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"mailnode/node/admin"
	"mailnode/node/rpc"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// restoreWithin is how long whoever asked for mail to be brought back waits for
// the slot's master, which goes on in any case.
const restoreWithin = 80 * time.Second

func waitFor(verb string) time.Duration {
	if verb == "restore" {
		return restoreWithin
	}
	return accountWithin
}

// openOutcome is added to the error of an order that was sent and not answered.
func openOutcome(c *rpc.AccountCall) string {
	switch c.Verb {
	case "list", "missing", "deleted", "show":
		return ""
	}
	return fmt.Sprintf("; the outcome is unknown, look at it: mailnode user show %s", c.Address)
}

// shownAccount is the answer to "show": an account, also one that is deleted.
type shownAccount struct {
	storage.Account
	Messages int64         // 0 for a deleted one: they are not looked at
	Window   time.Duration // how long, on the slot clock, removed mail can be brought back
	Deleted  bool
	Ago      time.Duration // of slot clock, since it was deleted
	Left     time.Duration // of slot clock, until it is erased
}

func showAccount(ctx context.Context, m *local.Master, a slot.Address) (shownAccount, error) {
	out := shownAccount{Window: m.UndeleteWindow()}
	rec, unknown := m.Address(ctx, a)
	if errors.Is(unknown, storage.ErrNotFound) {
		d, err := m.DeletedAccount(ctx, a)
		if errors.Is(err, storage.ErrNotFound) {
			return out, unknown
		}
		out.Account, out.Deleted, out.Ago, out.Left = d.Account, true, d.Ago, d.Left
		return out, err
	}
	if unknown != nil {
		return out, unknown
	}
	var err error
	if out.Account, err = m.Account(ctx, rec.Account); err != nil {
		return out, err
	}
	boxes, err := m.Mailboxes(ctx, rec.Account)
	for _, b := range boxes {
		out.Messages += int64(b.Messages)
	}
	return out, err
}

// changeAccount runs the account calls that change a living account.
func changeAccount(ctx context.Context, m *local.Master, id storage.AccountID, c *rpc.AccountCall) (any, error) {
	switch c.Verb {
	case "passwd":
		return nil, m.SetPassword(ctx, id, c.Password)
	case "quota":
		return nil, m.SetQuota(ctx, id, c.QuotaBytes)
	case "disable", "enable":
		return nil, m.SetDisabled(ctx, id, c.Verb == "disable")
	case "delete":
		return nil, m.DeleteAccount(ctx, id)
	case "restore":
		// It may take longer than anybody waits, and is not left half done (law 12).
		return m.Restore(context.WithoutCancel(ctx), id, storage.Restore{Since: time.Duration(c.SinceMs) * time.Millisecond, Mailbox: c.Mailbox})
	}
	return nil, storage.Errorf(storage.ErrInvalid, "unknown account call %q: upgrade this node", c.Verb)
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// Show implements admin.UserBook.
func (u userBook) Show(ctx context.Context, addr slot.Address) (admin.User, error) {
	var a shownAccount
	sl, err := u.call(ctx, addr, &rpc.AccountCall{Verb: "show"}, &a)
	out := showUser(a.Account, sl)
	out.Messages, out.UndeleteS = a.Messages, seconds(a.Window)
	out.Deleted, out.DeletedAgoS, out.LeftS = a.Deleted, seconds(a.Ago), seconds(a.Left)
	return out, err
}

// Deleted implements admin.UserBook.
func (u userBook) Deleted(ctx context.Context) (admin.Users, error) {
	out := admin.Users{Users: []admin.User{}}
	left := everySlot(ctx, u.n, u.n.State().Slots, "deleted", func(sl cluster.Slot, accounts []storage.DeletedAccount) {
		for _, d := range accounts {
			x := showUser(d.Account, sl)
			x.Deleted, x.DeletedAgoS, x.LeftS = true, seconds(d.Ago), seconds(d.Left)
			out.Users = append(out.Users, x)
		}
	})
	out.Unknown, out.Silent = left.slots, left.silent
	slices.SortFunc(out.Users, func(a, b admin.User) int { return strings.Compare(string(a.Address), string(b.Address)) })
	return out, nil
}

// Delete implements admin.UserBook.
func (u userBook) Delete(ctx context.Context, r admin.NamedUser) error {
	_, err := u.call(ctx, r.Address, &rpc.AccountCall{Verb: "delete"}, nil)
	return err
}

// Erase implements admin.UserBook.
func (u userBook) Erase(ctx context.Context, r admin.NamedUser) error {
	_, err := u.call(ctx, r.Address, &rpc.AccountCall{Verb: "erase"}, nil)
	return err
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
		_, err := u.call(ctx, r.Address, &rpc.AccountCall{Verb: "undelete"}, nil)
		return admin.Undeleted{Account: true}, err
	}
	var got storage.Restored
	if _, err := u.call(ctx, r.Address, &rpc.AccountCall{Verb: "restore", SinceMs: r.SinceS * 1000, Mailbox: r.Mailbox}, &got); err != nil {
		return admin.Undeleted{}, err
	}
	if got.Messages == 0 && len(got.Mailboxes) == 0 {
		text := fmt.Sprintf("undelete %q: nothing that was removed is still kept", r.Address)
		if got.Gone > 0 {
			text = fmt.Sprintf("undelete %q: no body is left of %d messages", r.Address, got.Gone)
		}
		return admin.Undeleted{}, &admin.Error{Text: text, Exit: admin.ExitNothing}
	}
	return admin.Undeleted{Messages: got.Messages, Gone: got.Gone, Mailboxes: got.Mailboxes}, nil
}

// SetQuota implements admin.UserBook.
func (u userBook) SetQuota(ctx context.Context, r admin.SetQuota) error {
	now, err := u.Show(ctx, r.Address)
	if err == nil && !now.Deleted && now.QuotaBytes == r.QuotaBytes {
		return &admin.Error{Text: fmt.Sprintf("set quota of %s: it is that already", r.Address), Exit: admin.ExitNothing}
	}
	_, err = u.call(ctx, r.Address, &rpc.AccountCall{Verb: "quota", QuotaBytes: r.QuotaBytes}, nil)
	return err
}

// SetDisabled implements admin.UserBook.
func (u userBook) SetDisabled(ctx context.Context, r admin.SetDisabled) error {
	verb := "enable"
	if r.Disabled {
		verb = "disable"
	}
	_, err := u.call(ctx, r.Address, &rpc.AccountCall{Verb: verb}, nil)
	return err
}
