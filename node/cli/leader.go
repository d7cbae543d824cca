package cli

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// leaderLook is how often it is looked, while an order runs, whether there is a leader.
const leaderLook = 500 * time.Millisecond

// ordered gives an order to the node. While that waits for a leader, of which there is
// none, standard error says so: nobody is to take the wait for a hang.
func (a *app) ordered(ctx context.Context, order func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { a.sayLeaderless(ctx) })
	err := order()
	cancel()
	wg.Wait()
	return err
}

func (a *app) sayLeaderless(ctx context.Context) {
	t := time.NewTicker(leaderLook)
	defer t.Stop()
	for waits := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		v, err := a.client().Version(ctx)
		if err != nil || v.Leaderless == waits {
			continue // that the node does not answer is the order's to say
		}
		if waits = v.Leaderless; waits {
			fmt.Fprintln(a.err, "no Raft leader is known here: it waits for a new one")
		} else {
			fmt.Fprintln(a.err, "there is a leader: it goes on")
		}
	}
}
