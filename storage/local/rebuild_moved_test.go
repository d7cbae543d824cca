package local

import (
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage"
	"mailnode/storage/event"
)

// A message was moved, and the record of where it lives now is lost. The tombstone where
// it came from tells that it lives on: that does not hold its body, and undelete passes
// it over. The message comes back from the packs (law 7); one that was expunged does not.
func TestLaw07RebuildGivesBackMovedMessage(t *testing.T) {
	fs := newFS(t)
	o := options(t, fs)
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	for i := range 3 {
		deliver(t, m, mail(i), a)
	}
	from, _ := inbox(t, m, a)
	to, err := m.CreateMailbox(t.Context(), a.ID, "Archive2", "")
	if err != nil {
		t.Fatal(err)
	}
	source, target := storage.Ref{Account: a.ID, Mailbox: from.ID}, storage.Ref{Account: a.ID, Mailbox: to.ID}
	moved := guidOf(t, m, source, 1)
	if _, err := m.Move(t.Context(), source, []storage.UID{1}, "Archive2"); err != nil {
		t.Fatal(err)
	}
	expunged := guidOf(t, m, source, 2)
	if _, err := m.SetFlags(t.Context(), source, []storage.UID{2}, storage.FlagChange{Op: storage.FlagsAdd, Flags: storage.Flags{System: storage.Deleted}}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Expunge(t.Context(), source, nil); err != nil {
		t.Fatal(err)
	}
	behind(t, s, func(b *pebble.Batch) { b.Delete(event.MessageKey(target, 1), nil) })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	rebuildAlone(t, o)
	s = openSlot(t, o)
	is := seenBy(t, serve(t, s, 1, 0), []storage.Account{a})
	found := map[string]int{}
	for _, g := range is.numbers {
		found[g.String()]++
	}
	if found[moved.String()] != 1 || found[expunged.String()] != 0 {
		t.Errorf("the moved message is there %d times, the expunged one %d times", found[moved.String()], found[expunged.String()])
	}
}
