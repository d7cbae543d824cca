package imapd

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"time"

	"mailnode/storage/fair"
)

// handshake makes the connection one with TLS. A client is silent until its first byte
// comes: that costs a connection. Then it waits for its turn: the work is bounded,
// and fair by client. How long it may take counts from there.
func (c *session) handshake() error {
	spoken, err := c.awaitHello()
	if err != nil {
		return err
	}
	// Not c.ctx: it would keep a map of its children. A kick ends the read.
	ctx, cancel := context.WithTimeout(c.srv.ctx, c.srv.cfg.Timeouts.PreLogin)
	defer cancel()
	client := fair.NetworkOf(c.ip)
	end, err := c.srv.handshakes.Take(ctx, fair.Asker{Client: client, Account: client})
	if err != nil {
		return err
	}
	defer end(0)
	ctx, cancel = context.WithTimeout(ctx, c.srv.cfg.Timeouts.Handshake)
	defer cancel()
	nc := tls.Server(spoken, c.srv.cfg.TLS)
	c.net.nc = nc
	if err := nc.HandshakeContext(ctx); err != nil {
		return err
	}
	c.tls = true
	return nil
}

// awaitHello waits for a client's first byte.
func (c *session) awaitHello() (*spoken, error) {
	c.srv.silent.Add(c.conn, fair.NetworkOf(c.ip))
	defer c.srv.silent.Done(c.conn)
	if err := c.conn.SetReadDeadline(time.Now().Add(c.srv.cfg.Timeouts.Handshake)); err != nil {
		return nil, err
	}
	first := make([]byte, 1)
	if _, err := io.ReadFull(c.conn, first); err != nil {
		return nil, err
	}
	return &spoken{Conn: c.conn, first: first}, c.conn.SetReadDeadline(time.Time{})
}

// spoken is a connection of which the first byte has been read.
type spoken struct {
	net.Conn
	first []byte // until it is read again
}

// NetConn returns the connection itself.
func (s *spoken) NetConn() net.Conn { return s.Conn }

// Read implements net.Conn.
func (s *spoken) Read(b []byte) (int, error) {
	if len(s.first) > 0 && len(b) > 0 {
		n := copy(b, s.first)
		s.first = nil
		return n, nil
	}
	return s.Conn.Read(b)
}
