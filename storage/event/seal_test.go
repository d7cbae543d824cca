package event

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"
)

// An event in two parts is the event in one, and its clock can be read alone.
func TestSealedEventIsTheEncodedOne(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for range 1000 {
		ev := &Event{Position: rng.Uint64(), Previous: rng.Uint64() >> rng.IntN(64), SlotClockMs: rng.Uint64() >> rng.IntN(64)}
		if rng.IntN(4) == 0 {
			ev.SlotClockMs = 0
		}
		for i := range rng.IntN(3) {
			ev.Changes = append(ev.Changes, &Change{Record: &Change_Subscription{Subscription: &SubscriptionRecord{Account: uint64(i), Name: "x"}}})
			ev.Digests = append(ev.Digests, &MailboxDigest{Account: uint64(i), Digest: []byte{1}})
		}
		place, rest := EncodePlace(ev), EncodeRest(ev)
		got := make([]byte, SealedBytes(place, rest))
		Seal(got, place, rest)
		if want := Encode(ev); !bytes.Equal(got, want) {
			t.Fatalf("seed %d: %x, want %x", seed, got, want)
		}
		if back, err := Decode(got); err != nil || !proto.Equal(back, ev) {
			t.Fatalf("seed %d: %v, %v", seed, back, err)
		}
		if clock, ok := ClockOf(got); !ok || clock != ev.SlotClockMs {
			t.Fatalf("seed %d: clock %d, %v; want %d", seed, clock, ok, ev.SlotClockMs)
		}
		for cut := range got {
			ClockOf(got[:cut]) // whatever it says, it ends
		}
	}
}
