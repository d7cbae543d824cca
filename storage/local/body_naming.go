package local

import "mailnode/storage/event"

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
