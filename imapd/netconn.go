package imapd

import (
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// errKicked says that a wait ended because the session must end.
var errKicked = errors.New("wait for the client: the session must end")

// netConn puts a deadline on every read and write of a session's connection.
// It sits between the session and TLS, or TCP: whoever replaces nc (STARTTLS)
// keeps the netConn.
type netConn struct {
	nc       net.Conn // used by one goroutine at a time, but for kick and Close
	write    time.Duration
	read     time.Duration // each read
	absolute time.Time     // no read later than this; zero: none
	kicked   *atomic.Bool
}

// Read fails with errKicked once the session was kicked: the flag is looked at
// after the deadline was set, so a kick is never lost between the two.
func (n *netConn) Read(p []byte) (int, error) {
	deadline := time.Now().Add(n.read)
	if !n.absolute.IsZero() && n.absolute.Before(deadline) {
		deadline = n.absolute
	}
	if err := n.nc.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	if n.kicked.Load() {
		return 0, errKicked
	}
	got, err := n.nc.Read(p)
	if err != nil && got == 0 && n.kicked.Load() {
		return 0, errKicked
	}
	return got, err
}

func (n *netConn) Write(p []byte) (int, error) {
	if err := n.nc.SetWriteDeadline(time.Now().Add(n.write)); err != nil {
		return 0, err
	}
	return n.nc.Write(p)
}

// longAgo is a deadline that has passed whatever the clock does (law 11).
func longAgo() time.Time { return time.Unix(1, 0) }
