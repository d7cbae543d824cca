package local

import (
	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage/event"
)

// sink is a new index while it is being filled: what was written can be read, and
// is durable after flush(pebble.Sync).
type sink struct {
	s *Slot
	b *pebble.Batch
}

var _ reader = (*sink)(nil)

func newSink(s *Slot) *sink { return &sink{s: s, b: s.db.NewIndexedBatch()} }

func (k *sink) Get(key []byte) ([]byte, bool, error) { return pebbleGet(k.b, key) }

// iter sees what was written before it was made.
func (k *sink) iter(sp event.Span) (*pebble.Iterator, error) { return newIter(k.b, sp) }

func (k *sink) met(error) {}

func (k *sink) touch(int) {}

func (k *sink) ended() error { return nil }

func (k *sink) Set(key, value []byte) error { return k.b.Set(key, value, nil) }

func (k *sink) Delete(key []byte) error { return k.b.Delete(key, nil) }

// room writes out what has gathered. No iterator may be open.
func (k *sink) room() error {
	if k.b.Len() < groupBytesMax {
		return nil
	}
	return k.flush(pebble.NoSync)
}

func (k *sink) flush(how *pebble.WriteOptions) error {
	if k.b.Empty() && how == pebble.Sync {
		// An empty batch would sync nothing of those before it.
		if err := k.b.LogData(nil, nil); err != nil {
			return err
		}
	}
	if err := k.s.guarded(func() error { return k.s.db.Apply(k.b, how) }); err != nil {
		return err
	}
	k.b.Close()
	k.b = k.s.db.NewIndexedBatch()
	return nil
}

func (k *sink) close() {
	if k.s.Failure() == nil {
		k.b.Close()
	}
}
