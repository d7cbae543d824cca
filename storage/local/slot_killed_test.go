package local

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

type killed struct{}

func (killed) Error() string { return "the process was killed" }

// kill ends the process at the n-th thing from now that makes something durable:
// nothing that it does reaches the disk any more. What it wrote stays in the
// kernel's cache, unsynced.
func (h *harness) kill(n int) {
	dead := false
	h.fs.watch(func(op errorfs.Op, after bool) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if !after && changesDurability(op.Kind) {
			n--
		}
		if dead = dead || n <= 0; dead {
			return killed{}
		}
		return nil
	})
}

// The process is killed at any point of an operation; a new one finds what was never
// synced, builds on it, acknowledges; and then the power fails. A process must not take
// for durable what it merely can see.
func TestLaw01KilledAndThenPowerLoss(t *testing.T) {
	t.Parallel()
	runSeeds(t, 1, func(t *testing.T, rng *rand.Rand, _ time.Time) int {
		ops := harnessOps()
		const kills = 12
		for range kills {
			h := newHarness(t, rng, 3)
			for range rng.IntN(3) {
				h.w.step()
			}
			h.hist.follow(t, h.s)
			h.show()
			old := h.s
			op := ops[rng.IntN(len(ops)-2)] // not the restarts
			h.kill(1 + rng.IntN(12))
			within(t, op.name, func() { op.run(h) })
			within(t, "Close", func() { old.Close() })
			h.revive(op.name)
		}
		return kills
	})
}

// revive starts a new process on the disk and cache of the killed one, lets it
// acknowledge, and takes the power away.
func (h *harness) revive(what string) {
	t := h.t
	t.Helper()
	h.fs = newPowerFS(h.fs.mem)
	h.o.FS = h.fs
	h.s = openSlot(t, h.o)
	h.w.m = serve(t, h.s, 1, 0)
	accounts, err := h.w.m.Accounts(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(accounts) > 0 {
		deliver(t, h.w.m, "after the kill\r\n\r\n", accounts[0])
	}
	h.hist.follow(t, h.s)
	h.show()
	h.photograph(what + ", killed, and then power loss")
	p := h.photos[len(h.photos)-1]
	h.prove(p, "all unsynced lost", p.synced)
}

// The first process is killed while it makes the slot's folder.
func TestLaw01KilledInTheFirstOpen(t *testing.T) {
	t.Parallel()
	for n := 1; n < 30; n++ {
		h := &harness{t: t, rng: rand.New(rand.NewPCG(1, 1)), fs: newPowerFS(newFS(t)), hist: newHistory()}
		h.o = options(t, h.fs)
		h.w = &walk{t: t, model: model{}}
		h.kill(n)
		within(t, "Open", func() {
			if s, err := Open(h.o); err == nil {
				s.Close()
			}
		})
		h.fs = newPowerFS(h.fs.mem)
		h.o.FS = h.fs
		h.s = openSlot(t, h.o)
		h.w.m = serve(t, h.s, 1, 0)
		account(t, h.w.m, "u1@example.test")
		h.revive("the first open")
	}
}

// An index is set aside and renamed, the process is killed before the name is
// durable, and the next one finds it there: it must make it so before the state
// that it keeps is overwritten (law 7).
func TestLaw07SetAsideAgainIsDurable(t *testing.T) {
	h := newHarness(t, rand.New(rand.NewPCG(1, 1)), 1)
	renamed := false
	h.fs.watch(func(op errorfs.Op, after bool) error {
		renamed = renamed || op.Kind == errorfs.OpRename
		if renamed && op.Kind == errorfs.OpFileSync && !after {
			return killed{}
		}
		return nil
	})
	if _, err := h.s.SetAside(context.Background()); !errors.Is(err, killed{}) {
		t.Fatalf("got %v, want the kill", err)
	}
	h.fs.watch(nil)
	if err := h.setAside(); err != nil {
		t.Fatal(err)
	}
	h.show()
	h.photograph("set aside again")
	h.prove(h.photos[0], "all unsynced lost", h.photos[0].synced)
}
