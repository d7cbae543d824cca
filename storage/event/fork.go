package event

import (
	"mailnode/storage"
	"mailnode/storage/slot"
)

// Newness is whether a message that a diverged copy has came in after the point up
// to which it shares its history with the master: what rescue brings back
// (LAWS §6.11).
type Newness int

const (
	// Old: it was there at the shared point. If the master lacks it, it was
	// deleted there.
	Old Newness = iota
	// New: no event that the master has ever saw it.
	New
	// Unknown: the records can't tell, because one of them was lost and rebuilt.
	// It is to be treated as new unless the master has the body: nothing accepted
	// vanishes in silence (law 7).
	Unknown
)

// String returns the name.
func (n Newness) String() string { return [...]string{"old", "new", "unknown"}[n] }

// Fork is where a diverged copy parted from the master's history.
type Fork struct {
	Shared  slot.Position     // the last event that both have
	Unclean slot.UncleanCount // the least that either history can count after it
}

// ForkOf returns the fork of a copy whose history parts after shared from that of
// the master with this record.
func ForkOf(master *SlotRecord, shared slot.Position) Fork {
	f := Fork{Shared: shared, Unclean: 1}
	for _, b := range master.Lineage {
		if slot.Epoch(b.Epoch) <= shared.Epoch() {
			f.Unclean = max(f.Unclean, slot.UncleanCount(b.Unclean)+1)
		}
	}
	return f
}

// Message reports whether msg, in mailbox aside of the diverged copy, is new since
// the fork. master is the master's record of that mailbox ID, nil when it has
// none; base is the MODSEQ base that the account has on the diverged copy.
func (f Fork) Message(master, aside *MailboxRecord, msg *MessageRecord, base uint64) Newness {
	switch {
	case base == 0 && slot.Position(msg.Modseq) <= f.Shared:
		return Old // also what changed last was before
	case master == nil && slot.Position(aside.Born) > f.Shared:
		return New // so is the mailbox
	case master == nil || !SameUIDs(master, aside):
		return Unknown
	}
	// One of the two histories began an unclean epoch at the fork and has noted
	// UIDNEXT; the other may have gone on without noticing, past that number.
	here, ok := BeganFrom(master, f.Unclean)
	there, too := BeganFrom(aside, f.Unclean)
	switch {
	case !ok || !too:
		return Unknown
	case storage.UID(msg.Uid) >= min(here, there):
		return New
	}
	return Old
}

// SameUIDs reports whether two records of one mailbox ID number the same series
// of messages, so that a UID below the fork is the same message in both. A record
// that was lost and rebuilt may have begun to count again.
func SameUIDs(a, b *MailboxRecord) bool { return a.Born == b.Born }

// BeganFrom returns the UIDNEXT from which the mailbox began the first unclean
// epoch with a count of x or more. known is false when the mailbox is younger.
func BeganFrom(m *MailboxRecord, x slot.UncleanCount) (began storage.UID, known bool) {
	at, began := ^uint32(0), storage.UID(m.Uidnext) // nothing came in since
	for _, k := range m.Marks {
		if k.Unclean >= uint32(x) {
			at, began = k.Unclean, storage.UID(k.Uidnext)
			break
		}
	}
	// A UIDVALIDITY that was given under UidBirth has left a mark at or before
	// it, unless it was the first one.
	if m.UidBirth >= uint32(x) && at > m.UidBirth {
		return 0, false
	}
	return began, true
}
