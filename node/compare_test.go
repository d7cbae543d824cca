package node

import (
	"context"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/node/job"
	"mailnode/node/monitor"
)

// TestDifferenceEndsWithItsCause: copies that were found to differ are compared
// again, and the condition ends when they are the same; a peer that is down is no
// damage, and proves nothing.
func TestDifferenceEndsWithItsCause(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2, 1, 1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	master := s.named(s.status(ctx, s.nodes[0]).Slots[0].Master)
	other := s.nodes[0]
	if other == master {
		other = s.nodes[1]
	}
	n := master.node
	n.conditions.Set(monitor.CopyDigestDiffers, "s000", "it was healed since")
	other.stop()
	other.ended.Wait()
	n.compareAgain(ctx, n.copies.keeper(0))
	if !n.conditions.Holds(monitor.CopyDigestDiffers, "s000") {
		t.Error("a peer that is down proved that nothing differs")
	}
	jobs, err := master.admin.Audit(ctx, admin.AuditRequest{All: true})
	if err != nil {
		t.Fatal(err)
	}
	j, ok := n.jobs.Find(jobs.Jobs[0].ID)
	if !ok {
		t.Fatal("no job")
	}
	<-j.Over()
	if end := j.Status(); end.State != job.Done || end.Findings != 1 {
		t.Errorf("an audit while the peer is down: %+v", end)
	}
	s.start(other)
	s.eventuallyAt(master, "the copies are the same", func(admin.Status) bool {
		n.compareAgain(ctx, n.copies.keeper(0))
		return !n.conditions.Holds(monitor.CopyDigestDiffers, "s000")
	})
}
