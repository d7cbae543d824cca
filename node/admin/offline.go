package admin

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"mailnode/figures"
	"mailnode/node/config"
	"mailnode/node/peer"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

// FirstStartFile lies in the data folder. It tells `serve` what to do when it
// starts without a Raft log; afterwards it means nothing.
const FirstStartFile = "init.json"

// Ways in which a node came to its identity.
const (
	ByInit = "init" // bootstrap Raft, then cluster.Init with Slots and Replicas
	ByJoin = "join" // start Raft empty: the leader comes and adds this node
)

// FirstStart is the content of FirstStartFile.
type FirstStart struct {
	By       string `json:"by"`
	ServerID string `json:"server_id"` // this node's name in Raft: raftfsm.Config.ServerID

	Slots    int `json:"slots,omitempty"`    // ByInit
	Replicas int `json:"replicas,omitempty"` // ByInit: copies beside the master
	// Nodes says how many members, witnesses included, must have started before the
	// leader returns the slots their first masters: after that only failovers change them.
	Nodes int `json:"nodes,omitempty"` // ByInit

	Members []peer.Member `json:"members,omitempty"` // ByJoin: who was there
}

// InitOptions are the choices that a cluster makes for life.
type InitOptions struct {
	Slots    int
	Replicas int
	Nodes    int // 0: Replicas + 1
	// BesideOthers makes a second cluster in spite of an OtherCluster.
	BesideOthers bool
}

// OtherCluster is why no new cluster is made: this machine may belong to one.
type OtherCluster struct{ Text string }

func (o *OtherCluster) Error() string { return "init cluster: " + o.Text }

// probeWithin bounds the questions to all peers together.
const probeWithin = 3 * time.Second

// otherCluster looks for a cluster to which this machine may belong: at the peers
// that its configuration names, and in slots on its volumes.
func otherCluster(ctx context.Context, c config.Config) error {
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	found := make([]*OtherCluster, len(c.Node.Peers))
	var asked sync.WaitGroup
	for i, address := range c.Node.Peers {
		asked.Go(func() {
			if id, name, err := peer.Probe(ctx, address, peer.Options{}); err == nil {
				found[i] = &OtherCluster{Text: fmt.Sprintf("%s at %s is a node of cluster %s", name, address, id)}
			}
		})
	}
	asked.Wait()
	for _, o := range found {
		if o != nil {
			return o
		}
	}
	for _, v := range c.Volumes {
		for _, dir := range []string{v.Meta, v.Data} {
			if files, err := filepath.Glob(filepath.Join(dir, "slots", "s*")); err == nil && len(files) > 0 {
				return &OtherCluster{Text: fmt.Sprintf("%s has slots of an earlier cluster (%s)", dir, figures.Count(len(files), "slot"))}
			}
		}
	}
	return nil
}

// InitCluster makes the data folder of a node that is not running the first of
// a new cluster. It returns the cluster's ID, or an *OtherCluster.
func InitCluster(ctx context.Context, c config.Config, o InitOptions) (string, error) {
	if o.Slots < 1 || o.Slots > slot.MaxSlots {
		return "", &Error{Text: fmt.Sprintf("init cluster: %d slots, want 1 to %d", o.Slots, slot.MaxSlots), Exit: ExitUsage}
	}
	if o.Replicas < 0 || o.Replicas > cluster.MaxReplicas {
		return "", &Error{Text: fmt.Sprintf("init cluster: %d replicas, want 0 to %d", o.Replicas, cluster.MaxReplicas), Exit: ExitUsage}
	}
	if o.Nodes == 0 {
		o.Nodes = o.Replicas + 1
	}
	if o.Nodes < 1 || o.Nodes > cluster.MaxMembers {
		return "", &Error{Text: fmt.Sprintf("init cluster: %d nodes, want 1 to %d", o.Nodes, cluster.MaxMembers), Exit: ExitUsage}
	}
	if c.Node.Witness {
		return "", &Error{Text: "init cluster: a witness cannot be its first node", Exit: ExitUsage}
	}
	if err := virgin(c); err != nil {
		return "", err
	}
	if !o.BesideOthers {
		if err := otherCluster(ctx, c); err != nil {
			return "", err
		}
	}
	if err := os.MkdirAll(c.Node.Data, 0o700); err != nil {
		return "", fmt.Errorf("make data folder: %w", err)
	}
	if err := writeFirstStart(c.Node.Data, FirstStart{By: ByInit, ServerID: newServerID(c.Node.Name), Slots: o.Slots, Replicas: o.Replicas, Nodes: o.Nodes}); err != nil {
		return "", err
	}
	// Last, and atomic: a crash before it leaves a folder that can be initialised.
	id, err := peer.Init(c.Node.Data, c.Node.Name)
	if err != nil {
		return "", refusedIdentity(err)
	}
	return id.ClusterID(), nil
}

