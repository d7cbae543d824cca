package blob

import (
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// A Sync with nothing new since the last one costs nothing; one with something
// new always reaches the disk, also beside another Sync.
func TestSyncDoesNothingTwice(t *testing.T) {
	var syncs atomic.Int64
	entered, hold := make(chan struct{}, 1), make(chan struct{})
	var slow atomic.Bool
	count := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSyncData {
			syncs.Add(1)
			if slow.CompareAndSwap(true, false) {
				entered <- struct{}{}
				<-hold
			}
		}
		return nil
	})
	s := open(t, errorfs.Wrap(newFS(t), count), 0)
	defer s.Close()
	sync := func(want int64) {
		t.Helper()
		if err := s.Sync(); err != nil || syncs.Load() != want {
			t.Fatalf("%d syncs, want %d (%v)", syncs.Load(), want, err)
		}
	}
	sync(0)
	put(t, s, []byte("one"), 1)
	sync(1)
	sync(1)
	put(t, s, []byte("two"), 2)
	slow.Store(true)
	first := make(chan error, 1)
	go func() { first <- s.Sync() }()
	<-entered
	// This body came while a sync was under way, which may not have it.
	put(t, s, []byte("three"), 3)
	second := make(chan error, 1)
	go func() { second <- s.Sync() }()
	if len(second) > 0 {
		t.Error("a sync overtook the one before it")
	}
	close(hold)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	sync(3)
}
