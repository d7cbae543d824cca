package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"mailnode/node/admin"
	"mailnode/node/job"
	"mailnode/storage/event"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// masterOf returns a user's slot, its master and a node that is not its master.
func (s *site) masterOf(ctx context.Context, user string, slots int) (id slot.ID, master, other *running) {
	s.t.Helper()
	id = addr(s.t, user).Home(slots)
	sl := s.status(ctx, s.nodes[0]).Slots[id]
	for _, r := range s.nodes {
		if string(sl.Master) == r.name {
			master = r
		} else {
			other = r
		}
	}
	return id, master, other
}

// dialUser logs in and selects INBOX.
func (s *site) dialUser(r *running, user string) *imapclient.Client {
	s.t.Helper()
	c, err := imapclient.DialInsecure(r.cfg.IMAP.Plain, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	if err := c.Login(user, "pw").Wait(); err != nil {
		s.t.Fatal(err)
	}
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *site) expungeAll(r *running, user string) {
	s.t.Helper()
	c := s.dialUser(r, user)
	all := imap.SeqSet{imap.SeqRange{Start: 1, Stop: 0}}
	if err := c.Store(all, &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagDeleted}, Silent: true}, nil).Close(); err != nil {
		s.t.Fatal(err)
	}
	if err := c.Expunge().Close(); err != nil {
		s.t.Fatal(err)
	}
}

// exit returns the exit code that an operator gets.
func exit(err error) int {
	var refusal *admin.Error
	if errors.As(err, &refusal) {
		return refusal.Exit
	}
	if err != nil {
		return -1
	}
	return admin.ExitDone
}

func wantExit(t *testing.T, what string, err error, want int) {
	t.Helper()
	if exit(err) != want {
		t.Errorf("%s: %v, exit %d, want %d", what, err, exit(err), want)
	}
}

// An operator at any node brings back mail and accounts; a deleted account is
// unknown to clients and the MTA meanwhile, and its sessions end.
func TestUndelete(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	user := "ann@example.test"
	a := addr(t, user)
	_, master, other := s.masterOf(ctx, user, 3)
	op := other.admin
	if _, err := op.AddUser(ctx, admin.AddUser{Address: a, Password: "pw"}); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := s.deliver(other, user, fmt.Sprintf("Subject: %d\r\n\r\nhello\r\n", i)); err != nil {
			t.Fatal(err)
		}
	}
	if u, err := op.User(ctx, a); err != nil || u.Messages != 3 || u.UndeleteS != 7*86400 || u.Deleted {
		t.Errorf("show: %+v, %v", u, err)
	}
	_, err := op.UndeleteUser(ctx, admin.UndeleteUser{Address: a})
	wantExit(t, "undelete when nothing was removed", err, admin.ExitNothing)
	s.expungeAll(other, user)
	if got, err := op.UndeleteUser(ctx, admin.UndeleteUser{Address: a, SinceS: 3600, Mailbox: "INBOX"}); err != nil || got.Messages != 3 {
		t.Errorf("undelete: %+v, %v; want 3 messages", got, err)
	}
	_, err = op.UndeleteUser(ctx, admin.UndeleteUser{Address: a, Mailbox: "never"})
	wantExit(t, "undelete a mailbox that never was", err, admin.ExitUsage)
	wantExit(t, "erase a living account", op.EraseUser(ctx, admin.NamedUser{Address: a}), admin.ExitUsage)

	session := s.dialUser(other, user)
	if err := op.DeleteUser(ctx, admin.NamedUser{Address: a}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-session.Closed():
	case <-ctx.Done():
		t.Error("a session of the deleted account goes on")
	}
	for _, r := range []*running{master, other} {
		if _, err := s.count(r, user, "pw"); err == nil || !strings.Contains(err.Error(), "AUTHENTICATIONFAILED") {
			t.Errorf("log in at %s to a deleted account: %v, want a failed password", r.name, err)
		}
		for _, to := range []string{user, "ann+list@example.test"} {
			if err := s.deliver(r, to, "x\r\n"); err == nil || !strings.HasPrefix(err.Error(), "550 ") || !strings.Contains(err.Error(), "5.1.1") {
				t.Errorf("deliver at %s to %s, deleted: %v, want 550 5.1.1", r.name, to, err)
			}
		}
	}
	if list, err := op.DeletedUsers(ctx); err != nil || len(list.Users) != 1 || list.Users[0].Address != a || list.Users[0].LeftS < 7*86400-300 || len(list.Unknown) != 0 {
		t.Errorf("deleted users: %+v, %v", list, err)
	}
	if u, err := op.User(ctx, a); err != nil || !u.Deleted || u.LeftS == 0 {
		t.Errorf("show: %+v, %v", u, err)
	}
	_, err = op.AddUser(ctx, admin.AddUser{Address: a, Password: "pw"})
	wantExit(t, "add a user whose address a deleted one has", err, admin.ExitFailed)
	wantExit(t, "delete twice", op.DeleteUser(ctx, admin.NamedUser{Address: a}), admin.ExitUsage)
	_, err = op.UndeleteUser(ctx, admin.UndeleteUser{Address: a, SinceS: 60})
	wantExit(t, "undelete a part of a deleted account", err, admin.ExitUsage)
	if got, err := op.UndeleteUser(ctx, admin.UndeleteUser{Address: a}); err != nil || !got.Account {
		t.Errorf("undelete: %+v, %v; want the account", got, err)
	}
	if n, err := s.count(other, user, "pw"); err != nil || n != 3 {
		t.Errorf("it came back with %d messages, %v; want 3", n, err)
	}
	s.eraseAndLoseTheMaster(ctx, a, master, op)
}