// JoinCluster makes the data folder of a node that is not running a member of
// the cluster that made the token. It returns that cluster's ID.
func JoinCluster(ctx context.Context, c config.Config, token string) (string, error) {
	t, err := peer.ParseToken(token)
	if err != nil {
		return "", &Error{Text: err.Error(), Exit: ExitUsage}
	}
	if id, err := peer.Load(c.Node.Data); err == nil && id.ClusterID() == t.Cluster && id.Name() == c.Node.Name {
		return "", &Error{Text: fmt.Sprintf("join cluster %s: %s has joined already", t.Cluster, c.Node.Name), Exit: ExitNothing}
	}
	if err := virgin(c); err != nil {
		return "", err
	}
	if err := os.MkdirAll(c.Node.Data, 0o700); err != nil {
		return "", fmt.Errorf("make data folder: %w", err)
	}
	first := FirstStart{By: ByJoin, ServerID: JoinedServerID(c.Node.Name, t.ID)}
	// Written before the token is used up: it must be there if the identity is.
	if err := writeFirstStart(c.Node.Data, first); err != nil {
		return "", err
	}
	id, accepted, err := peer.Join(ctx, token, c.Node.Data, joinRequest(c, false), peer.Options{})
	if err != nil {
		return "", refusedIdentity(err)
	}
	first.Members = accepted.Members
	if err := writeFirstStart(c.Node.Data, first); err != nil {
		return "", err
	}
	return id.ClusterID(), nil
}

// JoinedServerID is the name in Raft of a node that joins. It is made of the
// token, which both sides know and which is never used twice, so that a node
// that was reinstalled has another one than before: its votes are lost.
func JoinedServerID(name slot.NodeName, tokenID string) string { return string(name) + "-" + tokenID }

// virgin refuses a data folder that belongs to a node already.
func virgin(c config.Config) error {
	if err := notRunning(c); err != nil {
		return err
	}
	if _, err := peer.Load(c.Node.Data); !errors.Is(err, peer.ErrNoCluster) {
		if err == nil {
			err = peer.ErrHasCluster
		}
		return refusedIdentity(fmt.Errorf("look at data folder %q: %w", c.Node.Data, err))
	}
	// A server that takes part in another cluster with what it promised and knew in the
	// first one would believe the wrong state.
	for _, name := range []string{"raft", "remembered"} {
		if _, err := os.Lstat(filepath.Join(c.Node.Data, name)); err == nil {
			return &Error{Text: fmt.Sprintf("the data folder %q has no identity (its folder cluster is gone), and a folder %s of the node that had one: bring cluster back from a backup, or give the node an empty data folder", c.Node.Data, name),
				Exit: ExitRefused, Next: "ls -l " + c.Node.Data}
		}
	}
	return nil
}

// notRunning refuses a machine whose node runs.
func notRunning(c config.Config) error {
	if _, err := NewClient(c.Node.Socket).Version(context.Background()); err == nil {
		return &Error{Text: fmt.Sprintf("a node is running already and answers at %q", c.Node.Socket), Exit: ExitRefused, Next: "mailnode status"}
	}
	return nil
}

func refusedIdentity(err error) error {
	var refused *peer.JoinRefusedError
	if errors.As(err, &refused) {
		return &Error{Text: err.Error(), Exit: ExitRefused}
	}
	if errors.Is(err, peer.ErrHasCluster) {
		return &Error{Text: err.Error(), Exit: ExitRefused, Next: "mailnode serve --config FILE"}
	}
	return err
}

// ReadFirstStart reads FirstStartFile of a data folder; fs.ErrNotExist when the
// node was neither initialised nor joined.
func ReadFirstStart(dir string) (FirstStart, error) {
	var f FirstStart
	path := filepath.Join(dir, FirstStartFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return f, fmt.Errorf("read first start: %w", err)
	}
	if err := json.Unmarshal(text, &f); err != nil {
		return f, fmt.Errorf("read first start %q: %w", path, err)
	}
	if f.ServerID == "" || f.By != ByJoin && (f.By != ByInit || f.Slots < 1) {
		return f, fmt.Errorf("read first start %q: it is incomplete: run `mailnode cluster init` or `mailnode cluster join` again", path)
	}
	return f, nil
}

func writeFirstStart(dir string, f FirstStart) error {
	text, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("write first start: %w", err)
	}
	return disk.ReplaceFile(filepath.Join(dir, FirstStartFile), append(text, '\n'))
}

// newServerID tells installations of one name apart.
func newServerID(name slot.NodeName) string {
	var b [8]byte
	rand.Read(b[:]) // never fails: crypto/rand crashes the program instead
	return fmt.Sprintf("%s-%x", name, b)
}
