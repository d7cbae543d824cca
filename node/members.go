package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"mailnode/node/admin"
	"mailnode/node/peer"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// firstStart is what `cluster init` or `cluster join` left in the data folder.
func (n *Node) firstStart() admin.FirstStart {
	f, err := admin.ReadFirstStart(n.cfg.Node.Data)
	if err != nil {
		n.log.Warn("first start", "err", err)
	}
	return f
}

// role is what this node's configuration makes of it.
func (n *Node) role() cluster.Role {
	if n.cfg.Node.Witness {
		return cluster.Witness
	}
	return cluster.Voter
}

// found makes the cluster at the first start of its first node.
func (n *Node) found(ctx context.Context) error {
	f := n.first
	if f.By != admin.ByInit || n.raft.Err() != nil || n.State().ClusterID != "" {
		return nil
	}
	if err := n.raft.Bootstrap(ctx); err != nil {
		n.log.Info("raft was bootstrapped before", "err", err)
	}
	for !n.raft.IsLeader() {
		if n.State().ClusterID != "" { // it was founded before, and a leader has filled this node
			return nil
		}
		select {
		case <-n.raft.Changed():
		case <-time.After(proposePause):
		case <-ctx.Done():
			return fmt.Errorf("found cluster: %w", ctx.Err())
		}
	}
	if err := n.raft.Barrier(ctx); err != nil || n.State().ClusterID != "" {
		return err
	}
	_, err := n.Propose(ctx, cluster.Init{ClusterID: n.id.ClusterID(), SlotCount: f.Slots, DefaultReplicas: f.Replicas,
		First: cluster.Member{Name: n.cfg.Node.Name, ServerID: n.raft.ServerID(), Addr: n.cfg.Node.PeerAdvertise,
			Zone: n.cfg.Node.Zone, Standby: n.cfg.Node.Standby, Role: n.role(), Features: n.features, Release: n.version}})
	var exists cluster.ErrExists
	if err != nil && !errors.As(err, &exists) { // an earlier try of unknown outcome was done after all
		return fmt.Errorf("found cluster: %w", err)
	}
	n.log.Info("cluster founded", "cluster", n.id.ClusterID(), "slots", f.Slots)
	return nil
}

// authorize implements peer.Authorizer: only the leader decides, and consumes
// the token in Raft.
func (n *Node) authorize(ctx context.Context, r peer.JoinRequest) (peer.JoinAccepted, error) {
	if !n.raft.IsLeader() {
		return peer.JoinAccepted{}, fmt.Errorf("this node does not lead: %w", peer.ErrAskAnother)
	}
	st := n.State()
	var bound bool
	for _, t := range st.Tokens {
		bound = bound || t.ID == r.TokenID && t.Node == r.Name
	}
	if !bound {
		return peer.JoinAccepted{}, fmt.Errorf("this token is not (or no longer) one for node %q: make one with `mailnode cluster token %s` on a member", r.Name, r.Name)
	}
	if _, exists := st.Member(r.Name); exists {
		return peer.JoinAccepted{}, fmt.Errorf("node %q is a member already: in this release a node that was installed anew needs a new name", r.Name)
	}
	_, err := n.raft.Propose(ctx, cluster.UseToken{ID: r.TokenID, Hash: hex.EncodeToString(r.SecretHash[:])})
	switch cluster.OutcomeOf(err) {
	case cluster.Done:
	case cluster.NotDone, cluster.Halted:
		return peer.JoinAccepted{}, fmt.Errorf("use token of node %q: %w (%w)", r.Name, err, peer.ErrAskAnother)
	case cluster.UnknownOutcome:
		return peer.JoinAccepted{}, fmt.Errorf("use token of node %q: %w; if it is refused from now on, make another: mailnode cluster token %s", r.Name, err, r.Name)
	default:
		return peer.JoinAccepted{}, err
	}
	_, err = n.raft.Propose(ctx, cluster.AddMember{Member: cluster.Member{Name: r.Name, ServerID: admin.JoinedServerID(r.Name, r.TokenID), Addr: r.Address,
		Zone: r.Zone, Standby: r.Standby, Role: cluster.Role(r.Role), Features: r.Features}})
	switch cluster.OutcomeOf(err) {
	case cluster.Done:
	case cluster.UnknownOutcome:
		return peer.JoinAccepted{}, fmt.Errorf("add node %q: %w; its token is used up: if `mailnode cluster members` does not show it, make another: mailnode cluster token %s", r.Name, err, r.Name)
	default:
		return peer.JoinAccepted{}, fmt.Errorf("add node %q: %w; its token is used up, make another: mailnode cluster token %s", r.Name, err, r.Name)
	}
	var out peer.JoinAccepted
	for _, m := range n.State().Members {
		if m.Name != r.Name {
			out.Members = append(out.Members, peer.Member{Name: m.Name, Address: m.Addr})
		}
	}
	return out, nil
}

// Token makes a join token for a node.
func (n *Node) token(ctx context.Context, name slot.NodeName) (string, error) {
	if err := peer.CheckName(name); err != nil {
		return "", err
	}
	if err := n.needQuorum(ctx, "make token"); err != nil {
		return "", err
	}
	st := n.State()
	if _, exists := st.Member(name); exists {
		return "", cluster.ErrExists{Kind: "node", Name: string(name), Why: "it is a member already"}
	}
	var seeds []string
	for _, m := range st.Members {
		seeds = append(seeds, m.Addr)
	}
	printed, id, hash, err := peer.NewToken(n.id.ClusterID(), n.id.CAFingerprint(), seeds, name)
	if err != nil {
		return "", err
	}
	err = n.order(ctx, cluster.AddToken{Token: cluster.Token{ID: id, Hash: hex.EncodeToString(hash[:]), Node: name}})
	return printed, err
}
