package raftfsm

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/raftfsm/ownership"
	"mailnode/storage/slot"
)

// history notes operations in the order in which they began and ended.
type history struct {
	ownership.History
	clock atomic.Int64
}

func (h *history) note(client int, call int64, input, output any) {
	h.Note(client, call, h.clock.Add(1), input, output)
}

// client reads, proposes and confirms until ctx ends, at whichever node takes it.
func (h *history) client(ctx context.Context, rng *rand.Rand, id int, all []*Node) {
	for ctx.Err() == nil {
		time.Sleep(time.Duration(10+rng.IntN(100)) * time.Millisecond)
		n := all[rng.IntN(len(all))]
		one, cancel := context.WithTimeout(ctx, 4*time.Second)
		sl, _ := n.State().Slot(1)
		to := sl.Replicas[rng.IntN(len(sl.Replicas))]
		p, open := n.State().OpenProposalOf(1)
		switch {
		case rng.IntN(2) == 0:
			h.read(one, id, n, all[rng.IntN(len(all))])
		case open:
			h.confirm(one, id, n, cluster.ConfirmSlot{Proposal: p.ID, Slot: 1, Epoch: sl.Epoch, Version: sl.Version, To: to, Unclean: true, AcceptLoss: true}, sl.Master)
		default: // whatever becomes of it shows in the state
			_, _ = n.Propose(one, cluster.OpenProposal{By: "test", Slots: []cluster.ProposedSlot{{Slot: 1, Epoch: sl.Epoch, From: sl.Master, To: to}}})
		}
		cancel()
	}
}

// read has one node prove that another's state is fresh.
func (h *history) read(ctx context.Context, id int, leader, at *Node) {
	call := h.clock.Add(1)
	index, err := leader.Fresh(ctx)
	if err != nil || at.WaitApplied(ctx, index) != nil {
		return
	}
	sl, _ := at.State().Slot(1)
	h.note(id, call, ownership.Reads{}, ownership.Owner{Epoch: sl.Epoch, Master: sl.Master})
}

// confirm gives the slot to another node; what was refused or not done is no change.
func (h *history) confirm(ctx context.Context, id int, n *Node, c cluster.ConfirmSlot, from slot.NodeName) {
	call := h.clock.Add(1)
	_, err := n.Propose(ctx, c)
	switch outcome := cluster.OutcomeOf(err); outcome {
	case cluster.Done, cluster.UnknownOutcome:
		h.note(id, call, ownership.Gives{From: ownership.Owner{Epoch: c.Epoch, Master: from},
			To: ownership.Owner{Epoch: c.Epoch + 1, Master: c.To}}, outcome)
	}
}

// TestLaw04OwnersAreLinearizable: six clients read and change an owner while nodes are
// cut off at random, leaders above all. porcupine looks for an order of all of it in
// which each epoch had one owner and no reading was stale. Time is virtual.
func TestLaw04OwnersAreLinearizable(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("SEED=%d", seed)
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	h := &history{}
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(seed, 1))
		m := newMesh()
		all := meshed(t, m, dirs)
		for _, n := range all {
			propose(t, all[0], cluster.UpdateMember{Name: n.cfg.Name, Features: cluster.KnownFeatures})
		}
		propose(t, all[0], cluster.RaiseFeatureLevel{From: 1, To: cluster.KnownFeatures})
		propose(t, all[0], cluster.AssignSlot{Slot: 1, Master: "n1", Replicas: []slot.NodeName{"n2", "n3"}})
		for _, n := range all {
			if err := n.WaitApplied(t.Context(), all[0].State().Index); err != nil {
				t.Fatal(err)
			}
		}
		ctx, stop := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		for i := range 6 {
			mine := rand.New(rand.NewPCG(seed, uint64(2+i)))
			clients.Go(func() { h.client(ctx, mine, i, all) })
		}
		for range 5 {
			time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
			n := all[rng.IntN(len(all))]
			if i := slices.IndexFunc(all, (*Node).IsLeader); i >= 0 && rng.IntN(3) > 0 {
				n = all[i]
			}
			m.cut(n.cfg.Addr, true)
			time.Sleep(time.Duration(rng.IntN(6000)) * time.Millisecond)
			m.cut(n.cfg.Addr, false)
		}
		time.Sleep(5 * time.Second)
		stop()
		clients.Wait()
		for _, n := range all {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			if err := n.Shutdown(ctx); err != nil {
				t.Error(err)
			}
			cancel()
		}
		time.Sleep(time.Minute) // Raft's last timers
	})
	all, kinds := h.Count()
	t.Logf("%d operations: %v", all, kinds)
	if all < 100 {
		t.Errorf("%d operations: this proves nothing", all)
	}
	if err := h.Check(ownership.Owner{Epoch: 1, Master: "n1"}, 30*time.Second); err != nil {
		t.Error(err)
	}
}
