package local

import (
	"bytes"
	"context"

	"mailnode/storage"
	"mailnode/storage/event"
)

// settleBodies forgets the bodies that were here before a state transfer and that the
// new state does not name, while the copy is still building.
func (s *Slot) settleBodies(ctx context.Context) error {
	step := func(fn func(t *txn) error) error { return s.do(ctx, fn) }
	_, err := s.forgetUnnamed(step)
	return err
}

// forgetUnnamed forgets the places of bodies that nothing names, and returns how many
// there were. Their bytes in the packs are dead from then on; else compaction would
// keep them for ever.
func (s *Slot) forgetUnnamed(step func(func(t *txn) error) error) (forgotten int, err error) {
	for sp := event.SpanOf([]byte{event.PrefixBody}); ; {
		keys, err := s.unnamedIn(sp)
		if err != nil || len(keys) == 0 {
			return forgotten, err
		}
		if err := step(func(t *txn) error {
			for _, k := range keys {
				if _, named, err := t.Get(event.RefsKey(event.BodyOf(k))); err != nil {
					return err
				} else if named {
					continue
				}
				if err := t.b.Delete(k, nil); err != nil {
					return err
				}
				forgotten++
			}
			return nil
		}); err != nil {
			return forgotten, err
		}
		sp.Lower = append(keys[len(keys)-1], 0)
	}
}

// unnamedIn returns the first keys of a span of places whose body has no count of
// references: both kinds of records are in the order of the same keys.
func (s *Slot) unnamedIn(sp event.Span) (keys [][]byte, err error) {
	err = s.read(func(v *view) error {
		refs := event.SpanOf([]byte{event.PrefixRefs})
		it, err := v.iter(refs)
		if err != nil {
			return err
		}
		defer it.Close()
		more := it.SeekGE(append([]byte{event.PrefixRefs}, sp.Lower[1:]...))
		if err := stopEarly(each(v, sp, func(k, _ []byte) error {
			for more && bytes.Compare(it.Key()[1:], k[1:]) < 0 {
				more = it.Next()
			}
			if more && bytes.Equal(it.Key()[1:], k[1:]) || len(k) != bodyKeyBytes {
				return nil
			}
			if err := it.Error(); err != nil { // it has not ended: it cannot be read
				return readError(err)
			}
			if keys = append(keys, bytes.Clone(k)); len(keys) == storage.MaxTxnRecords {
				return errEnough
			}
			return nil
		})); err != nil {
			return err
		}
		if err := it.Error(); err != nil {
			return readError(err)
		}
		return nil
	})
	return keys, err
}
