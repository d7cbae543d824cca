package raftfsm

import (
	"fmt"
	"runtime"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/disk"
)

// Conditions that this package raises. All but ConditionSnapshotFailed and
// ConditionNoRoom mean that Raft has stopped on this node for good, until the process
// starts again.
const (
	ConditionStoreFailed    = "raft-store-failed"    // a write of log, term or vote failed or hangs
	ConditionLogCorrupt     = "raft-log-corrupt"     // a checksum of log, term or vote does not match (law 6)
	ConditionLogNewer       = "raft-log-newer"       // a command of a newer release: this node must be upgraded
	ConditionRemoved        = "raft-removed"         // the cluster removed this server
	ConditionSnapshotFailed = "raft-snapshot-failed" // a snapshot could not be written; cleared by the next that can
	ConditionNoRoom         = "raft-no-room"         // a write waits for room on the disk; cleared when it has gone on
)

// ErrHalted says that Raft has stopped on this node. State keeps answering with
// what was applied last; mail on healthy disks goes on (law 9).
type ErrHalted struct {
	Condition string
	Cause     error
}

func (e *ErrHalted) Error() string {
	return fmt.Sprintf("raft is stopped on this node (%s): %v; repair the disk and restart mailnode", e.Condition, e.Cause)
}

func (e *ErrHalted) Unwrap() error { return e.Cause }

// Outcome says that this node does nothing any more. An ErrUnknownOutcome that
// wraps it was under way when Raft stopped.
func (*ErrHalted) Outcome() cluster.Outcome { return cluster.Halted }

// latch is the poison latch: the first fault is terminal. hashicorp/raft goes on
// writing after a failed fsync, which may then report false success, and panics
// when term or vote cannot be stored; it never gets to see such an error. The
// goroutine that ran into it ends instead, with its deferred calls: a leader
// steps down that way, and nothing is left to wait for at shutdown.
type latch struct {
	*disk.Latch
	onHalt func(*ErrHalted)
	dog    *disk.Watchdog // of store operations; nil: none
	room   *room          // what a full disk is waited for with; nil: it is a fault
}

func newLatch(onHalt func(*ErrHalted)) *latch {
	return &latch{Latch: disk.NewLatch(), onHalt: onHalt}
}

// slowPart: a leader of which a store operation takes that part of StallLimit has no
// quorum to speak of.
const slowPart = 5

// watch trips the latch when one store operation is under way for limit.
func (l *latch) watch(limit time.Duration) {
	l.dog = disk.StartWatchdog(limit, func(err error) { l.trip(ConditionStoreFailed, err) })
}

// trip records a fault; only the first counts.
func (l *latch) trip(condition string, cause error) {
	fault := &ErrHalted{Condition: condition, Cause: cause}
	if l.Trip(fault) {
		l.onHalt(fault)
	}
}

// fail trips the latch and ends the calling goroutine, which must be Raft's.
func (l *latch) fail(condition string, cause error) {
	l.trip(condition, cause)
	runtime.Goexit()
}

// during runs a store operation. It ends the goroutine when the latch has tripped,
// before it or meanwhile: after the first fault nothing touches the store any more,
// and nobody hears of what did.
func (l *latch) during(op, path string, f func() error) error {
	l.endIfTripped()
	defer l.endIfTripped()
	return l.dog.During(op, path, f)
}

func (l *latch) endIfTripped() {
	if l.Err() != nil {
		runtime.Goexit()
	}
}
