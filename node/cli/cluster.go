package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mailnode/figures"
	"mailnode/node/admin"
	"mailnode/node/config"
	"mailnode/node/peer"
	"mailnode/storage/slot"
)

func (a *app) cluster() *cobra.Command {
	return group("cluster", "Making a cluster and letting nodes in", a.clusterInit(), a.clusterToken(), a.clusterJoin(), a.clusterMembers(), a.clusterRemove(), a.clusterPlace(), a.clusterUpgrade(), a.clusterRecover())
}

func (a *app) clusterInit() *cobra.Command {
	var file string
	var o admin.InitOptions
	c := a.changes(a.verb("init", nil, "Make this node, which is not running, the first of a new cluster", func(ctx context.Context, _ []string) error {
		c, err := load(file)
		if err != nil {
			return err
		}
		a.say("making a new cluster: first node %s, %s, %s each, in %s", c.Node.Name, figures.Count(o.Slots, "slot"), figures.Count(o.Replicas, "replica"), c.Node.Data)
		id, err := admin.InitCluster(ctx, c, o)
		var other *admin.OtherCluster
		if errors.As(err, &other) {
			if err := a.beside(c, other, file); err != nil {
				return err
			}
			o.BesideOthers = true
			id, err = admin.InitCluster(ctx, c, o)
		}
		if err != nil {
			return err
		}
		a.say("made cluster %s", id)
		a.say("  next: mailnode serve --config %s", file)
		return nil
	}))
	c.Flags().StringVar(&file, "config", "", "the node's configuration file")
	c.Flags().IntVar(&o.Slots, "slots", 24, "how many slots, for the life of the cluster")
	c.Flags().IntVar(&o.Replicas, "replicas", 1, "copies of each slot beside the master")
	c.Flags().IntVar(&o.Nodes, "nodes", 0, "slots get their first masters when so many nodes have started, this one and witnesses included, replicas + 1 of them with mail; 0: replicas + 1")
	c.Flags().BoolVar(&o.BesideOthers, "new-cluster", false, "make it although a peer of this node answers for another one, or slots lie here")
	return c
}

// beside asks a person whether a second cluster is meant where there is one: a
// wrong yes splits the users of a site. --yes alone does not do.
func (a *app) beside(c config.Config, other *admin.OtherCluster, file string) error {
	text := fmt.Sprintf("%s. If %s was a node of it, do not make a second cluster: %s", other, c.Node.Name, lostFolder(c))
	if a.yes || !isTerminal(a.in) {
		return &admin.Error{Text: text + ". If a second cluster is meant, say so", Exit: admin.ExitRefused, Next: fmt.Sprintf("mailnode cluster init --config %s --new-cluster", file)}
	}
	fmt.Fprintf(a.err, "%s\n", text)
	return a.agree("make a second cluster all the same?", "mailnode cluster init --config "+file)
}

// lostFolder says what to do for a node whose data folder is gone.
func lostFolder(c config.Config) string {
	return fmt.Sprintf("is the disk of %s mounted? If it is lost: `mailnode cluster token %s --replace` on a member, and here `mailnode cluster join --replace %s`", c.Node.Data, c.Node.Name, c.Node.Name)
}

func (a *app) clusterJoin() *cobra.Command {
	var file, given, tokenFile, replace string
	var wipe bool
	c := a.changes(a.verb("join", nil, "Make this node, which is not running, a member; the token is `mailnode cluster token`'s", func(ctx context.Context, _ []string) error {
		c, err := load(file)
		if err != nil {
			return err
		}
		switch {
		case replace != "" && replace != string(c.Node.Name):
			return usage("cluster join: --replace %s: whoever takes its place has its name: write name = %q in %s (it is %q)", clean(replace), clean(replace), file, c.Node.Name)
		case wipe && replace == "":
			return usage("cluster join: --wipe belongs to --replace")
		}
		token, err := a.token(c, given, tokenFile)
		if err != nil {
			return err
		}
		t, err := peer.ParseToken(token)
		if err != nil {
			return usage("%s", err)
		}
		if replace != "" {
			return a.takePlace(ctx, c, t, token, file, tokenFile, wipe)
		}
		a.say("joining cluster %s as %s, reached at %s", t.Cluster, c.Node.Name, c.Node.PeerAdvertise)
		if _, err = admin.JoinCluster(ctx, c, token); err != nil {
			return joinedBefore(err, file)
		}
		a.say("joined")
		a.say("  next: mailnode serve --config %s", file)
		return nil
	}))
	c.Flags().StringVar(&file, "config", "", "the node's configuration file")
	c.Flags().StringVar(&tokenFile, "token-file", "", "read the token from this `FILE`")
	c.Flags().StringVar(&given, "token", "", "the `TOKEN` itself, which other users of this machine can then see; - reads it from standard input")
	c.Flags().StringVar(&replace, "replace", "", "take the name and place of this `NODE`, whose machine or disk is lost; copies that lie here are kept")
	c.Flags().BoolVar(&wipe, "wipe", false, "with --replace: delete the copies that lie here, but for those that nobody else is known to have whole")
	return c
}

