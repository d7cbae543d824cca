package node

import (
	"context"
	"sync"

	"mailnode/failover"
)

// answer says what this node's copies hold, and what it has heard of others'. A
// disk that hangs holds up neither the answer nor what it says about the others. A
// copy that cannot promise to acknowledge nothing to a lower epoch is not viable:
// the asker must not count on it (law 1).
func (n *Node) answer(ctx context.Context, questions []failover.Question) failover.Answer {
	out := failover.Answer{Copies: []failover.CopyAnswer{}, Seen: []failover.Sighting{}}
	v := n.evidence.Snapshot(n.clock.Mono())
	all := make([]*failover.CopyAnswer, len(questions))
	var wg sync.WaitGroup
	for i, q := range questions {
		out.Seen = append(out.Seen, v.Sightings(q.Slot)...)
		if k := n.copies.keeper(q.Slot); k != nil {
			wg.Go(func() { all[i] = k.answer(ctx, q) })
		}
	}
	wg.Wait()
	for _, a := range all {
		if a != nil {
			out.Copies = append(out.Copies, *a)
		}
	}
	return out
}
