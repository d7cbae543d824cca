package raftfsm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/disk"
)

// knownName is the file in Config.Memory.Dir with the state applied last. Raft does not
// store what was committed: a node that starts without a leader would know no
// more than its last snapshot, in a young cluster nothing at all, just when a
// person must decide what it may serve. A sole voter writes it before anybody sees
// the state: nobody else has it when its Raft files are lost.
const knownName = "known-state"

// keepPause is the least time between two writes of the known state.
const keepPause = 250 * time.Millisecond

// readKnown returns the state that this node had applied when it ran last; nil
// when there is none. One that cannot be read is as good as none: Raft's own log
// and snapshot hold the truth.
func readKnown(dir string) (*cluster.State, error) {
	f, err := os.Open(filepath.Join(dir, knownName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return decodeState(f)
}

func decodeState(r io.Reader) (*cluster.State, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	return cluster.DecodeSnapshot(b)
}

// knownFile writes the known state.
type knownFile struct {
	mu      sync.Mutex // one writer at a time; guards written
	written uint64     // the index of the state that is in the file
}

// write makes a state durable, unless a newer one is.
func (k *knownFile) write(dir string, s *cluster.State) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s.Index <= k.written {
		return nil
	}
	if err := disk.ReplaceFile(filepath.Join(dir, knownName), cluster.EncodeSnapshot(s)); err != nil {
		return fmt.Errorf("write known cluster state: %w", err)
	}
	k.written = s.Index
	return nil
}

// keepIfSole makes the state of a sole voter durable before anybody sees it.
func (n *Node) keepIfSole(s *cluster.State) {
	if n.mem == nil || !n.mem.get().Sole {
		return
	}
	write := func() error { return n.known.write(n.cfg.Memory.Dir, s) }
	err := write()
	if noRoom(err) {
		err = n.latch.room.again(err, write)
	}
	if err != nil {
		n.latch.fail(ConditionStoreFailed, err)
	}
}

// keepKnown writes the state after it changed, until stop; then once more. It is
// a copy for the next start: when it cannot be written nothing else suffers.
func (n *Node) keepKnown() {
	defer close(n.kept)
	for stopping := false; ; {
		changed := n.Changed()
		if n.latch.Err() == nil {
			if err := n.known.write(n.cfg.Memory.Dir, n.State()); err != nil {
				n.log.Warn("cluster state not kept for the next start", "cause", err)
			}
		}
		if stopping {
			return
		}
		select {
		case <-n.latch.Tripped():
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
