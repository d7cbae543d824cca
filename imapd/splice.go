package imapd

import (
	"errors"
	"io"
	"net"
	"time"
)

// spliceIdleBytes is what each direction of an idle spliced connection holds.
const spliceIdleBytes = 512

// splice carries bytes both ways until the master or an error closes either
// side; then it closes both. A client that only shuts its own direction still
// hears what it has asked for. first came from the peer already. It writes nothing of its own, also not when
// it ends: the client could be in the middle of a literal (LAWS §7.1).
func (c *session) splice(peer net.Conn, first []byte) {
	defer peer.Close()
	client := c.net.nc
	client.SetReadDeadline(time.Time{})
	if c.ended() { // looked at after the deadline, as netConn.Read does
		return
	}
	pending := c.r.TakeBuffered() // what the client pipelined behind its login
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.carry(client, peer, first)
		client.Close()
		c.conn.Close()
		peer.Close()
	}()
	if err := c.carry(peer, client, pending); !errors.Is(err, io.EOF) || !closeWrite(peer) {
		peer.Close()
		c.conn.Close()
	}
	<-done
}

// closeWrite says on a connection that nothing follows, under TLS and to the
// other side's kernel (watch.go). It reports whether the connection knows how.
func closeWrite(nc net.Conn) bool {
	half, ok := nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return false
	}
	if over, ok := nc.(interface{ NetConn() net.Conn }); ok {
		return closeWrite(over.NetConn())
	}
	return true
}

// carry copies src to dst until an error, which it returns. Between two reads it holds a few bytes
// only; a full read brings a larger buffer, a partly filled one gives it back.
func (c *session) carry(dst, src net.Conn, first []byte) error {
	if len(first) > 0 {
		if err := c.writeTo(dst, first); err != nil {
			return err
		}
	}
	small := make([]byte, spliceIdleBytes)
	buf := small
	for {
		n, err := src.Read(buf)
		if n > 0 && c.writeTo(dst, buf[:n]) != nil {
			err = io.ErrClosedPipe // also when src had ended: dst hears nothing more
		}
		switch full := n == len(buf); {
		case err != nil && len(buf) > len(small):
			c.srv.splicePool.Put(buf)
		case full && len(buf) == len(small):
			buf = c.srv.splicePool.Get()
			buf = buf[:cap(buf)]
		case !full && len(buf) > len(small):
			c.srv.splicePool.Put(buf)
			buf = small
		}
		if err != nil {
			return err
		}
	}
}

func (c *session) writeTo(dst net.Conn, p []byte) error {
	if err := dst.SetWriteDeadline(time.Now().Add(c.srv.cfg.Timeouts.Write)); err != nil {
		return err
	}
	_, err := dst.Write(p)
	return err
}
