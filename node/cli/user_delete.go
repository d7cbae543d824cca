package cli

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mailnode/figures"
	"mailnode/node/admin"
	"mailnode/storage/slot"
)

func (a *app) userDelete() *cobra.Command {
	return a.changes(a.verb("delete", []string{"ADDRESS"}, "Close an account; it can be brought back for a while", func(ctx context.Context, args []string) error {
		address, u, err := a.findUser(ctx, args[0])
		if err != nil {
			return err
		}
		if u.Deleted {
			return &admin.Error{Text: fmt.Sprintf("%s is deleted already, %s", clean(string(address)), left(u.LeftS)), Exit: admin.ExitNothing,
				Next: "mailnode user undelete " + string(address)}
		}
		a.say("deleting %s, %s, %s: %s", clean(string(address)), figures.Count(u.Messages, "message"), figures.Size(u.UsedBytes), left(u.UndeleteS))
		a.say("  its sessions end, nobody can log in, mail for it is refused")
		if err := a.agree("Do this?", "mailnode user delete "+string(address)); err != nil {
			return err
		}
		if err := a.client().DeleteUser(ctx, admin.NamedUser{Address: address}); err != nil {
			return err
		}
		a.say("deleted")
		if u.UndeleteS > 0 {
			a.say("  to bring it back: mailnode user undelete %s", address)
		}
		return nil
	}))
}

func (a *app) userErase() *cobra.Command {
	return a.changes(a.verb("erase", []string{"ADDRESS"}, "Forget a deleted account and its mail at once, for good", func(ctx context.Context, args []string) error {
		address, u, err := a.findUser(ctx, args[0])
		if err != nil {
			return err
		}
		again := "mailnode user erase " + string(address)
		if !u.Deleted {
			return &admin.Error{Text: fmt.Sprintf("%s is not deleted, nothing was done: delete it first", clean(string(address))), Exit: admin.ExitRefused,
				Next: "mailnode user delete " + string(address)}
		}
		a.say("ERASING %s, deleted %s ago, with %s of mail", clean(string(address)), age(u.DeletedAgoS), figures.Size(u.UsedBytes))
		a.say("  THIS CANNOT BE TAKEN BACK: no command brings this mail back, on no node")
		a.say("  the address is free for a new account at once")
		if err := a.agree("Erase the account for good?", again); err != nil {
			return err
		}
		if err := a.retype("To erase it, type the address once more:", string(address), again); err != nil {
			return err
		}
		if err := a.client().EraseUser(ctx, admin.NamedUser{Address: address}); err != nil {
			return err
		}
		a.say("erased; the space is given back within hours")
		return nil
	}))
}

func (a *app) userUndelete() *cobra.Command {
	var since, mailbox string
	c := a.changes(a.reads(a.verb("undelete", []string{"ADDRESS"}, "Bring back a deleted account, or mail and mailboxes that were removed", func(ctx context.Context, args []string) error {
		sinceS, err := parseAge(since)
		if err != nil {
			return err
		}
		address, u, err := a.findUser(ctx, args[0])
		if err != nil {
			return err
		}
		fmt.Fprintln(a.err, undeletePlan(u, sinceS, mailbox))
		got, err := a.client().UndeleteUser(ctx, admin.UndeleteUser{Address: address, SinceS: sinceS, Mailbox: mailbox})
		if err != nil {
			return err
		}
		return a.show(got, func() string { return undeletedText(got) })
	})))
	c.Flags().StringVar(&since, "since", "", "only what was removed in the last 90m, 2h or 3d, counted while the slot is in service: time in which no node served it does not count")
	c.Flags().StringVar(&mailbox, "mailbox", "", "only this mailbox, by the name that it has, or had when it was deleted")
	c.Long = c.Short + `.

A deleted account comes back as a whole, as it was. A living one gets back the
messages that were expunged and the mailboxes that were deleted, with flags and
dates, in the mailboxes where they were. To mail clients they are new: messages
get new UIDs, mailboxes a new UIDVALIDITY. What was moved stays where it is. A
mailbox whose name is taken comes back as "NAME (2)".`
	return c
}

// undeletePlan says what will be done.
func undeletePlan(u admin.User, sinceS int64, mailbox string) string {
	if u.Deleted {
		return fmt.Sprintf("bringing back the account %s, deleted %s ago", clean(string(u.Address)), age(u.DeletedAgoS))
	}
	text := "bringing back what was removed from " + clean(string(u.Address))
	if mailbox != "" {
		text += ", mailbox " + clean(mailbox)
	}
	if sinceS > 0 {
		return text + ", in the last " + age(sinceS) + " of service"
	}
	return text + fmt.Sprintf(", in the last %s of service or as far as it is still kept", age(u.UndeleteS))
}

func undeletedText(got admin.Undeleted) string {
	if got.Account {
		return "the account is back\n"
	}
	text := fmt.Sprintf("%s and %s are back\n", figures.Count(got.Messages, "message"), mailboxes(len(got.Mailboxes)))
	for _, name := range got.Mailboxes {
		text += "  " + clean(name) + "\n"
	}
	if got.Gone > 0 {
		text += fmt.Sprintf("no body is left of %s\n", figures.Count(got.Gone, "other message"))
	}
	return text
}

func mailboxes(n int) string {
	if n == 1 {
		return "1 mailbox"
	}
	return fmt.Sprintf("%d mailboxes", n)
}

// findUser looks an account up, also a deleted one.
func (a *app) findUser(ctx context.Context, arg string) (slot.Address, admin.User, error) {
	address, err := slot.ParseAddress(arg)
	if err != nil {
		return "", admin.User{}, usage("%s", err)
	}
	u, err := a.client().User(ctx, address)
	return address, u, err
}

// left says how long something can be brought back.
func left(s int64) string {
	if s <= 0 {
		return "can NOT be brought back"
	}
	return "can be brought back for " + age(s)
}

func deletedTable(u admin.Users) string {
	if len(u.Users) == 0 {
		return "no deleted users\n"
	}
	rows := [][]string{{"ADDRESS", "SLOT", "USED", "DELETED", "KEPT FOR"}}
	for _, x := range u.Users {
		kept := age(x.LeftS)
		if x.LeftS <= 0 {
			kept = "goes now"
		}
		rows = append(rows, []string{clean(string(x.Address)), x.Slot.String(), figures.Size(x.UsedBytes), age(x.DeletedAgoS) + " ago", kept})
	}
	return table(rows)
}

// parseAge reads a time that has passed, in seconds: 90m, 2h, 3d; "" is 0.
func parseAge(s string) (int64, error) {
	wrong := usage("since %q: want a time such as 90m, 2h or 3d", s)
	if s == "" {
		return 0, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 64)
		if err != nil || n <= 0 || n > math.MaxInt32 {
			return 0, wrong
		}
		return n * 86400, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Second {
		return 0, wrong
	}
	return int64(d / time.Second), nil
}
