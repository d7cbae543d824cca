package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/node/job"
	"mailnode/storage/local"
)

// conditionsOf returns the names of conditions about a subject.
func conditionsOf(st admin.Status, about string) string {
	var out []string
	for _, c := range st.Conditions {
		if c.About == about {
			out = append(out, string(c.Name))
		}
	}
	return strings.Join(out, " ")
}

func (r *running) slotDir(id string) string { return filepath.Join(r.cfg.Node.Data, "slots", id) }

// The only copy of a slot has lost its index: it is rebuilt from the packs by
// itself, that is said, and mail flows again.
func TestLaw07MasterAloneRebuildsByItself(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1, 0, 1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n, u := s.nodes[0], "ann@example.test"
	if _, err := n.admin.AddUser(ctx, admin.AddUser{Address: addr(t, u), Password: "pw"}); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if err := s.deliver(n, u, fmt.Sprintf("Subject: %d\r\n\r\nhello\r\n", i)); err != nil {
			t.Fatal(err)
		}
	}
	n.stopped()
	if err := os.RemoveAll(filepath.Join(n.slotDir("s000"), "index")); err != nil {
		t.Fatal(err)
	}
	s.start(n)
	if d := s.reindexOver(n, "s000 index"); d.State != job.Done {
		t.Fatalf("%+v", d)
	}
	s.eventually("the slot serves, and what was done is said", func(st admin.Status) bool {
		said := conditionsOf(st, "s000")
		return st.Slots[0].Serving && strings.Contains(said, "slot-reindexed") && !strings.Contains(said, "slot-refused")
	})
	if err := n.admin.SetPassword(ctx, admin.SetPassword{Address: addr(t, u), Password: "new"}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.count(n, u, "new"); err != nil || got != 20 {
		t.Errorf("%d messages, %v", got, err)
	}
	if err := s.deliver(n, u, "Subject: after\r\n\r\nhello\r\n"); err != nil {
		t.Error(err)
	}
}

// A replica that has lost its index is filled again by itself. A master that has
// others is not rebuilt by a program (law 4), nor for an operator who has not
// said --alone; the proposal comes as for any copy that is down.
func TestLaw04Law07ReplicaRebuildsByItselfAndAMasterDoesNot(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2, 1, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	u := "ann@example.test"
	if _, err := s.nodes[0].admin.AddUser(ctx, admin.AddUser{Address: addr(t, u), Password: "pw"}); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if err := s.deliver(s.nodes[0], u, fmt.Sprintf("Subject: %d\r\n\r\nhello\r\n", i)); err != nil {
			t.Fatal(err)
		}
	}
	_, master, replica := s.masterOf(ctx, u, 1)
	lose := func(r *running) {
		t.Helper()
		r.stopped()
		if err := os.RemoveAll(filepath.Join(r.slotDir("s000"), "index")); err != nil {
			t.Fatal(err)
		}
		s.start(r)
	}
	lose(replica)
	d := s.reindexOver(replica, "s000 index")
	if d.State != job.Done || !strings.Contains(strings.Join(d.Lines, "\n"), "20 bodies found in the packs") {
		t.Fatalf("%+v", d)
	}
	s.eventually("the replica protects the slot again", func(st admin.Status) bool { return st.Slots[0].Serving && st.Slots[0].IsProtected() })
	if err := s.deliver(s.nodes[0], u, "Subject: after\r\n\r\nhello\r\n"); err != nil {
		t.Fatal(err)
	}
	lose(master)
	s.eventually("the master stays down and is proposed", func(st admin.Status) bool {
		return len(st.Proposals) == 1 && !st.Slots[0].Serving
	})
	_, err := master.admin.Reindex(ctx, admin.ReindexRequest{FromPacks: true})
	var refused *admin.Error
	if !errors.As(err, &refused) || refused.Exit != admin.ExitRefused || !strings.HasPrefix(refused.Next, "mailnode fo s000 ") {
		t.Errorf("reindex of a master that has a replica: %#v", err)
	}
	if out, err := s.nodes[0].admin.Confirm(ctx, admin.ConfirmRequest{}); err != nil || out.Exit != 0 {
		t.Fatalf("confirm: %+v, %v", out, err)
	}
	if d := s.reindexOver(master, "s000 index"); d.State != job.Done {
		t.Fatalf("%+v", d)
	}
	s.eventually("the old master follows and protects", func(st admin.Status) bool { return st.Slots[0].Serving && st.Slots[0].IsProtected() })
	if n, err := s.count(s.nodes[0], u, "pw"); err != nil || n != 21 {
		t.Errorf("%d messages, %v", n, err)
	}
}

