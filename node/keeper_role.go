package node

import (
	"context"
	"errors"
	"time"

	"mailnode/failover"
	"mailnode/raftfsm/cluster"
)

// endWithin is how long whoever ends a role waits for that. A role whose disk hangs
// goes on ending by itself, and concerns its slot alone (law 9).
const endWithin = time.Second

// end leaves the role, and reports whether it has come to its end. Clients and
// replicas are refused at once; what may take longer are reads of a disk that
// hangs. Until they have ended no next role begins. It may be called from any
// goroutine but the role's own.
func (k *keeper) end() bool {
	ended := k.leaveRole()
	return ended == nil || closes(ended, endWithin)
}

// leaveRole is end without the wait: the channel is closed when the role has
// ended; nil: there was none.
func (k *keeper) leaveRole() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	leave, before := k.leave, k.ended
	k.term++
	k.master, k.feed, k.follower, k.leave, k.role, k.epoch = nil, nil, nil, nil, failover.RoleNone, 0
	if leave != nil {
		ended := make(chan struct{})
		k.ended = ended
		go func() {
			defer close(ended)
			leave()
			if before != nil {
				<-before
			}
		}()
	}
	return k.ended
}

// errNotEnded says that the role before holds up the next one.
var errNotEnded = errors.New("waits until what this node did for the slot before has ended: its disk does not answer")

// take makes a role's parts seen, unless the role was ended while it began: then
// what was known when it began is no longer so.
func (k *keeper) take(term uint64, leave func(), set func()) error {
	k.mu.Lock()
	over := k.term != term
	if !over {
		k.leave = leave
		set()
	}
	k.mu.Unlock()
	if over {
		leave()
		return errors.New("the role was ended while it began")
	}
	return nil
}

// converge takes the role that Raft says; false asks to be called again soon.
func (k *keeper) converge(ctx context.Context, sl cluster.Slot) bool {
	me := k.n.cfg.Node.Name
	want := failover.RoleNone
	switch {
	case sl.Master == me:
		want = failover.RoleMaster
	case sl.Holds(me):
		want = failover.RoleReplica
	}
	k.mu.Lock()
	same := k.role == want && k.epoch == sl.Epoch && (want == failover.RoleNone || k.leave != nil)
	k.mu.Unlock()
	if same {
		return true
	}
	ended := k.end()
	k.mu.Lock()
	k.role, k.epoch = want, sl.Epoch
	if want == failover.RoleMaster && k.waiting == "" {
		k.waiting = "asks whether it may serve" // until it knows more
	}
	term := k.term
	k.mu.Unlock()
	defer k.n.tellSoon()
	var err error
	switch {
	case !ended:
		err = errNotEnded
	case want == failover.RoleMaster:
		err = k.lead(ctx, sl, term)
	case want == failover.RoleReplica:
		err = k.follow(ctx, sl, term)
	}
	if err == nil {
		return true
	}
	k.log.Info("role not taken yet", "role", want, "epoch", sl.Epoch, "err", err)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.term == term && want == failover.RoleMaster {
		k.waiting = err.Error()
	}
	return false
}
