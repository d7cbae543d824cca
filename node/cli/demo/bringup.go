package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"mailnode/node/admin"
	"mailnode/node/config"
	"mailnode/node/peer"
	"mailnode/storage/slot"
)

// bringUp forms the cluster as far as it is not formed yet, starts all nodes,
// makes users and mail, and returns when every slot serves and is protected.
func (d *demo) bringUp(ctx context.Context, s State) error {
	first := s.Nodes[0]
	if member, err := d.member(first); err != nil {
		return err
	} else if !member {
		c, err := config.Load(first.config(d.dir))
		if err != nil {
			return err
		}
		if _, err := admin.InitCluster(ctx, c, admin.InitOptions{Slots: s.Slots, Replicas: s.Replicas, Nodes: len(s.Nodes)}); err != nil {
			return err
		}
	}
	var missing []Node
	for _, n := range s.Nodes {
		member, err := d.member(n)
		if err != nil {
			return err
		}
		if !member {
			missing = append(missing, n)
			continue
		}
		if err := d.start(n); err != nil {
			return err
		}
	}
	if err := d.until(ctx, "node n1 answers", func() error { return answers(ctx, first) }); err != nil {
		return err
	}
	for _, n := range missing {
		if err := d.join(ctx, first, n); err != nil {
			return err
		}
	}
	for _, n := range s.Nodes {
		if err := d.until(ctx, "node "+n.Name+" answers", func() error { return answers(ctx, n) }); err != nil {
			return err
		}
	}
	whole := func() error { return s.whole(ctx) }
	if err := d.until(ctx, "every slot serves", whole); err != nil {
		return err
	}
	if err := d.populate(ctx, s); err != nil {
		return err
	}
	return d.until(ctx, "every slot serves", whole)
}

// member reports whether a node has its identity.
func (d *demo) member(n Node) (bool, error) {
	_, err := peer.Load(n.DataDir)
	if errors.Is(err, peer.ErrNoCluster) {
		return false, nil
	}
	return err == nil, err
}

func (d *demo) start(n Node) error {
	p, err := start(d.dir, d.o.Executable, n, d.deaths)
	if err != nil {
		return err
	}
	d.own[n.Name] = p
	fmt.Fprintf(d.out, "%s started\n", n.Name)
	return nil
}

// join lets a node in and starts it. A token is made again each time: one whose
// request was sent may be used up.
func (d *demo) join(ctx context.Context, by, n Node) error {
	c, err := config.Load(n.config(d.dir))
	if err != nil {
		return err
	}
	err = d.until(ctx, "node "+n.Name+" joins", func() error {
		t, err := by.client().Token(ctx, admin.TokenRequest{Node: slot.NodeName(n.Name)})
		if err != nil {
			return err
		}
		_, err = admin.JoinCluster(ctx, c, t.Token)
		return err
	})
	if err != nil {
		return err
	}
	if err := d.start(n); err != nil {
		return err
	}
	return d.until(ctx, "node "+n.Name+" answers", func() error { return answers(ctx, n) })
}

// until repeats try until it succeeds, ctx ends, one of our nodes dies, or the
// answer is a refusal that no repetition changes.
func (d *demo) until(ctx context.Context, what string, try func() error) error {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		err := try()
		var refusal *admin.Error
		if err == nil || errors.As(err, &refusal) && (refusal.Exit == admin.ExitUsage || refusal.Exit == admin.ExitRefused) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, err)
		case p := <-d.deaths:
			text := fmt.Sprintf("node %s ended (%s)", p.name, p.end)
			if line := lastLine(Node{Name: p.name}.log(d.dir)); line != "" {
				text += ": " + line
			}
			return &admin.Error{Text: text, Exit: admin.ExitFailed}
		case <-tick.C:
		}
	}
}

// answers asks a node how it is: it must have started and know a leader.
func answers(ctx context.Context, n Node) error {
	st, err := n.client().Status(ctx)
	switch {
	case err != nil:
		return err
	case st.Node != slot.NodeName(n.Name):
		return &admin.Error{Text: fmt.Sprintf("node %q answers at the socket of %q", st.Node, n.Name), Exit: admin.ExitRefused}
	case st.State == "starting":
		return fmt.Errorf("node %s is starting", n.Name)
	case st.Leader == "":
		return fmt.Errorf("node %s knows no leader", n.Name)
	}
	return nil
}

// whole asks whether every slot has a master that serves, and is protected if
// the cluster has replicas.
func (s State) whole(ctx context.Context) error {
	st, err := s.Nodes[0].client().Status(ctx)
	if err != nil {
		return err
	}
	if len(st.Slots) != s.Slots {
		return fmt.Errorf("%d of %d slots are known", len(st.Slots), s.Slots)
	}
	var down, alone []string
	for _, sl := range st.Slots {
		switch {
		case sl.Master == "" || !sl.Serving:
			down = append(down, sl.Slot.String())
		case s.Replicas > 0 && s.Ack == string(config.AckReplica) && !sl.IsProtected(): // ack = "local" never waits
			alone = append(alone, sl.Slot.String())
		}
	}
	if len(down) > 0 {
		return fmt.Errorf("not served: %s", strings.Join(down, " "))
	}
	if len(alone) > 0 {
		return fmt.Errorf("not protected: %s", strings.Join(alone, " "))
	}
	return nil
}

// populate makes the users that there are not yet, and sends those mail.
func (d *demo) populate(ctx context.Context, s State) error {
	c := s.Nodes[0].client()
	var fresh []string
	for _, u := range s.Users {
		address := slot.Address(u)
		made := false
		err := d.until(ctx, "user "+u+" is there", func() error {
			_, err := c.User(ctx, address)
			var refusal *admin.Error
			if !errors.As(err, &refusal) || refusal.Exit != admin.ExitUsage { // ExitUsage: there is none
				return err
			}
			_, err = c.AddUser(ctx, admin.AddUser{Address: address, Password: s.Password})
			made = made || err == nil
			return err
		})
		if err != nil {
			return err
		}
		if made {
			fresh = append(fresh, u)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	fmt.Fprintf(d.out, "%d users made\n", len(fresh))
	n, err := deliverAll(ctx, s.Nodes, fresh)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "%d messages delivered\n", n)
	return nil
}
