package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"mailnode/node/admin"
	"mailnode/node/config"
	"mailnode/node/peer"
	"mailnode/storage/slot"
)

func (a *app) cluster() *cobra.Command {
	return group("cluster", "Making a cluster and letting nodes in", a.clusterInit(), a.clusterToken(), a.clusterJoin(), a.clusterMembers(), a.clusterUpgrade())
}

func (a *app) clusterInit() *cobra.Command {
	var file string
	var o admin.InitOptions
	c := a.changes(a.verb("init", nil, "Make this node, which is not running, the first of a new cluster", func(context.Context, []string) error {
		c, err := load(file)
		if err != nil {
			return err
		}
		a.say("making a new cluster: first node %s, %s, %s each, in %s", c.Node.Name, counted(o.Slots, "slot"), counted(o.Replicas, "replica"), c.Node.Data)
		id, err := admin.InitCluster(c, o)
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
	c.Flags().IntVar(&o.Nodes, "nodes", 0, "slots get their first masters when so many nodes have joined; 0: replicas + 1")
	return c
}

func (a *app) clusterJoin() *cobra.Command {
	var file, token string
	c := a.changes(a.verb("join", nil, "Make this node, which is not running, a member; the token is `mailnode cluster token`'s", func(ctx context.Context, _ []string) error {
		c, err := load(file)
		if err != nil {
			return err
		}
		if token == "" {
			return usage("cluster join: --token is missing: `mailnode cluster token %s` prints one on a member", c.Node.Name)
		}
		t, err := peer.ParseToken(token)
		if err != nil {
			return usage("%s", err)
		}
		a.say("joining cluster %s as %s, reached at %s", t.Cluster, c.Node.Name, c.Node.PeerAdvertise)
		if _, err := admin.JoinCluster(ctx, c, token); err != nil {
			return err
		}
		a.say("joined")
		a.say("  next: mailnode serve --config %s", file)
		return nil
	}))
	c.Flags().StringVar(&file, "config", "", "the node's configuration file")
	c.Flags().StringVar(&token, "token", "", "what `mailnode cluster token` printed")
	return c
}

func (a *app) clusterToken() *cobra.Command {
	return a.changes(a.reads(a.verb("token", []string{"NODE"}, "A token with which a new node joins, once", func(ctx context.Context, args []string) error {
		name := slot.NodeName(args[0])
		if err := peer.CheckName(name); err != nil {
			return usage("%s", err)
		}
		fmt.Fprintf(a.err, "making a join token for %s; an earlier one for it is void\n", name)
		t, err := a.client().Token(ctx, admin.TokenRequest{Node: name})
		if err != nil {
			return err
		}
		return a.show(t, func() string { return t.Token + "\n" })
	})))
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
