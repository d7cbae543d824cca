package local

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// replicaHarness makes a harness of a copy that follows a master, whose disk
// never fails.
type replicaHarness struct {
	h         *harness
	importing bool
}

// replicaOps are what a follower does to its copy. A new one is one line here.
func replicaOps() []harnessOp {
	return []harnessOp{
		{"apply one event", func(h *harness) error { return h.replica.follow(1) }},
		{"apply events", func(h *harness) error { return h.replica.follow(100) }},
		{"apply events again", (*harness).applyAgain},
		{"fetch the state", (*harness).fetchState},
		{"set aside and fetch the state", func(h *harness) error { return errors.Join(h.setAside(), h.fetchState()) }},
		{"quarantine an event", (*harness).quarantine},
		{"flush the index", func(h *harness) error { return h.s.guarded(h.s.db.Flush) }},
		{"compact the index", (*harness).compactIndex},
		{"trim the journal", func(h *harness) error { return h.s.TrimJournal(context.Background(), slot.Position(h.shown.Load())) }},
		{"clean restart", func(h *harness) error { return h.restart(false) }},
		{"power loss and restart", func(h *harness) error { return h.restart(true) }},
	}
}

func newReplicaHarness(t *testing.T, rng *rand.Rand) *harness {
	t.Helper()
	h := &harness{t: t, rng: rng, fs: newPowerFS(vfs.NewCrashableMem()), hist: newHistory(), pointsMax: 1000}
	h.replica = &replicaHarness{h: h}
	h.w = newWalk(t, serve(t, openSlot(t, options(t, newFS(t))), 1, 0), rng, 3)
	h.hist.follow(t, h.w.m.s)
	h.o = options(t, h.fs)
	h.o.sizes = someSizes(t, rng)
	h.o.PackBytesMax, h.o.JournalEventsMax = 24<<10, 64
	h.s = openSlot(t, h.o)
	return h
}

// behind returns the events that the copy does not have.
func (r *replicaHarness) behind() ([]*event.Event, error) {
	h := r.h
	head, err := h.s.Head()
	if err != nil {
		return nil, err
	}
	return journalOf(h.t, h.w.m.s, head.Position), nil
}

// follow lets the master work, and applies events in calls of n at most.
func (r *replicaHarness) follow(n int) error {
	h := r.h
	for range 4 {
		h.w.step()
	}
	evs, err := r.behind()
	if err != nil {
		return err
	}
	if err := sendBodies(h.w.m.s, h.s, evs); err != nil {
		return err
	}
	for part := range slices.Chunk(evs, n) {
		if did, err := applyAll(context.Background(), h.s, part); err != nil || did != len(part) {
			return fmt.Errorf("%d of %d events: %w", did, len(part), err)
		}
		h.show()
	}
	return nil
}

// applyAll applies events in as many commits as it takes.
func applyAll(ctx context.Context, s *Slot, evs []*event.Event) (applied int, err error) {
	for applied < len(evs) && err == nil {
		var n int
		n, err = s.ApplyEvents(ctx, evs[applied:])
		applied += n
	}
	return applied, err
}

func (h *harness) applyAgain() error {
	if err := h.replica.follow(100); err != nil {
		return err
	}
	head, err := h.s.Head()
	if err != nil {
		return err
	}
	evs := journalOf(h.t, h.s, head.KeptAfter)
	_, err = applyAll(context.Background(), h.s, evs[len(evs)/2:])
	return err
}

func (h *harness) fetchState() error {
	for range 4 {
		h.w.step()
	}
	h.hist.follow(h.t, h.w.m.s)
	h.replica.importing = true
	err := h.replica.fetchInto(h.s)
	h.replica.importing = false
	return err
}

func (r *replicaHarness) fetchInto(s *Slot) error {
	ctx, master := context.Background(), r.h.w.m.s
	if err := s.BeginImport(ctx); err != nil {
		return err
	}
	var ofSlot, part []event.Record
	if err := master.ReadState(func(rec event.Record) error {
		rec = event.Record{Key: slices.Clone(rec.Key), Value: slices.Clone(rec.Value)}
		if rec.Key[0] == event.PrefixSlot {
			ofSlot = append(ofSlot, rec)
			return nil
		}
		if part = append(part, rec); len(part) < 100 {
			return nil
		}
		err := s.ImportRecords(ctx, part)
		part = nil
		return err
	}); err != nil {
		return err
	}
	if err := s.ImportRecords(ctx, part); err != nil {
		return err
	}
	var refs []slot.BodyRef
	if err := s.NeededBodies(func(ref slot.BodyRef, _ int64, _ bool) error { refs = append(refs, ref); return nil }); err != nil {
		return err
	}
	for some := range slices.Chunk(refs, 20) {
		for _, ref := range some {
			b, note, err := master.Body(ref)
			if err != nil {
				return err
			}
			if err := s.StageBody(ref, note, b, b.Size()); err != nil {
				return err
			}
		}
		if err := s.KeepBodies(ctx, some); err != nil {
			return err
		}
	}
	return s.FinishImport(ctx, ofSlot)
}

// proveBuilding proves that a copy whose state transfer was cut off reports it, serves
// nobody, and can be filled from the start.
func (r *replicaHarness) proveBuilding(p crashPoint, s *Slot) {
	t := r.h.t
	if !p.building {
		t.Error("the copy says that it is building, and no state transfer was under way")
		return
	}
	if _, err := s.Serve(context.Background(), 2, 1, NoGate{}); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("half a copy serves: %v", err)
	}
	if err := s.ReadState(func(event.Record) error { return nil }); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("half a copy hands its state to others: %v", err)
	}
	if err := r.fetchInto(s); err != nil {
		t.Error(err)
		return
	}
	if got, err := stateOf(s); err != nil || got != r.h.hist.sum {
		t.Errorf("after a transfer from the start the state is another one (%v)", err)
	}
}

// The same for a replica: power fails at every sync point of applying events, of
// a state transfer, of setting aside and of quarantine.
func TestLaw01Law08EveryReplicaOperationSurvivesPowerLoss(t *testing.T) {
	t.Parallel()
	runSeeds(t, 2, func(t *testing.T, rng *rand.Rand, until time.Time) int {
		h := newReplicaHarness(t, rng)
		h.until = until
		ops := replicaOps()
		rng.Shuffle(len(ops), func(i, j int) { ops[i], ops[j] = ops[j], ops[i] })
		for _, op := range append([]harnessOp{{"apply the first events", func(h *harness) error { return h.replica.follow(5) }}}, ops...) {
			h.do(op, 1)
		}
		return h.points
	})
}
