package fair

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"
)

// ErrBusy says that too many wait already, and most of them for the same client or
// account.
var ErrBusy = errors.New("too many wait for the same work: try again in a moment")

// Asker is for whom work is done. All with the same Client share its turns, and so do
// all with the same Account. Those whose Client is "" share as if they were one client,
// but for the rest after a turn, which they do not take; those whose Account is "" as
// if it were one account.
type Asker struct {
	Client  string // Network of its address
	Account string
}

// Turns bounds how much of a kind of work runs at once, and who is next: whoever
// has had the fewest turns lately, as a client and as an account. So one client
// that tries many accounts, and many clients that try one account, wait for
// themselves. Neither gets more than half of what may run at once, or one where that is
// less.
type Turns struct {
	each, waitMax int

	mu       sync.Mutex // guards what follows
	free     int        // how much more may run
	waiting  []*waiter  // in the order of their arrival
	clients  map[string]*party
	accounts map[string]*party
	now      uint64 // the turns that the last one to begin had had
}

// party is a client or an account.
type party struct {
	had              uint64 // turns, counted up from Turns.now
	waiting, running int
}

type waiter struct {
	client, account *party
	known           bool       // the client is
	turn            chan error // capacity 1
}

// NewTurns lets parallel run at once, and waitMax wait.
func NewTurns(parallel, waitMax int) *Turns {
	return &Turns{each: max(1, parallel/2), waitMax: waitMax, free: parallel, clients: map[string]*party{}, accounts: map[string]*party{}}
}

// Take waits for a turn; end must be called when the work is done. For rest after it
// the client still counts as working: that brakes it and nobody else. Whoever's ctx
// ends leaves at once, having cost nobody anything; then the error is the ctx's.
func (t *Turns) Take(ctx context.Context, a Asker) (end func(rest time.Duration), err error) {
	w, err := t.join(a)
	if err != nil {
		return nil, err
	}
	select {
	case err := <-w.turn:
		if err != nil {
			return nil, err
		}
		return func(rest time.Duration) { t.end(w, rest) }, nil
	case <-ctx.Done():
	}
	if !t.leave(w) {
		if err := <-w.turn; err == nil { // it came at the same moment
			t.end(w, 0)
		}
	}
	return nil, ctx.Err()
}

// Waiting returns how many wait for a turn.
func (t *Turns) Waiting() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting)
}

func (t *Turns) join(a Asker) (*waiter, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.clients) >= t.partiesMax() || len(t.accounts) >= t.partiesMax() {
		t.now++ // each had a turn, and all of them as many
		t.sweep()
	}
	w := &waiter{client: t.party(t.clients, a.Client), account: t.party(t.accounts, a.Account), known: a.Client != "", turn: make(chan error, 1)}
	if len(t.waiting) >= t.waitMax && !t.makeRoom(w) {
		return nil, ErrBusy
	}
	w.client.waiting++
	w.account.waiting++
	t.waiting = append(t.waiting, w)
	t.begin()
	return w, nil
}

func (t *Turns) party(of map[string]*party, name string) *party {
	if p := of[name]; p != nil {
		p.had = max(p.had, t.now)
		return p
	}
	p := &party{had: t.now}
	of[name] = p
	return p
}

// partiesMax is how many clients, and how many accounts, are remembered before
// those that are idle are forgotten.
func (t *Turns) partiesMax() int { return 4 * (t.waitMax + 1) }

// sweep forgets who neither waits nor runs and is owed nothing: nobody is while
// nobody waits.
func (t *Turns) sweep() {
	idle := func(_ string, p *party) bool {
		return p.waiting+p.running == 0 && (p.had <= t.now || len(t.waiting) == 0)
	}
	maps.DeleteFunc(t.clients, idle)
	maps.DeleteFunc(t.accounts, idle)
}

// crowd is how many wait with w for the same client or account.
func (w *waiter) crowd() int { return max(w.client.waiting, w.account.waiting) }

// makeRoom sends the newest of the largest crowd away, unless a newcomer belongs
// to one as large.
func (t *Turns) makeRoom(newcomer *waiter) bool {
	most := 0
	for i, w := range t.waiting {
		if w.crowd() >= t.waiting[most].crowd() {
			most = i
		}
	}
	w := t.waiting[most]
	if w.crowd() <= newcomer.crowd() {
		return false
	}
	t.remove(most)
	w.turn <- ErrBusy
	return true
}

// remove takes the i-th out of those who wait.
func (t *Turns) remove(i int) {
	w := t.waiting[i]
	t.waiting = slices.Delete(t.waiting, i, i+1)
	w.client.waiting--
	w.account.waiting--
}

// begin gives turns to those who are next for as long as there is room.
func (t *Turns) begin() {
	for t.free > 0 {
		next := -1
		for i, w := range t.waiting {
			if w.client.running < t.each && w.account.running < t.each && (next < 0 || w.before(t.waiting[next])) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		w := t.waiting[next]
		t.now = max(t.now, w.had())
		w.client.had, w.account.had = t.now+1, t.now+1
		w.client.running++
		w.account.running++
		t.remove(next)
		t.free--
		w.turn <- nil
	}
}

// had is how many turns an asker has had: of its client or its account, whichever
// has had more.
func (w *waiter) had() uint64 { return max(w.client.had, w.account.had) }

// before reports whether w is to have its turn before v, which came earlier. Of one
// account's clients the one that has tried least is next, and of one client's
// accounts (a webmail server's users) the one that was tried least.
func (w *waiter) before(v *waiter) bool {
	return w.had() < v.had() || w.had() == v.had() && min(w.client.had, w.account.had) < min(v.client.had, v.account.had)
}

func (t *Turns) leave(w *waiter) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.waiting, w)
	if i < 0 {
		return false
	}
	t.remove(i)
	return true
}

func (t *Turns) end(w *waiter, rest time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w.account.running--
	t.free++
	if rest > 0 && w.known {
		time.AfterFunc(rest, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.rested(w)
		})
		t.begin()
		return
	}
	t.rested(w)
}

// rested lets a client have its next turn.
func (t *Turns) rested(w *waiter) {
	w.client.running--
	t.begin()
	if len(t.waiting) == 0 {
		t.sweep()
	}
}
