package raftfsm

import (
	"slices"
	"sync"

	"github.com/hashicorp/raft"

	"mailnode/raftfsm/cluster"
)

// group gathers commands at the leader: while one log entry is on its way, those that
// arrive wait, and go into the next one together. Each keeps its own result, and
// whoever proposed it stops waiting for reasons of his own.
type group struct {
	mu      sync.Mutex
	busy    bool      // an entry is on its way
	waiting []*waiter // in the order of arrival
}

// waiter is one command; it is the raft.Future of its proposer.
type waiter struct {
	command cluster.Command
	size    int // bytes in a group
	done    chan struct{}

	sent, left bool            // guarded by the group
	applied    cluster.Applied // these two once done is closed
	err        error           // of Raft
}

func newWaiter(c cluster.Command) *waiter {
	return &waiter{command: c, size: cluster.SizeIn(c), done: make(chan struct{})}
}

// Error implements raft.Future.
func (w *waiter) Error() error {
	<-w.done
	return w.err
}

// join has a command sent by apply, alone or with others. Nothing happens when its
// proposer has left before.
func (g *group) join(w *waiter, apply func([]*waiter)) raft.Future {
	g.mu.Lock()
	defer g.mu.Unlock()
	if w.left {
		return w
	}
	g.waiting = append(g.waiting, w)
	if !g.busy {
		g.busy = true
		go g.run(apply)
	}
	return w
}

// leave takes a command back, and reports whether that came in time: it never was
// sent, and never will be.
func (g *group) leave(w *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if w.sent || w.left {
		return w.left
	}
	w.left = true
	close(w.done)
	return true
}

// run sends one entry after the other until nobody waits. Where Raft hangs, it hangs,
// and the waiters stop waiting.
func (g *group) run(apply func([]*waiter)) {
	for batch := g.next(); len(batch) > 0; batch = g.next() {
		apply(batch)
		for _, w := range batch {
			close(w.done)
		}
	}
}

// next takes from the front what fits into one entry; what it returns is being sent.
func (g *group) next() []*waiter {
	g.mu.Lock()
	defer g.mu.Unlock()
	var batch []*waiter
	bytes := 0
	for len(g.waiting) > 0 {
		w := g.waiting[0]
		if !w.left {
			if full := len(batch) == cluster.MaxGroup || bytes+w.size > cluster.MaxGroupBytes; full && len(batch) > 0 {
				break
			}
			w.sent = true
			batch, bytes = append(batch, w), bytes+w.size
		}
		g.waiting = g.waiting[1:]
	}
	g.busy = len(batch) > 0
	return batch
}

// apply commits commands: in one entry, or where the cluster's feature level does not
// permit that, in one for each.
func (n *Node) apply(batch []*waiter) {
	entries := [][]*waiter{batch}
	if n.State().PermitGroup() != nil {
		entries = slices.Collect(slices.Chunk(batch, 1))
	}
	futures := make([]raft.ApplyFuture, len(entries))
	for i, e := range entries {
		list := make([]cluster.Command, 0, len(e))
		for _, w := range e {
			list = append(list, w.command)
		}
		futures[i] = n.raft.Apply(cluster.EncodeEntry(list), enqueueTimeout)
	}
	for i, e := range entries {
		err := futures[i].Error()
		applied, ok := []cluster.Applied(nil), false
		if err == nil {
			if applied, ok = futures[i].Response().([]cluster.Applied); !ok || len(applied) != len(e) {
				err = ErrUnknownOutcome // the goroutine that applied it was ended by the latch
			}
		}
		for j, w := range e {
			if w.err = err; err == nil {
				w.applied = applied[j]
			}
		}
	}
}
