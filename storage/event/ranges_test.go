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
