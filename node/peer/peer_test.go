package peer

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"mailnode/storage/slot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newCluster makes a cluster whose first member is n1.
func newCluster(t *testing.T) *Identity {
	t.Helper()
	id, err := Init(t.TempDir(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// newMember makes another member of id's cluster, without the join protocol.
func newMember(t *testing.T, id *Identity, name slot.NodeName) *Identity {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := id.ca.issue(id.cluster, name, public)
	if err != nil {
		t.Fatal(err)
	}
	m := &Identity{cluster: id.cluster, name: name, ca: id.ca, cert: cert, key: key, generation: id.Generation()}
	if err := m.create(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	return m
}

// server is a Port whose finished connections stay in their queues.
type server struct{ *Port }

// startServer serves id on loopback, or wherever o.Open listens, until the test ends.
func startServer(t *testing.T, id *Identity, o Options) server {
	t.Helper()
	p, err := Listen("127.0.0.1:0", id, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return server{p}
}

// handedOn waits for the connections that must pass every check, stops the
// port, and returns all that passed: those, and any that should not have. The test
// ends them.
func (s server) handedOn(t *testing.T, want int) []*Conn {
	t.Helper()
	var got []*Conn
	for range want {
		select {
		case c := <-s.queues[ProtoRaft].conns:
			got = append(got, c)
		case c := <-s.queues[ProtoGRPC].conns:
			got = append(got, c)
		case c := <-s.queues[ProtoClient].conns:
			got = append(got, c)
		case <-t.Context().Done():
		}
	}
	s.stop()
	for _, q := range s.queues {
		for len(q.conns) > 0 {
			got = append(got, <-q.conns)
		}
	}
	t.Cleanup(func() {
		for _, c := range got {
			c.NetConn().Close()
		}
	})
	return got
}

// memory is a listener and a dialler over net.Pipe, for testing/synctest.
type memory struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newMemory() *memory {
	return &memory{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (m *memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.done:
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error {
	m.once.Do(func() { close(m.done) })
	return nil
}

func (m *memory) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }

func (m *memory) open(context.Context, string) (net.Listener, error) { return m, nil }

func (m *memory) connect(ctx context.Context, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case m.conns <- there:
		return here, nil
	case <-m.done:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
