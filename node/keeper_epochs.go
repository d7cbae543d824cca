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
}

// fenced ends a master that was told of a higher epoch, by whomever. Whether it
// serves on is asked again: of a leader with a quorum. It is told again and again
// until it knows the epoch itself, and only the first time is news.
func (k *keeper) fenced(higher slot.Epoch) {
	k.mu.Lock()
	over := k.role == failover.RoleMaster && k.epoch < higher && (k.told.higher < higher || k.master != nil)
	if over {
		k.told.higher = max(k.told.higher, higher)
	}
	k.mu.Unlock()
	if over {
		k.log.Warn("told of a higher epoch: this node stops serving the slot", "higher", higher)
		k.end()
		k.wake()
	}
}

// overNow is told by the feed that its epoch is over: nothing is acknowledged any
// more. It does not wait for the role, which may be waiting for the feed.
func (k *keeper) overNow() { k.n.wg.Go(func() { k.end(); k.wake() }) }

// answerWithin is how long an answer waits for the end of a role: a slot whose
// disk hangs must not hold up what its node says of the others (law 9).
const answerWithin = 300 * time.Millisecond

// promise makes this copy acknowledge nothing to an epoch lower than that of a
// node which asks what it holds (law 1). It returns when that is so, also when
// somebody else has asked at the same moment. That this node works under that
// epoch is not enough: a restart may know an older state of Raft.
func (k *keeper) promise(ctx context.Context, asked slot.Epoch) error {
	k.mu.Lock()
	s, promised := k.copy, k.told.promised
	k.mu.Unlock()
	if s == nil {
		return nil
	}
	if promised < asked && !begunAt(s, asked) {
		if err := s.Promise(ctx, asked); err != nil {
			return fmt.Errorf("promise slot %s: %w", k.id, err)
		}
	}
	// Looked at after the promise: a role that begins from now on reads it.
	k.mu.Lock()
	k.told.promised = max(k.told.promised, asked)
	over, role, ended := k.role != failover.RoleNone && k.epoch < asked, k.role, (<-chan struct{})(k.ended)
	k.mu.Unlock()
	if over {
		k.log.Info("asked under a higher epoch: this node ends its part", "role", role, "asked", asked)
		ended = k.leaveRole() // until it has ended it may still acknowledge
		k.wake()
	}
	if ended == nil || closes(ended, answerWithin) {
		return nil
	}
	return fmt.Errorf("promise slot %s: %w", k.id, errNotEnded)
}

// begunAt reports whether a copy has events of an epoch: no master of a lower one
// lets it follow.
func begunAt(s *local.Slot, e slot.Epoch) bool {
	head, err := s.Head()
	return err == nil && head.Lineage.Last() >= e
}
