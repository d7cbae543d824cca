package event

import (
	"mailnode/storage"
	"mailnode/storage/slot"
)

// Law 2: two histories of a slot can never give out the same number, whichever
// copy is promoted, because each unclean count has ranges of its own: 2^22 UIDs
// in each mailbox, 2^16 UIDVALIDITYs in each account. These functions are the
// only place where either is given out.

// UIDValidityRange is how many UIDVALIDITYs an account has for each unclean count.
const UIDValidityRange = 1 << 16

const (
	uidRange         = 1 << 22
	uidValidityRange = UIDValidityRange
	// maxNumber keeps a whole range below 2^32-1, which no UID may reach
	// (RFC 3501, section 9: nz-number).
	maxNumber = 1<<32 - 1
)

func rangeOf(origin, birth uint32, x slot.UncleanCount, size uint64) (lo, hi uint64) {
	lo = uint64(origin)
	if uint32(x) > birth {
		lo += uint64(uint32(x)-birth) * size
	}
	return lo, lo + size
}

// UIDNext gives the UIDNEXT that clients see under unclean count x.
func UIDNext(m *MailboxRecord, x slot.UncleanCount) storage.UID {
	lo, _ := rangeOf(m.UidOrigin, m.UidBirth, x, uidRange)
	return storage.UID(min(max(uint64(m.Uidnext), lo), maxNumber))
}

// TakeUIDs moves m.Uidnext past n UIDs and gives the first of them. ok is false
// when the range has no room: the mailbox then needs NewUIDValidity.
func TakeUIDs(m *MailboxRecord, x slot.UncleanCount, n int) (first storage.UID, ok bool) {
	lo, hi := rangeOf(m.UidOrigin, m.UidBirth, x, uidRange)
	next := max(uint64(m.Uidnext), lo)
	if next+uint64(n) > hi || hi > maxNumber {
		return 0, false
	}
	if last := len(m.Marks) - 1; uint32(x) > m.UidBirth && (last < 0 || m.Marks[last].Unclean < uint32(x)) {
		m.Marks = append(m.Marks, &UncleanMark{Unclean: uint32(x), Uidnext: m.Uidnext})
	}
	m.Uidnext = uint32(next + uint64(n))
	return storage.UID(next), true
}

// BeganFrom gives the UIDNEXT from which the mailbox began the epoch in which
// the slot's unclean count became x: messages at or above it, on a copy that
// was left behind, were never seen by that epoch's master.
func BeganFrom(m *MailboxRecord, x slot.UncleanCount) storage.UID {
	for _, k := range m.Marks {
		if k.Unclean >= uint32(x) {
			return storage.UID(k.Uidnext)
		}
	}
	return storage.UID(m.Uidnext)
}

// NewUIDValidity gives m a UIDVALIDITY that the account has never given out and
// a fresh UID range. UIDs that the mailbox has are kept. ok is false when the
// UIDVALIDITY range, or the UIDs themselves, are used up.
func NewUIDValidity(a *AccountRecord, m *MailboxRecord, x slot.UncleanCount) (ok bool) {
	lo, hi := rangeOf(a.UidvalidityOrigin, a.UidvalidityBirth, x, uidValidityRange)
	next := max(uint64(a.UidvalidityNext), lo)
	if next >= hi || next > maxNumber || uint64(m.Uidnext)+uidRange > maxNumber {
		return false
	}
	a.UidvalidityNext = uint32(next + 1)
	m.Uidvalidity = uint32(next)
	m.Uidnext = max(m.Uidnext, 1)
	m.UidOrigin, m.UidBirth, m.Marks = m.Uidnext, uint32(x), nil
	return true
}
