package event

import (
	"encoding/binary"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// The first byte of a key says what it holds. Records of the upper block are
// the slot's state, the same on every copy; those of the lower block belong to
// this copy alone. These bytes are the disk format.
const (
	PrefixAccount      = 'A' // account ID
	PrefixAddress      = 'a' // address
	PrefixMailbox      = 'M' // account, mailbox
	PrefixName         = 'N' // account, name -> mailbox ID (derived)
	PrefixSubscription = 'S' // account, name
	PrefixMessage      = 'm' // account, mailbox, UID
	PrefixSummary      = 'e' // account, mailbox, UID -> storage/mime
	PrefixExpunged     = 't' // account, mailbox, UID
	PrefixChanged      = 'c' // account, mailbox, MODSEQ, UID -> nothing (derived)
	PrefixStats        = 'D' // account, mailbox -> MailboxStats (derived)
	PrefixUsage        = 'U' // account -> AccountStats (derived)
	PrefixSlot         = 's' // SlotRecord and HeadRecord
	PrefixRefs         = 'r' // GUID, body ID -> how many messages, tombstones and MissingRecords name the body (derived)
	PrefixMissing      = 'x' // account, mailbox, UID -> MissingRecord

	PrefixJournal = 'j' // position -> CRC-32C, event
	PrefixBody    = 'b' // GUID, body ID -> where it lies in the packs
	PrefixLocal   = 'l' // what this copy knows of itself
)

// StatePrefixes lists the prefixes that make a slot's state, in key order; a
// state transfer carries exactly these.
func StatePrefixes() []byte {
	return []byte{PrefixAccount, PrefixStats, PrefixMailbox, PrefixName, PrefixSubscription, PrefixUsage,
		PrefixAddress, PrefixChanged, PrefixSummary, PrefixMessage, PrefixRefs, PrefixSlot, PrefixExpunged, PrefixMissing}
}

var be = binary.BigEndian

// Span is a range of keys: Lower <= key < Upper.
type Span struct{ Lower, Upper []byte }

// SpanOf returns all keys that start with prefix.
func SpanOf(prefix []byte) Span {
	upper := append([]byte(nil), prefix...)
	for i := len(upper) - 1; i >= 0; i-- {
		if upper[i]++; upper[i] != 0 {
			return Span{prefix, upper[:i+1]}
		}
	}
	return Span{prefix, nil}
}

// AccountKey is where an AccountRecord lies.
func AccountKey(a storage.AccountID) []byte {
	return be.AppendUint64([]byte{PrefixAccount}, uint64(a))
}

// UsageKey is where an account's AccountStats lies.
func UsageKey(a storage.AccountID) []byte { return be.AppendUint64([]byte{PrefixUsage}, uint64(a)) }

// AddressKey is where an AddressRecord lies.
func AddressKey(a slot.Address) []byte { return append([]byte{PrefixAddress}, a...) }

func refKey(prefix byte, r storage.Ref, room int) []byte {
	k := make([]byte, 0, 17+room)
	k = append(k, prefix)
	k = be.AppendUint64(k, uint64(r.Account))
	return be.AppendUint64(k, uint64(r.Mailbox))
}

// MailboxKey is where a MailboxRecord lies.
func MailboxKey(r storage.Ref) []byte { return refKey(PrefixMailbox, r, 0) }

// MailboxesOf is the span of an account's MailboxRecords.
func MailboxesOf(a storage.AccountID) Span {
	return SpanOf(be.AppendUint64([]byte{PrefixMailbox}, uint64(a)))
}

// StatsKey is where a mailbox's MailboxStats lies.
func StatsKey(r storage.Ref) []byte { return refKey(PrefixStats, r, 0) }

// NameKey is where the ID of the mailbox with that name lies (8 bytes).
func NameKey(a storage.AccountID, name string) []byte {
	return append(be.AppendUint64([]byte{PrefixName}, uint64(a)), name...)
}

// NamesOf is the span of the names that start so.
func NamesOf(a storage.AccountID, prefix string) Span { return SpanOf(NameKey(a, prefix)) }

// SubscriptionKey says by being there that a name is subscribed.
func SubscriptionKey(a storage.AccountID, name string) []byte {
	return append(be.AppendUint64([]byte{PrefixSubscription}, uint64(a)), name...)
}

// SubscriptionsOf is the span of an account's subscriptions.
func SubscriptionsOf(a storage.AccountID) Span { return SubscriptionsWith(a, "") }

// SubscriptionsWith is the span of the subscribed names that start so.
func SubscriptionsWith(a storage.AccountID, prefix string) Span {
	return SpanOf(SubscriptionKey(a, prefix))
}

// NameOffset is where the name begins in the keys of names and subscriptions.
const NameOffset = 1 + 8

// MessageKey is where a MessageRecord lies.
func MessageKey(r storage.Ref, u storage.UID) []byte {
	return be.AppendUint32(refKey(PrefixMessage, r, 4), uint32(u))
}

// SummaryKey is where a message's summary lies.
func SummaryKey(r storage.Ref, u storage.UID) []byte {
	return be.AppendUint32(refKey(PrefixSummary, r, 4), uint32(u))
}

// ExpungedKey is where an ExpungedRecord lies.
func ExpungedKey(r storage.Ref, u storage.UID) []byte {
	return be.AppendUint32(refKey(PrefixExpunged, r, 4), uint32(u))
}

// MessagesIn is the span of the MessageRecords with lo <= UID <= hi.
func MessagesIn(r storage.Ref, lo, hi storage.UID) Span {
	return Span{MessageKey(r, lo), append(MessageKey(r, hi), 0)}
}

// SummariesIn is the span of the summaries with lo <= UID <= hi.
func SummariesIn(r storage.Ref, lo, hi storage.UID) Span {
	return Span{SummaryKey(r, lo), append(SummaryKey(r, hi), 0)}
}

// ExpungedIn is the span of a mailbox's ExpungedRecords.
func ExpungedIn(r storage.Ref) Span { return SpanOf(refKey(PrefixExpunged, r, 0)) }

// ChangedKey says by being there that a message last changed at a MODSEQ.
func ChangedKey(r storage.Ref, m storage.ModSeq, u storage.UID) []byte {
	return be.AppendUint32(be.AppendUint64(refKey(PrefixChanged, r, 12), uint64(m)), uint32(u))
}

// ChangedSince is the span of the changes above a MODSEQ.
func ChangedSince(r storage.Ref, m storage.ModSeq) Span {
	return Span{ChangedKey(r, m+1, 0), SpanOf(refKey(PrefixChanged, r, 0)).Upper}
}

// UIDOf reads the UID at the end of a message, summary, expunged or changed key.
func UIDOf(key []byte) storage.UID { return storage.UID(be.Uint32(key[len(key)-4:])) }

// RefOf reads the account and mailbox of a key of refKey's form.
func RefOf(key []byte) storage.Ref {
	return storage.Ref{Account: storage.AccountID(be.Uint64(key[1:])), Mailbox: storage.MailboxID(be.Uint64(key[9:]))}
}

// JournalKey is where the event at a position lies.
func JournalKey(p slot.Position) []byte { return be.AppendUint64([]byte{PrefixJournal}, uint64(p)) }

// PositionOf reads the position of a journal key.
func PositionOf(key []byte) slot.Position { return slot.Position(be.Uint64(key[1:])) }

// MissingKey is where a MissingRecord lies.
func MissingKey(r storage.Ref, u storage.UID) []byte {
	return be.AppendUint32(refKey(PrefixMissing, r, 4), uint32(u))
}

// BodyKey is where a body's place in the packs lies.
func BodyKey(b slot.BodyRef) []byte { return bodyKey(PrefixBody, b) }

// RefsKey is where the count of a body's references lies (a uvarint above 0).
func RefsKey(b slot.BodyRef) []byte { return bodyKey(PrefixRefs, b) }

func bodyKey(prefix byte, b slot.BodyRef) []byte {
	k := append(make([]byte, 0, 41), prefix)
	k = append(k, b.GUID[:]...)
	return be.AppendUint64(k, uint64(b.ID))
}

// BodyOf reads the body of a BodyKey or a RefsKey.
func BodyOf(key []byte) slot.BodyRef {
	var b slot.BodyRef
	copy(b.GUID[:], key[1:])
	b.ID = slot.BodyID(be.Uint64(key[1+len(b.GUID):]))
	return b
}

// SlotKey is where the SlotRecord lies.
func SlotKey() []byte { return []byte{PrefixSlot, 'r'} }

// HeadKey is where the HeadRecord lies.
func HeadKey() []byte { return []byte{PrefixSlot, 'h'} }
