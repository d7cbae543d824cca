package event

import (
	"encoding/hex"
	goflag "flag"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"mailnode/storage"
)

func TestMain(m *testing.M) {
	goflag.Bool("rewrite", false, "make the golden files again")
	os.Exit(m.Run())
}

// everyChange has each kind of record, with a value in every field.
func everyChange() []*Change {
	msg := &MessageRecord{Account: 1, Mailbox: 2, Uid: 3, Modseq: 4, SystemFlags: 5, Keywords: []string{"$Forwarded", "k"}, InternalDateUnix: 6,
		Size: 7, Guid: []byte(strings.Repeat("g", 32)), BodyId: 8, SavedUnix: 9, Summary: []byte("summary")}
	return []*Change{
		{Record: &Change_Account{Account: &AccountRecord{Id: 1, Address: "u1@example.test", PasswordHash: "$argon2id$x", QuotaBytes: 2, CreatedUnix: 3,
			Disabled: true, ModseqBase: 4, UidvalidityOrigin: 5, UidvalidityBirth: 6, UidvalidityNext: 7, Deleted: true, Generation: 8}}},
		{Record: &Change_Address{Address: &AddressRecord{Address: "u1@example.test", Account: 1, Slot: 2, Generation: 3, Erased: true, UidvalidityNext: 4,
			UidvalidityOrigin: 5, UidvalidityBirth: 6}}},
		{Record: &Change_Mailbox{Mailbox: &MailboxRecord{Account: 1, Id: 2, Name: "INBOX", Uidvalidity: 3, Uidnext: 4, UidOrigin: 5, UidBirth: 6,
			Marks: []*UncleanMark{{Unclean: 7, Uidnext: 8}}, SpecialUse: "Sent", ExpungeFloorUid: 9, ExpungeFloorModseq: 10, Changed: 11, Deleted: true, DeletedClockMs: 12, Born: 13}}},
		{Record: &Change_Message{Message: msg}},
		{Record: &Change_Expunged{Expunged: &ExpungedRecord{Message: msg, SlotClockMs: 10}}},
		{Record: &Change_Subscription{Subscription: &SubscriptionRecord{Account: 1, Name: "INBOX", Removed: true}}},
		{Record: &Change_Slot{Slot: &SlotRecord{Lineage: []*Branch{{Epoch: 1, After: 2, Unclean: 3}}, Unclean: 3, ModseqFloor: 4, Losses: 5, LossesUnclean: 6}}},
	}
}

// The journal's encoding, and what digests are computed over, are the disk and
// wire format: they must not drift in silence.
func TestEventEncodingIsFixed(t *testing.T) {
	const golden = "testdata/event.hex"
	ev := &Event{Position: 1<<40 | 5, Previous: 1<<40 | 4, SlotClockMs: 6, Changes: everyChange(),
		Digests: []*MailboxDigest{{Account: 1, Mailbox: 2, Digest: Digest{Hi: 3, Lo: 4}.Bytes()}}}
	var out strings.Builder
	out.WriteString("event " + hex.EncodeToString(Encode(ev)) + "\n")
	out.WriteString("account " + DigestAccount(ev.Changes[0].GetAccount()).String() + "\n")
	out.WriteString("address " + DigestAddress(ev.Changes[1].GetAddress()).String() + "\n")
	live := proto.CloneOf(ev.Changes[2].GetMailbox())
	live.Deleted = false
	out.WriteString("mailbox " + DigestMailbox(live).String() + "\n")
	out.WriteString("message " + DigestMessage(ev.Changes[3].GetMessage()).String() + "\n")
	out.WriteString("subscription " + DigestSubscription(1, "INBOX").String() + "\n")
	if goflag.Lookup("rewrite").Value.String() == "true" {
		if err := os.WriteFile(golden, []byte(out.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	back, err := Decode(Encode(ev))
	if err != nil || !proto.Equal(back, ev) {
		t.Errorf("decoded: %v, %v", back, err)
	}
}

// Law 6: a flipped bit anywhere in a stored event is noticed.
func TestLaw06FlippedBitInEventIsNoticed(t *testing.T) {
	b := Encode(&Event{Position: 2, Previous: 1, Changes: everyChange()})
	for i := range b {
		b[i] ^= 1
		if _, err := Decode(b); err == nil {
			t.Fatalf("byte %d flipped and not noticed", i)
		}
		b[i] ^= 1
	}
}

// Keys sort as the store walks them, and can be read again.
func TestKeysGiveBackWhatTheyName(t *testing.T) {
	ref := storage.Ref{Account: 0xfedcba9876543210, Mailbox: 7}
	if got := RefOf(MessageKey(ref, 9)); got != ref {
		t.Errorf("got %v", got)
	}
	if got := UIDOf(ChangedKey(ref, 5, 9)); got != 9 {
		t.Errorf("got UID %d", got)
	}
	if got := PositionOf(JournalKey(1<<40 | 3)); got != 1<<40|3 {
		t.Errorf("got %s", got)
	}
}
