package raftfsm

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// mesh connects nodes in memory; a node can be cut off from all others.
type mesh struct {
	mu    sync.Mutex
	ports map[string]*port
}

// port is one node's stream layer.
type port struct {
	mesh   *mesh
	name   string
	in     chan net.Conn
	closed chan struct{}
	once   sync.Once
	cut    bool // guarded by mesh.mu
	conns  []net.Conn
}

var errCut = errors.New("no route")

func newMesh() *mesh { return &mesh{ports: map[string]*port{}} }

func (m *mesh) port(name string) *port {
	p := &port{mesh: m, name: name, in: make(chan net.Conn), closed: make(chan struct{})}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ports[name] = p
	return p
}

func (m *mesh) cut(name string, cut bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.ports[name]
	p.cut = cut
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

func (p *port) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	p.mesh.mu.Lock()
	peer := p.mesh.ports[addr]
	if peer == nil || peer.cut || p.cut {
		p.mesh.mu.Unlock()
		return nil, errCut
	}
	ours, theirs := net.Pipe()
	p.conns, peer.conns = append(p.conns, ours), append(peer.conns, theirs)
	p.mesh.mu.Unlock()
	limit := time.NewTimer(timeout)
	defer limit.Stop()
	select {
	case peer.in <- theirs:
		return ours, nil
	case <-peer.closed:
	case <-limit.C:
	}
	return nil, errors.Join(errCut, ours.Close())
}

func (p *port) Accept() (net.Conn, error) {
	select {
	case c := <-p.in:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *port) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *port) Addr() net.Addr { return advertisedAddr(p.name) }

// meshed forms a cluster of three voters in memory.
func meshed(t *testing.T, m *mesh, dirs []string) []*Node {
	t.Helper()
	var all []*Node
	for i, name := range []string{"n1", "n2", "n3"} {
		n, err := Open(Config{Dir: dirs[i], Name: slot.NodeName(name), Addr: name + ":1", Transport: m.port(name + ":1")})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	if err := all[0].Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second)
	for i, n := range all {
		mem := cluster.Member{Name: n.cfg.Name, ServerID: n.ServerID(), Addr: n.cfg.Addr, Role: cluster.Voter}
		if i == 0 {
			propose(t, n, cluster.Init{ClusterID: "c", SlotCount: 2, First: mem})
			propose(t, n, cluster.AssignSlot{Slot: 0, Master: "n1"})
			continue
		}
		propose(t, all[0], cluster.AddMember{Member: mem})
		if err := all[0].AddVoter(t.Context(), n.ServerID(), n.cfg.Addr); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func propose(t *testing.T, n *Node, c cluster.Command) {
	t.Helper()
	if _, err := n.Propose(t.Context(), decidedOn(n, c)); err != nil {
		t.Fatal(err)
	}
}

// TestPartitions cuts off the leader for five minutes, again and again: the
// others elect one, the old one knows that it has no quorum, nothing committed is
// lost, and the old one does not disturb when it is back. Time is virtual.
func TestPartitions(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	synctest.Test(t, func(t *testing.T) {
		m := newMesh()
		all := meshed(t, m, dirs)
		for round := range 3 {
			name, _, addr := all[0].Leader()
			m.cut(addr, true)
			time.Sleep(5 * time.Minute)
			var next *Node
			for _, n := range all {
				if cut := n.cfg.Name == name; cut == n.Quorum() || cut && n.IsLeader() {
					t.Errorf("round %d: %s is cut off; %s believes in a quorum: %v", round, name, n.cfg.Name, n.Quorum())
				}
				if n.IsLeader() {
					next = n
				}
			}
			if next == nil {
				t.Fatalf("round %d: the majority has no leader", round)
			}
			since := slot.Position(1000 - round)
			propose(t, next, cluster.SetUnprotected{Slot: 0, Epoch: 1, Since: since})
			m.cut(addr, false)
			time.Sleep(time.Minute)
			for _, n := range all {
				if sl, _ := n.State().Slot(0); sl.UnprotectedSince != since {
					t.Errorf("round %d: %s knows %+v", round, n.cfg.Name, sl)
				}
			}
			if !next.IsLeader() {
				t.Errorf("round %d: the returning node took the leadership away", round)
			}
		}
		for _, n := range all {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			if err := n.Shutdown(ctx); err != nil {
				t.Error(err)
			}
			cancel()
		}
		time.Sleep(time.Minute) // Raft's last timers
	})
}
