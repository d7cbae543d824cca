package raftfsm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"mailnode/storage/slot"
)

// Server is one server of Raft's own configuration, and what the leader knows of it.
type Server struct {
	Name     slot.NodeName
	ServerID string
	Addr     string
	Voter    bool
	Match    uint64        // last log entry it is known to hold; 0 when unknown, or asked of a follower
	Silent   time.Duration // since its last answer to this leader; -1 when it never answered
}

// catchUpTick is how often AddVoter looks at the progress of a new server.
const catchUpTick = 50 * time.Millisecond

// Bootstrap makes this node the first and only voter of a new cluster: for
// `cluster init` only. It is refused when Dir has seen a cluster before.
func (n *Node) Bootstrap(ctx context.Context) error {
	first := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: n.id, Address: raft.ServerAddress(n.cfg.Addr)}}}
	if err := n.await(ctx, func(time.Duration) raft.Future { return n.raft.BootstrapCluster(first) }); err != nil {
		return fmt.Errorf("bootstrap raft %q: %w", n.id, err)
	}
	return nil
}

// Servers returns Raft's configuration in its order.
func (n *Node) Servers() ([]Server, error) {
	r := n.running()
	if r == nil {
		return nil, fmt.Errorf("read raft configuration: %w", cmp.Or(n.latch.Err(), errNoRoom))
	}
	f := r.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, fmt.Errorf("read raft configuration: %w", err)
	}
	var out []Server
	for _, s := range f.Configuration().Servers {
		sv := Server{Name: nameOf(s.ID), ServerID: string(s.ID), Addr: string(s.Address), Voter: s.Suffrage == raft.Voter, Silent: -1}
		if m, ok := n.State().MemberByServerID(sv.ServerID); ok {
			sv.Name = m.Name
		}
		switch {
		case s.ID == n.id:
			sv.Match, sv.Silent = r.LastIndex(), 0
		case n.IsLeader():
			if p := n.trans.contact(s.ID); !p.last.IsZero() {
				sv.Match, sv.Silent = p.match, time.Since(p.last)
			}
		}
		out = append(out, sv)
	}
	return out, nil
}

// AddNonvoter adds a server that follows and does not vote. It does nothing when
// the server is there with this address, voter or not. A reinstalled node comes
// with a new ID: its old one must be removed first, Raft allows an address once.
func (n *Node) AddNonvoter(ctx context.Context, serverID, addr string) error {
	if s, ok, err := n.server(serverID); err != nil || ok && s.Addr == addr {
		return err
	}
	return n.change(ctx, "add raft nonvoter", serverID, func(prev uint64, timeout time.Duration) raft.Future {
		return n.raft.AddNonvoter(raft.ServerID(serverID), raft.ServerAddress(addr), prev, timeout)
	})
}

// AddVoter adds a server in two stages: first without a vote, then, when it
// answers and holds the log, with one. Raft's own way gives the vote at once, and
// a second voter that cannot be reached takes the quorum away. When ctx ends
// before it has caught up, it stays a nonvoter; calling again goes on.
func (n *Node) AddVoter(ctx context.Context, serverID, addr string) error {
	if err := n.AddNonvoter(ctx, serverID, addr); err != nil {
		return err
	}
	if s, ok, err := n.server(serverID); err != nil || ok && s.Voter {
		return err
	}
	if err := n.caughtUp(ctx, serverID); err != nil {
		return fmt.Errorf("add raft voter %q: it stays without a vote: %w", serverID, err)
	}
	return n.change(ctx, "add raft voter", serverID, func(prev uint64, timeout time.Duration) raft.Future {
		return n.raft.AddVoter(raft.ServerID(serverID), raft.ServerAddress(addr), prev, timeout)
	})
}

// DemoteVoter takes a server's vote.
func (n *Node) DemoteVoter(ctx context.Context, serverID string) error {
	return n.change(ctx, "demote raft voter", serverID, func(prev uint64, timeout time.Duration) raft.Future {
		return n.raft.DemoteVoter(raft.ServerID(serverID), prev, timeout)
	})
}

// RemoveServer takes a server out of the configuration; its Raft then halts with
// ConditionRemoved, if it hears of it. Nothing happens when it is not there.
func (n *Node) RemoveServer(ctx context.Context, serverID string) error {
	if _, ok, err := n.server(serverID); err != nil || !ok {
		return err
	}
	return n.change(ctx, "remove raft server", serverID, func(prev uint64, timeout time.Duration) raft.Future {
		return n.raft.RemoveServer(raft.ServerID(serverID), prev, timeout)
	})
}

func (n *Node) server(id string) (Server, bool, error) {
	all, err := n.Servers()
	if err != nil {
		return Server{}, false, err
	}
	i := slices.IndexFunc(all, func(s Server) bool { return s.ServerID == id })
	if i < 0 {
		return Server{}, false, nil
	}
	return all[i], true, nil
}

// change alters the configuration, if nobody altered it since it was read.
func (n *Node) change(ctx context.Context, what, id string, f func(prev uint64, timeout time.Duration) raft.Future) error {
	err := n.await(ctx, func(timeout time.Duration) raft.Future {
		conf := n.raft.GetConfiguration()
		if conf.Error() != nil {
			return conf
		}
		return f(conf.Index(), timeout)
	})
	if err != nil {
		return fmt.Errorf("%s %q: %w", what, id, err)
	}
	return nil
}

// caughtUp waits until a server answers and holds everything that was committed
// one tick ago.
func (n *Node) caughtUp(ctx context.Context, id string) error {
	tick := time.NewTicker(catchUpTick)
	defer tick.Stop()
	target := n.raft.CommitIndex()
	for {
		select {
		case <-ctx.Done():
			p := n.trans.contact(raft.ServerID(id))
			if p.last.IsZero() {
				return fmt.Errorf("it never answered: %w", ctx.Err())
			}
			return fmt.Errorf("it holds the log up to %d of %d: %w", p.match, target, ctx.Err())
		case <-n.latch.Tripped():
			return n.latch.Err()
		case <-n.stop:
			return errors.New("this node shuts down")
		case <-tick.C:
		}
		if !n.IsLeader() {
			return n.outcome(raft.ErrNotLeader)
		}
		p := n.trans.contact(raft.ServerID(id))
		if p.match >= target && time.Since(p.last) < n.cfg.HeartbeatTimeout {
			return nil
		}
		target = n.raft.CommitIndex()
	}
}
