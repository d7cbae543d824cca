package local

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/fair"
)

// countdown is a context that ends when it has been asked so often.
type countdown struct {
	context.Context
	left   atomic.Int64
	cancel context.CancelFunc
}

func newCountdown(t *testing.T, asks int) *countdown {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	c := &countdown{Context: ctx, cancel: cancel}
	c.left.Store(int64(asks))
	return c
}

func (c *countdown) Err() error {
	if c.left.Add(-1) == 0 {
		c.cancel()
	}
	return c.Context.Err()
}

// TestReadsEndWithTheirContext: whoever goes in the midst of a long read is not read for
// any more, whatever walks over messages, mailboxes, names or accounts.
func TestReadsEndWithTheirContext(t *testing.T) {
	const n = 100
	o := options(t, newFS(t))
	o.Undelete = -1
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	ref, uids := fillInbox(t, m, a, n)
	tree(t, m, a, n)
	for _, read := range []struct {
		name string
		run  func(ctx context.Context) error
	}{
		{"Scan", func(ctx context.Context) error {
			return m.Scan(ctx, ref, 1, ^storage.UID(0), func(storage.Message) error { return nil })
		}},
		{"Scan of a few", func(ctx context.Context) error {
			return m.Scan(ctx, ref, 1, n, func(storage.Message) error { return nil })
		}},
		{"UIDs", func(ctx context.Context) error {
			s.o.Resources.listings.drop(s)
			_, err := m.UIDs(ctx, ref)
			return err
		}},
		{"Summaries", func(ctx context.Context) error {
			return m.Summaries(ctx, ref, 1, n, func(storage.UID, []byte) error { return nil })
		}},
		{"Changes", func(ctx context.Context) error {
			s.o.Resources.listings.drop(s)
			_, err := m.Changes(ctx, ref, 1)
			return err
		}},
		{"Mailboxes", func(ctx context.Context) error { _, err := m.Mailboxes(ctx, a.ID); return err }},
		{"Names", func(ctx context.Context) error {
			return m.Names(ctx, a.ID, "", "", func(storage.NameEntry) error { return nil })
		}},
		{"used bytes", func(ctx context.Context) error {
			return m.view(ctx, func(v *view) error { _, err := usedBytes(v, a.ID); return err })
		}},
		{"what a RENAME moves", func(ctx context.Context) error {
			return m.view(ctx, func(v *view) error { _, err := countUpTo(v, event.NamesOf(a.ID, ""), n); return err })
		}},
		{"Expunge of all", func(ctx context.Context) error { _, err := m.Expunge(ctx, ref, nil); return err }},
		{"Free", func(ctx context.Context) error {
			_, err := m.Free(ctx, func(context.Context, int) error { return nil })
			return err
		}},
	} {
		if err := read.run(t.Context()); err != nil {
			t.Fatalf("%s: %v", read.name, err)
		}
		asks := n / 2
		if read.name == "Free" {
			asks = 3 // there is one account
		}
		if err := read.run(newCountdown(t, asks)); !errors.Is(err, context.Canceled) || !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("%s, left in its midst: %v", read.name, err)
		}
	}
	if _, err := m.SetFlags(t.Context(), ref, uids[:1], storage.FlagChange{Flags: storage.Flags{System: storage.Seen}}); err != nil {
		t.Error(err)
	}
}

// TestChangesEndWithTheirContext: whoever goes in the midst of a change of many messages
// leaves whole events behind: of STORE, EXPUNGE and MOVE some of their pieces, of COPY and
// RENAME all or nothing. Others' changes go on.
func TestChangesEndWithTheirContext(t *testing.T) {
	const n = 5 * smallMax
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a, other := account(t, m, "u1@example.test"), account(t, m, "u2@example.test")
	ref, uids := fillInbox(t, m, a, n)
	uids = uids[:n]
	tree(t, m, a, smallMax+1)
	messages := func(name string) int {
		box, err := m.Mailbox(t.Context(), a.ID, name)
		if errors.Is(err, storage.ErrNotFound) {
			return -1
		}
		if err != nil {
			t.Fatal(err)
		}
		return int(box.Messages)
	}
	on := &s.o.Resources.large
	on.aloneBytes = 1 << 10
	for _, busy := range []string{"s100", "s101"} {
		end, err := on.turns.Take(t.Context(), fair.Asker{Client: busy, Account: busy})
		if err != nil {
			t.Fatal(err)
		}
		defer end(0)
	}
	deleted := storage.FlagChange{Op: storage.FlagsAdd, Flags: storage.Flags{System: storage.Deleted}}
	for _, change := range []struct {
		name  string
		asks  int
		run   func(ctx context.Context) error
		whole func() bool
	}{
		{"COPY", 0, func(ctx context.Context) error { _, err := m.Copy(ctx, ref, uids, "Archive"); return err }, func() bool { return messages("Archive") == 0 }},
		{"RENAME", 0, func(ctx context.Context) error { return m.RenameMailbox(ctx, a.ID, "top", "new") }, func() bool { return messages("new") == -1 }},
		{"RENAME INBOX", 0, func(ctx context.Context) error { return m.RenameMailbox(ctx, a.ID, "INBOX", "old") }, func() bool { return messages("old") == -1 }},
		{"STORE", 3, func(ctx context.Context) error { _, err := m.SetFlags(ctx, ref, uids, deleted); return err }, func() bool {
			box, err := m.Mailbox(t.Context(), a.ID, "INBOX")
			return err == nil && box.Deleted%smallMax == 0 && box.Deleted < n
		}},
		{"MOVE", 3, func(ctx context.Context) error { _, err := m.Move(ctx, ref, uids, "Trash"); return err }, func() bool {
			return messages("Trash")%smallMax == 0 && messages("Trash") < n && messages("INBOX")+messages("Trash") == n
		}},
		{"EXPUNGE", 3, func(ctx context.Context) error { _, err := m.Expunge(ctx, ref, uids); return err }, func() bool {
			return messages("INBOX")%smallMax == 0 && messages("INBOX") > 0
		}},
	} {
		ctx := newCountdown(t, change.asks)
		done := started(func() error { return change.run(ctx) })
		if change.asks == 0 { // large: it stands still before its turn, and is left there
			eventually(t, "it waits for its turn", func() bool { return on.turns.Waiting() == 1 })
			ctx.cancel()
		}
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s, left in its midst: %v", change.name, err)
		}
		if !change.whole() {
			t.Errorf("%s, left in its midst: a part of an event is there, or all of it", change.name)
		}
		deliver(t, m, mail(1), other)
	}
}
