package raftfsm

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// StreamLayer carries Raft's connections; the node package supplies mTLS. Accept
// must not wait for a handshake: one peer that hangs would keep out the others.
type StreamLayer interface {
	net.Listener
	Dial(addr string, timeout time.Duration) (net.Conn, error)
}

var errGateClosed = errors.New("raft is stopped on this node")

// gate is the door between Raft and its peers. It shuts when the latch trips, and
// for as long as a write waits for room: a leader whose disk hangs would otherwise
// keep its followers with heartbeats, which never touch the log, and the cluster
// would have a leader that commits nothing (hashicorp/raft issue 503).
type gate struct {
	StreamLayer
	advertised  string
	dialTimeout time.Duration // Raft waits for its dials when it shuts down

	mu     sync.Mutex // guards what follows
	shut   bool
	silent bool // shut for a while
	conns  map[*gatedConn]struct{}
}

type gatedConn struct {
	net.Conn
	gate *gate
}

type advertisedAddr string

func (a advertisedAddr) Network() string { return "tcp" }
func (a advertisedAddr) String() string  { return string(a) }

var _ raft.StreamLayer = (*raftStream)(nil)

// raftStream gives the gate the types that Raft wants.
type raftStream struct{ *gate }

// Dial connects to a peer.
func (s raftStream) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return s.dial(string(addr), timeout)
}

func newGate(s StreamLayer, advertised string, dialTimeout time.Duration) *gate {
	return &gate{StreamLayer: s, advertised: advertised, dialTimeout: dialTimeout, conns: map[*gatedConn]struct{}{}}
}

// Addr is what Raft tells others about this node: never the address it listens
// on, which may be a wildcard.
func (g *gate) Addr() net.Addr { return advertisedAddr(g.advertised) }

// Accept waits for a peer that may come in.
func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.StreamLayer.Accept()
		if err != nil {
			return nil, err
		}
		if c, err = g.admit(c); !errors.Is(err, errNoRoom) {
			return c, err
		}
	}
}

func (g *gate) dial(addr string, timeout time.Duration) (net.Conn, error) {
	g.mu.Lock()
	err := g.refusal()
	g.mu.Unlock()
	if err != nil {
		return nil, err
	}
	c, err := g.StreamLayer.Dial(addr, min(timeout, g.dialTimeout))
	if err != nil {
		return nil, err
	}
	return g.admit(c)
}

func (g *gate) admit(c net.Conn) (net.Conn, error) {
	gc := &gatedConn{Conn: c, gate: g}
	g.mu.Lock()
	err := g.refusal()
	if err == nil {
		g.conns[gc] = struct{}{}
	}
	g.mu.Unlock()
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return gc, nil
}

// refusal returns why nobody may pass; g.mu is held.
func (g *gate) refusal() error {
	switch {
	case g.shut:
		return errGateClosed
	case g.silent:
		return errNoRoom
	}
	return nil
}

// Close closes one connection.
func (c *gatedConn) Close() error {
	c.gate.mu.Lock()
	delete(c.gate.conns, c)
	c.gate.mu.Unlock()
	return c.Conn.Close()
}

// close shuts the gate and every connection, for good.
func (g *gate) close() {
	g.mu.Lock()
	g.shut = true
	g.mu.Unlock()
	g.cut()
}

// silence shuts the gate and every connection, or opens it again.
func (g *gate) silence(on bool) {
	g.mu.Lock()
	g.silent = on
	g.mu.Unlock()
	if on {
		g.cut()
	}
}

// cut ends every connection.
func (g *gate) cut() {
	g.mu.Lock()
	open := make([]*gatedConn, 0, len(g.conns))
	for c := range g.conns {
		open = append(open, c)
	}
	g.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
}

// transport is Raft's network transport, with two additions: addresses come from
// the cluster's state, so that a node may move without leaving Raft; and what
// followers acknowledge is remembered, which Raft itself keeps to itself.
type transport struct {
	*raft.NetworkTransport
	addrOf   func(raft.ServerID) (addr string, known bool, err error)
	leads    func() bool
	abstains *abstention   // nil: this server votes
	rpcs     chan raft.RPC // what Raft gets to see

	mu    sync.Mutex // guards what follows
	peers map[raft.ServerID]peerContact
}

