package index

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage/disk"
)

// alone is the owner of an index on a disk on which nothing goes wrong.
func alone(t *testing.T) Owner {
	latch := disk.NewLatch()
	return Owner{Log: slog.New(slog.DiscardHandler), Latch: latch, Fail: func(err error) { latch.Trip(err) },
		Roomy: func(_ func() bool, write func() error) error { return write() }, LeaveRoom: func() error { return nil },
		Damaged: func(path string, err error) { t.Errorf("%q is damaged: %v", path, err) }, Retried: func(err error) { t.Error(err) },
		Stalls: func(string) {}, GoesOn: func() {}}
}

// TestOpenedIndexIsKnown: an index is made once, is known to be there and to be open,
// and one record of it can be read when it is closed.
func TestOpenedIndexIsKnown(t *testing.T) {
	const dir = "/index"
	fs := vfs.NewMem()
	shared := NewShared(1 << 20)
	defer shared.Close()
	key, want := []byte("key"), "value"

	if err := New(shared, alone(t)).Open(fs, dir, true); err == nil {
		t.Fatal("an index that must be there was made")
	}
	x := New(shared, alone(t))
	if err := x.Open(fs, dir, false); err != nil {
		t.Fatal(err)
	}
	if err := x.Set(key, []byte(want), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := x.Settle(); err != nil {
		t.Fatal(err)
	}
	<-x.Settled
	if there, err := Exists(fs, dir); !there || err != nil {
		t.Errorf("exists: %t, %v", there, err)
	}
	if NotOpen(fs, dir) == nil {
		t.Error("it is open, and nobody says so")
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if err := NotOpen(fs, dir); err != nil {
		t.Error(err)
	}
	if doubt, err := Prove(fs, dir, func(int) {}); doubt || err != nil {
		t.Errorf("it is in doubt: %t, %v", doubt, err)
	}
	if got, found, err := ReadRecord(fs, dir, alone(t), key); string(got) != want || !found || err != nil {
		t.Errorf("read %q, %t, %v", got, found, err)
	}
	if got, found, err := ReadRecord(fs, dir, alone(t), []byte("other")); got != nil || found || err != nil {
		t.Errorf("read %q, %t, %v of a record that is not there", got, found, err)
	}
}

// TestLaw09GuardedReturns: neither a panic nor a goroutine that Pebble parks reaches
// the caller.
func TestLaw09GuardedReturns(t *testing.T) {
	latch, failure := disk.NewLatch(), errors.New("the disk has failed")
	if err := Guarded(latch, func() error { panic("in Pebble") }); err == nil || err.Error() != "index: in Pebble" {
		t.Errorf("a panic became %v", err)
	}
	parked := logger{Owner{Fail: func(err error) { latch.Trip(err) }}}
	if err := Guarded(latch, func() error { parked.Fatalf("%w", failure); return nil }); !errors.Is(err, failure) {
		t.Errorf("what is fatal became %v", err)
	}
	if err := Guarded(latch, func() error { t.Error("it runs after the failure"); return nil }); !errors.Is(err, failure) {
		t.Errorf("after the failure: %v", err)
	}
}

// A large value shares no block with the small ones before it: who looks for what is
// not there, next to them, does not have to read it.
func TestLargeValueHasABlockOfItsOwn(t *testing.T) {
	db, err := pebble.Open("index", options(vfs.NewMem(), logger{alone(t)}))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	large := make([]byte, 4<<20)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range large {
		large[i] = byte(rng.Uint32())
	}
	for key, value := range map[string][]byte{"c": large[:100], "j1": large[:100], "j2": large, "m": large[:100]} {
		if err := db.Set([]byte(key), value, pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := db.Compact(t.Context(), []byte("a"), []byte("z"), false); err != nil {
		t.Fatal(err)
	}
	for key, most := range map[string]uint64{"d": 64 << 10, "k": 64 << 10, "j1": 64 << 10, "j2": 8 << 20} {
		it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte(key), UpperBound: []byte(key + "\xff")})
		if err != nil {
			t.Fatal(err)
		}
		found := it.First()
		read := it.Stats().InternalStats.BlockBytes
		if err := it.Close(); err != nil {
			t.Fatal(err)
		}
		if want := key[0] == 'j'; found != want || read > most || want && read == 0 {
			t.Errorf("%s: found %v, and %d bytes of blocks were read; at most %d", key, found, read, most)
		}
	}
}
