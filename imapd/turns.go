package imapd

import (
	"context"
	"runtime"
)

// turns bounds how many commands do long work of the processor's at the same time (SEARCH, and FETCH of fields of large
// headers): half of the processors are left to everyone else. A command has a turn for one batch of records or one piece
// of text, then goes to the end of the queue, so that a short one waits for pieces of the long ones only. Nobody has a turn while a disk is read: one that hangs must hold up nobody
// but its own users.
type turns chan struct{}

func newTurns() turns { return make(turns, max(1, runtime.GOMAXPROCS(0)/2)) }

// turn is one command's place.
type turn struct {
	of   turns
	held bool
}

// take waits for a turn, or for the end of ctx.
func (t *turn) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case t.of <- struct{}{}: // those who wait are served in their order
		t.held = true
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// give ends the turn, if there is one.
func (t *turn) give() {
	if t.held {
		<-t.of
		t.held = false
	}
}
