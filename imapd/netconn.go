package imapd

import (
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// byeWithin is how long a session that must end has for its last words; a client
// that reads nothing is cut off then.
const byeWithin = 2 * time.Second

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
	// over is set once the session must end: no write takes longer than until then.
	over atomic.Pointer[time.Time]
}

// kick ends the read that waits, and bounds all writes. Any goroutine may call it.
func (n *netConn) kick(socket net.Conn) {
	over := time.Now().Add(byeWithin)
	if n.over.CompareAndSwap(nil, &over) {
		socket.SetWriteDeadline(over)
	}
	socket.SetReadDeadline(longAgo())
}

func (n *netConn) kicked() bool { return n.over.Load() != nil }

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
	if n.kicked() {
		return 0, errKicked
	}
	got, err := n.nc.Read(p)
	if err != nil && got == 0 && n.kicked() {
		return 0, errKicked
	}
	return got, err
}

// Write looks at over after the deadline was set, as Read does.
func (n *netConn) Write(p []byte) (int, error) {
	if err := n.nc.SetWriteDeadline(time.Now().Add(n.write)); err != nil {
		return 0, err
	}
	if over := n.over.Load(); over != nil {
		n.nc.SetWriteDeadline(*over)
	}
	return n.nc.Write(p)
}

// longAgo is a deadline that has passed whatever the clock does (law 11).
func longAgo() time.Time { return time.Unix(1, 0) }
