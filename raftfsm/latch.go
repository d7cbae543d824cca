package raftfsm

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"mailnode/raftfsm/cluster"
)

// Conditions that this package raises. All but ConditionSnapshotFailed mean that
// Raft has stopped on this node for good, until the process starts again.
const (
	ConditionStoreFailed    = "raft-store-failed"    // a write of log, term or vote failed or hangs
	ConditionLogCorrupt     = "raft-log-corrupt"     // a checksum of log, term or vote does not match (law 6)
	ConditionLogNewer       = "raft-log-newer"       // a command of a newer release: this node must be upgraded
	ConditionRemoved        = "raft-removed"         // the cluster removed this server
	ConditionSnapshotFailed = "raft-snapshot-failed" // a snapshot could not be written; cleared by the next that can
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
	halted chan struct{} // closed by the first fault
	onHalt func(*ErrHalted)
	slow   atomic.Bool // a store operation takes a good part of the limit

	mu     sync.Mutex // guards what follows
	fault  *ErrHalted
	nextOp uint64
	ops    map[uint64]string // store operations that have not returned
}

func newLatch(onHalt func(*ErrHalted)) *latch {
	return &latch{halted: make(chan struct{}), onHalt: onHalt, ops: map[uint64]string{}}
}

// err returns the fault, nil while there is none.
func (l *latch) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault == nil {
		return nil
	}
	return l.fault
}

// trip records a fault; only the first counts.
func (l *latch) trip(condition string, cause error) {
	l.mu.Lock()
	if l.fault != nil {
		l.mu.Unlock()
		return
	}
	fault := &ErrHalted{Condition: condition, Cause: cause}
	l.fault = fault
	l.mu.Unlock()
	close(l.halted)
	l.onHalt(fault)
}

// fail trips the latch and ends the calling goroutine, which must be Raft's.
func (l *latch) fail(condition string, cause error) {
	l.trip(condition, cause)
	runtime.Goexit()
}

// begin enters a store operation, and ends the goroutine when the latch has
// tripped: after the first fault nothing touches the store any more.
func (l *latch) begin(op string) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault != nil {
		runtime.Goexit()
	}
	l.nextOp++
	l.ops[l.nextOp] = op
	return l.nextOp
}

func (l *latch) end(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.ops, id)
	if l.fault != nil {
		runtime.Goexit()
	}
}

// The watchdog divides its limit into so many ticks.
const (
	stallTicks = 10
	slowTicks  = 2
)

// watch trips the latch when one store operation is under way for limit. It
// counts its own ticks instead of comparing times: a process that was paused
// for a minute has a write that looks a minute old, and has missed the ticks.
func (l *latch) watch(limit time.Duration, stop <-chan struct{}) {
	tick := time.NewTicker(max(limit/stallTicks, time.Millisecond))
	defer tick.Stop()
	seen := map[uint64]int{}
	for {
		select {
		case <-stop:
			return
		case <-l.halted:
			return
		case <-tick.C:
		}
		if op := l.overdue(seen); op != "" {
			l.trip(ConditionStoreFailed, fmt.Errorf("%s: no progress for %s", op, limit))
		}
	}
}

// overdue ages the operations under way and names one that is stallTicks old.
func (l *latch) overdue(seen map[uint64]int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range seen {
		if _, running := l.ops[id]; !running {
			delete(seen, id)
		}
	}
	slow := false
	for id, op := range l.ops {
		if seen[id]++; seen[id] > stallTicks {
			return op
		}
		slow = slow || seen[id] > slowTicks
	}
	l.slow.Store(slow)
	return ""
}
