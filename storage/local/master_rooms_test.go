package local

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage"
	"mailnode/storage/event"
)

// Commands that run side by side pass no limit, and refuse none too many; nor do those
// behind a removal, or behind a command that failed.
func TestParallelCommandsPassNoLimit(t *testing.T) {
	const limit = 40
	s := openSlot(t, options(t, newFS(t)))
	s.o.sizes = sizes{mailboxes: limit, subscriptions: limit}.withPresets()
	m := serve(t, s, 1, 0)
	ctx := t.Context()
	a := account(t, m, "u1@example.test")
	mailboxes := func() (n int) {
		all, err := m.Mailboxes(ctx, a.ID)
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	subscribed := func() (n int) {
		if err := m.view(ctx, func(v *view) (err error) {
			n, err = countUpTo(v, event.SubscriptionsOf(a.ID), 2*limit)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	sideBySide(t, limit, func(i int) error {
		_, err := m.CreateMailbox(ctx, a.ID, fmt.Sprintf("box %d", i), "")
		return err
	})
	sideBySide(t, limit, func(i int) error { return m.Subscribe(ctx, a.ID, fmt.Sprintf("sub %d", i), true) })
	if mailboxes() != limit || subscribed() != limit {
		t.Fatalf("%d mailboxes and %d subscriptions, want %d each", mailboxes(), subscribed(), limit)
	}
	all, err := m.Mailboxes(ctx, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range all[len(all)-10:] {
		if err := m.DeleteMailbox(ctx, a.ID, b.Name); err != nil && b.Name != "INBOX" {
			t.Fatal(err)
		}
	}
	left := limit - mailboxes()
	if left < 9 {
		t.Fatalf("there is room for %d", left)
	}
	// Each makes two, and RENAME one: its level.
	sideBySide(t, limit, func(i int) error {
		if i%2 == 0 {
			return m.RenameMailbox(ctx, a.ID, "Junk", fmt.Sprintf("level %d/Junk", i))
		}
		_, err := m.CreateMailbox(ctx, a.ID, fmt.Sprintf("two %d/more", i), "")
		return err
	})
	if n := mailboxes(); n > limit || n < limit-1 {
		t.Errorf("%d mailboxes, want %d, or one less", n, limit)
	}
}

// sideBySide runs n commands at once. Their errors may be that the limit is reached, or
// what another of them has done.
func sideBySide(t *testing.T, n int, run func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	var refused atomic.Int64
	for i := range n {
		wg.Go(func() {
			err := run(i)
			if errors.Is(err, storage.ErrLimit) {
				refused.Add(1)
			} else if err != nil && !errors.Is(err, storage.ErrNotFound) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if refused.Load() == 0 {
		t.Error("no command was refused")
	}
}

// An account with many mailboxes and a counter that is wrong is counted beside the
// committer: that no closure touches more than it may is checked when the slot is
// closed.
func TestQuotaIsNotCountedInAClosure(t *testing.T) {
	if raceDetector {
		t.Skip("10,000 mailboxes take minutes under the race detector")
	}
	for name, raw := range map[string][]byte{"wrong": event.Marshal(&event.AccountStats{Bytes: 1 << 50}), "unreadable": {0xff}} {
		t.Run(name, func(t *testing.T) {
			s := openSlot(t, options(t, newFS(t)))
			m := serve(t, s, 1, 0)
			ctx := context.Background()
			const quota = 8000
			a, err := m.CreateAccount(ctx, "u1@example.test", "pw", quota)
			if err != nil {
				t.Fatal(err)
			}
			deliver(t, m, mail(1), a)
			manyMailboxes(t, m, a, closureKeysMax/2)
			behind(t, s, func(b *pebble.Batch) { b.Set(event.UsageKey(a.ID), raw, nil) })
			box, err := m.Mailbox(ctx, a.ID, "INBOX")
			if err != nil {
				t.Fatal(err)
			}
			ref, uids := storage.Ref{Account: a.ID, Mailbox: box.ID}, []storage.UID{box.UIDNext - 1}
			if _, err := m.Copy(ctx, ref, uids, "Archive"); err != nil {
				t.Errorf("copy: %v", err)
			}
			deliver(t, m, mail(2), a)
			if _, err := m.Append(ctx, a.ID, storage.Append{Mailbox: "INBOX", Body: body(t, mail(3))}); err != nil {
				t.Errorf("append: %v", err)
			}
			// What was let in meanwhile counts, however wrong the counter is.
			runRecount(t, s, Scope{Account: a.ID})
			if used := overQuotaSideBySide(t, m, a, quota); used > quota || used < quota*2/3 {
				t.Errorf("%d bytes of a quota of %d", used, quota)
			}
			if _, err := m.Move(ctx, ref, uids, "Trash"); err != nil {
				t.Errorf("move: %v", err)
			}
		})
	}
}

// overQuotaSideBySide delivers more than fits, all at once, and returns what there is.
func overQuotaSideBySide(t *testing.T, m *Master, a storage.Account, quota int) int64 {
	t.Helper()
	text := strings.Repeat("x", quota/5)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			errs := m.Deliver(context.Background(), storage.Delivery{Body: body(t, text), Recipients: []storage.Recipient{{Account: a.ID}}})
			if errs[0] != nil && !errors.Is(errs[0], storage.ErrOverQuota) {
				t.Error(errs[0])
			}
		})
	}
	wg.Wait()
	now, err := m.Account(context.Background(), a.ID)
	if err != nil {
		t.Fatal(err)
	}
	return now.UsedBytes
}

// manyMailboxes makes n mailboxes in one large change.
func manyMailboxes(t *testing.T, m *Master, a storage.Account, n int) {
	t.Helper()
	if err := m.large(context.Background(), n, a.ID, func(t *txn) error {
		rec, err := loadAccount(t, a.ID)
		if err != nil {
			return err
		}
		var changes []*event.Change
		for i := range n {
			b, err := m.newMailbox(t, rec, fmt.Sprintf("many %d", i), "")
			if err != nil {
				return err
			}
			changes = append(changes, mailboxChange(b))
		}
		return m.emit(t, append(changes, accountChange(rec))...)
	}); err != nil {
		t.Fatal(err)
	}
}
