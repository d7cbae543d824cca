package raftfsm

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// owner is the register that the history is about: who owns a slot.
type owner struct {
	epoch  slot.Epoch
	master slot.NodeName
}

// gives is a confirmed change of an owner; reads is a reading of it.
type (
	gives struct{ from, to owner }
	reads struct{}
)

// ownership is the model: an epoch ends once, for one master, and whoever reads it
// fresh reads what was decided last (law 4). A change of unknown outcome may have come
// true at any later time, or never.
func ownership() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return owner{1, "n1"} },
		Step: func(state, input, output any) (bool, any) {
			now := state.(owner)
			c, change := input.(gives)
			if !change {
				return output == now, now
			}
			switch output.(cluster.Outcome) {
			case cluster.Done:
				return c.from.epoch == now.epoch, c.to
			case cluster.UnknownOutcome:
				if c.from.epoch == now.epoch {
					return true, c.to
				}
			}
			return true, now
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v: %+v", input, output) },
	}
}

// history notes operations in the order in which they began and ended.
type history struct {
	clock atomic.Int64
	mu    sync.Mutex
	ops   []porcupine.Operation
}

func (h *history) note(client int, call int64, input, output any) {
	end := h.clock.Add(1)
	if output == cluster.UnknownOutcome {
		end = math.MaxInt64
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: input, Output: output, Call: call, Return: end})
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
	h.note(id, call, reads{}, owner{sl.Epoch, sl.Master})
}

// confirm gives the slot to another node; what was refused or not done is no change.
func (h *history) confirm(ctx context.Context, id int, n *Node, c cluster.ConfirmSlot, from slot.NodeName) {
	call := h.clock.Add(1)
	_, err := n.Propose(ctx, c)
	switch outcome := cluster.OutcomeOf(err); outcome {
	case cluster.Done, cluster.UnknownOutcome:
		h.note(id, call, gives{owner{c.Epoch, from}, owner{c.Epoch + 1, c.To}}, outcome)
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
	count := map[string]int{}
	for _, op := range h.ops {
		count[fmt.Sprintf("%T %v", op.Input, op.Return == math.MaxInt64)]++
	}
	t.Logf("%d operations: %v", len(h.ops), count)
	if len(h.ops) < 100 {
		t.Errorf("%d operations: this proves nothing", len(h.ops))
	}
	switch porcupine.CheckOperationsTimeout(ownership(), h.ops, 30*time.Second) {
	case porcupine.Illegal:
		t.Error("no order of these operations has one owner for each epoch, and no stale reading")
	case porcupine.Unknown:
		t.Error("not decided within 30 s")
	}
}
