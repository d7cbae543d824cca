package raftfsm

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"mailnode/node/testport"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

type tcpStream struct{ net.Listener }

func (tcpStream) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", addr, timeout)
}

// faultyBackend is a backend that can be told to fail or to hang.
type faultyBackend struct {
	backend
	mu   sync.Mutex
	err  error
	hang chan struct{}
	left int // writes until err is met
}

// failAfter lets so many writes pass, and every later one fail.
func (d *faultyBackend) failAfter(writes int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err, d.left = err, writes
}

func (d *faultyBackend) set(err error, hang chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err, d.hang, d.left = err, hang, 0
}

func (d *faultyBackend) write(f func() error) error {
	d.mu.Lock()
	err, hang := d.err, d.hang
	if d.left > 0 {
		d.left--
		err = nil
	}
	d.mu.Unlock()
	if hang != nil {
		<-hang
	}
	if err != nil {
		return err
	}
	return f()
}

func (d *faultyBackend) StoreLogs(l []*raft.Log) error {
	return d.write(func() error { return d.backend.StoreLogs(l) })
}
func (d *faultyBackend) Set(k, v []byte) error {
	return d.write(func() error { return d.backend.Set(k, v) })
}

// server is one node under test, with what it raised.
type server struct {
	*Node
	cfg        Config
	disk       *faultyBackend
	conditions chan string
}

func config(t *testing.T, name string, s StreamLayer) Config {
	return Config{Dir: filepath.Join(t.TempDir(), "raft"), Name: slot.NodeName(name), Transport: s,
		Timings: Timings{HeartbeatTimeout: 150 * time.Millisecond, LeaseTimeout: 100 * time.Millisecond}}
}

// listenNew listens on a port that stays this test's while nobody listens on it.
func listenNew(t *testing.T) StreamLayer {
	t.Helper()
	return listen(t, testport.Take(t).Addr())
}

func listen(t *testing.T, addr string) StreamLayer {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return tcpStream{l}
}

func start(t *testing.T, cfg Config) *server {
	t.Helper()
	s := begin(t, cfg, &faultyBackend{})
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return s
}

// begin starts a node that may wait for its disk.
func begin(t *testing.T, cfg Config, disk *faultyBackend) *server {
	t.Helper()
	s := &server{disk: disk, conditions: make(chan string, 16)}
	cfg.wrap = func(b backend) backend { s.disk.backend = b; return s.disk }
	cfg.OnCondition = func(name string, err error) {
		if err != nil {
			s.conditions <- name
		}
	}
	n, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.Node, s.cfg = n, cfg
	t.Cleanup(func() { s.end(t) })
	return s
}

func (s *server) end(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("shut down %s: %v", s.cfg.Name, err)
	}
}

// until polls; Raft's timers are real in these tests.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("waited 10 s for: %s", what)
		}
	}
}

func (s *server) want(t *testing.T, condition string) {
	t.Helper()
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	select {
	case got := <-s.conditions:
		if got != condition {
			t.Fatalf("condition %q, want %q", got, condition)
		}
	case <-limit.C:
		t.Fatalf("waited 10 s for condition %q", condition)
	}
}

func first(t *testing.T, cfg Config) *server {
	t.Helper()
	s := start(t, cfg)
	if err := s.Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "first leader", s.IsLeader)
	s.must(t, cluster.Init{ClusterID: "c", SlotCount: 8, DefaultReplicas: 1, First: s.member()})
	return s
}

func (s *server) member() cluster.Member {
	return cluster.Member{Name: s.cfg.Name, ServerID: s.ServerID(), Addr: s.Node.cfg.Addr, Role: cluster.Voter, Features: cluster.KnownFeatures}
}

// decidedOn returns the command as it is decided on the slot record of now.
func decidedOn(n *Node, c cluster.Command) cluster.Command {
	if x, ok := c.(cluster.SetUnprotected); ok {
		sl, _ := n.State().Slot(x.Slot)
		x.Version = sl.Version
		return x
	}
	return c
}

func (s *server) must(t *testing.T, c cluster.Command) cluster.Result {
	t.Helper()
	res, err := s.Propose(t.Context(), decidedOn(s.Node, c))
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// trio forms a cluster of three voters over loopback. On a busy machine the
// leadership may move while a voter is added: then the new leader is asked.
func trio(t *testing.T) []*server { return trioThatStalls(t, 0) }

// trioThatStalls has another StallLimit.
func trioThatStalls(t *testing.T, limit time.Duration) []*server {
	t.Helper()
	with := func(name string) Config {
		cfg := config(t, name, listenNew(t))
		cfg.StallLimit = limit
		return cfg
	}
	all := []*server{first(t, with("n1"))}
	for _, name := range []string{"n2", "n3"} {
		s := start(t, with(name))
		until(t, string(name)+" has a vote", func() bool {
			return slices.ContainsFunc(all, func(o *server) bool {
				_, err := o.Propose(t.Context(), cluster.AddMember{Member: s.member()})
				known := err == nil || cluster.OutcomeOf(err) == cluster.Refused
				return known && o.AddVoter(t.Context(), s.ServerID(), s.Node.cfg.Addr) == nil
			})
		})
		all = append(all, s)
	}
	return all
}

// leaderOf waits for a leader that can commit, and returns it and the others.
func leaderOf(t *testing.T, all []*server) (leader *server, others []*server) {
	t.Helper()
	until(t, "a leader", func() bool {
		for i, s := range all {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			ok := s.IsLeader() && s.VerifyLeader(ctx) == nil && s.Barrier(ctx) == nil
			cancel()
			if ok {
				leader = s
				others = append(append([]*server(nil), all[:i]...), all[i+1:]...)
				return true
			}
		}
		return false
	})
	return leader, others
}

func asHalted(t *testing.T, err error, condition string) {
	t.Helper()
	var h *ErrHalted
	if !errors.As(err, &h) || h.Condition != condition {
		t.Errorf("got %v, want a node halted by %s", err, condition)
	}
}
