package cli

import (
	"context"

	"github.com/spf13/cobra"

	"mailnode/figures"
	"mailnode/node/admin"
	"mailnode/storage/slot"
)

func (a *app) userQuota() *cobra.Command {
	return a.changes(a.verb("quota", []string{"ADDRESS", "SIZE"}, "Change a quota: bytes, or with K, M, G or T; 0 is no limit", func(ctx context.Context, args []string) error {
		address, err := slot.ParseAddress(args[0])
		if err != nil {
			return usage("%s", err)
		}
		quotaBytes, err := parseSize(args[1])
		if err != nil {
			return err
		}
		limit := "none"
		if quotaBytes > 0 {
			limit = figures.Size(quotaBytes)
		}
		a.say("setting the quota of %s: %s; what is there stays", address, limit)
		if err := a.client().SetQuota(ctx, admin.SetQuota{Address: address, QuotaBytes: quotaBytes}); err != nil {
			return err
		}
		a.say("set")
		return nil
	}))
}

func (a *app) userDisable() *cobra.Command {
	return a.changes(a.verb("disable", []string{"ADDRESS"}, "Keep a user out; mail still comes in", func(ctx context.Context, args []string) error {
		return a.setDisabled(ctx, args[0], true)
	}))
}

func (a *app) userEnable() *cobra.Command {
	return a.changes(a.verb("enable", []string{"ADDRESS"}, "Let a disabled user in again", func(ctx context.Context, args []string) error {
		return a.setDisabled(ctx, args[0], false)
	}))
}

func (a *app) setDisabled(ctx context.Context, arg string, disabled bool) error {
	address, u, err := a.findUser(ctx, arg)
	if err != nil {
		return err
	}
	what, plan := "enabled", "enabling %s: the old password works again"
	if disabled {
		what, plan = "disabled", "disabling %s: its sessions end, nobody can log in, mail still comes in"
	}
	switch {
	case u.Deleted:
		return &admin.Error{Text: string(address) + " is deleted", Exit: admin.ExitRefused, Next: "mailnode user undelete " + string(address)}
	case u.Disabled == disabled:
		return &admin.Error{Text: string(address) + " is " + what + " already", Exit: admin.ExitNothing}
	}
	a.say(plan, address)
	if err := a.client().SetDisabled(ctx, admin.SetDisabled{Address: address, Disabled: disabled}); err != nil {
		return err
	}
	a.say("%s", what)
	return nil
}
