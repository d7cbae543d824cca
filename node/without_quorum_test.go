package node

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/node/monitor"
	"mailnode/storage/slot"
)

// serveAlone lets a slot be served on a node without a quorum, and returns what the
// person reads.
func (s *site) serveAlone(ctx context.Context, r *running, id slot.ID) string {
	s.t.Helper()
	s.eventuallyAt(r, "the slot waits for a quorum", func(st admin.Status) bool {
		return len(st.Slots) > 0 && strings.Contains(st.Slots[id].Waiting, "until a quorum agrees")
	})
	var refusal *admin.Error
	if _, err := r.admin.Serve(ctx, admin.ServeRequest{Slot: id, Plan: true}); !errors.As(err, &refusal) || refusal.Next != "mailnode slot serve "+id.String()+" --without-quorum" {
		s.t.Errorf("slot serve without its flag: %v, it must name the flag", err)
	}
	plan, err := r.admin.Alone(ctx, id)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := r.admin.ServeAlone(ctx, admin.AloneRequest{Slot: id, Epoch: plan.Epoch}); err != nil {
		s.t.Fatal(err)
	}
	return plan.Text
}

// A master that is restarted without a quorum serves by a person's word, alone and
// marked. After a restart it waits for that word again. When the quorum is back in the
// same epoch it goes on, and is protected again.
func TestLaw01ServedWithoutQuorum(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	users := s.users(ctx, 3)
	n1 := s.nodes[0]
	id := servedBy(t, s.status(ctx, n1), "n1")
	refused(t, func() error { _, err := n1.admin.Alone(ctx, id); return err }(), admin.ExitNothing)
	other := servedBy(t, s.status(ctx, n1), "n2")
	s.stopAll()
	for range 2 {
		s.start(n1)
		if err := s.deliver(n1, users[id], "x\r\n"); err == nil || !strings.HasPrefix(err.Error(), "451") {
			t.Errorf("before a person's word: %v", err)
		}
		if text := s.serveAlone(ctx, n1, id); !strings.Contains(text, "it may hold more, and serve") || !strings.Contains(text, "in epoch 1") {
			t.Errorf("what the person reads: %s", text)
		}
		refused(t, func() error { _, err := n1.admin.Alone(ctx, id); return err }(), admin.ExitNothing)
		if text := refused(t, func() error { _, err := n1.admin.Alone(ctx, other); return err }(), admin.ExitRefused); !strings.Contains(text, "its master is n2") {
			t.Errorf("of another node's slot: %s", text)
		}
		if err := s.deliver(n1, users[id], "x\r\n"); err != nil {
			t.Fatal(err)
		}
		if r := n1.node.copies.keeper(id).report(); !r.Alone {
			t.Errorf("what was acknowledged alone is not marked: %+v", r)
		}
		n1.stopped()
	}
	for _, r := range s.nodes {
		s.start(r)
	}
	s.eventually("it is protected again, in the same epoch", func(st admin.Status) bool {
		return st.Slots[id].Serving && st.Slots[id].Epoch == 1 && st.Slots[id].IsProtected()
	})
	if n, err := s.count(n1, users[id], "pw"); err != nil || n != 2 {
		t.Errorf("%d messages, %v: want 2", n, err)
	}
}

// Another node was made master meanwhile. The one that serves by a person's word stops
// when it hears of that, and what it took is set aside and said.
func TestLaw04Law07ServedWithoutQuorumBesideAnother(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	users := s.users(ctx, 3)
	n1, others := s.nodes[0], s.nodes[1:]
	id := servedBy(t, s.status(ctx, n1), "n1")
	n1.stopped()
	s.nodes = others
	proposal := ""
	s.eventually("it is proposed", func(st admin.Status) bool {
		for _, p := range st.Proposals {
			for _, ps := range p.Slots {
				if ps.Slot == id && ps.To != "" {
					proposal = p.ID
				}
			}
		}
		return proposal != ""
	})
	if out, err := others[0].admin.Confirm(ctx, admin.ConfirmRequest{ID: proposal, Slots: []slot.ID{id}}); err != nil || out.Exit != admin.ExitDone {
		t.Fatalf("confirm: %+v, %v", out, err)
	}
	for _, r := range others {
		r.stopped()
	}
	s.start(n1)
	s.serveAlone(ctx, n1, id)
	if err := s.deliver(n1, users[id], "Subject: x\r\n\r\nalone\r\n"); err != nil {
		t.Fatal(err)
	}
	for _, r := range others {
		s.start(r)
	}
	s.nodes = append([]*running{n1}, others...)
	s.eventually("it has stopped, and what it took is said", func(st admin.Status) bool {
		c, is := conditionOf(st, monitor.CopyDiverged, id.String())
		return st.Slots[id].Master != "n1" && st.Slots[id].Serving && st.Slots[id].Epoch == 2 && is && strings.Contains(c.Text, "1 message")
	})
}
