package fair

import (
	"io"
	"slices"
	"sync"
)

// Pending holds connections whose other side has not said yet who it is: so many
// in all, and so many of one client. One too many ends the oldest, which is the
// likeliest to be silent, and of one client's only its own.
type Pending struct {
	max, each int

	mu    sync.Mutex // guards what follows
	conns []unnamed  // oldest first
	over  bool
}

type unnamed struct {
	conn   io.Closer
	client string
}

// NewPending holds at most max connections, and at most each of one client.
func NewPending(max, each int) *Pending { return &Pending{max: max, each: each} }

// Add takes a connection in; client "" is not known, and nobody's. It reports whether an older one was closed for it.
func (p *Pending) Add(c io.Closer, client string) (dropped bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		c.Close()
	}
	oldest, own := 0, 0
	for i := len(p.conns) - 1; i >= 0; i-- {
		if p.conns[i].client == client {
			oldest, own = i, own+1
		}
	}
	crowded := own >= p.each && client != ""
	if !crowded {
		oldest = 0
	}
	if dropped = crowded || len(p.conns) >= p.max; dropped {
		p.conns[oldest].conn.Close()
		p.conns = slices.Delete(p.conns, oldest, oldest+1)
	}
	p.conns = append(p.conns, unnamed{c, client})
	return dropped
}

// Done takes a connection off the list. It reports whether it was still there: one
// that was closed for a newer one is not.
func (p *Pending) Done(c io.Closer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.conns, func(u unnamed) bool { return u.conn == c })
	if i < 0 {
		return false
	}
	p.conns = slices.Delete(p.conns, i, i+1)
	return true
}

// Close closes what is left, and what is still to come.
func (p *Pending) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	for _, u := range p.conns {
		u.conn.Close()
	}
}
