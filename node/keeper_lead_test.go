package node

import (
	"context"
	"testing"
	"time"
)

// A master that begins takes events from a copy whose disk hangs. When a person
// gives the slot a new epoch, it waits for that copy no longer.
func TestLaw09TakingEventsEndsWithTheEpoch(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n1 := s.nodes[0]
	id := servedBy(t, s.status(ctx, n1), "n1")
	sl, _ := n1.node.State().Slot(id)
	mine, done := n1.node.copies.keeper(id).whileMine(ctx, sl.Epoch)
	defer done()
	select {
	case <-mine.Done():
		t.Fatal("it ended, and the epoch is not over")
	case <-time.After(100 * time.Millisecond):
	}
	s.give(ctx, n1, id, sl.Replicas[0])
	select {
	case <-mine.Done():
	case <-ctx.Done():
		t.Error("the epoch is over, and it goes on taking events")
	}
}
