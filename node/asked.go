package node

import (
	"cmp"
	"context"
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

// answer says what this node's copies hold, and what it has heard of others'. A
// disk that hangs holds up neither the answer nor what it says about the others. A
// copy that cannot promise to acknowledge nothing to a lower epoch is not viable:
// the asker must not count on it (law 1).
func (n *Node) answer(ctx context.Context, questions []failover.Question) failover.Answer {
	out := failover.Answer{Copies: []failover.CopyAnswer{}, Seen: []failover.Sighting{}}
	v := n.evidence.Snapshot(n.clock.Mono())
	all := make([]*failover.CopyAnswer, len(questions))
	var wg sync.WaitGroup
	for i, q := range questions {
		out.Seen = append(out.Seen, v.Sightings(q.Slot)...)
		if k := n.copies.keeper(q.Slot); k != nil {
			wg.Go(func() { all[i] = k.answer(ctx, q.Epoch) })
		}
	}
	wg.Wait()
	for _, a := range all {
		if a != nil {
			out.Copies = append(out.Copies, *a)
		}
	}
	return out
}

func (k *keeper) answer(ctx context.Context, asked slot.Epoch) *failover.CopyAnswer {
	err := k.promise(ctx, asked)
	a := &failover.CopyAnswer{CopyReport: k.report(), SelfCheck: k.selfCheck()}
	if err != nil {
		k.log.Warn("answer a question", "epoch", asked, "err", err)
		a.Viable = false
		a.Failed = cmp.Or(a.Failed, err.Error())
	}
	if k.opened() != nil && !a.Building {
		u := k.countedUsers()
		a.UsersKnown, a.Users, a.UserNames = u.known, u.count, u.names
	}
	return a
}
