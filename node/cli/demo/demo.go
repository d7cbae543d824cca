// Package demo starts a whole cluster on one machine: real node processes of
// this same program on loopback, with users and mail. It knows nothing of what
// is inside a node: it writes configuration files, runs `mailnode serve`, forms
// the cluster with the code of the cluster verbs, asks the admin sockets, and
// delivers over LMTP.
//
// Nodes are processes of their own session, which outlive a demo that was
// killed. demo.json says at every moment who they are.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"mailnode/node/admin"
	"mailnode/storage/slot"
)

// Limits of Options.
const (
	nodesMax    = 20
	usersMax    = 1000
	portsOfNode = 10 // each node has so many ports from the base port on
	portMin     = 1024
)

// How long things may take.
const (
	readyTimeout  = 60 * time.Second
	answerTimeout = 60 * time.Second
	stopTimeout   = 15 * time.Second
	pause         = 100 * time.Millisecond // between two looks
)

// Options are what the demo verb was called with.
type Options struct {
	Dir       string // "" is a temporary folder, removed after a clean stop
	Nodes     int
	Replicas  int // at most Nodes-1 count
	Slots     int
	Users     int
	Password  string
	BasePort  int
	Ack       string        // "replica" or "local"
	ExitAfter time.Duration // after ready; 0: until ctx ends
	// Given names the options that were typed, by flag: those must fit a cluster
	// that Dir already holds.
	Given []string

	Executable string // the program whose serve verb is run
	Out        io.Writer
}

func (o Options) check() error {
	for _, c := range []struct {
		flag          string
		n, least, top int
	}{
		{"nodes", o.Nodes, 1, nodesMax}, {"replicas", o.Replicas, 0, nodesMax}, {"slots", o.Slots, 1, slot.MaxSlots},
		{"users", o.Users, 0, usersMax}, {"base-port", o.BasePort, portMin, 65535 - nodesMax*portsOfNode},
	} {
		if c.n < c.least || c.n > c.top {
			return usage("--%s %d: want %d to %d", c.flag, c.n, c.least, c.top)
		}
	}
	if o.Ack != "replica" && o.Ack != "local" {
		return usage("--ack %q: want replica or local", o.Ack)
	}
	if o.Password == "" {
		return usage("--password is empty")
	}
	return nil
}

func usage(format string, args ...any) error {
	return &admin.Error{Text: fmt.Sprintf(format, args...), Exit: admin.ExitUsage}
}

// demo is one run.
type demo struct {
	dir    string
	o      Options
	out    io.Writer
	own    map[string]*process // nodes that this run started, by name
	deaths chan *process       // each of own once, when it has ended
}

// Run starts the cluster and keeps it until ctx ends or ExitAfter is over. Then
// it stops every node that demo.json names, whoever started it.
func Run(ctx context.Context, o Options) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	d := &demo{o: o, out: o.Out, dir: o.Dir, own: make(map[string]*process), deaths: make(chan *process, nodesMax)}
	if d.dir == "" {
		if d.dir, err = os.MkdirTemp("", "mailnode-demo-"); err != nil {
			return fmt.Errorf("make folder of the demo: %w", err)
		}
	}
	if d.dir, err = filepath.Abs(d.dir); err != nil {
		return fmt.Errorf("find folder of the demo: %w", err)
	}
	s, err := d.open()
	if err == nil {
		err = errors.Join(d.keep(ctx, s), d.stop())
	}
	// The folder of a demo that failed has the logs that say why.
	if o.Dir == "" && (err == nil || len(d.own) == 0) {
		err = errors.Join(err, os.RemoveAll(d.dir))
	}
	return err
}

// keep brings everything up, says so, and waits.
func (d *demo) keep(ctx context.Context, s State) error {
	up, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := d.bringUp(up, s); err != nil {
		if ctx.Err() != nil {
			return &admin.Error{Text: "stopped before all was up", Exit: admin.ExitFailed}
		}
		return fmt.Errorf("%w; the logs are %s", err, filepath.Join(d.dir, "n*", "log"))
	}
	now, err := readState(d.dir)
	if err != nil {
		return err
	}
	fmt.Fprint(d.out, now.guide(d.dir, d.o.Executable), "ready\n")
	var over <-chan time.Time
	if d.o.ExitAfter > 0 {
		timer := time.NewTimer(d.o.ExitAfter)
		defer timer.Stop()
		over = timer.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-over:
			return nil
		case p := <-d.deaths:
			fmt.Fprintf(d.out, "%s ended (%s); start it again:\n  %s demo --dir %s --restart %s\n", p.name, p.end, d.o.Executable, d.dir, p.name)
		}
	}
}

// stop ends every node that demo.json names now: one may have been started
// again since.
func (d *demo) stop() error {
	s, err := readState(d.dir)
	if err != nil {
		return err
	}
	fmt.Fprintln(d.out, "stopping")
	if err := stopAll(d.dir, s.Nodes); err != nil {
		return err
	}
	s.removeSockets(d.dir)
	fmt.Fprintln(d.out, "stopped")
	return nil
}
