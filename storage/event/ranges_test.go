package event

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"mailnode/storage/slot"
)

// Two histories part at any moment and go on, each under unclean counts of its
// own; neither may ever give out a (UIDVALIDITY, UID) that the other gives out.
func TestLaw02HistoriesNeverShareNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type number struct{ validity, uid uint32 }
		origin := rapid.Uint32Range(1, 1<<31).Draw(t, "origin")
		acct := &AccountRecord{UidvalidityOrigin: origin, UidvalidityNext: origin}
		box := &MailboxRecord{}
		if !NewUIDValidity(acct, box, 0) {
			t.Fatal("no first UIDVALIDITY")
		}
		take := func(a *AccountRecord, m *MailboxRecord, x slot.UncleanCount, out map[number]bool, name string) {
			for range rapid.IntRange(0, 5).Draw(t, name) {
				n := rapid.SampledFrom([]int{1, 1000, uidRange - 2}).Draw(t, "n")
				first, ok := TakeUIDs(m, x, n)
				if !ok {
					before := m.Uidvalidity
					if !NewUIDValidity(a, m, x) {
						t.Fatal("no further UIDVALIDITY")
					}
					if m.Uidvalidity == before {
						t.Fatalf("UIDVALIDITY %d given out twice", before)
					}
					if first, ok = TakeUIDs(m, x, n); !ok {
						t.Fatal("a fresh range has no room")
					}
				}
				for _, u := range []uint32{uint32(first), uint32(first) + uint32(n) - 1} {
					out[number{m.Uidvalidity, u}] = true
				}
			}
		}
		take(acct, box, 0, map[number]bool{}, "shared")
		cloneA, cloneM := proto.CloneOf(acct), proto.CloneOf(box)
		old, promoted := map[number]bool{}, map[number]bool{}
		take(acct, box, 0, old, "old master")
		steps := rapid.IntRange(1, 3).Draw(t, "unclean")
		take(cloneA, cloneM, slot.UncleanCount(steps), promoted, "promoted")
		for n := range promoted {
			if old[n] {
				t.Fatalf("both histories gave out %+v", n)
			}
		}
	})
}

func TestBeganFromRemembersEachUncleanEpoch(t *testing.T) {
	m := &MailboxRecord{Uidnext: 1, UidOrigin: 1}
	TakeUIDs(m, 0, 9)
	TakeUIDs(m, 2, 5)
	for _, c := range []struct {
		x    slot.UncleanCount
		want uint32
	}{{1, 10}, {2, 10}, {3, m.Uidnext}} {
		if got := BeganFrom(m, c.x); uint32(got) != c.want {
			t.Errorf("BeganFrom(x=%d) = %d, want %d", c.x, got, c.want)
		}
	}
	if got, want := UIDNext(m, 4), uint32(1+4*uidRange); uint32(got) != want {
		t.Errorf("UIDNext under count 4 = %d, want %d", got, want)
	}
}
