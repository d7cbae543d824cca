package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"mailnode/storage/fair"
)

// queueLen is how many finished connections of one protocol wait for Accept.
const queueLen = 128

// Back-off after an accept error that may pass (out of file descriptors).
const (
	acceptPauseMin = 5 * time.Millisecond
	acceptPauseMax = time.Second
)

// Port is the node's one port for its peers.
type Port struct {
	id     *Identity
	o      Options
	raw    net.Listener
	queues map[string]*queue // by protocol, fixed by Listen
	done   chan struct{}     // closed by Close
	work   sync.WaitGroup    // the accept loop and all handshakes

	// pending are the handshakes under way, by protocol: those of one never take a
	// place from another's. "" are those that have not said theirs.
	pending map[string]*fair.Pending

	mu     sync.Mutex // guards closed, and starting work against closing
	closed bool
}

// Listen opens the peer port and begins to shake hands. Finished connections
// wait in the Listener of their protocol.
func Listen(address string, id *Identity, o Options) (*Port, error) {
	o = o.withDefaults()
	raw, err := o.Open(context.Background(), address)
	if err != nil {
		return nil, fmt.Errorf("listen for peers on %q: %w", address, err)
	}
	p := &Port{id: id, o: o, raw: raw, queues: make(map[string]*queue), done: make(chan struct{}), pending: make(map[string]*fair.Pending)}
	each := max(1, o.HandshakesMax/2)
	p.pending[""] = fair.NewPending(o.HandshakesMax, each)
	for _, proto := range protos() {
		p.pending[proto] = fair.NewPending(o.HandshakesMax, each)
		p.queues[proto] = &queue{address: raw.Addr(), conns: make(chan *Conn, queueLen), done: make(chan struct{})}
	}
	p.work.Go(p.accept)
	return p, nil
}

// Addr returns the address on which the port listens.
func (p *Port) Addr() net.Addr { return p.raw.Addr() }

// Listener returns the connections of one protocol; each is a *Conn. The same
// Listener is given each time; closing it refuses the protocol from then on. An
// unknown protocol panics.
func (p *Port) Listener(proto string) net.Listener {
	q := p.queues[proto]
	if q == nil {
		panic(fmt.Sprintf("no peer protocol %q", proto))
	}
	return q
}

// Close stops listening, ends unfinished handshakes and connections that nobody
// has accepted, and waits for them. Accepted connections are left alone.
func (p *Port) Close() error {
	err := p.stop()
	for _, q := range p.queues {
		q.Close()
	}
	return err
}

// stop ends listening and handshakes; what is finished stays in the queues.
func (p *Port) stop() error {
	p.mu.Lock()
	first := !p.closed
	if first {
		p.closed = true
		close(p.done)
		for _, pending := range p.pending {
			pending.Close()
		}
	}
	p.mu.Unlock()
	var err error
	if first {
		err = p.raw.Close()
	}
	p.work.Wait()
	return err
}

// accept never waits for a client: each handshake has a goroutine, and too many of
// them end the oldest (fair.Pending).
func (p *Port) accept() {
	pause := acceptPauseMin
	for {
		c, err := p.raw.Accept()
		if err == nil {
			pause = acceptPauseMin
			p.begin(c)
			continue
		}
		select {
		case <-p.done:
			return
		default:
		}
		if errors.Is(err, net.ErrClosed) {
			p.o.Log.Error("peer listener closed", slog.Any("error", err))
			return
		}
		p.o.Log.Warn("peer accept failed", slog.Any("error", err), slog.Duration("pause", pause))
		select {
		case <-p.done:
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, acceptPauseMax)
	}
}

func (p *Port) begin(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		c.Close()
		return
	}
	p.wait("", c)
	p.work.Go(func() { p.handshake(c) })
}

// wait gives a handshake a place among those of its protocol.
func (p *Port) wait(proto string, c net.Conn) {
	if p.pending[proto].Add(c, client(c)) {
		p.o.Log.Warn("peer handshake dropped for newer ones", slog.String("client", c.RemoteAddr().String()), slog.String("proto", proto))
	}
}

// client is the fair.Network at the other end of a connection.
func client(c net.Conn) string { return fair.NetworkOf(c.RemoteAddr().String()) }

func (p *Port) handshake(raw net.Conn) {
	c, err := p.identify(raw)
	for _, pending := range p.pending {
		pending.Done(raw)
	}
	if err != nil {
		p.o.learn(err)
		p.o.Log.Warn("peer refused", slog.String("client", raw.RemoteAddr().String()), slog.Any("error", err))
		raw.Close()
		return
	}
	if !p.queues[c.Proto()].offer(c) {
		p.o.Log.Warn("peer connection dropped, nobody accepts it", slog.String("proto", c.Proto()), slog.String("node", string(c.Peer())))
		c.forget()
		raw.Close()
	}
}

// identify shakes hands and, unless it is a joiner, exchanges HELLO.
func (p *Port) identify(raw net.Conn) (*Conn, error) {
	if err := tune(raw); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	c := tls.Server(raw, &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			p.sorted(raw, h.SupportedProtos)
			if slices.Equal(h.SupportedProtos, []string{ProtoJoin}) {
				return p.id.joinTLS(), nil
			}
			return p.id.memberTLS("", memberProtos()), nil
		},
	})
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if c.ConnectionState().NegotiatedProtocol == ProtoJoin {
		return &Conn{Conn: c}, nil
	}
	theirs, err := p.id.greetAsDialled(c, p.o)
	if err != nil {
		c.Close() // flushes nothing, but ends TLS in good order after a refusal
		return nil, err
	}
	return p.id.known(c, theirs)
}

// sorted moves a handshake to those of the protocol that it asks for. One that was
// ended meanwhile stays so, and one that asks for none fails.
func (p *Port) sorted(raw net.Conn, protos []string) {
	if len(protos) == 1 && p.pending[protos[0]] != nil && p.pending[""].Done(raw) {
		p.wait(protos[0], raw)
	}
}

// queue is the Listener of one protocol.
type queue struct {
	address net.Addr
	conns   chan *Conn
	done    chan struct{}

	mu     sync.Mutex // guards closed, and sending on conns against closing
	closed bool
}

// offer hands a connection over unless the queue is full or closed.
func (q *queue) offer(c *Conn) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	select {
	case q.conns <- c:
		return true
	default:
		return false
	}
}

// Accept returns the next connection, a *Conn; net.ErrClosed after Close.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case <-q.done: // first, so that a closed listener never gives a connection
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

// Close refuses the protocol from now on and ends what was not yet accepted.
func (q *queue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil
	}
	q.closed = true
	close(q.done)
	for {
		select {
		case c := <-q.conns:
			c.forget()
			c.NetConn().Close()
		default:
			return nil
		}
	}
}

// Addr returns the address of the port.
func (q *queue) Addr() net.Addr { return q.address }
