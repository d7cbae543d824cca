package cli

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mailnode/figures"
	"mailnode/node/admin"
	"mailnode/storage/slot"
)

func (a *app) user() *cobra.Command {
	return group("user", "Accounts", a.userAdd(), a.userPasswd(), a.userList(), a.userShow(),
		a.userQuota(), a.userDisable(), a.userEnable(), a.userDelete(), a.userUndelete(), a.userErase())
}

func (a *app) userAdd() *cobra.Command {
	var fromStdin bool
	var quota string
	c := a.changes(a.verb("add", []string{"ADDRESS"}, "Make an account; the password is asked for, or read from standard input", func(ctx context.Context, args []string) error {
		address, err := slot.ParseAddress(args[0])
		if err != nil {
			return usage("%s", err)
		}
		quotaBytes, err := parseSize(quota)
		if err != nil {
			return err
		}
		limit := "no quota"
		if quotaBytes > 0 {
			limit = "quota " + figures.Size(quotaBytes)
		}
		a.say("adding %s, %s", address, limit)
		password, err := a.password(fromStdin)
		if err != nil {
			return err
		}
		u, err := a.client().AddUser(ctx, admin.AddUser{Address: address, Password: password, QuotaBytes: quotaBytes})
		if err != nil {
			return err
		}
		a.say("added, in slot %s", u.Slot)
		return nil
	}))
	c.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input, also on a terminal")
	c.Flags().StringVar(&quota, "quota", "0", "bytes, or with K, M, G or T; 0 is no limit")
	return c
}

func (a *app) userPasswd() *cobra.Command {
	fromStdin := false
	c := a.changes(a.verb("passwd", []string{"ADDRESS"}, "Change a password", func(ctx context.Context, args []string) error {
		address, err := slot.ParseAddress(args[0])
		if err != nil {
			return usage("%s", err)
		}
		a.say("changing the password of %s", address)
		password, err := a.password(fromStdin)
		if err != nil {
			return err
		}
		if err := a.client().SetPassword(ctx, admin.SetPassword{Address: address, Password: password}); err != nil {
			return err
		}
		a.say("changed")
		return nil
	}))
	c.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input, also on a terminal")
	return c
}

func (a *app) userList() *cobra.Command {
	deleted := false
	c := a.reads(a.verb("list", nil, "All accounts", func(ctx context.Context, _ []string) error {
		ask, text := a.client().Users, userTable
		if deleted {
			ask, text = a.client().DeletedUsers, deletedTable
		}
		u, err := ask(ctx)
		if err != nil {
			return err
		}
		if err := a.show(u, func() string { return text(u) }); err != nil {
			return err
		}
		if len(u.Unknown) > 0 {
			return &admin.Error{Text: "the list is not complete: no answer from " + slotRanges(u.Unknown) + waitedFor(u.Silent), Exit: admin.ExitFailed, Next: "mailnode failover list"}
		}
		return nil
	}))
	c.Flags().BoolVar(&deleted, "deleted", false, "the deleted ones that can be brought back")
	return c
}

func userTable(u admin.Users) string {
	if len(u.Users) == 0 {
		return "no users\n"
	}
	rows := [][]string{{"ADDRESS", "SLOT", "USED", "QUOTA"}}
	for _, x := range u.Users {
		rows = append(rows, []string{clean(string(x.Address)), x.Slot.String(), figures.Size(x.UsedBytes), quotaText(x)})
	}
	return table(rows)
}

func quotaText(u admin.User) string {
	text := "none"
	if u.QuotaBytes > 0 {
		text = figures.Size(u.QuotaBytes)
	}
	if u.Disabled {
		text += ", disabled"
	}
	return text
}

func (a *app) userShow() *cobra.Command {
	return a.reads(a.verb("show", []string{"ADDRESS"}, "One account", func(ctx context.Context, args []string) error {
		_, u, err := a.findUser(ctx, args[0])
		if err != nil {
			return err
		}
		return a.show(u, func() string {
			rows := [][]string{
				{"address", clean(string(u.Address))}, {"slot", u.Slot.String()}, {"master", string(u.Master)},
				{"used", figures.Size(u.UsedBytes)}, {"quota", quotaText(u)},
			}
			if u.Deleted {
				return table(append(rows, []string{"deleted", age(u.DeletedAgoS) + " ago, " + left(u.LeftS)}))
			}
			return table(append(rows, []string{"messages", fmt.Sprint(u.Messages)}))
		})
	}))
}

// parseSize reads bytes, with K, M, G or T behind for powers of 1024.
func parseSize(s string) (int64, error) {
	digits, shift := s, 0
	for i, unit := range []string{"K", "M", "G", "T"} {
		if rest, ok := strings.CutSuffix(strings.ToUpper(s), unit); ok {
			digits, shift = rest, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return 0, usage("quota %q: want bytes, or a number with K, M, G or T, such as 5G", s)
	}
	return n << shift, nil
}
