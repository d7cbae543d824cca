package event

import (
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/proto"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// Head is a copy's place in its slot's history.
type Head struct {
	Position  slot.Position
	Lineage   slot.Lineage
	Unclean   slot.UncleanCount
	ClockMs   uint64        // slot clock, milliseconds
	Births    uint64        // messages that came in, over the slot's history
	Bytes     uint64        // and their bytes
	Building  bool          // Position counts for nothing
	KeptAfter slot.Position // the journal holds every event after this one
}

// Record is one record of a slot's state, as the index has it.
type Record struct{ Key, Value []byte }

// Load reads a record; found reports whether there was one.
func Load(r interface {
	Get(key []byte) ([]byte, bool, error)
}, key []byte, into proto.Message) (found bool, err error) {
	v, found, err := r.Get(key)
	if err != nil || !found {
		return false, err
	}
	if err := proto.Unmarshal(v, into); err != nil {
		return false, storage.Errorf(storage.ErrCorrupt, "read record %q: %w", key, err)
	}
	return true, nil
}

// Store writes a record.
func Store(r Records, key []byte, m proto.Message) { r.Set(key, Marshal(m)) }

// Marshal encodes a record or an event. It panics only on invalid UTF-8, which
// the Store's door refuses.
func Marshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", m, err))
	}
	return b
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC-32C of law 6.
func Checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// Encode returns the journal's form of an event: CRC-32C, then protobuf.
func Encode(ev *Event) []byte {
	b := Marshal(ev)
	return append(be.AppendUint32(make([]byte, 0, 4+len(b)), Checksum(b)), b...)
}

// BytesMax bounds one event in the journal's form: a COPY of 100,000 messages has
// a few hundred MiB at most, and more than this is not to be held in memory
// several times over on every copy (law 9).
const BytesMax = 512 << 20

// Decode reads the journal's form; damage is storage.ErrCorrupt.
func Decode(b []byte) (*Event, error) {
	if len(b) < 4 || be.Uint32(b) != Checksum(b[4:]) {
		return nil, storage.Errorf(storage.ErrCorrupt, "read event: checksum does not match")
	}
	ev := &Event{}
	if err := proto.Unmarshal(b[4:], ev); err != nil {
		return nil, storage.Errorf(storage.ErrCorrupt, "read event: %w", err)
	}
	return ev, nil
}

// Ref names the mailbox.
func (m *MailboxRecord) Ref() storage.Ref {
	return storage.Ref{Account: storage.AccountID(m.Account), Mailbox: storage.MailboxID(m.Id)}
}

// Ref names the mailbox that the message is in.
func (m *MessageRecord) Ref() storage.Ref {
	return storage.Ref{Account: storage.AccountID(m.Account), Mailbox: storage.MailboxID(m.Mailbox)}
}

// Body names the message's body.
func (m *MessageRecord) Body() slot.BodyRef {
	r := slot.BodyRef{ID: slot.BodyID(m.BodyId)}
	copy(r.GUID[:], m.Guid)
	return r
}

// FlagSet returns the flags.
func (m *MessageRecord) FlagSet() storage.Flags {
	return storage.Flags{System: storage.SystemFlags(m.SystemFlags), Keywords: m.Keywords}
}

// Message returns the record as clients see it; modseqs below floor show as floor.
func (m *MessageRecord) Message(floor storage.ModSeq) storage.Message {
	l := m.Listed()
	return l.Message(floor)
}

// SlotLineage returns the lineage.
func (s *SlotRecord) SlotLineage() slot.Lineage {
	l := make(slot.Lineage, 0, len(s.Lineage))
	for _, b := range s.Lineage {
		l = append(l, slot.Branch{Epoch: slot.Epoch(b.Epoch), After: slot.Position(b.After)})
	}
	return l
}

// Bodies lists the bodies that an event's live messages need, each once.
func (ev *Event) Bodies() []slot.BodyRef {
	var out []slot.BodyRef
	for _, c := range ev.Changes {
		if m := c.GetMessage(); m != nil {
			if b := m.Body(); len(out) == 0 || out[len(out)-1] != b {
				out = append(out, b)
			}
		}
	}
	return out
}
