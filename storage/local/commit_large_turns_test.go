package local

import (
	"context"
	"errors"
	"testing"

	"mailnode/storage"
	"mailnode/storage/fair"
)

// TestLaw09LargeChangesOfANodeAreBounded: what holds much memory waits for its turn over
// all slots, and leaves with its context; then nothing of it has happened. Other changes
// go on meanwhile, large ones that hold little too.
func TestLaw09LargeChangesOfANodeAreBounded(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a, b := account(t, m, "u1@example.test"), account(t, m, "u2@example.test")
	ref, uids := fillInbox(t, m, a, 5*copyMax)
	deliver(t, m, mail(1), b)
	tree(t, m, b, smallMax+1)
	on := &s.o.Resources.large
	on.aloneBytes = 100 << 10
	var ends []func()
	for _, other := range []string{"s100", "s101"} {
		end, err := on.turns.Take(t.Context(), fair.Asker{Client: other, Account: other})
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, func() { end(0) })
	}
	copied := func() uint32 {
		box, err := m.Mailbox(t.Context(), a.ID, "Archive")
		if err != nil {
			t.Fatal(err)
		}
		return box.Messages
	}
	ctx, leave := context.WithCancel(t.Context())
	large := started(func() error { _, err := m.Copy(ctx, ref, uids, "Archive"); return err })
	eventually(t, "it waits for its turn", func() bool { return on.turns.Waiting() == 1 })
	deliver(t, m, mail(2), b)
	leave()
	if err := <-large; !errors.Is(err, context.Canceled) || copied() != 0 {
		t.Errorf("whoever leaves: %v, %d messages were copied", err, copied())
	}
	if err := m.RenameMailbox(t.Context(), b.ID, "top", "other"); err != nil {
		t.Errorf("a large change that holds little: %v", err)
	}
	large = started(func() error { _, err := m.Copy(t.Context(), ref, uids, "Archive"); return err })
	eventually(t, "it waits for its turn", func() bool { return on.turns.Waiting() == 1 })
	before := s.Worked()
	eventually(t, "it counts as one that works while those before it work", func() bool {
		on.worked.Add(1)
		return s.Worked() > before
	})
	for _, end := range ends {
		end()
	}
	if err := <-large; err != nil || copied() != uint32(len(uids)) {
		t.Errorf("with a turn: %v, %d messages were copied", err, copied())
	}
	end, err := on.turns.Take(t.Context(), fair.Asker{Client: "s102", Account: "s102"})
	if err != nil {
		t.Fatal(err)
	}
	end(0)
	if _, err := m.SetFlags(t.Context(), ref, uids[:1], storage.FlagChange{Flags: storage.Flags{System: storage.Seen}}); err != nil {
		t.Error(err)
	}
}
