package peer

import (
	"crypto/tls"
	"sync"

	"mailnode/storage/slot"
)

// Lines are the open connections between this node and other members, in both
// directions: who leaves the cluster keeps none of them.
type Lines struct {
	mu   sync.Mutex
	open map[*Conn]string // the key of the other end
}

// NewLines returns an empty set, for Options.
func NewLines() *Lines { return &Lines{open: map[*Conn]string{}} }

// add keeps a connection until it is closed; nil keeps none.
func (l *Lines) add(c *Conn) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c.lines = l
	l.open[c] = keyOf(c.Conn)
}

func (l *Lines) drop(c *Conn) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
}

// Cut closes the connections to those whom admit refuses now, and returns how many
// they were. The other ends connect again, and are told why they may not.
func (l *Lines) Cut(admit func(name slot.NodeName, key string) error) int {
	l.mu.Lock()
	var over []*Conn
	for c, key := range l.open {
		if admit(c.Peer(), key) != nil {
			over = append(over, c)
		}
	}
	l.mu.Unlock()
	for _, c := range over {
		c.NetConn().Close() // a goodbye could hang
	}
	return len(over)
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	c.lines.drop(c)
	return c.Conn.Close()
}

// Key returns the hash of the other end's key, as JoinRequest has it; not on ProtoJoin.
func (c *Conn) Key() string { return keyOf(c.Conn) }

// keyOf is the hash of the key that the other end has proved to hold.
func keyOf(c *tls.Conn) string { return keyHash(c.ConnectionState().PeerCertificates[0].PublicKey) }
