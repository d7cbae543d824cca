package event

import (
	"bytes"
	"maps"
	"testing"

	"google.golang.org/protobuf/proto"
)

// kept is an index in memory.
type kept map[string][]byte

func (k kept) Get(key []byte) ([]byte, bool, error) { v, ok := k[string(key)]; return v, ok, nil }
func (k kept) Set(key, value []byte)                { k[string(key)] = bytes.Clone(value) }
func (k kept) Delete(key []byte)                    { delete(k, string(key)) }

// An event that forgets a mailbox in two changes is the same when it is applied
// again, as it is after a crash between a replica's commit and its acknowledgement.
func TestFreedAgainChangesNothing(t *testing.T) {
	box := &MailboxRecord{Account: 1, Id: 2, Name: "INBOX", Uidvalidity: 3, Uidnext: 5, Deleted: true}
	born := func(uid uint32) *Change {
		return &Change{Record: &Change_Message{Message: &MessageRecord{Account: 1, Mailbox: 2, Uid: uid, Modseq: 4, Size: 7, BodyId: 8}}}
	}
	freed := func(x *FreedRecord) *Change { return &Change{Record: &Change_Freed{Freed: x}} }
	r := kept{}
	for _, ev := range []*Event{
		{Position: 1<<40 | 1, Changes: []*Change{{Record: &Change_Mailbox{Mailbox: box}}, born(1), born(2)}},
		{Position: 1<<40 | 2, Previous: 1<<40 | 1, Changes: []*Change{freed(&FreedRecord{Account: 1, Mailbox: 2, Uids: []uint32{1}}),
			freed(&FreedRecord{Account: 1, Mailbox: 2, Uids: []uint32{2}, Whole: true})}},
	} {
		for again := range 2 {
			before := maps.Clone(r)
			if err := Apply(r, ev); err != nil {
				t.Fatalf("event %d, time %d: %v", ev.Position, again+1, err)
			}
			if again == 1 && !maps.EqualFunc(before, r, bytes.Equal) {
				t.Errorf("event %d applied again is %q, first %q", ev.Position, r, before)
			}
			ev = proto.CloneOf(ev)
		}
	}
	if _, left := r[string(MailboxKey(box.Ref()))]; left {
		t.Error("the mailbox is still there")
	}
}
