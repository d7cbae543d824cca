package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mailnode/node/cli/demo"
)

func (a *app) demo() *cobra.Command {
	o := demo.Options{Out: a.out}
	restart := ""
	c := a.verb("demo", nil, "Nodes on loopback, users, mail: a newcomer's first minute", nil)
	c.RunE = func(c *cobra.Command, _ []string) error {
		c.Flags().Visit(func(f *pflag.Flag) { o.Given = append(o.Given, f.Name) })
		var err error
		if o.Executable, err = os.Executable(); err != nil {
			return fmt.Errorf("find this program: %w", err)
		}
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		if restart != "" {
			return demo.Restart(ctx, o.Dir, restart, o.Executable, a.out)
		}
		return demo.Run(ctx, o)
	}
	f := c.Flags()
	f.StringVar(&o.Dir, "dir", "", "where everything is kept; none: a temporary folder")
	f.IntVar(&o.Nodes, "nodes", 3, "how many nodes")
	f.IntVar(&o.Replicas, "replicas", 1, "copies of each slot beside the master")
	f.IntVar(&o.Slots, "slots", 12, "how many slots")
	f.IntVar(&o.Users, "users", 3, "how many users")
	f.StringVar(&o.Password, "password", "pw", "the password of all users")
	f.IntVar(&o.BasePort, "base-port", 30000, "every port derives from this one, ten per node")
	f.StringVar(&o.Ack, "ack", "replica", "replica or local")
	f.DurationVar(&o.ExitAfter, "exit-after", 0, "stop all so long after ready, such as 30s")
	f.StringVar(&restart, "restart", "", "start this node of --dir again")
	return c
}