// peerContact is what a leader knows of a peer.
type peerContact struct {
	match uint64    // the last log entry that the peer is known to hold
	last  time.Time // of its last answer; used for differences only (law 11)
	// silent is closed when the peer answers again; nil while it answers.
	silent chan struct{}
}

var (
	_ raft.Transport   = (*transport)(nil)
	_ raft.WithPreVote = (*transport)(nil)
	_ raft.WithClose   = (*transport)(nil)
)

func newTransport(g *gate, logger hclog.Logger, timeout time.Duration, addrOf func(raft.ServerID) (string, bool, error), leads func() bool) *transport {
	return &transport{
		NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: raftStream{g}, Logger: logger, MaxPool: 3, Timeout: timeout,
			MaxRPCsInFlight: 1, // no pipelining: see AppendEntries
		}),
		addrOf: addrOf,
		rpcs:   make(chan raft.RPC),
		leads:  leads,
		peers:  map[raft.ServerID]peerContact{},
	}
}

// target returns where a server is. One that has left is nowhere: at its address
// there may be the machine that took its place, which must not answer in its name,
// because it knows nothing of the other's votes.
func (t *transport) target(id raft.ServerID, fallback raft.ServerAddress) (raft.ServerAddress, error) {
	addr, known, err := t.addrOf(id)
	if known {
		return raft.ServerAddress(addr), nil
	}
	return fallback, err
}

// AppendEntries sends entries or a heartbeat. Pipelining is off, so that every
// answer comes by here.
func (t *transport) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	to, err := t.target(id, to)
	if err == nil && !isHeartbeat(req) {
		err = t.awaitPeer(id)
	}
	if err == nil {
		err = t.NetworkTransport.AppendEntries(id, to, req, resp)
		t.reached(id, err)
	}
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	p.last = time.Now()
	// A heartbeat carries neither a previous entry nor entries and proves nothing.
	if n := len(req.Entries); resp.Success && n > 0 {
		p.match = req.Entries[n-1].Index
	} else if resp.Success && req.PrevLogEntry > 0 {
		p.match = req.PrevLogEntry
	}
	t.peers[id] = p
	return nil
}

// Consumer returns the requests that Raft gets to see.
func (t *transport) Consumer() <-chan raft.RPC { return t.rpcs }

// pass passes the requests of peers on to Raft until stop.
func (t *transport) pass(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case rpc := <-t.NetworkTransport.Consumer():
			t.hand(rpc, stop)
		}
	}
}

// hand gives Raft one request, unless this server abstains and it is about votes.
func (t *transport) hand(rpc raft.RPC, stop <-chan struct{}) {
	if t.abstains.holds() && t.abstains.answered(&rpc, stop) {
		return
	}
	select {
	case t.rpcs <- rpc:
	case <-stop:
	}
}

// RequestVote asks a peer for its vote.
func (t *transport) RequestVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if t.abstains.holds() {
		return errAbstains
	}
	to, err := t.target(id, to)
	if err != nil {
		return err
	}
	return t.NetworkTransport.RequestVote(id, to, req, resp)
}

// RequestPreVote asks a peer whether it would vote.
func (t *transport) RequestPreVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if t.abstains.holds() {
		return errAbstains
	}
	to, err := t.target(id, to)
	if err != nil {
		return err
	}
	return t.NetworkTransport.RequestPreVote(id, to, req, resp)
}

// InstallSnapshot sends a snapshot to a peer that is too far behind.
func (t *transport) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, body io.Reader) error {
	to, err := t.target(id, to)
	if err == nil {
		err = t.awaitPeer(id)
	}
	if err != nil {
		return err
	}
	return t.NetworkTransport.InstallSnapshot(id, to, req, resp, body)
}

// TimeoutNow tells a peer to take over leadership.
func (t *transport) TimeoutNow(id raft.ServerID, to raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	to, err := t.target(id, to)
	if err != nil {
		return err
	}
	return t.NetworkTransport.TimeoutNow(id, to, req, resp)
}

// contact returns what is known of a peer.
func (t *transport) contact(id raft.ServerID) peerContact {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.peers[id]
}

// forget drops what was learnt in an earlier leadership: a peer's log may have
// been cut since.
func (t *transport) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, p := range t.peers {
		t.peers[id] = peerContact{silent: p.silent}
	}
}
