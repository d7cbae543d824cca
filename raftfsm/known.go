package raftfsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"mailnode/raftfsm/cluster"
)

// knownName is the file in Config.Dir with the state applied last. Raft does not
// store what was committed: a node that starts without a leader would know no
// more than its last snapshot, in a young cluster nothing at all, just when a
// person must decide what it may serve.
const knownName = "known-state"

// keepPause is the least time between two writes of the known state.
const keepPause = 250 * time.Millisecond

// readKnown gives the state that this node had applied when it ran last; nil
// when there is none. One that cannot be read is as good as none: Raft's own log
// and snapshot hold the truth.
func readKnown(dir string) (*cluster.State, error) {
	b, err := os.ReadFile(filepath.Join(dir, knownName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return cluster.DecodeSnapshot(b)
}

func writeKnown(dir string, s *cluster.State) error {
	if err := replaceFile(filepath.Join(dir, knownName), cluster.EncodeSnapshot(s)); err != nil {
		return fmt.Errorf("write known cluster state: %w", err)
	}
	return nil
}

// keepKnown writes the state after it changed, until stop; then once more. It is
// a copy for the next start: when it cannot be written nothing else suffers.
func (n *Node) keepKnown() {
	defer close(n.kept)
	written := n.State().Index
	for stopping := false; ; {
		changed := n.Changed()
		if s := n.State(); s.Index > written && n.latch.err() == nil {
			if err := writeKnown(n.cfg.Dir, s); err != nil {
				n.log.Warn("cluster state not kept for the next start", "cause", err)
			}
			written = s.Index
		}
		if stopping {
			return
		}
		select {
		case <-n.latch.halted:
			return
		case <-n.stop:
			stopping = true
		case <-changed:
			select {
			case <-time.After(keepPause):
			case <-n.stop:
			}
		}
	}
}
