package event

import (
	"crypto/sha256"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// Law 2: two histories of a slot can never give out the same number, whichever
// copy is promoted, because each unclean count has ranges of its own: 2^22 UIDs
// in each mailbox, 2^18 UIDVALIDITYs for each address. These functions are the
// only place where either is given out.
//
// A range is only of its own when both histories count from the same origin. So
// the counter of UIDVALIDITYs belongs to the address and not to the account: its
// origin is made of nothing that two histories could see differently, no clock
// (law 11) and no number that one of them has remembered, and whoever gets the
// address after an erase goes on with the counter that was there.

const (
	uidRange = 1 << 22
	// uidValidityRange is so wide that its first half, which is for everyday life,
	// has one for each of storage.MaxMailboxes, and some for those that are deleted.
	uidValidityRange = 1 << 18
	// maxNumber keeps a whole range below 2^32-1, which no UID may reach
	// (RFC 3501, section 9: nz-number).
	maxNumber = 1<<32 - 1

	// seedMin is above the UIDVALIDITYs of other servers, most of which are times
	// (2^31 s is in 2038), so that what is given out later is greater (RFC 9051,
	// section 2.3.1.1). It leaves 6,144 unclean epochs or more.
	seedMin   = 1 << 31
	seeds     = 1 << 13
	seedsStep = 1 << 16

	// leapsMax is how often memory may be lost under one unclean count until only
	// what is left of it says where an account's UIDVALIDITYs go on.
	leapsMax = 8
)

func rangeOf(origin, birth uint32, x slot.UncleanCount, size uint64) (lo, hi uint64) {
	lo = uint64(origin)
	if uint32(x) > birth {
		lo += uint64(uint32(x)-birth) * size
	}
	return lo, lo + size
}

// uidValiditySeed is where the counter of an address begins under unclean count
// 0, the same on every copy and in every history of a cluster. Another cluster
// most likely begins elsewhere: clients may have seen its numbers.
func uidValiditySeed(clusterID string, a slot.Address) uint64 {
	h := sha256.Sum256([]byte("uidvalidity\x00" + clusterID + "\x00" + string(a)))
	return seedMin + uint64(be.Uint16(h[:])%seeds)*seedsStep
}

// SeedUIDValidity sets the counter of a new account to that of its address: the
// one that old, the address's record, remembers, or a first one; old may be empty. losses
// is how often under x such memory may have been lost (see LossesUnder). ok is
// false when the address has no UIDVALIDITY left.
func SeedUIDValidity(a *AccountRecord, old *AddressRecord, clusterID string, x slot.UncleanCount, losses int) (ok bool) {
	if old.UidvalidityOrigin != 0 {
		a.UidvalidityOrigin, a.UidvalidityBirth, a.UidvalidityNext = old.UidvalidityOrigin, old.UidvalidityBirth, old.UidvalidityNext
	} else if !originate(a, uidValiditySeed(clusterID, slot.Address(a.Address)), x) {
		return false
	}
	return losses == 0 || LeapUIDValidity(a, clusterID, x, 0, losses)
}

// LossesUnder returns how often records of addresses may have been lost under x.
func (s *SlotRecord) LossesUnder(x slot.UncleanCount) int {
	if s.LossesUnclean != uint32(x) {
		return 0
	}
	return int(s.Losses)
}

func originate(a *AccountRecord, base uint64, x slot.UncleanCount) (ok bool) {
	origin := base + uint64(x)*uidValidityRange
	if origin+uidValidityRange > maxNumber {
		return false
	}
	a.UidvalidityOrigin, a.UidvalidityBirth, a.UidvalidityNext = uint32(origin), uint32(x), uint32(origin)
	return true
}

// EraseAddress notes in the address's record that a, whose it was, has lost it,
// and with it the counter of UIDVALIDITYs.
func EraseAddress(rec *AddressRecord, a *AccountRecord) {
	rec.Erased = true
	rec.UidvalidityOrigin, rec.UidvalidityBirth = a.UidvalidityOrigin, a.UidvalidityBirth
	rec.UidvalidityNext = max(rec.UidvalidityNext, a.UidvalidityNext)
}

// LeapUIDValidity moves the counter of an account whose record is lost, or may be
// an old one, past what can have been given out under x, and never out of x's
// range: everyday life has the first half of it, each loss half of what is left.
// known is the highest UIDVALIDITY that is known of; times counts the losses,
// this one included.
func LeapUIDValidity(a *AccountRecord, clusterID string, x slot.UncleanCount, known uint32, times int) (ok bool) {
	if a.UidvalidityOrigin == 0 && !originate(a, uidValiditySeed(clusterID, slot.Address(a.Address)), x) {
		return false // the record is lost, and the address's numbers are used up
	}
	lo, hi := rangeOf(a.UidvalidityOrigin, a.UidvalidityBirth, x, uidValidityRange)
	next := max(uint64(a.UidvalidityNext), uint64(known)+1, lo, leapTo(hi, times))
	if next >= min(hi, maxNumber) {
		return false
	}
	a.UidvalidityNext = uint32(next)
	return true
}

// leapTo is where the n-th loss begins in the range that ends at hi; the number
// before it is left out, and so tells a counter that has got there step by step.
func leapTo(hi uint64, n int) uint64 { return hi - uidValidityRange>>min(n, leapsMax) + 1 }

// part returns the end of the part of a range in which next lies.
func part(hi, next uint64) uint64 {
	for n := 1; n <= leapsMax; n++ {
		if end := leapTo(hi, n) - 1; next <= end {
			return end
		}
	}
	return hi
}

// UIDNext returns the UIDNEXT that clients see under unclean count x.
func UIDNext(m *MailboxRecord, x slot.UncleanCount) storage.UID {
	lo, _ := rangeOf(m.UidOrigin, m.UidBirth, x, uidRange)
	return storage.UID(min(max(uint64(m.Uidnext), lo), maxNumber))
}

// TakeUIDs moves m.Uidnext past n UIDs and returns the first of them. ok is false
// when the range has no room: the mailbox then needs NewUIDValidity.
func TakeUIDs(m *MailboxRecord, x slot.UncleanCount, n int) (first storage.UID, ok bool) {
	lo, hi := rangeOf(m.UidOrigin, m.UidBirth, x, uidRange)
	next := max(uint64(m.Uidnext), lo)
	if next+uint64(n) > hi || hi > maxNumber {
		return 0, false
	}
	MarkUnclean(m, x)
	m.Uidnext = uint32(next + uint64(n))
	return storage.UID(next), true
}

// MarkUnclean notes the UIDNEXT from which the mailbox begins the unclean epoch
// with count x, unless that is known. Whatever raises Uidnext calls it first.
func MarkUnclean(m *MailboxRecord, x slot.UncleanCount) {
	// A mailbox that is being born, or was, or got its UIDVALIDITY, under x has
	// nothing to note.
	if last := len(m.Marks) - 1; m.Uidvalidity != 0 && uint32(x) > m.UidBirth && (last < 0 || m.Marks[last].Unclean < uint32(x)) {
		m.Marks = append(m.Marks, &UncleanMark{Unclean: uint32(x), Uidnext: m.Uidnext})
	}
}

// NewUIDValidity gives m a UIDVALIDITY that its address has never had and a
// fresh UID range. UIDs that the mailbox has are kept, they only go up, and so
// the marks stay true: what is new since a fork can still be told (see Fork). ok
// is false when the UIDVALIDITY range, or the UIDs themselves, are used up.
func NewUIDValidity(a *AccountRecord, m *MailboxRecord, x slot.UncleanCount) (ok bool) {
	lo, hi := rangeOf(a.UidvalidityOrigin, a.UidvalidityBirth, x, uidValidityRange)
	next := max(uint64(a.UidvalidityNext), lo)
	if next >= min(part(hi, next), maxNumber) || uint64(m.Uidnext)+uidRange > maxNumber {
		return false
	}
	MarkUnclean(m, x)
	a.UidvalidityNext = uint32(next + 1)
	m.Uidvalidity = uint32(next)
	m.Uidnext = max(m.Uidnext, 1)
	m.UidOrigin, m.UidBirth = m.Uidnext, uint32(x)
	return true
}
