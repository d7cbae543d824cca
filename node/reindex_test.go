package node

import (
	"context"
	"strings"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/node/job"
	"mailnode/storage/slot"
)

// reindexOver waits for a job of kind reindex to end on a node.
func (s *site) reindexOver(r *running, what string) job.Detail {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		list, err := r.admin.Jobs(ctx)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, j := range list.Jobs {
			if j.Kind == job.Reindex && strings.Contains(j.About, what) && j.State.Over() {
				d, err := r.admin.Job(ctx, j.ID, 0)
				if err != nil {
					s.t.Fatal(err)
				}
				return d
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("no reindex of %q ended: %+v", what, list)
		}
	}
}

// An operator's reindex: of a slot, an account, a mailbox, and from packs on a
// replica that serves nobody, while mail comes.
func TestReindexByAnOperator(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2, 1, 1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	u := "ann@example.test"
	if _, err := s.nodes[0].admin.AddUser(ctx, admin.AddUser{Address: addr(t, u), Password: "pw"}); err != nil {
		t.Fatal(err)
	}
	if err := s.deliver(s.nodes[0], u, "Subject: x\r\n\r\nhello\r\n"); err != nil {
		t.Fatal(err)
	}
	_, _, replica := s.masterOf(ctx, u, 1)
	for what, q := range map[string]admin.ReindexRequest{
		"s000 derived records":                      {},
		"s000 derived records of " + u:              {Address: addr(t, u)},
		"s000 derived records of " + u + " INBOX":   {Address: addr(t, u), Mailbox: "inbox"},
		"s000 index, from the packs and the master": {FromPacks: true},
	} {
		at := s.nodes[0]
		if q.FromPacks {
			at = replica
		}
		if _, err := at.admin.Reindex(ctx, q); err != nil {
			t.Fatalf("%+v: %v", q, err)
		}
		if d := s.reindexOver(at, strings.ReplaceAll(what, " INBOX", " inbox")); d.State != job.Done {
			t.Errorf("%s: %+v", what, d)
		}
	}
	for _, q := range []admin.ReindexRequest{{Slot: slot.ID(9)}, {Address: "nobody@example.test"}, {Address: addr(t, u), Mailbox: "nothing"}} {
		if _, err := s.nodes[0].admin.Reindex(ctx, q); exit(err) != admin.ExitUsage {
			t.Errorf("%+v: %v", q, err)
		}
	}
	s.eventually("protected again", func(st admin.Status) bool { return st.Slots[0].Serving && st.Slots[0].IsProtected() })
	if err := s.deliver(s.nodes[0], u, "Subject: y\r\n\r\nhello\r\n"); err != nil {
		t.Error(err)
	}
}
