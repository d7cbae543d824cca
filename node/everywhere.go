package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mailnode/node/rpc"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// everywhereWithin bounds a question to the masters of all slots. It is longer
// than one call to one of them may take.
const everywhereWithin = accountWithin + time.Second

// unasked is what a question to many masters has not learned.
type unasked struct {
	slots  []slot.ID
	silent []slot.NodeName // who was waited for, in vain
}

// everySlot asks the masters of slots, all at once and each about its slots in
// turn, and hands each answer to got, one at a time. A master that does not
// answer about one slot is not asked about its others: a node that hangs costs
// one wait, whatever it is master of.
func everySlot(ctx context.Context, n *Node, slots []cluster.Slot, call *rpc.AccountCall, got func(sl cluster.Slot, r *rpc.AccountReply)) unasked {
	ctx, cancel := context.WithTimeout(ctx, everywhereWithin)
	defer cancel()
	var mu sync.Mutex // guards got, and what follows
	left := map[slot.ID]slot.NodeName{}
	silent := map[slot.NodeName]bool{}
	over := false
	byMaster := map[slot.NodeName][]cluster.Slot{}
	for _, sl := range slots {
		left[sl.ID] = sl.Master
		byMaster[sl.Master] = append(byMaster[sl.Master], sl)
	}
	var wg sync.WaitGroup
	for master, list := range byMaster {
		wg.Go(func() {
			for _, sl := range list {
				r, err := n.account(ctx, sl.ID, call)
				mu.Lock()
				switch {
				case over: // whoever asked is gone
				case err == nil:
					got(sl, r)
					delete(left, sl.ID)
				case unheard(err):
					silent[master] = true
				}
				stop := over || silent[master]
				mu.Unlock()
				if stop {
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { defer close(done); wg.Wait() }()
	select {
	case <-done:
	case <-ctx.Done(): // a copy of this node may hang in a read that knows no context
	}
	mu.Lock()
	defer mu.Unlock()
	over = true
	var out unasked
	for id, master := range left {
		out.slots = append(out.slots, id)
		if silent[master] || ctx.Err() != nil {
			out.silent = append(out.silent, master)
		}
	}
	slices.Sort(out.slots)
	slices.Sort(out.silent)
	out.silent = slices.Compact(out.silent)
	return out
}

// unheard says that a call got no answer, rather than a bad one.
func unheard(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.Unavailable
}

// heard runs f, which may hang on a disk of this node, for as long as ctx lives.
func heard[T any](ctx context.Context, n *Node, f func() T) (T, error) {
	began := n.clock.Mono()
	done := make(chan T, 1)
	go func() { done <- f() }()
	select {
	case v := <-done:
		return v, nil
	case <-ctx.Done():
		var none T
		return none, fmt.Errorf("waited %d ms for this node's own copies: %w", (n.clock.Mono() - began).Milliseconds(), ctx.Err())
	}
}
