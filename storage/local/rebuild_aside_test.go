package local

import (
	"math/rand/v2"
	"testing"

	"mailnode/storage/slot"
)

// A failover has left a copy behind, and its index is damaged before it has followed. The
// Refill takes the new master's state, and nothing compares the two histories any more: so
// the old index is set aside as a diverged one, with its packs, and what only it has is
// listed. The power fails at any sync point of that.
func TestLaw07RebuildOfACopyThatWasLeftBehind(t *testing.T) {
	t.Parallel()
	sd := seed(t)
	fs := newFS(t)
	o := options(t, fs)
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	before := wholeState(t, s)
	for i := range 10 {
		deliver(t, m, mail(i), a)
	}
	closeOnce(t, s)
	points := &syncPoints{fs: fs, rng: rand.New(rand.NewPCG(sd, 1))}
	oc := o
	oc.FS = injected(fs, points)
	if _, err := Rebuild(t.Context(), oc, RebuildOptions{Mode: Refill, Epoch: 2}); err != nil {
		t.Fatal(err)
	}
	points.take()
	proved := 0
	for i, clone := range points.clones {
		oc.FS = clone
		if !pending(oc) && proved == 0 {
			continue // not begun
		}
		if pending(oc) {
			if _, err := Rebuild(t.Context(), oc, RebuildOptions{Mode: Refill, Epoch: 2}); err != nil {
				t.Fatalf("sync point %d: %v", i, err)
			}
		}
		s := openSlot(t, oc)
		if err := s.BeginImport(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.ImportRecords(t.Context(), before.rest); err != nil {
			t.Fatal(err)
		}
		if err := s.FinishImport(t.Context(), before.own); err != nil {
			t.Fatal(err)
		}
		list, err := s.Asides()
		if err != nil || len(list) != 1 || !list[0].MayBeAcknowledged() {
			t.Fatalf("sync point %d: %+v, %v", i, list, err)
		}
		if _, err := s.CompactPacks(t.Context(), CompactOptions{}); err != nil {
			t.Fatal(err)
		}
		got, err := s.ReadAside(t.Context(), list[0].Name, func(AsideMessage) error { return nil })
		if err != nil || got.Messages != 10 || got.NoBody != 0 || len(got.Unread) != 0 {
			t.Errorf("sync point %d: %+v, %v", i, got, err)
		}
		if upTo, err := s.setAsideUpTo(); err != nil || upTo != 1 {
			t.Errorf("sync point %d: packs up to %d are kept, %v", i, upTo, err)
		}
		closeOnce(t, s)
		proved++
	}
	if proved < 5 {
		t.Errorf("%d points were proved", proved)
	}
}

// A replica of the present epoch has nothing that its master lacks: its old index is only
// a damaged one. So is that of a copy that is rebuilt alone after all.
func TestRebuildSetsNothingElseAside(t *testing.T) {
	for _, tt := range []struct {
		mode  RebuildMode
		epoch slot.Epoch
	}{{Refill, 1}, {Alone, 1}, {Alone, 2}} {
		fs := newFS(t)
		o, _, _ := written(t, fs, true)
		got, err := Rebuild(t.Context(), o, RebuildOptions{Mode: tt.mode, Epoch: tt.epoch})
		if err != nil || got.Old != "index-1" {
			t.Errorf("%+v: %+v, %v", tt, got, err)
		}
	}
}
