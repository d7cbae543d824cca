package local

import (
	"context"
	"errors"
	"sync"

	"mailnode/storage"
	"mailnode/storage/event"
)

// errUncounted says that a closure was refused because it needs to know how much an
// account has. No closure counts that (LAWS §4.3): whoever queued it counts on a
// view, which has all that the refused closure saw, and queues it once more.
var errUncounted = errors.New("the account must be counted first")

// counting runs a change, and again behind count when it must be counted first.
func counting(change, count func() error) error {
	for range countsMax {
		err := change()
		if !errors.Is(err, errUncounted) {
			return err
		}
		if err := count(); err != nil {
			return err
		}
	}
	return change()
}

// rooms knows how many records of a kind each account has at most, so that a limit
// costs no count of all of them: what was counted once, and each one made since.
// Those that were removed since are noticed when the limit seems to be reached.
type rooms struct {
	mu sync.Mutex // guards of
	of map[storage.AccountID]*room
}

// room is one account's. Only those that had to be counted have one.
type room struct {
	made    int // since there is a room
	counted bool
	base    int // as many there were, less made then
}

// roomCount is what one command has counted.
type roomCount struct {
	mark  int // room.made when it was refused
	times int
}

// countsMax is how often one command counts. What others make between its refusal and
// its view is counted twice: it counts again then, so that nothing is refused for it.
const countsMax = 8

// made notes n more. Whether they will be there does not matter.
func (r *rooms) made(id storage.AccountID, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if x := r.of[id]; x != nil {
		x.made += n
	}
}

// fit is for a closure that has made n more: it refuses them when the limit is passed.
// c is what its command has counted.
func (r *rooms) fit(id storage.AccountID, n, limit int, c *roomCount) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.of[id]
	if x == nil {
		if r.of == nil {
			r.of = map[storage.AccountID]*room{}
		}
		x = &room{made: n}
		r.of[id] = x
	}
	if x.counted && x.base+x.made <= limit {
		return nil
	}
	x.made -= n
	if c.times == 0 || c.times < countsMax && x.made != c.mark {
		c.mark = x.made
		c.times++
		return errUncounted
	}
	return storage.Errorf(storage.ErrLimit, "the account has %d already, and can have %d", x.base+x.made, limit)
}

// count counts a span for a command whose closure was refused, up to a limit.
func (r *rooms) count(ctx context.Context, m *Master, id storage.AccountID, sp event.Span, limit int, c *roomCount) error {
	return m.view(ctx, func(v *view) error {
		n, err := countUpTo(v, sp, limit)
		if err != nil {
			return err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		x := r.of[id]
		x.base, x.counted = n-c.mark, true
		return nil
	})
}

// countUpTo counts the records of a span, up to a number.
func countUpTo(r reader, sp event.Span, most int) (n int, err error) {
	err = stopEarly(each(r, sp, func(_, _ []byte) error {
		if n == most {
			return errEnough
		}
		n++
		return nil
	}))
	return n, err
}
