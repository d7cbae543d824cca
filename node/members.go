package node

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"mailnode/node/config"
	"mailnode/node/peer"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// Founding is what `cluster init` leaves for the first start of the first node.
type Founding struct {
	Slots    int `json:"slots"`
	Replicas int `json:"replicas"` // copies beside the master
	Nodes    int `json:"nodes"`    // slots get masters when so many nodes are there
}

// FoundingFile is where it lies in the data folder.
const FoundingFile = "founding.json"

func (n *Node) founding() (f Founding, found bool, err error) {
	b, err := os.ReadFile(filepath.Join(n.cfg.Node.Data, FoundingFile))
	if errors.Is(err, os.ErrNotExist) {
		return f, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	return f, err == nil, err
}

func (n *Node) expectedNodes() int {
	f, _, _ := n.founding()
	return f.Nodes
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
	f, found, err := n.founding()
	if err != nil || !found || n.raft == nil || n.State().ClusterID != "" {
		return err
	}
	if err := n.raft.Bootstrap(ctx); err != nil {
		n.log.Info("raft was bootstrapped before", "err", err)
	}
	for !n.raft.IsLeader() {
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
	_, err = n.Propose(ctx, cluster.Init{ClusterID: n.id.ClusterID(), SlotCount: f.Slots, DefaultReplicas: f.Replicas,
		First: cluster.Member{Name: n.cfg.Node.Name, ServerID: n.raft.ServerID(), Addr: n.cfg.Node.PeerAdvertise,
			Zone: n.cfg.Node.Zone, Standby: n.cfg.Node.Standby, Role: n.role()}})
	if err != nil {
		return fmt.Errorf("found cluster: %w", err)
	}
	n.log.Info("cluster founded", "cluster", n.id.ClusterID(), "slots", f.Slots)
	return nil
}

// authorize implements peer.Authorizer: only the leader decides, and consumes
// the token in Raft.
func (n *Node) authorize(ctx context.Context, r peer.JoinRequest) (peer.JoinAccepted, error) {
	if n.raft == nil || !n.raft.IsLeader() {
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
		return peer.JoinAccepted{}, fmt.Errorf("node %q is a member already: a reinstalled node needs a new name, or `mailnode cluster remove` first", r.Name)
	}
	if _, err := n.raft.Propose(ctx, cluster.UseToken{ID: r.TokenID, Hash: hex.EncodeToString(r.SecretHash[:])}); err != nil {
		return peer.JoinAccepted{}, err
	}
	if _, err := n.raft.Propose(ctx, cluster.AddMember{Member: cluster.Member{Name: r.Name, ServerID: serverID(r.Name, r.TokenID), Addr: r.Address,
		Zone: r.Zone, Standby: r.Standby, Role: cluster.Role(r.Role)}}); err != nil {
		return peer.JoinAccepted{}, err
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
	_, err = n.Propose(ctx, cluster.AddToken{Token: cluster.Token{ID: id, Hash: hex.EncodeToString(hash[:]), Node: name}})
	return printed, err
}


// serverID is a joiner's name in Raft: both sides know it before its first start,
// and no earlier installation of the node can have had it, since a token is used once.
func serverID(name slot.NodeName, tokenID string) string { return string(name) + "-" + tokenID }

// joinedFile holds the Raft ID that the cluster expects of a node that joined.
const joinedFile = "raft-server-id"

// Init makes this node the first of a new cluster; its first start founds it.
func Init(cfg config.Config, f Founding) (clusterID string, err error) {
	id, err := peer.Init(cfg.Node.Data, cfg.Node.Name)
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(f)
	if err != nil {
		return "", err
	}
	return id.ClusterID(), writeFile(cfg.Node.Data, FoundingFile, b)
}

// Join makes this node a member of the cluster that issued the token; its first
// start takes part.
func Join(ctx context.Context, cfg config.Config, token string) (clusterID string, err error) {
	t, err := peer.ParseToken(token)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(cfg.Node.Data, 0o700); err != nil {
		return "", err
	}
	// Written first: without it a node that has joined could not take part.
	if err := writeFile(cfg.Node.Data, joinedFile, []byte(serverID(cfg.Node.Name, t.ID))); err != nil {
		return "", err
	}
	role := cluster.Voter
	if cfg.Node.Witness {
		role = cluster.Witness
	}
	id, _, err := peer.Join(ctx, token, cfg.Node.Data, peer.JoinRequest{Name: cfg.Node.Name, Address: cfg.Node.PeerAdvertise,
		Zone: cfg.Node.Zone, Standby: cfg.Node.Standby, Role: string(role)}, peer.Options{})
	if err != nil {
		return "", err
	}
	return id.ClusterID(), nil
}

// writeFile writes a small file durably and whole.
func writeFile(dir, name string, content []byte) error {
	path := filepath.Join(dir, name)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// wantedServerID gives the Raft ID that this node joined with, "" for the first.
func (n *Node) wantedServerID() string {
	b, err := os.ReadFile(filepath.Join(n.cfg.Node.Data, joinedFile))
	if err != nil {
		return ""
	}
	return string(b)
}
