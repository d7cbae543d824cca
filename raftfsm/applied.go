package raftfsm

import (
	"context"
	"fmt"
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
// committed before the call: a node that has applied it is as fresh as the call.
func (n *Node) Fresh(ctx context.Context) (uint64, error) {
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
