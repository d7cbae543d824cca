package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mailnode/failover"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// A node works under an epoch and has no event of it yet. When it is asked under
// that epoch its promise is durable: after a restart it may know an older state of
// Raft, follow the old master, and acknowledge to it what the new one never hears.
func TestLaw01PromiseAlsoForTheEpochThatItKnows(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n1 := s.nodes[0]
	id := servedBy(t, s.status(ctx, n1), "n1")
	sl, _ := n1.node.State().Slot(id)
	k := s.named(sl.Replicas[0]).node.copies.keeper(id)
	next := sl.Epoch + 1
	k.role.mu.Lock()
	k.role.epoch = next // as if Raft had told it a moment ago
	k.role.mu.Unlock()
	if err := k.promise(ctx, next); err != nil {
		t.Fatal(err)
	}
	if got, err := k.opened().Promised(); got != next || err != nil {
		t.Errorf("promised %d (%v), want %d", got, err, next)
	}
}

// Somebody else has asked under the same epoch a moment ago. Whoever asks now is
// not answered either before the role has ended that may still acknowledge.
func TestLaw01SecondQuestionWaitsForTheRole(t *testing.T) {
	ended := make(chan struct{})
	k := &keeper{log: slog.New(slog.DiscardHandler), open: opening{copy: &local.Slot{}},
		role: roleState{kind: failover.RoleReplica, epoch: 1, told: toldEpochs{promised: 2}, roleParts: roleParts{leave: func() { <-ended }}}}
	for range 2 {
		if err := k.promise(context.Background(), 2); !errors.Is(err, errNotEnded) {
			t.Errorf("promise: %v, want %v", err, errNotEnded)
		}
	}
	close(ended)
	if err := k.promise(context.Background(), 2); err != nil {
		t.Errorf("after the role has ended: %v", err)
	}
}

// A master whose Raft has stopped is told of the higher epoch with each report. It
// asks again each second, and the log has one line.
func TestHigherEpochIsLoggedOnce(t *testing.T) {
	var out bytes.Buffer
	k := &keeper{log: slog.New(slog.NewTextHandler(&out, nil)), poke: make(chan struct{}, 1)}
	for range 494 {
		k.role.kind, k.role.epoch = failover.RoleMaster, 1 // as converge leaves it
		k.fenced(3)
	}
	if got := strings.Count(out.String(), "\n"); got != 1 {
		t.Errorf("%d lines, want 1:\n%s", got, &out)
	}
}

// Others tell of ever higher epochs while the disk of the masters hangs here, and
// the keepers take their roles up again. Whoever is told waits for none of them:
// one goroutine a copy ends its role, and the highest epoch is remembered.
func TestLaw09HigherEpochsDoNotPileUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const copies, highest = 3, 50
		hangs := make(chan struct{})
		n := &Node{}
		n.copies = newCopies(n)
		var r failover.Report
		for id := range slot.ID(copies) {
			n.copies.m[id] = &keeper{log: slog.New(slog.DiscardHandler), poke: make(chan struct{}, 1),
				role: roleState{roleParts: roleParts{leave: func() { <-hangs }}}}
			r.Slots = append(r.Slots, failover.CopyReport{Slot: id})
		}
		before, began := runtime.NumGoroutine(), time.Now()
		for e := slot.Epoch(2); e <= highest; e++ {
			for i := range r.Slots {
				r.Slots[i].Lineage = e
				k := n.copies.m[r.Slots[i].Slot]
				k.role.begins(failover.RoleMaster, 1) // as converge does while the role before has not ended
			}
			n.hearHigher(r)
			r.Slots[0].Lineage = 2 // an older report comes late
			n.hearHigher(r)
		}
		synctest.Wait()
		if more := runtime.NumGoroutine() - before; more > copies {
			t.Errorf("%d goroutines end %d roles", more, copies)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("whoever told waited %s", took)
		}
		for id, k := range n.copies.m {
			if k.role.is() != failover.RoleNone || k.role.told.higher != highest {
				t.Errorf("%s: role %s, told of epoch %d; want none, and %d", id, k.role.is(), k.role.told.higher, highest)
			}
		}
		close(hangs)
	})
}
