package node

import (
	"context"
	"sync"
	"time"

	"mailnode/node/rpc"
	"mailnode/storage/local"
	"mailnode/storage/repl"
	"mailnode/storage/slot"
)

// copies holds this node's copies. Each is a keeper of its own: one goroutine
// that looks at what Raft says of the slot and works towards it (STYLE habit 2: plan,
// then converge). Nothing else remembers what is to be done.
type copies struct {
	n  *Node
	mu sync.Mutex
	m  map[slot.ID]*keeper

	again chan struct{} // capacity 1: a keeper has ended, look at Raft again
}

var _ repl.Copies = (*copies)(nil)

func newCopies(n *Node) *copies {
	return &copies{n: n, m: map[slot.ID]*keeper{}, again: make(chan struct{}, 1)}
}

// Copy implements repl.Copies.
func (c *copies) Copy(id slot.ID) (repl.Copy, bool) {
	s := c.slot(id)
	return s, s != nil
}

func (c *copies) slot(id slot.ID) *local.Slot {
	if k := c.keeper(id); k != nil {
		return k.opened()
	}
	return nil
}

// Feed implements repl.Copies.
func (c *copies) Feed(id slot.ID) *repl.Feed {
	if k := c.keeper(id); k != nil {
		_, feed, _ := k.role.parts()
		return feed
	}
	return nil
}

// PeerName implements repl.Copies.
func (c *copies) PeerName(ctx context.Context) (slot.NodeName, bool) { return rpc.PeerName(ctx) }

// serving returns the store of a slot that this node serves, else nil.
func (c *copies) serving(id slot.ID) *local.Master {
	if k := c.keeper(id); k != nil {
		master, _, _ := k.role.parts()
		return master
	}
	return nil
}

func (c *copies) keeper(id slot.ID) *keeper {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[id]
}

func (c *copies) all() []*keeper {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*keeper, 0, len(c.m))
	for _, k := range c.m {
		out = append(out, k)
	}
	return out
}

// run starts a keeper for each slot of which Raft gives this node a copy, or gave it one
// whose files are still here.
func (c *copies) run(ctx context.Context) {
	c.known(ctx)
	c.n.wg.Go(func() { c.droppedBefore(ctx) })
	for ctx.Err() == nil {
		changed := c.n.raft.Changed()
		var mine []slot.ID
		for _, sl := range c.n.raft.State().Slots {
			if sl.Holds(c.n.cfg.Node.Name) {
				mine = append(mine, sl.ID)
			}
		}
		c.n.resources.Expect(len(mine))
		for _, id := range mine {
			c.keep(ctx, id)
		}
		select {
		case <-changed:
		case <-c.again:
		case <-ctx.Done():
		}
	}
}

// known waits, on a node that has no state of Raft from an earlier run, until it has
// that of now: it gets the log from its beginning, and must not take the roles of the
// past, in which an old master would count on it (law 1).
func (c *copies) known(ctx context.Context) {
	if c.n.State().ClusterID != "" {
		return
	}
	for again := true; again; {
		within, cancel := context.WithTimeout(ctx, freshWithin)
		err := c.n.Fresh(within)
		cancel()
		again = err != nil && pause(ctx, tickEvery)
	}
}

func (c *copies) keep(ctx context.Context, id slot.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m[id] != nil {
		return
	}
	k := newKeeper(c.n, id)
	c.m[id] = k
	c.n.wg.Go(func() {
		if k.run(ctx); k.dropped.removed {
			c.removed(k)
		}
	})
}

// closeWithin is how long a copy may take to close. One whose disk hangs is left
// as it is: its next start finds that it was not closed.
const closeWithin = time.Minute

// close closes the copies, after their keepers have ended; false when one does not
// come to an end.
func (c *copies) close() bool {
	var wg sync.WaitGroup
	for _, k := range c.all() {
		wg.Go(func() {
			if s := k.open.shut(nil); s != nil {
				c.n.logErr("close slot", s.Close())
			}
		})
	}
	return within(closeWithin, wg.Wait)
}

// within runs fn, and reports whether it returned in time. It goes on in any case:
// what waits for a disk cannot be woken.
func within(d time.Duration, fn func()) bool {
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	return closes(done, d)
}

// closes reports whether a channel is closed in time.
func closes(c <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c:
		return true
	case <-t.C:
		return false
	}
}
