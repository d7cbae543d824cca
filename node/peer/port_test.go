package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestSilentClients: clients that connect and say nothing neither keep others
// out nor stay.
func TestSilentClients(t *testing.T) {
	n1 := newCluster(t)
	n2 := newMember(t, n1, "n2")
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		s := startServer(t, n1, Options{Open: m.open, HandshakesMax: 8})
		var silent []net.Conn
		for range 30 {
			c, err := m.connect(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			silent = append(silent, c)
		}
		start := time.Now()
		c, err := NewDialer(n2, Options{Connect: m.connect}).Dial(t.Context(), ProtoGRPC, "n1", "")
		if err != nil {
			t.Fatal(err)
		}
		c.NetConn().Close()
		if waited := time.Since(start); waited != 0 {
			t.Errorf("a good client waited %v for silent ones", waited)
		}
		dropped := 0
		for _, c := range silent {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("a silent client was told something")
			}
			c.Close()
			if time.Since(start) == 0 {
				dropped++
			}
		}
		if want := len(silent) + 1 - 8; dropped != want {
			t.Errorf("%d silent clients were dropped for newer ones, want %d", dropped, want)
		}
		if waited := time.Since(start); waited > handshakeTimeout {
			t.Errorf("silent clients stayed for %v", waited)
		}
		s.Close()
	})
}

// TestSilentAfterTLS: a member that never says HELLO is dropped.
func TestSilentAfterTLS(t *testing.T) {
	n1 := newCluster(t)
	n2 := newMember(t, n1, "n2")
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		s := startServer(t, n1, Options{Open: m.open})
		raw, err := m.connect(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		c := tls.Client(raw, n2.memberTLS("n1", []string{ProtoRaft}))
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the server spoke before HELLO")
		}
		if waited := time.Since(start); waited != helloTimeout {
			t.Errorf("dropped after %v, want %v", waited, helloTimeout)
		}
		raw.Close()
		if got := s.handedOn(t, 0); len(got) != 0 {
			t.Error("handed on")
		}
	})
}

// TestCrowdOfOneProtocol: however many connections of clients are being passed on,
// none takes the place of one of Raft's that is under way.
func TestCrowdOfOneProtocol(t *testing.T) {
	n1 := newCluster(t)
	n2 := newMember(t, n1, "n2")
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		s := startServer(t, n1, Options{Open: m.open, HandshakesMax: 8})
		begun := func(proto string) *tls.Conn { // all but HELLO
			raw, err := m.connect(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			c := tls.Client(raw, n2.memberTLS("n1", []string{proto}))
			if err := c.Handshake(); err != nil {
				t.Fatal(err)
			}
			return c
		}
		raft := begun(ProtoRaft)
		var crowd []*tls.Conn
		for range 30 {
			crowd = append(crowd, begun(ProtoClient))
		}
		if _, err := n2.greetAsDialer(raft, nil); err != nil {
			t.Errorf("Raft's connection, older than a crowd of clients': %v", err)
		}
		if got := s.handedOn(t, 1); len(got) != 1 || got[0].Proto() != ProtoRaft {
			t.Errorf("handed on: %v", got)
		}
		for _, c := range append(crowd, raft) {
			c.NetConn().Close()
		}
	})
}

// TestSilentServer: a dialler gives a silent server up.
func TestSilentServer(t *testing.T) {
	n1 := newCluster(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		go func() {
			c, err := m.Accept()
			if err != nil {
				return
			}
			for buf := make([]byte, 4096); err == nil; {
				_, err = c.Read(buf)
			}
			c.Close()
		}()
		start := time.Now()
		_, err := NewDialer(n1, Options{Connect: m.connect}).Dial(t.Context(), ProtoRaft, "n2", "")
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != handshakeTimeout {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

// flaky fails some accepts as a node does that is out of file descriptors.
type flaky struct {
	*memory
	failures atomic.Int32
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.failures.Add(-1) >= 0 {
		return nil, errors.New("accept: too many open files")
	}
	return f.memory.Accept()
}

func TestAcceptErrorsBackOff(t *testing.T) {
	n1 := newCluster(t)
	n2 := newMember(t, n1, "n2")
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{memory: newMemory()}
		f.failures.Store(10)
		s := startServer(t, n1, Options{Open: func(context.Context, string) (net.Listener, error) { return f, nil }})
		start := time.Now()
		c, err := NewDialer(n2, Options{Connect: f.connect}).Dial(t.Context(), ProtoRaft, "n1", "")
		if err != nil {
			t.Fatal(err)
		}
		c.NetConn().Close()
		// 5, 10, … 640 ms, then 1 s twice.
		if waited := time.Since(start); waited != 3275*time.Millisecond {
			t.Errorf("waited %v", waited)
		}
		s.Close()
	})
}

func TestPortCloseEndsWhatNobodyAccepted(t *testing.T) {
	n1 := newCluster(t)
	p, err := Listen("127.0.0.1:0", n1, Options{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewDialer(newMember(t, n1, "n2"), Options{}).Dial(t.Context(), ProtoRaft, "n1", p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	silent, err := net.Dial("tcp", p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{c, silent} {
		if err := readByte(c); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a connection outlived the port: %v", err)
		}
	}
	if _, err := p.Listener(ProtoRaft).Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestClosedProtocolIsRefused(t *testing.T) {
	n1 := newCluster(t)
	n2 := newMember(t, n1, "n2")
	p, err := Listen("127.0.0.1:0", n1, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.Listener(ProtoRaft).Close()
	c, err := NewDialer(n2, Options{}).Dial(t.Context(), ProtoRaft, "n1", p.Addr().String())
	if err == nil {
		err = readByte(c)
		c.Close()
	}
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a closed protocol still takes connections")
	}
	c, err = NewDialer(n2, Options{}).Dial(t.Context(), ProtoGRPC, "n1", p.Addr().String())
	if err != nil {
		t.Fatalf("the other protocols went with it: %v", err)
	}
	c.Close()
}
