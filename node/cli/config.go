package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"mailnode/node/admin"
	"mailnode/node/config"
)

func (a *app) config() *cobra.Command {
	check := a.verb("check", []string{"FILE"}, "Say everything that is wrong with a configuration file", func(_ context.Context, args []string) error {
		problems := config.Check(args[0])
		for _, p := range problems {
			if _, err := io.WriteString(a.err, p.Error()+"\n"); err != nil {
				return err
			}
		}
		if len(problems) > 0 {
			if problems[0].Unread {
				return exitCode(admin.ExitUsage)
			}
			return exitCode(admin.ExitFailed)
		}
		a.say("%s: good", args[0])
		return nil
	})
	example := a.verb("example", nil, "Print every setting, explained, with its default", func(context.Context, []string) error {
		_, err := io.WriteString(a.out, config.Example())
		return err
	})
	return group("config", "The configuration file", check, example)
}
