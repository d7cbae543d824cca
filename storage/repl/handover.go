package repl

import (
	"context"

	"mailnode/storage"
	"mailnode/storage/repl/ack"
	"mailnode/storage/slot"
)

// HandOver waits until a replica holds all up to p, the last event of a sealed slot,
// and everything up to there has been acknowledged. It returns the other replicas
// that hold it and whose acknowledgements count. An error says what was waited for.
func (f *Feed) HandOver(ctx context.Context, to slot.NodeName, p slot.Position) (inSync []slot.NodeName, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handing++
	defer func() { f.handing-- }()
	if f.closed == nil && f.st.Released() < p { // else nothing may be waiting, and nothing would be released
		f.step(ack.Asked{At: f.o.Clock.Mono(), Position: p})
	}
	for {
		if f.closed != nil {
			return nil, f.closed
		}
		inSync, lacks := f.st.HandOver(to, p)
		if lacks == "" {
			return inSync, nil
		}
		moved := f.moved
		f.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			err = ctx.Err()
		}
		f.mu.Lock()
		if err != nil {
			return nil, storage.Errorf(storage.ErrUnavailable, "hand slot %s over: %s: %w", f.o.Slot.ID(), lacks, err)
		}
	}
}

// Waits reports whether acknowledgements are to wait for replicas: by the settings of
// this master, and because Raft lists one that stays.
func (f *Feed) Waits() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.st.WantsReplicas()
}
