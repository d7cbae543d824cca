package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/storage"
)

// TestQuotaIsKnownAtRcpt: whichever node an MTA asks, a message that does not fit is put
// off before it is sent, and so is any once the mailbox is full; never with a 5xx.
func TestQuotaIsKnownAtRcpt(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const user, quota = "u1@example.test", 5000
	if _, err := s.nodes[0].admin.AddUser(ctx, admin.AddUser{Address: addr(t, user), Password: "pw", QuotaBytes: quota}); err != nil {
		t.Fatal(err)
	}
	for _, r := range s.nodes {
		for bytes, fits := range map[int64]bool{0: true, 1: true, quota: true, quota + 1: false} {
			if _, err := r.node.Resolve(ctx, addr(t, user), bytes); (err == nil) != fits || err != nil && !errors.Is(err, storage.ErrOverQuota) {
				t.Errorf("%d bytes at %s: %v, want that they fit: %t", bytes, r.name, err, fits)
			}
		}
	}
	for i := 0; ; i++ { // until it is full but for less than a message's lines of our own
		err := s.deliver(s.nodes[i%3], user, strings.Repeat("x", 900)+"\r\n")
		if err != nil && overQuota(err) {
			break
		}
		if err != nil || i == quota/900 {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	u, err := s.nodes[0].admin.User(ctx, addr(t, user))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.nodes[0].admin.SetQuota(ctx, admin.SetQuota{Address: addr(t, user), QuotaBytes: u.UsedBytes}); err != nil {
		t.Fatal(err)
	}
	for _, r := range s.nodes {
		if _, err := r.node.Resolve(ctx, addr(t, user), 0); !errors.Is(err, storage.ErrOverQuota) {
			t.Errorf("a full mailbox at %s: %v, want that it is full", r.name, err)
		}
		if err := s.deliver(r, user, fmt.Sprintf("Subject: at %s\r\n\r\n", r.name)); err == nil || !overQuota(err) {
			t.Errorf("a full mailbox at %s: %v, want 452 4.2.2", r.name, err)
		}
	}
}

// overQuota reports whether an LMTP client was told so.
func overQuota(err error) bool {
	return strings.HasPrefix(err.Error(), "452 ") && strings.Contains(err.Error(), "4.2.2")
}
