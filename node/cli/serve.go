package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"mailnode/node/admin"
	"mailnode/node/config"
	"mailnode/node/monitor"
	"mailnode/node/peer"
)

func (a *app) serveVerb() *cobra.Command {
	file := ""
	c := a.verb("serve", nil, "Run a node until SIGTERM: what systemd calls", func(ctx context.Context, _ []string) error {
		c, err := load(file)
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		log := logger(a.err, c.Log)
		tell := func(state string) { // Type=notify; without systemd nobody listens
			if _, err := daemon.SdNotify(false, state); err != nil {
				log.Warn("systemd does not listen", slog.Any("error", err))
			}
		}
		stopping := context.AfterFunc(ctx, func() { tell(daemon.SdNotifyStopping) })
		defer stopping()
		defer petWatchdog(ctx, tell)()
		if err := a.serve(ctx, c, log, version, func() { tell(daemon.SdNotifyReady) }); errors.Is(err, peer.ErrNoCluster) {
			return notStarted(&admin.Error{Exit: admin.ExitFailed, Next: fmt.Sprintf("mailnode cluster join --config %s --token-file FILE", file), Text: fmt.Sprintf(
				"serve node %q: %s has no identity: %s. A new node joins with what `mailnode cluster token %s` prints on a member; the first node of a new cluster is made by `mailnode cluster init --config %s`",
				c.Node.Name, c.Node.Data, lostFolder(c), c.Node.Name, file)}, tell)
		} else if err != nil {
			return notStarted(fmt.Errorf("serve node %q: %w", c.Node.Name, err), tell)
		}
		return nil
	})
	c.Flags().StringVar(&file, "config", "", "the node's configuration file")
	return c
}

// notStarted puts all of an error on one line, the last one of the journal: whoever looks
// at a unit that has failed sees little more. systemd is told as well.
func notStarted(err error, tell func(string)) error {
	refusal := (*admin.Error)(nil)
	if errors.As(err, &refusal) && refusal.Next != "" {
		err = &admin.Error{Exit: refusal.Exit, Text: err.Error() + "; next: " + refusal.Next}
	}
	tell("STATUS=" + err.Error())
	return err
}

// petWatchdog tells systemd twice per WatchdogSec that this process runs. It goes
// on while the node drains, until the func that it returns is called.
func petWatchdog(ctx context.Context, tell func(string)) (stop func()) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		t := time.NewTicker(interval / 2)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				tell(daemon.SdNotifyWatchdog)
			}
		}
	}()
	return cancel
}

// logger makes the one logger of the process: whatever logs has it from here, and
// none can fill the disk.
func logger(w io.Writer, l config.Log) *slog.Logger {
	o := &slog.HandlerOptions{Level: l.Level}
	var h slog.Handler = slog.NewTextHandler(w, o)
	if l.JSON {
		h = slog.NewJSONHandler(w, o)
	}
	return slog.New(monitor.LimitLines(h))
}
