package raftfsm

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// What "applied" means. hashicorp/raft counts an entry as applied as soon as it
// was handed to the goroutine that runs the state machine: a reader of State may
// not see it for a while yet. Nothing here asks for that number. An index is
// applied when the State that readers get has it, and State.Index says so:
//
//   - a command that changed the state has its own index there;
//   - a command that was refused, and Raft's own entries (no-op, barrier,
//     configuration), change nothing: the state before them is the state after
//     them, and whoever waits for them waits for the last change before;
//   - a snapshot carries State.Index, so a node that was filled from one needs no
//     entry that the snapshot replaced;
//   - the state kept from the last run carries it too. It was committed, so it
//     counts; State never goes back behind it while the log is replayed.
//
// So only indexes that come from a State or from a Result are waited for, and
// every node gets to each of them.

// WaitApplied returns when State has the change with that index.
func (n *Node) WaitApplied(ctx context.Context, index uint64) error {
	for {
		changed := n.Changed()
		if n.State().Index >= index {
			return nil
		}
		if err := n.latch.Err(); err != nil {
			return fmt.Errorf("wait for raft index %d: %w", index, err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for raft index %d: %w", index, ctx.Err())
		}
	}
}

// Fresh proves that this node leads, and returns an index that covers all that was
// committed before the call: a node that has applied it is as fresh as the call. Those
// who ask while a proof is under way share the next one: all the slots of a node that
// get a master at one moment cost one entry of the log.
func (n *Node) Fresh(ctx context.Context) (uint64, error) {
	p := n.proofs.next(n.proveFresh)
	select {
	case <-p.done:
		return p.index, p.err
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for proof of raft leadership: %w", ctx.Err())
	}
}

// proofWithin bounds one proof; without a quorum a leader steps down sooner.
const proofWithin = 5 * time.Second

func (n *Node) proveFresh() (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), proofWithin)
	defer cancel()
	// The barrier passes through the state machine's goroutine behind everything
	// that was committed, so that State has it afterwards. The proof comes second:
	// no other leader had been elected when the barrier was over.
	if err := n.Barrier(ctx); err != nil {
		return 0, err
	}
	if err := n.VerifyLeader(ctx); err != nil {
		return 0, err
	}
	return n.State().Index, nil
}

// proofs makes one proof at a time.
type proofs struct {
	mu      sync.Mutex
	busy    bool
	waiting *proof // begins when the one under way has ended; nil: nobody waits
}

// proof is the answer to those who asked before it began.
type proof struct {
	done  chan struct{}
	index uint64 // once done is closed, as err
	err   error
}

// next returns a proof that begins after the call.
func (p *proofs) next(prove func() (uint64, error)) *proof {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting == nil {
		p.waiting = &proof{done: make(chan struct{})}
	}
	mine := p.waiting
	if !p.busy {
		p.busy = true
		go p.run(prove)
	}
	return mine
}

// run makes proofs until nobody waits for one.
func (p *proofs) run(prove func() (uint64, error)) {
	for {
		p.mu.Lock()
		now := p.waiting
		p.waiting, p.busy = nil, now != nil
		p.mu.Unlock()
		if now == nil {
			return
		}
		now.index, now.err = prove()
		close(now.done)
	}
}
