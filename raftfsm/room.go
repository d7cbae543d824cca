package raftfsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"mailnode/storage/disk"
)

// roomAgainEvery is how often a write that found no room is tried again.
const roomAgainEvery = 100 * time.Millisecond

// noRoom reports whether a write was refused for want of room and has done no harm.
// bbolt never writes over a page that is in use, and names what it wrote last of all:
// what it was refused can be written again. A failed sync is not such a write, also
// when it says that the disk is full: what it lost may count as written (LAWS §4.7).
func noRoom(err error) bool {
	if at := (*fs.PathError)(nil); errors.As(err, &at) {
		return at.Op != "sync" && disk.NoRoom(at)
	}
	if at := (*os.LinkError)(nil); errors.As(err, &at) {
		return disk.NoRoom(at)
	}
	if err == nil || !strings.HasPrefix(err.Error(), "file resize error: ") { // bbolt wraps no cause
		return false
	}
	return strings.HasSuffix(err.Error(), syscall.ENOSPC.Error()) || strings.HasSuffix(err.Error(), syscall.EDQUOT.Error())
}

// room is what Raft waits for when its disk is full. Raft gets no error: it would
// panic for its term, and go on with a configuration that no log has. It sees a write
// that takes long. Meanwhile nobody hears from this server, as if it were cut off: a
// leader that sent heartbeats would keep its followers, and commit nothing; a
// follower that answered them would count for a quorum that can write nothing.
type room struct {
	latch   *latch
	giveUp  func() bool     // gives up the ballast
	silence func(on bool)   // at the gate
	tell    func(err error) // that it waits, nil: no more
	stop    <-chan struct{} // the Node is shut down

	mu    sync.Mutex    // guards what follows
	n     int           // writes that wait
	began chan struct{} // closed while n > 0; replaced when the last one has gone on
}

// again tries a write that met cause again until there is room for it: first in place
// of the ballast. It ends the goroutine, which must be Raft's, when Raft has stopped
// on this node or is shut down: what it could not write is missing then, as after a
// crash. A nil room has cause.
func (r *room) again(cause error, write func() error) error {
	if r == nil {
		return cause
	}
	if r.giveUp() {
		if cause = write(); !noRoom(cause) {
			return cause
		}
	}
	r.begin(cause)
	defer r.end()
	tick := time.NewTicker(roomAgainEvery)
	defer tick.Stop()
	for noRoom(cause) {
		select {
		case <-tick.C:
			cause = write()
		case <-r.stop:
			r.latch.fail(ConditionStoreFailed, fmt.Errorf("shut down while it waited for room: %w", cause))
		case <-r.latch.Tripped():
			r.latch.endIfTripped()
		}
	}
	return cause
}

// begin notes a write that waits.
func (r *room) begin(cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n++; r.n == 1 {
		close(r.began)
		r.silence(true)
		r.tell(cause)
	}
}

// end notes that it has gone on.
func (r *room) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n--; r.n == 0 {
		r.began = make(chan struct{})
		r.silence(false)
		if r.latch.Err() == nil {
			r.tell(nil)
		}
	}
}

// begins returns a channel that is closed when a write waits.
func (r *room) begins() <-chan struct{} {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.began
}

// waits reports whether a write waits.
func (r *room) waits() bool {
	select {
	case <-r.begins():
		return true
	default:
		return false
	}
}

// newRoom makes the room of a Node that is being opened.
func (n *Node) newRoom() *room {
	return &room{latch: n.latch, giveUp: n.giveUpBallast, silence: n.gate.silence, tell: n.tellRoom, stop: n.stop, began: make(chan struct{})}
}

func (n *Node) giveUpBallast() bool {
	if n.cfg.GiveUpBallast == nil || !n.cfg.GiveUpBallast() {
		return false
	}
	n.log.Warn("raft's disk is full: its ballast was given up")
	return true
}

// errNoRoom says why nothing can be decided here; it is gone when there is room.
var errNoRoom = errors.New("raft's disk is full: this node decides nothing until there is room")

// tellRoom keeps ConditionNoRoom while Raft waits for room, and wakes whoever waits
// for a change: this node does not lead any more.
func (n *Node) tellRoom(cause error) {
	if cause != nil {
		n.log.Error("raft's disk is full: it waits for room", "cause", cause)
		cause = fmt.Errorf("%w; it goes on by itself when there is room, and the slots that this node serves go on as without a quorum", cause)
	} else {
		n.log.Info("raft goes on")
	}
	n.cfg.OnCondition(ConditionNoRoom, cause)
	n.fsm.publish(nil)
}
