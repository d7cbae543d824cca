package index

import (
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// A large value shares no block with the small ones before it: who looks for what is
// not there, next to them, does not have to read it.
func TestLargeValueHasABlockOfItsOwn(t *testing.T) {
	db, err := pebble.Open("index", Options(vfs.NewMem(), quietLogger{}))
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
