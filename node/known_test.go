package node

import (
	"context"
	"strings"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/node/monitor"
	"mailnode/storage/slot"
)

// A master that goes on alone without a quorum says that it is unprotected, beside
// what Raft still has; of nodes that are silent it gives no figures (law 1: what
// is unprotected is an alert).
func TestLaw01CutOffMasterSaysWhatIsKnown(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	n1 := s.nodes[0]
	users := s.users(ctx, 3)
	st := s.status(ctx, n1)
	mine, other := servedBy(t, st, "n1"), servedBy(t, st, "n2")
	for _, r := range s.nodes[1:] {
		r.stop()
	}
	for _, r := range s.nodes[1:] {
		r.ended.Wait()
	}
	if err := s.deliver(n1, users[mine], "Subject: alone\r\n\r\nx\r\n"); err != nil {
		t.Fatal(err)
	}
	s.eventuallyAt(n1, "what it does and what is recorded differ", func(st admin.Status) bool {
		sl := st.Slots[mine]
		c, is := conditionOf(st, monitor.SlotUnprotected, mine.String())
		quorum, no := conditionOf(st, monitor.RaftNoQuorum, "")
		return sl.Protected != nil && !*sl.Protected && sl.RecordedProtected && strings.HasPrefix(sl.ProtectedSource, "master n1, ") &&
			strings.Contains(sl.RecordSource, "no leader for ") && is && strings.Contains(c.Text, "could not be recorded") &&
			no && strings.Contains(quorum.Text, "1 of 3 voters are heard")
	})
	s.eventuallyAt(n1, "what is silent has no figures", func(st admin.Status) bool {
		there, silent := st.Slots[mine].Copies[0], st.Slots[mine].Copies[1]
		gone := st.Slots[other]
		return there.LagS != nil && there.Position != nil && silent.LagS == nil && silent.HeardS != nil && *silent.HeardS > 3 && silent.State == "silent" &&
			gone.Protected == nil && gone.RecordedProtected && strings.Contains(gone.ProtectedSource, "master n2 is silent")
	})
	d, err := n1.admin.Slot(ctx, other.String())
	if err != nil || d.Copies[0].Node != slot.NodeName("n2") || d.Copies[0].LagS != nil || d.UsersKnown != (d.Copies[1].Node == "n1") {
		t.Errorf("%+v, %v", d, err)
	}
}
