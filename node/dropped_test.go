package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/node/job"
	"mailnode/node/monitor"
	"mailnode/storage/slot"
)

// wish gives an order about replicas, and wants it to end as said.
func (s *site) wish(ctx context.Context, at *running, r admin.CopiesRequest, exit int) admin.CopiesAnswer {
	s.t.Helper()
	a, err := at.admin.ChangeCopies(ctx, r)
	if err != nil || a.Exit != exit {
		s.t.Fatalf("%+v: %+v, %v, want exit %d", r, a, err, exit)
	}
	return a
}

// eventuallySlot asks a node until a slot is right.
func (s *site) eventuallySlot(ctx context.Context, at *running, id slot.ID, what string, ok func(admin.SlotDetail) bool) admin.SlotDetail {
	s.t.Helper()
	var d admin.SlotDetail
	s.eventuallyAt(at, what, func(admin.Status) bool {
		got, err := at.admin.Slot(ctx, id.String())
		d = got
		return err == nil && ok(d)
	})
	return d
}

// traces lists what a node has of a slot's copy, but for empty folders.
func (r *running) traces(id slot.ID) (out []string) {
	for _, pattern := range []string{"slots/%s", "slots/%s.dropped-*", "held/%s", "dropped/%s"} {
		found, _ := filepath.Glob(filepath.Join(r.cfg.Node.Data, fmt.Sprintf(pattern, id)))
		out = append(out, found...)
	}
	return out
}

// inSyncBy says that a slot has just these replicas, all of which count.
func inSyncBy(names ...*running) func(admin.SlotDetail) bool {
	return func(d admin.SlotDetail) bool {
		ok := len(d.InSync) == len(names) && len(d.Leaving) == 0 && len(d.Replicas) == len(names)
		for _, r := range names {
			ok = ok && slices.Contains(d.InSync, slot.NodeName(r.name))
		}
		return ok
	}
}

// A replica comes and goes while its slot serves: it counts once it has caught up, its
// files go when the master holds all of it, also when its node was down meanwhile, and it
// may come back. Without replicas nobody is waited for.
func TestLaw01Law07ReplicaComesAndGoes(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	users := s.users(ctx, 3)
	id := servedBy(t, s.status(ctx, s.nodes[0]), "n1")
	replica := s.named(s.status(ctx, s.nodes[0]).Slots[id].Copies[1].Node)
	third := s.nodes[3-indexOf(s.nodes, replica)]
	sent := 0
	send := func(many int) {
		t.Helper()
		for range many {
			sent++
			if err := s.deliver(third, users[id], fmt.Sprintf("Subject: %d\r\n\r\nhello\r\n", sent)); err != nil {
				t.Fatal(err)
			}
		}
	}
	gone := func() {
		t.Helper()
		s.eventuallyAt(third, "its files are gone", func(admin.Status) bool { return len(third.traces(id)) == 0 })
	}
	add := admin.CopiesRequest{Slot: id, Add: slot.NodeName(third.name)}
	drop := admin.CopiesRequest{Slot: id, Drop: slot.NodeName(third.name)}
	send(70)
	s.wish(ctx, replica, add, admin.ExitDone)
	s.eventuallySlot(ctx, third, id, "both count", inSyncBy(replica, third))
	s.wish(ctx, replica, add, admin.ExitNothing)
	if jobs, err := third.admin.Jobs(ctx); err != nil || !slices.ContainsFunc(jobs.Jobs, func(j admin.Job) bool {
		return j.Kind == job.Resync && j.Slot == id.String() && j.State == job.Done && j.BytesDone > 0 && j.Done == 1
	}) {
		t.Errorf("%+v, %v: no fill", jobs, err)
	}
	send(3)

	s.wish(ctx, third, drop, admin.ExitDone)
	s.eventuallySlot(ctx, third, id, "one counts", inSyncBy(replica))
	gone()
	s.wish(ctx, replica, drop, admin.ExitNothing)
	send(3)

	s.wish(ctx, s.nodes[0], add, admin.ExitDone) // it is filled from nothing
	d := s.eventuallySlot(ctx, third, id, "both count again", inSyncBy(replica, third))
	for _, c := range d.Copies {
		if c.Digest != d.Copies[0].Digest || c.DigestAt != d.Copies[0].DigestAt {
			t.Errorf("%s has digest %s at %s, %s has %s at %s", c.Node, c.Digest, c.DigestAt, d.Copies[0].Node, d.Copies[0].Digest, d.Copies[0].DigestAt)
		}
	}
	third.stopped()
	s.wish(ctx, replica, drop, admin.ExitDone)
	s.eventuallySlot(ctx, replica, id, "it is dropped while it is down", inSyncBy(replica))
	s.start(third)
	gone()

	none, one := 0, 1
	s.wish(ctx, replica, admin.CopiesRequest{Slot: id, Count: &none}, admin.ExitRefused)
	s.wish(ctx, replica, admin.CopiesRequest{Slot: id, Count: &none, Force: true}, admin.ExitDone)
	s.eventuallySlot(ctx, third, id, "it has none", func(d admin.SlotDetail) bool {
		return len(d.Replicas) == 0 && d.Protected != nil && !*d.Protected && !d.RecordedProtected
	})
	send(2)
	s.wish(ctx, replica, admin.CopiesRequest{Slot: id, Count: &one}, admin.ExitDone)
	s.eventuallySlot(ctx, third, id, "it is protected again", func(d admin.SlotDetail) bool { return len(d.InSync) == 1 && d.IsProtected() })
	if n, err := s.count(replica, users[id], "pw"); err != nil || int(n) != sent {
		t.Errorf("%d messages, %v, want %d", n, err, sent)
	}
}

