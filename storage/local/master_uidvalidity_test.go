package local

import (
	"context"
	"testing"
	"time"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// Both sides of a failover make one address, erase it and make it again: none of
// their mailboxes has a UIDVALIDITY of another, with any clocks, and in each history
// every later one is greater (RFC 9051, section 2.3.1.1).
func TestLaw02Law11AddressMadeOnBothSidesOfAFailover(t *testing.T) {
	t.Parallel()
	noon := time.Unix(1764237600, 0)
	for name, clocks := range map[string][2]time.Time{
		"the same second":            {noon, noon},
		"the new master's is behind": {noon, noon.Add(-18*time.Hour - 12*time.Minute - 16*time.Second)}, // 2^16 s
		"ahead":                      {noon, noon.Add(1 << 16 * time.Second)},
		"never set":                  {time.Unix(0, 0), time.Unix(0, 0)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			given := map[storage.UIDValidity]int{}
			for side, wall := range clocks {
				o := options(t, newFS(t))
				o.Clock.Wall = func() time.Time { return wall }
				m := serve(t, openSlot(t, o), slot.Epoch(1+side), slot.UncleanCount(side))
				last := storage.UIDValidity(0)
				for range 3 {
					for _, v := range madeAndErased(t, m, "u@example.test") {
						if other, taken := given[v]; taken {
							t.Errorf("UIDVALIDITY %d: given out on side %d and on side %d", v, other, side)
						}
						if v <= last {
							t.Errorf("UIDVALIDITY %d after %d", v, last)
						}
						given[v], last = side, v
					}
				}
			}
		})
	}
}

// The whole index is lost, again and again, with all that it remembered of the
// addresses of the slot, erased ones too: no UIDVALIDITY comes a second time,
// though the clock stands still.
func TestLaw02Law11NumbersAfterLostIndexes(t *testing.T) {
	t.Parallel()
	fs := newFS(t)
	o := options(t, fs)
	o.Clock.Wall = func() time.Time { return time.Unix(1764237600, 0) }
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	deliver(t, m, mail(1), a)
	given := map[storage.UIDValidity]int{}
	erased := map[storage.UIDValidity]int{}
	for round := range 4 {
		boxes, err := m.Mailboxes(context.Background(), a.ID)
		if err != nil || len(boxes) == 0 {
			t.Fatalf("round %d: %d mailboxes, %v", round, len(boxes), err)
		}
		for _, b := range boxes {
			if was, taken := given[b.UIDValidity]; taken {
				t.Errorf("UIDVALIDITY %d of %q: given out in round %d and in round %d", b.UIDValidity, b.Name, was, round)
			}
			given[b.UIDValidity] = round
		}
		for _, v := range madeAndErased(t, m, "u2@example.test") {
			if was, taken := erased[v]; taken {
				t.Errorf("UIDVALIDITY %d of the erased: given out in round %d and in round %d", v, was, round)
			}
			erased[v] = round
		}
		closeOnce(t, s)
		if err := fs.RemoveAll("/slots/s007/index"); err != nil {
			t.Fatal(err)
		}
		rebuildAlone(t, o)
		s = openSlot(t, o)
		m = serve(t, s, 1, 0)
	}
}

// madeAndErased returns the UIDVALIDITYs of a new account's mailboxes in the order
// in which they were given out.
func madeAndErased(t *testing.T, m *Master, addr slot.Address) []storage.UIDValidity {
	t.Helper()
	ctx := context.Background()
	a, err := m.CreateAccount(ctx, addr, "pw", 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []storage.UIDValidity
	for _, sp := range specialMailboxes() {
		box, err := m.Mailbox(ctx, a.ID, sp.name)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, box.UIDValidity)
	}
	if err := m.DeleteAccount(ctx, a.ID); err != nil {
		t.Fatal(err)
	}
	if err := m.EraseAccount(ctx, addr); err != nil {
		t.Fatal(err)
	}
	return out
}
