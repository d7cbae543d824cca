package local

import (
	"bytes"
	"encoding/binary"
	"slices"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// references counts which records name each body. All records are read once for each
// part of the GUIDs, so that memory is bounded. A count that is too low would have a
// body dropped that a message still needs; so where a record cannot be read, and may
// name any body (blind), no count goes down and no body is dropped.
func (r *recount) references() error {
	parts := min(1+r.total/recountMemory, 256)
	for i := range parts {
		if err := r.referencesIn(byte(i*256/parts), int((i+1)*256/parts)); err != nil {
			return err
		}
	}
	if r.blind {
		return nil
	}
	n, err := r.s.forgetUnnamed(r.step)
	if n > 0 {
		r.wrong("%d bodies had a place in the packs, and nothing names them", n)
	}
	return err
}

// countFix is a body whose count was wrong in the view.
type countFix struct {
	body   slot.BodyRef
	raw    []byte // as stored
	have   uint64
	unread bool
	truth  uint64
}

// referencesIn does it for GUIDs whose first byte is lo or above, and below hi.
func (r *recount) referencesIn(lo byte, hi int) error {
	var fixes []countFix
	var odd [][]byte
	if err := r.s.read(func(v *view) error {
		truth, err := r.named(v, lo, hi)
		if err != nil {
			return err
		}
		sp := event.Span{Lower: []byte{event.PrefixRefs, lo}, Upper: []byte{event.PrefixRefs + 1}}
		if hi < 256 {
			sp.Upper = []byte{event.PrefixRefs, byte(hi)}
		}
		if err := each(v, sp, func(k, value []byte) error {
			if len(k) != bodyKeyBytes {
				odd = append(odd, bytes.Clone(k))
				return nil
			}
			b := event.BodyOf(k)
			have, err := event.ParseRefs(b, value)
			unread := err != nil || len(value) == 0
			if unread || have != truth[b] {
				fixes = append(fixes, countFix{b, bytes.Clone(value), have, unread, truth[b]})
			}
			delete(truth, b)
			return r.spend(len(k) + len(value))
		}); err != nil {
			return err
		}
		for b, n := range truth { // what is left has no count at all
			fixes = append(fixes, countFix{body: b, truth: n})
		}
		return nil
	}); err != nil {
		return err
	}
	for chunk := range slices.Chunk(fixes, storage.MaxTxnRecords/2) {
		if err := r.fixCounts(chunk); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(odd, storage.MaxTxnRecords) {
		if err := r.step(func(t *txn) error {
			for _, k := range chunk {
				if err := t.b.Delete(k, nil); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
		r.wrong("%d counts of references that belong to no body", len(chunk))
	}
	return nil
}

// named counts the records that name each body.
func (r *recount) named(v *view, lo byte, hi int) (map[slot.BodyRef]uint64, error) {
	out := map[slot.BodyRef]uint64{}
	err := eachNaming(v, func(prefix byte, m *event.MessageRecord, valueBytes int, err error) error {
		if err != nil || m == nil {
			r.blind = true
		} else if b := m.Body(); b.GUID[0] >= lo && int(b.GUID[0]) < hi {
			out[b]++
		}
		if prefix != event.PrefixMessage {
			return nil
		}
		return r.spend(valueBytes)
	})
	return out, err
}

func (r *recount) fixCounts(fixes []countFix) error {
	var done []countFix
	if err := r.step(func(t *txn) error {
		done = done[:0]
		var counts []uint64
		for _, f := range fixes {
			raw, _, err := t.Get(event.RefsKey(f.body))
			if err != nil {
				return err
			}
			now, perr := event.ParseRefs(f.body, raw)
			n := now + f.truth - f.have
			switch unread := perr != nil || raw != nil && len(raw) == 0; {
			case unread && f.unread && bytes.Equal(raw, f.raw):
				n = f.truth // as in fixStats: no event has come since the view
			case unread || f.unread || int64(n) < 0:
				continue // something else has changed it: the next Recount will see
			case r.blind && f.truth < f.have:
				continue // a record that cannot be read may name it
			}
			done, counts = append(done, f), append(counts, n)
		}
		for i, f := range done {
			if err := r.setCount(t, f.body, counts[i]); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for _, f := range done {
		if f.unread {
			r.wrong("body %s: its count of references could not be read; %d messages name it", f.body, f.truth)
		} else {
			r.wrong("body %s: %d references were counted; %d messages name it", f.body, f.have, f.truth)
		}
	}
	return nil
}

// setCount writes a count. The place of a body that nothing names goes with it, as when
// an event takes the last reference away; an index without the count but with the place
// would keep its bytes in the packs for ever.
func (r *recount) setCount(t *txn, b slot.BodyRef, n uint64) error {
	if n > 0 {
		return t.b.Set(event.RefsKey(b), binary.AppendUvarint(nil, n), nil)
	}
	if !r.blind {
		if err := t.b.Delete(event.BodyKey(b), nil); err != nil {
			return err
		}
	}
	return t.b.Delete(event.RefsKey(b), nil)
}
