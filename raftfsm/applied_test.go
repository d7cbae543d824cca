package raftfsm

import (
	"context"
	"errors"
	"testing"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// returned runs a call in a goroutine of its own.
func returned(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

// TestLaw04AppliedIsInTheState holds a follower's state machine back: nothing may
// be called applied, or fresh, before a reader of State sees it. A master that
// reads "the epoch is still mine" from an older state would serve on.
func TestLaw04AppliedIsInTheState(t *testing.T) {
	all := trio(t)
	leader, others := leaderOf(t, all)
	leader.must(t, cluster.AssignSlot{Slot: 3, Master: "n2", Replicas: []slot.NodeName{"n1"}})
	f := others[0]
	until(t, "the follower has it", func() bool { sl, _ := f.State().Slot(3); return sl.Epoch == 1 })

	f.fsm.mu.Lock() // its goroutine gets no CPU for a while
	res := leader.must(t, cluster.SetUnprotected{Slot: 3, Epoch: 1, Since: 9})
	fresh, err := leader.Fresh(t.Context())
	if err != nil || fresh < res.Index {
		t.Fatalf("fresh index %d (%v), the last command has %d", fresh, err, res.Index)
	}
	until(t, "applied, says hashicorp's count", func() bool { return f.raft.AppliedIndex() >= res.Index })
	for _, index := range []uint64{res.Index, fresh} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := f.WaitApplied(ctx, index); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("index %d is applied (%v), and State ends at %d", index, err, f.State().Index)
		}
		cancel()
	}
	waiting := returned(func() error { return f.WaitApplied(t.Context(), fresh) })
	f.fsm.mu.Unlock()
	if err := <-waiting; err != nil {
		t.Fatal(err)
	}
	if sl, _ := f.State().Slot(3); sl.UnprotectedSince != 9 {
		t.Errorf("applied, and State has %+v", sl)
	}
}

// TestFreshAfterEntriesThatChangeNothing: refusals, barriers and elections end
// the log, and a follower must not wait for an index that its state never gets.
func TestFreshAfterEntriesThatChangeNothing(t *testing.T) {
	all := trio(t)
	leader, others := leaderOf(t, all)
	for range 3 {
		if _, err := leader.Propose(t.Context(), cluster.RejectProposal{Proposal: "none"}); err == nil {
			t.Fatal("a proposal that does not exist was rejected")
		}
	}
	if err := leader.TransferLeadership(t.Context()); err != nil {
		t.Fatal(err)
	}
	leader, others = leaderOf(t, all)
	fresh, err := leader.Fresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range others {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if err := s.WaitApplied(ctx, fresh); err != nil {
			t.Errorf("%s: %v", s.cfg.Name, err)
		}
		cancel()
	}
	if _, err := others[0].Fresh(t.Context()); err == nil {
		t.Error("a follower says that it is fresh")
	}
}

// TestRefusalNamesItsState: who is refused may read the state that refused it.
func TestRefusalNamesItsState(t *testing.T) {
	all := trio(t)
	leader, others := leaderOf(t, all)
	assigned := leader.must(t, cluster.AssignSlot{Slot: 3, Master: "n2", Replicas: []slot.NodeName{"n1"}})
	res, err := leader.Propose(t.Context(), cluster.SetUnprotected{Slot: 3, Epoch: 0, Since: 9})
	var stale cluster.ErrStale
	if !errors.As(err, &stale) || res.Index != assigned.Index {
		t.Errorf("refused with %v by the state of index %d, want a stale epoch and %d", err, res.Index, assigned.Index)
	}
	if err := others[0].WaitApplied(t.Context(), res.Index); err != nil {
		t.Error(err)
	}
}

// TestAppliedSurvivesARestart: the state kept from the last run counts while the
// log is not replayed yet, without a leader; one that is filled by a snapshot has
// its index, although the snapshot's last entry was a refusal.
func TestAppliedSurvivesARestart(t *testing.T) {
	cfg := config(t, "n1", listenNew(t))
	s := first(t, cfg)
	res := s.must(t, cluster.AssignSlot{Slot: 3, Master: "n1"})
	if _, err := s.Propose(t.Context(), cluster.RejectProposal{Proposal: "none"}); err == nil {
		t.Fatal("a proposal that does not exist was rejected")
	}
	if err := s.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	until(t, "kept", func() bool {
		k, err := readKnown(s.Node.cfg.Memory.Dir)
		return err == nil && k != nil && k.Index >= res.Index
	})
	s.end(t)
	cfg.Transport = listen(t, s.Node.cfg.Addr)
	again := start(t, cfg)
	if err := again.WaitApplied(t.Context(), res.Index); err != nil {
		t.Fatal(err)
	}
	until(t, "a leader", again.IsLeader)
	fresh, err := again.Fresh(t.Context())
	if err != nil || fresh != res.Index {
		t.Errorf("fresh index %d (%v), the last change has %d", fresh, err, res.Index)
	}
}

// TestWaitAppliedEndsWithTheLatch: a node whose Raft has stopped applies nothing
// any more, and says so instead of waiting.
func TestWaitAppliedEndsWithTheLatch(t *testing.T) {
	s := first(t, config(t, "n1", listenNew(t)))
	waiting := returned(func() error { return s.WaitApplied(t.Context(), 1<<40) })
	s.latch.trip(ConditionStoreFailed, errors.New("made up"))
	asHalted(t, <-waiting, ConditionStoreFailed)
}
