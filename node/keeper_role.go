package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"mailnode/failover"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/local"
	"mailnode/storage/repl"
	"mailnode/storage/slot"
)

// roleState is the role that a copy is in, what works in it, and what others have
// said of its epoch.
type roleState struct {
	mu      sync.Mutex // guards all below; taken before opening.mu where both are held
	kind    failover.Role
	epoch   slot.Epoch
	term    uint64      // +1 whenever a role ends: one that was ended while it began is not taken
	waiting string      // a master that does not serve yet: why
	lost    *lostEvents // a master whose copy has lost events: it must not serve
	told    toldEpochs
	ended   chan struct{} // closed when the last role that was left has ended; nil: none was
	roleParts
}

// roleParts are what works in a role once it is taken: a master with its feed, or
// a follower.
type roleParts struct {
	master   *local.Master
	servedAt time.Duration // Clock.Mono when master began
	feed     *repl.Feed
	follower *repl.Follower
	leave    func() // ends the role: at once what changes the mail, then it waits for the rest
}

func (r *roleState) is() failover.Role {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kind
}

// parts returns what works in the role: a master with its feed, or a follower.
func (r *roleState) parts() (*local.Master, *repl.Feed, *repl.Follower) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.master, r.feed, r.follower
}

// feeds returns a master's feed, and when the master began to serve.
func (r *roleState) feeds() (*repl.Feed, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.feed, r.servedAt
}

// endWithin is how long whoever ends a role waits for that. A role whose disk hangs
// goes on ending by itself, and concerns its slot alone (law 9).
const endWithin = time.Second

// end leaves the role, and reports whether it has come to its end. Clients and
// replicas are refused at once; what may take longer are reads of a disk that
// hangs. Until they have ended no next role begins. It may be called from any
// goroutine but the role's own.
func (r *roleState) end() bool {
	ended := r.endSoon()
	return ended == nil || closes(ended, endWithin)
}

// endSoon is end without the wait: the channel is closed when the role has
// ended; nil: there was none.
func (r *roleState) endSoon() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	leave, before := r.leave, r.ended
	r.term++
	r.kind, r.epoch, r.roleParts = failover.RoleNone, 0, roleParts{}
	if leave != nil {
		ended := make(chan struct{})
		r.ended = ended
		go func() {
			defer close(ended)
			leave()
			if before != nil {
				<-before
			}
		}()
	}
	return r.ended
}

// errNotEnded says that the role before holds up the next one.
var errNotEnded = errors.New("waits until what this node did for the slot before has ended: its disk does not answer")

// begins notes the role that is to be taken, and returns its term.
func (r *roleState) begins(kind failover.Role, e slot.Epoch) (term uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kind, r.epoch = kind, e
	if kind == failover.RoleMaster && r.waiting == "" {
		r.waiting = "asks whether it may serve" // until it knows more
	}
	return r.term
}

// take makes a role's parts seen, unless the role was ended while it began: then
// what was known when it began is no longer so.
func (r *roleState) take(term uint64, p roleParts) error {
	r.mu.Lock()
	over := r.term != term
	if !over {
		r.roleParts, r.waiting, r.lost = p, "", nil
	}
	r.mu.Unlock()
	if over {
		p.leave()
		return errors.New("the role was ended while it began")
	}
	return nil
}

// taken reports whether the role is in force that Raft says.
func (r *roleState) taken(kind failover.Role, e slot.Epoch) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kind == kind && r.epoch == e && (kind == failover.RoleNone || r.leave != nil)
}

// waits notes why a master does not serve yet.
func (r *roleState) waits(term uint64, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.term == term {
		r.waiting = why.Error()
	}
}

// converge takes the role that Raft says; false asks to be called again soon.
func (k *keeper) converge(ctx context.Context, sl cluster.Slot) bool {
	me := k.n.cfg.Node.Name
	want := failover.RoleNone
	switch {
	case k.n.isLeftBehind(): // it has no part in the cluster
	case sl.Master == me:
		want = failover.RoleMaster
	case sl.Holds(me):
		want = failover.RoleReplica
	}
	if k.role.taken(want, sl.Epoch) {
		k.handOver(ctx, sl)
		return want != failover.RoleNone || k.n.isLeftBehind() || k.retire(ctx, sl)
	}
	k.dropped.told.Store(nil)
	ended := k.role.end()
	term := k.role.begins(want, sl.Epoch)
	defer k.n.tellSoon()
	var err error
	switch {
	case !ended:
		err = errNotEnded
	case want == failover.RoleMaster:
		sl, err = k.lead(ctx, sl, term)
	case want == failover.RoleReplica:
		err = k.follow(ctx, sl, term)
	}
	if err == nil {
		k.handOver(ctx, sl)
		return want != failover.RoleNone
	}
	k.log.Info("role not taken yet", "role", want, "epoch", sl.Epoch, "err", err)
	if want == failover.RoleMaster {
		k.role.waits(term, err)
	}
	return false
}
