package local

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"mailnode/storage"
	"mailnode/storage/check"
	"mailnode/storage/event"
)

// spoil writes a record as no event would have: what a bad memory does, with a
// checksum of the disk that fits.
func spoil(t *testing.T, s *Slot, key []byte, change func(value []byte) []byte) {
	t.Helper()
	if err := s.do(context.Background(), func(x *txn) error {
		v, found, err := x.Get(key)
		if err != nil || !found {
			t.Fatalf("record %q: %v, %v", key, found, err)
		}
		return x.b.Set(key, change(v), nil)
	}); err != nil {
		t.Fatal(err)
	}
}

func findings(t *testing.T, s *Slot) (found []string) {
	t.Helper()
	if err := s.Inspect(func(x Snapshot) error {
		all, err := check.Run(x, check.Options{})
		for _, f := range all {
			found = append(found, f.String())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// A message's record that is not what the events made it: the digests say so, and
// the checker names the mailbox. A copy that fetches the state does not take it.
func TestLaw06Law08SpoiltRecordIsNotTaken(t *testing.T) {
	h := newReplicaHarness(t, rand.New(rand.NewPCG(1, 1)))
	s := h.w.m.s
	for range 30 {
		h.w.step()
	}
	var key []byte
	if err := s.ReadState(func(r event.Record) error {
		if r.Key[0] == event.PrefixMessage {
			key = append([]byte(nil), r.Key...)
		}
		return nil
	}); err != nil || key == nil {
		t.Fatal(key, err)
	}
	var before []byte
	spoil(t, s, key, func(v []byte) []byte {
		before = append([]byte(nil), v...)
		m := &event.MessageRecord{}
		if err := unmarshal(v, m); err != nil {
			t.Fatal(err)
		}
		m.SavedUnix ^= 1
		return event.Marshal(m)
	})
	if err := s.read(VerifyDigests); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("VerifyDigests: %v", err)
	}
	if found := findings(t, s); len(found) == 0 || !strings.Contains(found[0], "@example.test ") {
		t.Errorf("the checker finds %q", found)
	}
	if err := h.replica.fetchInto(h.s); !errors.Is(err, storage.ErrCorrupt) || !h.s.Building() {
		t.Errorf("the copy took it: %v, building %v", err, h.s.Building())
	}
	spoil(t, s, key, func([]byte) []byte { return before })
	if err := h.replica.fetchInto(h.s); err != nil {
		t.Errorf("the record is right again: %v", err)
	}
}

// An event whose bytes have changed is not sent to anyone; those before it are.
func TestLaw06SpoiltEventIsNotSent(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	for i := range 5 {
		deliver(t, m, mail(i), a)
	}
	evs := journalOf(t, s, 0)
	key := event.JournalKey(posOf(evs[3]))
	flip := func(v []byte) []byte {
		v = append([]byte(nil), v...)
		v[len(v)/2] ^= 4
		return v
	}
	spoil(t, s, key, flip)
	if _, _, err := s.JournalAfter(posOf(evs[2]), 1<<20); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("after the third: %v, want corrupt", err)
	}
	if raws, _, err := s.JournalAfter(0, 1); err != nil || len(raws) != 1 {
		t.Errorf("the first: %d, %v", len(raws), err)
	}
	if found := findings(t, s); len(found) == 0 || !strings.Contains(found[0], posOf(evs[3]).String()) {
		t.Errorf("the checker finds %q", found)
	}
	spoil(t, s, key, flip)
}