// joinedBefore says what follows when nothing was to be done.
func joinedBefore(err error, file string) error {
	var refusal *admin.Error
	if errors.As(err, &refusal) && refusal.Exit == admin.ExitNothing {
		refusal.Next = "mailnode serve --config " + file
	}
	return err
}

// tokenTextMax bounds what is read as a token, in bytes.
const tokenTextMax = 16 << 10

// token returns what --token or --token-file stands for.
func (a *app) token(c config.Config, given, file string) (string, error) {
	from := a.in
	switch {
	case given != "" && file != "":
		return "", usage("cluster join: --token and --token-file: write one of them")
	case given == "" && file == "":
		return "", usage("cluster join: the token is missing: `mailnode cluster token %s` on a member prints it; give it with --token-file FILE, or with --token - on standard input", c.Node.Name)
	case file != "":
		f, err := os.Open(file)
		if err != nil {
			return "", usage("cluster join: read token: %s", err)
		}
		defer f.Close()
		from = f
	case given != "-":
		return given, nil
	}
	text, err := io.ReadAll(io.LimitReader(from, tokenTextMax))
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	return string(text), nil
}

func (a *app) clusterToken() *cobra.Command {
	var expires time.Duration
	var replace bool
	c := a.changes(a.reads(a.verb("token", []string{"NODE"}, "A token with which a new node joins, once", func(ctx context.Context, args []string) error {
		name := slot.NodeName(args[0])
		if err := peer.CheckName(name); err != nil {
			return usage("%s", err)
		}
		if expires < time.Second {
			return usage("cluster token: --expires %s: write a time such as 2h", expires)
		}
		what := ""
		if replace {
			what = ", with which another machine takes its place"
		}
		fmt.Fprintf(a.err, "making a join token for %s%s, good for %s; an earlier one for it is void\n", name, what, age(int64(expires/time.Second)))
		t, err := a.client().Token(ctx, admin.TokenRequest{Node: name, ExpiresS: int64(expires / time.Second), Replace: replace})
		if err != nil {
			return err
		}
		if replace {
			fmt.Fprintf(a.err, "  next, on that machine: mailnode cluster join --replace %s --config FILE --token-file FILE\n", name)
		}
		return a.show(t, func() string { return t.Token + "\n" })
	})))
	c.Flags().DurationVar(&expires, "expires", 24*time.Hour, "for how long it can be used; only time with a leader counts")
	c.Flags().BoolVar(&replace, "replace", false, "NODE is a member whose machine or disk is lost: another takes its name and place")
	return c
}

func (a *app) clusterMembers() *cobra.Command {
	return a.reads(a.verb("members", nil, "Who is in the cluster", func(ctx context.Context, _ []string) error {
		m, err := a.client().Members(ctx)
		if err != nil {
			return err
		}
		return a.show(m, func() string {
			rows := [][]string{{"NODE", "STATE", "ADDRESS", "ROLE", "RELEASE", "LEVEL"}}
			for _, n := range m.Members {
				rows = append(rows, []string{string(n.Name), n.State, n.Address, strings.Join(roles(n, m.Leader), ", "), orDash(clean(n.Release)), fmt.Sprint(n.Features.OrFirst())})
			}
			return fmt.Sprintf("cluster %s, generation %d, feature level %d\n%s", m.Cluster, m.Generation, m.FeatureLevel.OrFirst(), table(rows))
		})
	}))
}

func roles(n admin.NodeStatus, leader slot.NodeName) []string {
	role := "no vote"
	switch {
	case n.Witness:
		role = "witness"
	case n.Voter:
		role = "voter"
	}
	list := []string{role}
	if n.Standby {
		list = append(list, "standby")
	}
	if n.Name == leader {
		list = append(list, "leader")
	}
	return list
}

// load reads the file that --config names.
func load(file string) (config.Config, error) {
	if file == "" {
		return config.Config{}, usage("--config FILE is missing; `mailnode config example` prints one")
	}
	c, err := config.Load(file)
	if err != nil {
		return c, usage("%s", err)
	}
	return c, nil
}
