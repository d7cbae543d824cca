package peer

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"

	"mailnode/storage/slot"
)

// Dialer reaches other members.
type Dialer struct {
	id *Identity
	o  Options
}

// NewDialer returns a Dialer that speaks as this node.
func NewDialer(id *Identity, o Options) *Dialer { return &Dialer{id: id, o: o.withDefaults()} }

// Dial connects to a member and returns when both sides know each other. name
// is the node that must answer; "" takes any member (Raft dials addresses). It
// takes at most 15 s, or as long as ctx lives.
func (d *Dialer) Dial(ctx context.Context, proto string, name slot.NodeName, address string) (*Conn, error) {
	if !slices.Contains(memberProtos(), proto) {
		return nil, fmt.Errorf("dial node %q at %q: %q is no protocol between members", name, address, proto)
	}
	c, err := d.dial(ctx, proto, name, address)
	if err != nil {
		d.o.learn(err)
		return nil, fmt.Errorf("dial node %q at %q: %w", name, address, err)
	}
	return c, nil
}

func (d *Dialer) dial(ctx context.Context, proto string, name slot.NodeName, address string) (*Conn, error) {
	c, err := d.o.secure(ctx, address, d.id.memberTLS(name, []string{proto}))
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.NetConn().Close() })
	theirs, err := d.id.greetAsDialer(c, d.o.Features)
	if err == nil && d.o.Admit != nil {
		err = d.o.Admit(theirs.Name, keyOf(c))
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.NetConn().Close()
		return nil, err
	}
	return d.id.known(c, theirs)
}

// secure connects and shakes hands, within handshakeTimeout.
func (o Options) secure(ctx context.Context, address string, config *tls.Config) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	raw, err := o.Connect(ctx, address)
	if err != nil {
		return nil, err
	}
	if err := tune(raw); err != nil {
		raw.Close()
		return nil, err
	}
	c := tls.Client(raw, config)
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return c, nil
}

// tune makes the kernel notice a path that has gone dead in under 30 s, idle or
// not: half-open connections, black holes. Connections that are not TCP (tests)
// are left alone.
func tune(c net.Conn) error {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	if err := t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount}); err != nil {
		return fmt.Errorf("set keepalive: %w", err)
	}
	return setUserTimeout(t, userTimeout)
}
