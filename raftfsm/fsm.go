package raftfsm

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// fsm applies committed commands to the state and publishes it.
type fsm struct {
	latch      *latch
	onSnapshot func(error)          // the outcome of writing a snapshot
	beforeSeen func(*cluster.State) // makes a sole voter's state durable
	features   slot.FeatureLevel    // what this release knows

	work    *cluster.State // what Raft has applied; never changed in place. Used by Raft's FSM goroutine only
	current atomic.Pointer[published]
	mu      sync.Mutex // one publisher at a time
}

// published is what readers see. Nothing in it changes, but that changed is
// closed when it is replaced.
type published struct {
	state   *cluster.State
	changed chan struct{}
}

var _ raft.BatchingFSM = (*fsm)(nil)

// newFSM begins with the state known from the last run, nil when there is none.
// Readers see it until Raft has replayed its log up to there: what was committed
// once stays true, so that no reader is ever set back.
func newFSM(l *latch, known *cluster.State, onSnapshot func(error)) *fsm {
	f := &fsm{latch: l, onSnapshot: onSnapshot, beforeSeen: func(*cluster.State) {}, features: cluster.KnownFeatures, work: cluster.New()}
	if known == nil {
		known = f.work
	}
	f.current.Store(&published{state: known, changed: make(chan struct{})})
	return f
}

// publish replaces the state, unless readers have seen a newer one; nil keeps it
// and only wakes them.
func (f *fsm) publish(s *cluster.State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.current.Load()
	if s == nil || s.Index < old.state.Index {
		s = old.state
	}
	f.current.Store(&published{state: s, changed: make(chan struct{})})
	close(old.changed)
}

// Apply executes one entry. The proposer gets a []cluster.Applied.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch executes entries in order and publishes once. An entry that cannot
// be read stops Raft on this node: to skip it would make this node's state
// differ from the others'.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	if f.latch.Err() != nil {
		runtime.Goexit()
	}
	state, changed := f.work.Clone(), false
	out := make([]any, len(logs))
	for i, l := range logs {
		if l.Type != raft.LogCommand {
			continue
		}
		commands, err := cluster.DecodeEntry(l.Data)
		if err != nil {
			if changed {
				f.publish(state)
			}
			condition := ConditionLogCorrupt
			if errors.Is(err, cluster.ErrNewer) {
				condition = ConditionLogNewer
			}
			f.latch.fail(condition, fmt.Errorf("apply raft log entry %d: %w", l.Index, err))
		}
		applied, did := state.ApplyEntry(l.Index, commands)
		changed = changed || did
		out[i] = applied
	}
	if changed {
		f.work = state
		f.beforeSeen(state)
		f.publish(state)
		f.mustKnow(state)
	}
	return out
}

// tooNew says that the cluster's feature level is above what this release knows:
// an older release came back after the level was raised. It may misread what the
// others write, so it takes no part.
func (f *fsm) tooNew(s *cluster.State) error {
	if s.Features() <= f.features {
		return nil
	}
	return fmt.Errorf("the cluster is at feature level %d, this release knows %d: upgrade this node", s.Features(), f.features)
}

// mustKnow stops Raft on this node when its release is too old for the state.
func (f *fsm) mustKnow(s *cluster.State) {
	if err := f.tooNew(s); err != nil {
		f.latch.fail(ConditionLogNewer, err)
	}
}

// Snapshot is cheap: no state is ever changed in place.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	return &snapshot{state: f.work, done: f.onSnapshot}, nil
}

// Restore replaces the state. A snapshot that cannot be read is refused and
// leaves the state as it is; Raft then asks again, or does not start.
func (f *fsm) Restore(r io.ReadCloser) error {
	s, err := decodeState(r)
	if errors.Is(err, cluster.ErrNewer) { // Raft would ask for it again for ever
		f.latch.fail(ConditionLogNewer, err)
	}
	if err != nil {
		return err
	}
	f.work = s
	f.publish(s)
	f.mustKnow(s)
	return nil
}

type snapshot struct {
	state *cluster.State
	done  func(error)
}

// Persist writes the snapshot. The log is trimmed only after it is on disk, so a
// failure loses nothing and is only reported.
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	_, err := sink.Write(cluster.EncodeSnapshot(s.state))
	if err == nil {
		err = sink.Close()
	}
	if err != nil {
		_ = sink.Cancel() // the first error is the one that counts
		err = fmt.Errorf("write snapshot %q: %w", sink.ID(), err)
	}
	s.done(err)
	return err
}

// Release has nothing to free.
func (s *snapshot) Release() {}
