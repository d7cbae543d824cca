package node

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"mailnode/node/admin"
	"mailnode/raftfsm/cluster"
)

// slowSyncs is a disk whose syncs take a while, by a clock of its own.
type slowSyncs struct{ took, clock atomic.Int64 }

func (d *slowSyncs) String() string { return "slow syncs" }

// MaybeError implements errorfs.Injector.
func (d *slowSyncs) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		d.clock.Add(d.took.Load())
	}
	return nil
}

// protectedSlotsOf waits until all slots are served and protected, and counts those of a
// node.
func (s *site) protectedSlotsOf(master *running) (mine int) {
	s.t.Helper()
	s.until(master, 20*time.Second, "all slots serve", func(st admin.Status) bool {
		mine = 0
		for _, sl := range st.Slots {
			if !sl.Serving || !sl.IsProtected() {
				return false
			}
			if string(sl.Master) == master.name {
				mine++
			}
		}
		return true
	})
	if mine < 2 {
		s.t.Fatalf("%s is the master of %d slots", master.name, mine)
	}
	return mine
}

// TestLongLaw04Law09StrainedDisk: the disk of a master is slow. All its slots are proposed to
// move away, in one proposal, which goes when the disk is well; nothing moves without a
// person. Confirmed, they are handed over with nothing left behind.
func TestLongLaw04Law09StrainedDisk(t *testing.T) {
	onlyLong(t)
	t.Parallel()
	s := newSite(t, 3, 1, 6)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	users := s.users(ctx, 6)
	n1, n2 := s.nodes[0], s.nodes[1]
	n1.stopped()
	d := &slowSyncs{}
	s.startWith(n1, func(n *Node) { n.fs = errorfs.Wrap(n.fs, d) })
	mine := s.protectedSlotsOf(n1)
	space := n1.node.resources.Disks.At(n1.node.fs, n1.node.cfg.Node.Data, func() time.Duration {
		return n1.node.clock.Mono() + time.Duration(d.clock.Load())
	})
	// syncs makes n1's disk sync, each taking so long, until its trouble is as it should.
	syncs := func(took time.Duration, trouble bool) {
		t.Helper()
		d.took.Store(int64(took))
		for i := 0; (space.Trouble() != "") != trouble; i++ {
			if err := s.deliver(n1, users[i%len(users)], "x\r\n"); err != nil {
				t.Fatal(err)
			}
			if i > 5000 {
				t.Fatal("the disk's trouble does not change")
			}
		}
	}
	open := func(want int) cluster.Proposal {
		t.Helper()
		var list []cluster.Proposal
		s.until(n2, 30*time.Second, "proposals", func(admin.Status) bool {
			list = n2.node.State().OpenProposals()
			return len(list) == want
		})
		if want == 0 {
			return cluster.Proposal{}
		}
		return list[0]
	}
	syncs(3*time.Second, true)
	p := open(1)
	if len(p.Slots) != mine || !strings.Contains(p.Reason, "are served, and are to be moved; the first: n1 serves s0") || !strings.HasSuffix(p.Reason, "its disk is slow") {
		t.Errorf("%d slots are n1's: %+v", mine, p)
	}
	s.until(n1, 20*time.Second, "the condition", func(st admin.Status) bool {
		return strings.Contains(said(st, "disk-strained", n1.node.cfg.Node.Data), "its disk is slow")
	})
	syncs(400*time.Millisecond, false)
	open(0)
	syncs(3*time.Second, true)
	p = open(1)
	for _, sl := range n2.node.State().Slots {
		if sl.Epoch != 1 {
			t.Errorf("%s has changed its master, and nobody has confirmed: %+v", sl.ID, sl)
		}
	}
	out, err := n2.admin.Confirm(ctx, admin.ConfirmRequest{ID: p.ID})
	if err != nil || out.Exit != admin.ExitDone || len(out.Done) != mine {
		t.Fatalf("%+v, %v", out, err)
	}
	for _, sl := range n2.node.State().Slots {
		if sl.Master == "n1" || sl.Unclean != 0 {
			t.Errorf("%+v", sl)
		}
	}
}
