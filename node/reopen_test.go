package node

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/storage/slot"
)

// TestLaw01FailedStoreIsOpenedAgain: a write of a master's index fails. On a word of a
// person its files are proved and opened again in the same process, as often as it
// takes: with all that was acknowledged, and with numbers that nobody has seen.
func TestLaw01FailedStoreIsOpenedAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2, 1, 2)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	n1, n2 := s.nodes[0], s.nodes[1]
	users := s.users(ctx, 2)
	id := servedBy(t, s.status(ctx, n1), "n1")
	at := func() slot.Position {
		d, err := n1.admin.Slot(ctx, id.String())
		if err != nil || d.Copies[0].Position == nil {
			t.Fatalf("%+v, %v", d, err)
		}
		return *d.Copies[0].Position
	}
	folder := filepath.Join("slots", id.String(), "index")
	messages := uint32(0)
	for round := range 3 {
		if err := s.deliver(n2, users[id], "Subject: x\r\n\r\nhello\r\n"); err != nil {
			t.Fatal(err)
		}
		messages++
		before := at()
		old := s.dialUser(n1, users[id]) // a client of the copy that fails
		n1.broken.Store(&folder)
		if err := s.deliver(n1, users[id], "x\r\n"); err == nil || !strings.HasPrefix(err.Error(), "4") {
			t.Fatalf("deliver to a broken disk: %v, want a 4xx", err)
		}
		s.until(n1, 30*time.Second, "the store has stopped", func(st admin.Status) bool {
			return !st.Slots[id].Serving && said(st, "slot-failed", id.String()) != ""
		})
		refused := (*admin.Error)(nil)
		if got, err := n1.admin.Serve(ctx, admin.ServeRequest{Slot: id}); !errors.As(err, &refused) || refused.Exit != admin.ExitRefused || refused.Next == "" {
			t.Fatalf("serve on a disk that still fails: %+v, %v, want exit 4 and what to type", got, err)
		}
		none := ""
		n1.broken.Store(nil)
		if plan, err := n1.admin.Serve(ctx, admin.ServeRequest{Slot: id, Plan: true}); err != nil || plan.Opened || plan.Stopped == none {
			t.Fatalf("plan: %+v, %v", plan, err)
		}
		got, err := n1.admin.Serve(ctx, admin.ServeRequest{Slot: id})
		if err != nil || !got.Opened {
			t.Fatalf("serve: %+v, %v", got, err)
		}
		s.until(n1, 30*time.Second, "it serves, protected, and nothing is said or proposed", func(st admin.Status) bool {
			return st.Slots[id].Serving && st.Slots[id].IsProtected() && len(st.Proposals) == 0 &&
				said(st, "slot-failed", id.String()) == "" && said(st, "slot-refused", id.String()) == ""
		})
		if _, err := n1.admin.Serve(ctx, admin.ServeRequest{Slot: id}); !errors.As(err, &refused) || refused.Exit != admin.ExitNothing {
			t.Errorf("typed again: %v, want exit 3", err)
		}
		if err := s.deliver(n1, users[id], "Subject: y\r\n\r\nhello\r\n"); err != nil {
			t.Fatal(err)
		}
		messages++
		if n, err := s.count(n2, users[id], "pw"); err != nil || n != messages {
			t.Errorf("round %d: %d messages, %v: want %d", round, n, err, messages)
		}
		if after := at(); after.N() < before.N()+1<<20 {
			t.Errorf("round %d: at %s after %s: numbers that may have been shown are given out again", round, after, before)
		}
		if _, err := old.Select("INBOX", nil).Wait(); err == nil {
			t.Error("a client of the failed copy is served by it")
		}
	}
}
