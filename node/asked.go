package node

import (
	"sync"
	"time"

	"mailnode/failover"
	"mailnode/storage/slot"
)

const (
	planNamesMax = 5
	// usersWithin is how long an answer waits for the users to be counted: what a
	// plan rests on is in memory, and must not wait for a disk (law 9).
	usersWithin = 200 * time.Millisecond
	// usersFor is how long a count is good enough to be shown.
	usersFor = 5 * time.Second
)

// knownUsers is what a copy's users were at the last count. Guarded by keeper.mu.
type knownUsers struct {
	known    bool
	count    int
	names    []string
	at       time.Duration // Clock.Mono
	counting chan struct{} // closed when the count under way has ended; nil: there is none
}

// countedUsers gives the copy's users by a count that is new enough, or by the last
// that ended when the disk does not answer now.
func (k *keeper) countedUsers() knownUsers {
	k.mu.Lock()
	s, u, now := k.copy, k.users, k.n.clock.Mono()
	if s == nil || u.known && now-u.at < usersFor {
		k.mu.Unlock()
		return u
	}
	if u.counting == nil {
		u.counting = make(chan struct{})
		k.users.counting = u.counting
		go func() {
			count, names, err := s.Users(planNamesMax)
			k.mu.Lock()
			defer k.mu.Unlock()
			if k.users.counting = nil; err == nil {
				k.users = knownUsers{known: true, count: count, names: names, at: now}
			}
			close(u.counting)
		}()
	}
	k.mu.Unlock()
	late := time.NewTimer(usersWithin)
	defer late.Stop()
	select {
	case <-u.counting:
	case <-late.C:
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.users
}

// answers gives the present state of copies. A disk that hangs holds up neither the
// answer nor what it says about the others.
func (n *Node) answers(ids []slot.ID) []failover.CopyAnswer {
	all := make([]*failover.CopyAnswer, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		k := n.copies.keeper(id)
		if k == nil {
			continue
		}
		all[i] = &failover.CopyAnswer{CopyReport: k.report(), SelfCheck: k.selfCheck()}
		if k.opened() != nil && !all[i].Building {
			wg.Go(func() {
				u := k.countedUsers()
				all[i].UsersKnown, all[i].Users, all[i].UserNames = u.known, u.count, u.names
			})
		}
	}
	wg.Wait()
	var out []failover.CopyAnswer
	for _, a := range all {
		if a != nil {
			out = append(out, *a)
		}
	}
	return out
}
