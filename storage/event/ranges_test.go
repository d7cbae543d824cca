package event

import (
	"testing"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// An account can have as many mailboxes as it may have, whatever its address is, and
// in the last unclean epoch that a slot may come to.
func TestEveryMailboxHasItsUIDValidity(t *testing.T) {
	const lastUnclean = 6143
	for _, x := range []slot.UncleanCount{0, 1, lastUnclean} {
		a := &AccountRecord{Address: "u1@example.test"}
		if !SeedUIDValidity(a, &AddressRecord{}, "cluster", x, 0) {
			t.Fatalf("unclean count %d: no UIDVALIDITY is left", x)
		}
		for i := range storage.MaxMailboxes {
			if !NewUIDValidity(a, &MailboxRecord{}, x) {
				t.Fatalf("unclean count %d: mailbox %d gets no UIDVALIDITY", x, i+1)
			}
		}
	}
	highest := &AccountRecord{}
	if !originate(highest, seedMin+(seeds-1)*seedsStep, lastUnclean) {
		t.Error("the highest seed does not last for all unclean epochs")
	}
}

// A leap never leaves the range of its unclean count, also when all of it may have
// been given out: what comes next belongs to another history.
func TestLaw02LeapStaysInItsRange(t *testing.T) {
	a := &AccountRecord{Address: "u1@example.test"}
	if !SeedUIDValidity(a, &AddressRecord{}, "cluster", 3, 0) {
		t.Fatal("no UIDVALIDITY")
	}
	_, hi := rangeOf(a.UidvalidityOrigin, a.UidvalidityBirth, 3, uidValidityRange)
	for _, known := range []uint32{uint32(hi) - 1, uint32(hi)} {
		before := a.UidvalidityNext
		if LeapUIDValidity(a, "cluster", 3, known, 1) || a.UidvalidityNext != before {
			t.Errorf("%d is known: the counter goes on from %d, its range ends at %d", known, a.UidvalidityNext, hi)
		}
	}
	if !LeapUIDValidity(a, "cluster", 3, uint32(hi)-3, leapsMax) || uint64(a.UidvalidityNext) >= hi {
		t.Errorf("the counter goes on from %d, its range ends at %d", a.UidvalidityNext, hi)
	}
}
