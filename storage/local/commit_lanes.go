package local

import (
	"slices"
	"sync"

	"mailnode/storage"
)

// lanes hold what waits for the committer: a lane for each account, and one for changes
// of the slot or of several accounts (account 0). They are served in turn, so that
// thousands of changes of one user delay another user's by one.
type lanes struct {
	mu     sync.Mutex // guards all below
	lanes  map[storage.AccountID][]*op
	turn   []storage.AccountID // the lanes that are not empty, the next to be served first
	hold   *hold               // the large change that is being prepared
	held   []*op               // what waits for it to end
	closed bool
	filled chan struct{} // capacity 1: there may be something to take
}

func (l *lanes) init() {
	l.lanes, l.filled = map[storage.AccountID][]*op{}, make(chan struct{}, 1)
}

// put queues a change. It reports false when nobody will take it any more.
func (l *lanes) put(o *op) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.add(o, false)
	return true
}

// add puts a change into its lane. The caller holds mu.
func (l *lanes) add(o *op, first bool) {
	lane := o.lane()
	waiting := l.lanes[lane]
	if first {
		l.turn = slices.Insert(slices.DeleteFunc(l.turn, func(id storage.AccountID) bool { return id == lane }), 0, lane)
		l.lanes[lane] = slices.Insert(waiting, 0, o)
	} else {
		if len(waiting) == 0 {
			l.turn = append(l.turn, lane)
		}
		l.lanes[lane] = append(waiting, o)
	}
	select {
	case l.filled <- struct{}{}:
	default:
	}
}

// take returns at most n changes, one of each lane in turn.
func (l *lanes) take(n int) []*op {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*op
	for len(out) < n && len(l.turn) > 0 {
		lane := l.turn[0]
		l.turn = l.turn[1:]
		o := l.lanes[lane][0]
		if rest := l.lanes[lane][1:]; len(rest) > 0 {
			l.lanes[lane], l.turn = rest, append(l.turn, lane)
		} else {
			delete(l.lanes, lane)
		}
		if l.hold != nil && slices.ContainsFunc(o.accounts, l.hold.has) {
			l.held = append(l.held, o)
			continue
		}
		out = append(out, o)
	}
	return out
}

// giveBack returns what was taken and not run to the front of its lanes.
func (l *lanes) giveBack(ops []*op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addFirst(ops)
}

// addFirst puts changes before all others, in their order. The caller holds mu.
func (l *lanes) addFirst(ops []*op) {
	for _, o := range slices.Backward(ops) {
		l.add(o, true)
	}
}

// begin keeps the changes of a hold's accounts waiting.
func (l *lanes) begin(h *hold) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hold = h
}

// end lets the held changes go, in their order. When the lanes are closed there are
// none: close has returned them.
func (l *lanes) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.held
	l.hold, l.held = nil, nil
	l.addFirst(held)
}

// holding returns the large change that is being prepared, or nil.
func (l *lanes) holding() *hold {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hold
}

// close refuses what comes from now on, and returns what waits.
func (l *lanes) close() []*op {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.held
	for _, waiting := range l.lanes {
		out = append(out, waiting...)
	}
	l.lanes, l.turn, l.held, l.closed = nil, nil, nil, true
	return out
}

// waiting counts what is queued.
func (l *lanes) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.held)
	for _, waiting := range l.lanes {
		n += len(waiting)
	}
	return n
}
