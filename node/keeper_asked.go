package node

import (
	"cmp"
	"context"
	"encoding/hex"
	"sync"
	"time"

	"mailnode/failover"
	"mailnode/storage/event"
	"mailnode/storage/local"
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

// shownUsers keeps what a copy said of its users last (local.Slot.Users, which has
// the count in memory and the names on its disk).
type shownUsers struct {
	mu      sync.Mutex // guards all below
	last    usersRead
	reading chan struct{} // closed when the reading under way has ended; nil: there is none
}

// usersRead is one reading of a copy's users.
type usersRead struct {
	known bool
	count int
	names []string
	at    time.Duration // Clock.Mono
}

// show returns the users of a copy as they were read last, and reads them again
// when that is old and the disk answers. That there is nobody is always read: copies are
// placed by it, and somebody may have been made a moment ago.
func (u *shownUsers) show(s *local.Slot, now time.Duration) usersRead {
	u.mu.Lock()
	if u.last.count > 0 && now-u.last.at < usersFor {
		defer u.mu.Unlock()
		return u.last
	}
	if u.reading == nil {
		u.reading = make(chan struct{})
		go u.read(s, now)
	}
	reading := u.reading
	u.mu.Unlock()
	closes(reading, usersWithin) // else what was read before is shown
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last
}

func (u *shownUsers) read(s *local.Slot, now time.Duration) {
	count, names, err := s.Users(planNamesMax)
	u.mu.Lock()
	defer u.mu.Unlock()
	if err == nil {
		u.last = usersRead{known: true, count: count, names: names, at: now}
	}
	close(u.reading)
	u.reading = nil
}

func (k *keeper) answer(ctx context.Context, q failover.Question) *failover.CopyAnswer {
	err := k.promise(ctx, q.Epoch)
	a := &failover.CopyAnswer{CopyReport: k.report(), SelfCheck: k.selfCheck()}
	if err != nil {
		k.log.Warn("answer a question", "epoch", q.Epoch, "err", err)
		a.Viable = false
		a.Failed = cmp.Or(a.Failed, err.Error())
	}
	if q.Dropped != nil {
		k.coversDropped(ctx, *q.Dropped, a)
	}
	if s := k.opened(); s != nil && !a.Building {
		u := k.users.show(s, k.n.clock.Mono())
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
