package node

import (
	"cmp"
	"context"
	"encoding/hex"
	"time"

	"mailnode/failover"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

const (
	planNamesMax = 5
	// usersWithin is how long an answer waits for the users' names: what a plan rests
	// on is in memory, and must not wait for a disk (law 9).
	usersWithin = 200 * time.Millisecond
	// usersFor is how long what was read is good enough to be shown.
	usersFor = 5 * time.Second
)

// shownUsers is what a copy said of its users last (local.Slot.Users, which has
// the count in memory and the names on its disk). Guarded by keeper.mu.
type shownUsers struct {
	known   bool
	count   int
	names   []string
	at      time.Duration // Clock.Mono
	reading chan struct{} // closed when the reading under way has ended; nil: there is none
}

// usersToShow returns the copy's users as they were read last, and reads them again when that is old
// and the disk answers.
func (k *keeper) usersToShow() shownUsers {
	k.mu.Lock()
	s, u, now := k.copy, k.users, k.n.clock.Mono()
	if s == nil || u.known && now-u.at < usersFor {
		k.mu.Unlock()
		return u
	}
	if u.reading == nil {
		u.reading = make(chan struct{})
		k.users.reading = u.reading
		go func() {
			count, names, err := s.Users(planNamesMax)
			k.mu.Lock()
			defer k.mu.Unlock()
			if k.users.reading = nil; err == nil {
				k.users = shownUsers{known: true, count: count, names: names, at: now}
			}
			close(u.reading)
		}()
	}
	k.mu.Unlock()
	closes(u.reading, usersWithin) // else what was read before is shown
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.users
}

func (k *keeper) answer(ctx context.Context, q failover.Question) *failover.CopyAnswer {
	err := k.promise(ctx, q.Epoch)
	a := &failover.CopyAnswer{CopyReport: k.report(), SelfCheck: k.selfCheck()}
	if err != nil {
		k.log.Warn("answer a question", "epoch", q.Epoch, "err", err)
		a.Viable = false
		a.Failed = cmp.Or(a.Failed, err.Error())
	}
	if k.opened() != nil && !a.Building {
		u := k.usersToShow()
		a.UsersKnown, a.Users, a.UserNames = u.known, u.count, u.names
		if q.Digest {
			a.Digest, a.DigestAt = k.digestToShow()
		}
	}
	return a
}

// digestWithin is how long an answer waits for a digest, for which the records of
// all mailboxes are read.
const digestWithin = 2 * time.Second

// digestToShow returns the digest of the copy in hex, and its position; "" when
// the disk does not answer in time.
func (k *keeper) digestToShow() (digest string, at slot.Position) {
	s := k.opened()
	if s == nil {
		return "", 0
	}
	type read struct {
		at     slot.Position
		digest event.Digest
		err    error
	}
	got := make(chan read, 1)
	go func() {
		at, d, err := s.Digest()
		got <- read{at, d, err}
	}()
	select {
	case r := <-got:
		if r.err == nil {
			return hex.EncodeToString(r.digest.Bytes()), r.at
		}
		k.log.Warn("read digest", "err", r.err)
	case <-time.After(digestWithin):
	}
	return "", 0
}
