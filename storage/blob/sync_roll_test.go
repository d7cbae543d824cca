package blob

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"mailnode/storage/slot"
)

// slowBody is a body that comes when it may.
type slowBody struct {
	*bytes.Reader
	asked chan struct{}
	may   chan struct{}
}

func (b slowBody) ReadAt(p []byte, off int64) (int, error) {
	b.asked <- struct{}{}
	<-b.may
	return b.Reader.ReadAt(p, off)
}

// A pack that fills up while a Sync runs must not take the place of one that the
// Sync has yet to reach.
func TestLaw01SyncBesideRollReachesEveryPack(t *testing.T) {
	fs := newFS(t)
	began, hold := make(chan struct{}), make(chan struct{})
	armed := make(chan struct{}, 1)
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSyncData {
			select {
			case <-armed:
				close(began)
				<-hold
			default:
			}
		}
		return nil
	})
	s := open(t, errorfs.Wrap(fs, inject), 1000)
	defer s.Close()
	body := func(n byte) []byte { return bytes.Repeat([]byte{'a' + n}, 700) }
	// Three full packs that are still written to, and behind them a full one that
	// is whole, and the newest.
	may := make(chan struct{})
	var puts sync.WaitGroup
	defer puts.Wait()
	defer close(may)
	for i := range 3 {
		b := slowBody{bytes.NewReader(body(byte(i))), make(chan struct{}, 1), may}
		ref := slot.BodyRef{GUID: slot.SumGUID(body(byte(i))), ID: slot.BodyID(i)}
		puts.Go(func() { s.Put(ref, &BirthNote{}, b, 700) })
		<-b.asked
	}
	ref, loc := put(t, s, body(3), 3)
	put(t, s, body(4), 4)
	armed <- struct{}{}
	done := make(chan error, 1)
	go func() { done <- s.Sync() }()
	<-began
	put(t, s, body(5), 5)
	close(hold)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	after := open(t, fs.CrashClone(vfs.CrashCloneCfg{RNG: rand.New(rand.NewPCG(1, 1))}), 1000)
	defer after.Close()
	b, err := after.Open(ref, loc)
	if err != nil {
		t.Fatalf("a body that was synced is lost with the power: %v", err)
	}
	b.Close()
}
