package repl

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"mailnode/storage"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// asideOf reads the one state that a side has set aside: what it is, and a line
// for each message that it has alone.
func asideOf(t *testing.T, s *side) (local.Aside, local.AsideContent, []string) {
	t.Helper()
	list, err := s.copy.Asides()
	if err != nil || len(list) != 1 {
		t.Fatalf("set aside: %+v, %v", list, err)
	}
	lines := []string{}
	got, err := s.copy.ReadAside(context.Background(), list[0].Name, func(m local.AsideMessage) error {
		lines = append(lines, fmt.Sprintf("%s %s %d %s body=%t", m.Address, m.Mailbox, m.UID, m.MessageID, m.Body))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list[0], got, lines
}

func numbered(n int) string {
	return fmt.Sprintf("Subject: s\r\nMessage-ID:\r\n <%d@example.test>\r\n\r\n%d\r\n", n, n)
}

// What a master took alone is listed by name after it came back: new messages, a
// new folder and a new user, and nothing that both histories have, nor what was
// deleted in the other one.
func TestLaw07SetAsideStateIsListed(t *testing.T) {
	ctx := context.Background()
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	n1.lead(1, 0, &record{}, 100*time.Millisecond)
	a := n1.account("u1@example.test")
	n2.follow(n1, 1)
	for i := range 3 {
		if err := n1.deliver(a, numbered(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	sameState(t, n1, n2)
	n2.endRole()
	b := n1.account("u2@example.test")
	if _, err := n1.master.CreateMailbox(ctx, a.ID, "new folder", ""); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{n1.deliver(a, numbered(4)), n1.deliver(b, numbered(5)), n1.master.SetQuota(ctx, a.ID, 1<<30)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	n1.endRole()
	n2.lead(2, 1, &record{}, time.Second)
	box, err := n2.master.Mailbox(ctx, a.ID, "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	if err := n2.deliver(a, numbered(6)); err != nil {
		t.Fatal(err)
	}
	ref := storage.Ref{Account: a.ID, Mailbox: box.ID}
	if _, err := n2.master.Expunge(ctx, ref, []storage.UID{2}); err != nil {
		t.Fatal(err)
	}
	n1.follow(n2, 2)
	sameState(t, n2, n1)
	what, got, lines := asideOf(t, n1)
	slices.Sort(lines)
	want := []string{"u1@example.test INBOX 4 <4@example.test> body=true", "u2@example.test INBOX 1 <5@example.test> body=true"}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
	if got.Messages != 2 || got.Users != 2 || got.Folders != 2 || got.NewUsers != 1 || got.NewFolders < 2 || got.NoBody != 0 || len(got.Unread) != 0 ||
		got.ChangedAll != 1 || !slices.Equal(got.Changed, []string{"u1@example.test"}) {
		t.Errorf("%+v", got)
	}
	if what.Role != local.AsideMaster || what.Head.Epoch() != 1 || what.Wall.IsZero() {
		t.Errorf("%+v", what)
	}
}

// A master's tail that nobody was told of is no loss; one after a mark is, and so
// is a replica's, and one that was left behind with an accepted loss.
func TestLaw07UnacknowledgedTailIsNoLoss(t *testing.T) {
	at := func(p slot.Position) *slot.Position { return &p }
	for _, c := range []struct {
		a    local.Aside
		want bool
	}{
		{local.Aside{Role: local.AsideMaster, Head: slot.At(1, 9)}, false},
		{local.Aside{Role: local.AsideMaster, Head: slot.At(1, 9), Alone: at(slot.At(1, 9))}, true},
		{local.Aside{Role: local.AsideMaster, Head: slot.At(1, 9), Alone: at(slot.At(1, 10))}, false},
		{local.Aside{Role: local.AsideMaster, Head: slot.At(1, 9), Loss: true}, true},
		{local.Aside{Role: local.AsideReplica, Head: slot.At(1, 9)}, true},
		{local.Aside{Head: slot.At(1, 9)}, true},
	} {
		if got := c.a.MayBeAcknowledged(); got != c.want {
			t.Errorf("%+v: %t", c.a, got)
		}
	}
}

// The events that a master lost in the middle of an epoch are listed from the
// replica that had them, although the lineages say nothing.
func TestLaw07EventsThatTheMasterLostAreListed(t *testing.T) {
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	n1.lead(1, 0, &record{}, 100*time.Millisecond)
	a := n1.account("u1@example.test")
	n2.follow(n1, 1)
	if err := n1.deliver(a, numbered(1)); err != nil {
		t.Fatal(err)
	}
	sameState(t, n1, n2)
	clone := n1.fs.CrashClone(vfs.CrashCloneCfg{})
	if err := n1.deliver(a, numbered(2)); err != nil {
		t.Fatal(err)
	}
	sameState(t, n1, n2)
	n2.endRole()
	n1.endRole()
	n1.reopen(clone)
	n1.lead(1, 0, &record{}, 100*time.Millisecond)
	if err := n1.deliver(a, numbered(3)); err != nil {
		t.Fatal(err)
	}
	n2.follow(n1, 1)
	sameState(t, n1, n2)
	what, got, lines := asideOf(t, n2)
	if len(lines) != 1 || !strings.Contains(lines[0], "<2@example.test> body=true") || got.Messages != 1 {
		t.Errorf("%v, %+v", lines, got)
	}
	if what.Role != local.AsideReplica || !what.MayBeAcknowledged() {
		t.Errorf("%+v", what)
	}
}
