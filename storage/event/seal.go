package event

import (
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"mailnode/storage"
)

// An event whose place in the journal is settled last is encoded in two parts:
// its place, and the rest. Together they are what Encode makes of it.

// EncodePlace returns the first part: position, previous position and slot clock.
func EncodePlace(ev *Event) []byte {
	return Marshal(&Event{Position: ev.Position, Previous: ev.Previous, SlotClockMs: ev.SlotClockMs})
}

// EncodeRest returns the second part: changes and digests.
func EncodeRest(ev *Event) []byte {
	return Marshal(&Event{Changes: ev.Changes, Digests: ev.Digests})
}

// SealedBytes is how many bytes the journal's form of the two parts has.
func SealedBytes(place, rest []byte) int { return 4 + len(place) + len(rest) }

// Seal writes the journal's form into a slice of SealedBytes.
func Seal(into, place, rest []byte) {
	copy(into[4:], place)
	copy(into[4+len(place):], rest)
	be.PutUint32(into, Checksum(into[4:]))
}

// ClockOf reads the slot clock from the journal's form of an event, without the rest
// of it and without proving it; ok is false when there is none to be read.
func ClockOf(raw []byte) (clockMs uint64, ok bool) {
	if len(raw) < 4 {
		return 0, false
	}
	for b := raw[4:]; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || num > fieldClock {
			return 0, num == fieldClock+1 // an event at 0 ms has no such field
		}
		b = b[n:]
		if num == fieldClock && typ == protowire.VarintType {
			clockMs, n = protowire.ConsumeVarint(b)
			return clockMs, n >= 0
		}
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return 0, false
		}
		b = b[n:]
	}
	return 0, true
}

// fieldClock is the number of Event.slot_clock_ms; changes have the next one.
const fieldClock = 3

// AccountOf returns the account of a key of the slot's state, and whether it has one.
func AccountOf(key []byte) (storage.AccountID, bool) {
	if len(key) < 9 || !slices.Contains([]byte{PrefixAccount, PrefixMailbox, PrefixName, PrefixSubscription, PrefixMessage, PrefixSummary,
		PrefixExpunged, PrefixChanged, PrefixStats, PrefixUsage, PrefixMissing}, key[0]) {
		return 0, false
	}
	return storage.AccountID(be.Uint64(key[1:])), true
}

// Accounts lists the accounts whose records an event changes, each once.
func (ev *Event) Accounts() []storage.AccountID {
	var out []storage.AccountID
	add := func(id uint64) {
		if n := len(out); n > 0 && out[n-1] == storage.AccountID(id) || slices.Contains(out, storage.AccountID(id)) {
			return
		}
		out = append(out, storage.AccountID(id))
	}
	for _, c := range ev.Changes {
		switch rec := c.Record.(type) {
		case *Change_Account:
			add(rec.Account.Id)
		case *Change_Mailbox:
			add(rec.Mailbox.Account)
		case *Change_Message:
			add(rec.Message.Account)
		case *Change_Expunged:
			add(rec.Expunged.GetMessage().GetAccount())
		case *Change_Subscription:
			add(rec.Subscription.Account)
		case *Change_Freed:
			add(rec.Freed.Account)
		case *Change_Missing:
			add(rec.Missing.GetMessage().GetAccount())
		}
	}
	return out
}
