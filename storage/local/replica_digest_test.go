package local

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// A replica takes the journal of random operations in random pieces, some of them twice,
// and power fails in between: it has the master's digest at every position; the checker
// proves both at the end.
func TestLaw08DigestsAreEqualAtEqualPositions(t *testing.T) {
	ctx := context.Background()
	sd := seed(t)
	rng := rand.New(rand.NewPCG(sd, 3))
	s := openSlot(t, options(t, newFS(t)))
	w := newWalk(t, serve(t, s, 1, 0), rng, 3)
	fs := newFS(t)
	o := options(t, fs)
	r := openSlot(t, o)
	applied := 0
	for range 40 {
		for range 1 + rng.IntN(4) {
			w.step()
		}
		evs := journalOf(t, s, 0)
		giveBodies(t, s, r, evs[applied:])
		for applied < len(evs) {
			from := max(0, applied-rng.IntN(5)) // some come again
			to := min(len(evs), applied+1+rng.IntN(8))
			if n, err := applyAll(ctx, r, evs[from:to]); err != nil || n != to-from {
				t.Fatalf("events %d to %d: %d applied, %v", from, to, n, err)
			}
			applied = to
		}
		same(t, s, r)
		if rng.IntN(4) > 0 {
			continue
		}
		fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		r.Close()
		o.FS = fs
		r = openSlot(t, o)
		h, err := r.Head()
		if err != nil {
			t.Fatal(err)
		}
		applied = 1 + slices.IndexFunc(evs, func(ev *event.Event) bool { return slot.Position(ev.Position) == h.Position })
		if applied != len(evs) {
			t.Fatalf("%d events were acknowledged, after the crash there are %d", len(evs), applied)
		}
	}
}
