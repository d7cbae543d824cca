package node

import (
	"context"
	"fmt"
	"time"

	"mailnode/failover"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// toldEpochs are the epochs of which others have told a copy, or told it to ask.
type toldEpochs struct {
	promised slot.Epoch    // it acknowledges nothing to a lower epoch (law 1)
	higher   slot.Epoch    // the highest by which a master here was ended
	asked    slot.Epoch    // for which this master asks whether it may serve
	since    time.Duration // Clock.Mono when it began to
	ordered  slot.Epoch    // that a person lets it serve without a quorum, see without_quorum.go
}

// outdone notes a higher epoch, and reports whether it ends a master here: only
// the first time that is news.
func (r *roleState) outdone(higher slot.Epoch) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	over := r.kind == failover.RoleMaster && r.epoch < higher && (r.told.higher < higher || r.master != nil)
	if over {
		r.told.higher = max(r.told.higher, higher)
	}
	return over
}

// fenced ends a master that was told of a higher epoch, by whomever. Whether it
// serves on is asked again: of a leader with a quorum. It is told again and again
// until it knows the epoch itself. Whoever tells it does not wait for the role: a
// disk that hangs would hold up what is told of other slots (law 9).
func (k *keeper) fenced(higher slot.Epoch) {
	if k.role.outdone(higher) {
		k.log.Warn("told of a higher epoch: this node stops serving the slot", "higher", higher)
		k.role.endSoon()
		k.wake()
	}
}

// overNow is told by the feed that its epoch is over: nothing is acknowledged any
// more. It does not wait for the role, which may be waiting for the feed.
func (k *keeper) overNow() {
	k.role.endSoon()
	k.wake()
}

// answerWithin is how long an answer waits for the end of a role: a slot whose
// disk hangs must not hold up what its node says of the others (law 9).
const answerWithin = 300 * time.Millisecond

// promise makes this copy acknowledge nothing to an epoch lower than that of a
// node which asks what it holds (law 1). It returns when that is so, also when
// somebody else has asked at the same moment. That this node works under that
// epoch is not enough: a restart may know an older state of Raft.
func (k *keeper) promise(ctx context.Context, asked slot.Epoch) error {
	s := k.opened()
	if s == nil {
		return nil
	}
	if k.role.promised() < asked && !begunAt(s, asked) {
		if err := s.Promise(ctx, asked); err != nil {
			return fmt.Errorf("promise slot %s: %w", k.id, err)
		}
	}
	// Looked at after the promise: a role that begins from now on reads it.
	over, kind, ended := k.role.notePromise(asked)
	if over {
		k.log.Info("asked under a higher epoch: this node ends its part", "role", kind, "asked", asked)
		ended = k.role.endSoon() // until it has ended it may still acknowledge
		k.wake()
	}
	if ended == nil || closes(ended, answerWithin) {
		return nil
	}
	return fmt.Errorf("promise slot %s: %w", k.id, errNotEnded)
}

func (r *roleState) promised() slot.Epoch {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.told.promised
}

// notePromise remembers a durable promise. over: the role, which is kind, is of a lower
// epoch. ended is of the role before, as endSoon returns it.
func (r *roleState) notePromise(asked slot.Epoch) (over bool, kind failover.Role, ended <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told.promised = max(r.told.promised, asked)
	return r.kind != failover.RoleNone && r.epoch < asked, r.kind, r.ended
}

// asks notes that a master asks whether it may serve an epoch. It returns since
// when it has, and who has the events that it has lost, "" when that is nobody.
func (r *roleState) asks(e slot.Epoch, now time.Duration) (since time.Duration, lostTo slot.NodeName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.told.asked != e {
		// Whoever gave this node a new epoch has accepted what it lost in the one before.
		r.told.asked, r.told.since, r.lost = e, now, nil
	}
	if r.lost != nil {
		lostTo = r.lost.to
	}
	return r.told.since, lostTo
}

// begunAt reports whether a copy has events of an epoch: no master of a lower one
// lets it follow.
func begunAt(s *local.Slot, e slot.Epoch) bool {
	head, err := s.Head()
	return err == nil && head.Lineage.Last() >= e
}
