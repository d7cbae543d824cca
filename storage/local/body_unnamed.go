package local

import (
	"bytes"
	"context"

	"mailnode/storage"
	"mailnode/storage/event"
)

// settleBodies makes what a state transfer brought and the bodies that were here
// before fit each other, while the copy is still a building one.
func (s *Slot) settleBodies(ctx context.Context) error {
	step := func(fn func(t *txn) error) error { return s.do(ctx, fn) }
	_, err := s.forgetUnnamed(step)
	return err
}

// forgetUnnamed forgets where those bodies lie that nothing names: their bytes in
// the packs are dead, and else would stay for ever. It gives their number.
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

// unnamedIn gives the first keys of a span of places whose body has no count of
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

// eachNaming calls fn for every record that names a body: messages, tombstones,
// and notes of missing messages, in this order; prefix says which. m is nil when
// the record is empty; err is that of one that cannot be read.
func eachNaming(r reader, fn func(prefix byte, m *event.MessageRecord, valueBytes int, err error) error) error {
	decode := map[byte]func(value []byte) (*event.MessageRecord, error){
		event.PrefixMessage: func(value []byte) (*event.MessageRecord, error) {
			m := &event.MessageRecord{}
			return m, unmarshal(value, m)
		},
		event.PrefixExpunged: func(value []byte) (*event.MessageRecord, error) {
			x := &event.ExpungedRecord{}
			err := unmarshal(value, x)
			return x.Message, err
		},
		event.PrefixMissing: func(value []byte) (*event.MessageRecord, error) {
			x := &event.MissingRecord{}
			err := unmarshal(value, x)
			return x.Message, err
		},
	}
	for _, prefix := range []byte{event.PrefixMessage, event.PrefixExpunged, event.PrefixMissing} {
		if err := each(r, event.SpanOf([]byte{prefix}), func(_, value []byte) error {
			m, err := decode[prefix](value)
			return fn(prefix, m, len(value), err)
		}); err != nil {
			return err
		}
	}
	return nil
}