// A rebuild that the end of the process cut off goes on as a job at the next
// start, and ends (law 12).
func TestLaw12RebuildGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1, 0, 1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n, u := s.nodes[0], "ann@example.test"
	if _, err := n.admin.AddUser(ctx, admin.AddUser{Address: addr(t, u), Password: "pw"}); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := s.deliver(n, u, fmt.Sprintf("Subject: %d\r\n\r\nhello\r\n", i)); err != nil {
			t.Fatal(err)
		}
	}
	o := n.node.copies.keeper(0).options
	n.stopped()
	o.Resources, o.OnDamage = local.NewResources(8<<20), nil
	cut := errors.New("the power failed")
	spent := 0
	_, err := local.Rebuild(ctx, o, local.RebuildOptions{Mode: local.Alone, Epoch: 1, RecountOptions: local.RecountOptions{
		Spend: func(context.Context, int64) error {
			if spent++; spent > 20 {
				return cut
			}
			return nil
		}}})
	o.Resources.Close()
	if !errors.Is(err, cut) {
		t.Fatalf("the rebuild was not cut off: %v", err)
	}
	if mode, pending := local.RebuildPending(o); !pending || mode != local.Alone {
		t.Fatalf("pending %v, mode %q", pending, mode)
	}
	s.start(n)
	if d := s.reindexOver(n, "s000 index"); d.State != job.Done {
		t.Fatalf("%+v", d)
	}
	s.eventually("the slot serves", func(st admin.Status) bool { return st.Slots[0].Serving })
	if got, err := s.count(n, u, "pw"); err != nil || got != 5 {
		t.Errorf("%d messages, %v", got, err)
	}
}

// A replica whose index is lost may have promised a new master to follow no other. It does
// not rebuild, and follow one, before a leader has said which epoch the slot is in.
func TestLaw01RebuildOfAReplicaWaitsForAQuorum(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2, 1, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	u := "ann@example.test"
	if _, err := s.nodes[0].admin.AddUser(ctx, admin.AddUser{Address: addr(t, u), Password: "pw"}); err != nil {
		t.Fatal(err)
	}
	if err := s.deliver(s.nodes[0], u, "Subject: x\r\n\r\nhello\r\n"); err != nil {
		t.Fatal(err)
	}
	s.eventually("protected", func(st admin.Status) bool { return st.Slots[0].Serving && st.Slots[0].IsProtected() })
	_, master, replica := s.masterOf(ctx, u, 1)
	master.stopped()
	replica.stopped()
	if err := os.RemoveAll(filepath.Join(replica.slotDir("s000"), "index")); err != nil {
		t.Fatal(err)
	}
	s.start(replica)
	until(t, "a rebuild is asked for", func() bool { return len(replica.node.jobs.List(false)) == 1 })
	if mode, begun := local.RebuildPending(local.Options{FS: replica.node.fs, Dir: replica.slotDir("s000")}); begun {
		t.Errorf("a rebuild (%s) has begun without a quorum", mode)
	}
	s.start(master)
	if d := s.reindexOver(replica, "s000 index"); d.State != job.Done {
		t.Fatalf("%+v", d)
	}
	s.eventually("the replica protects the slot again", func(st admin.Status) bool { return st.Slots[0].Serving && st.Slots[0].IsProtected() })
}
