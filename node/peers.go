package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"

	"mailnode/node/peer"
	"mailnode/node/rpc"
	"mailnode/storage/slot"
)

func newBoot() string {
	b := make([]byte, 8)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// peers keeps one gRPC connection to each other node.
type peers struct {
	n  *Node
	mu sync.Mutex
	m  map[slot.NodeName]*grpc.ClientConn
}

func newPeers(n *Node) *peers { return &peers{n: n, m: map[slot.NodeName]*grpc.ClientConn{}} }

// addr returns where a member listens for its peers.
func (n *Node) addr(name slot.NodeName) (string, error) {
	if m, ok := n.State().Member(name); ok {
		return m.Addr, nil
	}
	return "", fmt.Errorf("node %q is not a member of this cluster", name)
}

// conn returns the connection to a node; it is made when it is first used and
// again whenever it breaks.
func (p *peers) conn(name slot.NodeName) (*grpc.ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.m[name]; c != nil {
		return c, nil
	}
	c, err := grpc.NewClient("passthrough:///"+string(name), append(rpc.Worded(name),
		grpc.WithTransportCredentials(rpc.Credentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return p.n.dialPeer(ctx, peer.ProtoGRPC, name)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 3 * time.Second,
			Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WithInitialWindowSize(4<<20), grpc.WithInitialConnWindowSize(8<<20),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytesMax)))...)
	if err != nil {
		return nil, fmt.Errorf("connect to node %q: %w", name, err)
	}
	p.m[name] = c
	return c, nil
}

// answers notes that a node was heard: it is there again, and nothing that is meant for
// it waits for the next try after those that found it away.
func (p *peers) answers(name slot.NodeName) {
	p.mu.Lock()
	c := p.m[name]
	p.mu.Unlock()
	if c != nil && c.GetState() == connectivity.TransientFailure {
		c.ResetConnectBackoff()
	}
}

// messageBytesMax is the largest gRPC message: a frame of 1 MiB, and its rest.
const messageBytesMax = 4 << 20

func (p *peers) node(name slot.NodeName) (rpc.NodeClient, error) {
	c, err := p.conn(name)
	if err != nil {
		return nil, err
	}
	return rpc.NewNodeClient(c), nil
}

func (p *peers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.m {
		c.Close()
	}
}

func (n *Node) dialPeer(ctx context.Context, proto string, name slot.NodeName) (net.Conn, error) {
	addr, err := n.addr(name)
	if err == nil {
		err = n.membership()
	}
	if err != nil {
		return nil, err
	}
	return n.dialer.Dial(ctx, proto, name, addr)
}
