package local

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// migrate brings an older slot to formatVersion. It may be cut off at any point:
// the SLOT file says the new version only when everything is durable.
func (s *Slot) migrate() (string, error) {
	from := s.owner.Format
	if from >= formatVersion {
		return fmt.Sprint(from), nil
	}
	if err := s.countRefs(); err != nil {
		return "", fmt.Errorf("bring it from format %d to %d: %w", from, formatVersion, err)
	}
	if err := s.writeIdentity(s.o.FS.PathJoin(s.o.Dir, "SLOT"), s.owner.Copy); err != nil {
		return "", err
	}
	s.log.Info("slot format raised", "from", from, "to", formatVersion)
	return fmt.Sprintf("raised from %d to %d", from, formatVersion), nil
}

// refCounts counts the records that name each body.
func refCounts(r reader) (map[slot.BodyRef]uint64, error) {
	counts := map[slot.BodyRef]uint64{}
	err := eachNaming(r, func(_ byte, m *event.MessageRecord, _ int, err error) error {
		if m != nil {
			counts[m.Body()]++
		}
		return err
	})
	return counts, err
}

// countRefs writes the reference counts that format 1 did not have. What is there
// is of a migration that was cut off; an older release may have run since.
func (s *Slot) countRefs() error {
	counts, err := refCounts(dbReader{s.db})
	if err != nil {
		return err
	}
	b := s.db.NewBatch()
	defer func() { b.Close() }()
	old := event.SpanOf([]byte{event.PrefixRefs})
	if err := b.DeleteRange(old.Lower, old.Upper, nil); err != nil {
		return err
	}
	for ref, n := range counts {
		if err := b.Set(event.RefsKey(ref), binary.AppendUvarint(nil, n), nil); err != nil {
			return err
		}
		if b.Len() < groupBytesMax {
			continue
		}
		if err := s.guarded(func() error { return s.db.Apply(b, pebble.NoSync) }); err != nil {
			return err
		}
		b.Close()
		b = s.db.NewBatch()
	}
	return s.guarded(func() error { return s.db.Apply(b, pebble.Sync) })
}

// dbReader reads what is committed, durable or not: before the copy is open.
type dbReader struct{ db *pebble.DB }

func (r dbReader) Get(key []byte) ([]byte, bool, error) { return pebbleGet(r.db, key) }

func (r dbReader) iter(sp event.Span) (*pebble.Iterator, error) { return newIter(r.db, sp) }
