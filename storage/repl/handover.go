package repl

import (
	"context"
	"fmt"
	"slices"

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
		r := f.st.Replica(to)
		holds := r.Connected && r.Viable && r.Acked >= p
		if f.closed != nil {
			return nil, f.closed
		}
		if holds && f.st.Released() >= p {
			break
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
			return nil, storage.Errorf(storage.ErrUnavailable, "hand slot %s over: %s: %w", f.o.Slot.ID(), f.waitsFor(to, p), err)
		}
	}
	for _, r := range f.st.Replicas() {
		if r.Name != to && r.Viable && r.Acked >= p && f.st.Counts(r.Name) {
			inSync = append(inSync, r.Name)
		}
	}
	slices.Sort(inSync)
	return inSync, nil
}

// Waits reports whether acknowledgements wait for replicas by the settings of this
// master, whoever is there.
func (f *Feed) Waits() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.st.Settings().Waits
}

// waitsFor says what a hand-over lacks. The caller holds mu.
func (f *Feed) waitsFor(to slot.NodeName, p slot.Position) string {
	switch r := f.st.Replica(to); {
	case !r.Connected:
		return fmt.Sprintf("%s does not follow", to)
	case !r.Viable:
		return fmt.Sprintf("the copy on %s is not viable: %s", to, r.Problem)
	case r.Acked < p:
		return fmt.Sprintf("%s holds events up to %s, the last one is %s", to, r.Acked, p)
	}
	return "some changes are not acknowledged yet"
}