// eraseAndLoseTheMaster is the end of TestUndelete: disabled, enabled, deleted,
// erased, made again; then nobody serves the slot.
func (s *site) eraseAndLoseTheMaster(ctx context.Context, a slot.Address, master *running, op *admin.Client) {
	t := s.t
	t.Helper()
	for _, disabled := range []bool{true, false} {
		if err := op.SetDisabled(ctx, admin.SetDisabled{Address: a, Disabled: disabled}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.count(master, string(a), "pw"); (err != nil) != disabled {
			t.Errorf("log in, disabled %v: %v", disabled, err)
		}
		if err := s.deliver(master, string(a), "Subject: x\r\n\r\nx\r\n"); err != nil {
			t.Errorf("deliver, disabled %v: %v", disabled, err)
		}
	}
	if err := op.SetQuota(ctx, admin.SetQuota{Address: a, QuotaBytes: 10}); err != nil {
		t.Fatal(err)
	}
	var refusal *admin.Error
	if err := op.SetQuota(ctx, admin.SetQuota{Address: a, QuotaBytes: 10}); !errors.As(err, &refusal) || refusal.Exit != admin.ExitNothing {
		t.Errorf("the quota that it has: %v", err)
	}
	if err := s.deliver(master, string(a), "x\r\n"); err == nil || !strings.HasPrefix(err.Error(), "452 ") || !strings.Contains(err.Error(), "4.2.2") {
		t.Errorf("deliver over quota: %v", err)
	}
	for _, do := range []func() error{
		func() error { return op.DeleteUser(ctx, admin.NamedUser{Address: a}) },
		func() error { return op.EraseUser(ctx, admin.NamedUser{Address: a}) },
		func() error { _, err := op.AddUser(ctx, admin.AddUser{Address: a, Password: "pw"}); return err },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := s.count(master, string(a), "pw"); err != nil || n != 0 {
		t.Errorf("made again with %d messages, %v", n, err)
	}
	master.stopped()
	if err := op.DeleteUser(ctx, admin.NamedUser{Address: a}); exit(err) != admin.ExitFailed {
		t.Errorf("delete without a master: %v, want exit %d", err, admin.ExitFailed)
	}
	if list, err := op.DeletedUsers(ctx); err != nil || len(list.Unknown) == 0 {
		t.Errorf("deleted users without a master: %+v, %v; want that some are not known", list, err)
	}
}

// kept counts a copy's records of a kind.
func kept(t *testing.T, s *local.Slot, prefix byte) (n int) {
	t.Helper()
	if err := s.Snapshot(func(x local.Snapshot) error {
		return x.Each(event.SpanOf([]byte{prefix}), func(_, _ []byte) error { n++; return nil })
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// After the undelete window master and replica forget the same: tombstones,
// deleted mailboxes and accounts, their bodies and the journal about them.
func TestLaw08FreedOnEveryCopy(t *testing.T) {
	t.Parallel()
	s := newSiteWith(t, &site{t: t, upkeepEvery: 100 * time.Millisecond}, 2, 1, 1, "undelete = \"1s\"\n")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n1 := s.nodes[0]
	stays, goes := "ann@example.test", "bob@example.test"
	for _, u := range []string{stays, goes} {
		if _, err := n1.admin.AddUser(ctx, admin.AddUser{Address: addr(t, u), Password: "pw"}); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if err := s.deliver(n1, u, fmt.Sprintf("Subject: %d\r\n\r\nfor %s\r\n", i, u)); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, master, _ := s.masterOf(ctx, stays, 1)
	s.expungeAll(n1, stays)
	if err := n1.admin.DeleteUser(ctx, admin.NamedUser{Address: addr(t, goes)}); err != nil {
		t.Fatal(err)
	}
	s.eventually("both copies have freed all, and are equal", func(admin.Status) bool {
		var at [2]slot.Position
		var sum [2]event.Digest
		for i, r := range s.nodes {
			c := r.node.copies.slot(0)
			if kept(t, c, event.PrefixExpunged)+kept(t, c, event.PrefixRefs)+kept(t, c, event.PrefixMessage)+kept(t, c, event.PrefixBody) > 0 ||
				kept(t, c, event.PrefixAccount) != 1 || kept(t, c, event.PrefixMailbox) != 6 {
				return false
			}
			var err error
			if at[i], sum[i], err = c.Digest(); err != nil {
				t.Fatal(err)
			}
		}
		return at[0] == at[1] && sum[0] == sum[1]
	})
	removed, err := master.node.copies.slot(0).Head()
	if err != nil {
		t.Fatal(err)
	}
	s.eventually("both copies have trimmed their journals beyond that", func(admin.Status) bool {
		// The clock of a copy stands still while nothing happens.
		if err := s.deliver(n1, stays, "Subject: after\r\n\r\nx\r\n"); err != nil {
			t.Fatal(err)
		}
		for _, r := range s.nodes {
			if h, err := r.node.copies.slot(0).Head(); err != nil || h.KeptAfter < removed.Position {
				return false
			}
		}
		return true
	})
	if st := s.status(ctx, n1); !st.Slots[0].IsProtected() {
		t.Errorf("freeing cost the slot its protection: %+v", st.Slots[0])
	}
	if _, err := n1.admin.User(ctx, addr(t, goes)); exit(err) != admin.ExitUsage {
		t.Errorf("show an erased user: %v", err)
	}
}

// What was freed gives its room back: a pack that nothing points into goes, by
// itself, once no process writes it any more (law 12: a job that status shows).
func TestUpkeepGivesRoomBack(t *testing.T) {
	t.Parallel()
	s := newSiteWith(t, &site{t: t, upkeepEvery: 100 * time.Millisecond}, 1, 0, 1, "undelete = \"0s\"\n")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n, u := s.nodes[0], "ann@example.test"
	if _, err := n.admin.AddUser(ctx, admin.AddUser{Address: addr(t, u), Password: "pw"}); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := s.deliver(n, u, fmt.Sprintf("Subject: %d\r\n\r\nx\r\n", i)); err != nil {
			t.Fatal(err)
		}
	}
	s.expungeAll(n, u)
	s.eventually("the bodies are freed", func(admin.Status) bool { return kept(t, n.node.copies.slot(0), event.PrefixBody) == 0 })
	n.stopped()
	s.start(n)
	first := filepath.Join(n.cfg.Node.Data, "slots", "s000", "packs", "00000001.pack")
	s.eventually("the pack is gone", func(admin.Status) bool { _, err := os.Stat(first); return errors.Is(err, fs.ErrNotExist) })
	s.eventually("mail flows", func(st admin.Status) bool { return st.Slots[0].Serving })
	if err := s.deliver(n, u, "Subject: after\r\n\r\nx\r\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.count(n, u, "pw"); err != nil || got != 1 {
		t.Errorf("%d messages, %v", got, err)
	}
	jobs, err := n.admin.Jobs(ctx)
	if err != nil || !slices.ContainsFunc(jobs.Jobs, func(j admin.Job) bool { return j.Kind == job.Compact }) {
		t.Errorf("jobs %+v, %v; want a compaction", jobs, err)
	}
}