// A copy that was dropped while its node was down, and that holds what its master never
// had, is kept and said by every node; added again it is set aside and counted as ever.
func TestLaw07DroppedCopyThatHoldsMoreIsKept(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := s.leaveDown(ctx)
	drop := admin.CopiesRequest{Slot: c.id, Drop: slot.NodeName(c.old.name), Force: true}
	if a := s.wish(ctx, c.witness, drop, admin.ExitRefused); a.Next != "mailnode rescue list" {
		t.Errorf("with an open loss: %+v", a)
	}
	if err := c.witness.admin.DismissLoss(ctx, admin.DismissLoss{Slot: c.id, Why: "its node is scrap"}); err != nil {
		t.Fatal(err)
	}
	s.wish(ctx, c.witness, drop, admin.ExitDone)
	s.eventuallySlot(ctx, c.witness, c.id, "it is dropped", func(d admin.SlotDetail) bool { return len(d.Replicas) == 0 })
	s.start(c.old)
	for _, r := range s.nodes {
		s.eventuallyAt(r, "the copy is said", func(st admin.Status) bool {
			said, is := conditionOf(st, monitor.CopyDiverged, c.id.String())
			return is && strings.Contains(said.Text, "on n1, dropped-copy") && strings.Contains(said.Text, "mailnode slot add-replica "+c.id.String()+" n1")
		})
	}
	got, err := c.witness.admin.Asides(ctx)
	if err != nil || len(got.States) != 1 || got.States[0].Name != droppedName || got.States[0].Node != "n1" || !got.States[0].Acknowledged {
		t.Errorf("listed: %+v, %v", got, err)
	}
	d := s.eventuallySlot(ctx, c.replica, c.id, "it is shown", func(d admin.SlotDetail) bool { return len(d.Dropped) == 1 })
	if x := d.Dropped[0]; x.Node != "n1" || x.State != "dropped" || !strings.Contains(x.Waiting, "does not have") {
		t.Errorf("shown: %+v", x)
	}
	if _, err := os.Stat(filepath.Join(c.old.cfg.Node.Data, "held", c.id.String())); err != nil {
		t.Errorf("its mark: %v", err)
	}
	s.wish(ctx, c.replica, admin.CopiesRequest{Slot: c.id, Add: "n1"}, admin.ExitDone)
	s.eventuallyAt(c.witness, "it is set aside and counted", func(st admin.Status) bool {
		said, is := conditionOf(st, monitor.CopyDiverged, c.id.String())
		return is && strings.Contains(said.Text, "on n1, diverged-1-") && strings.Contains(said.Text, "2 messages, 1 user, 1 folder") && !strings.Contains(said.Text, "dropped-copy")
	})
	// What lies aside keeps the folder, whoever drops the copy again.
	s.wish(ctx, c.replica, admin.CopiesRequest{Slot: c.id, Drop: "n1", Force: true}, admin.ExitDone)
	d = s.eventuallySlot(ctx, c.replica, c.id, "it is dropped, and there", func(d admin.SlotDetail) bool {
		return len(d.Dropped) == 1 && strings.Contains(d.Dropped[0].Waiting, "quarantine")
	})
	if len(c.old.traces(c.id)) < 2 {
		t.Errorf("%v of %+v", c.old.traces(c.id), d.Dropped)
	}
}
