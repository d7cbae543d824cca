package local

import (
	"sync"

	"mailnode/storage"
)

// rooms keeps an upper bound of how many records of a kind each account has: the number
// that was counted once, and one for each made since. So a limit costs no count of all
// of them. Removed ones are noticed when the limit seems to be reached: then it counts.
type rooms struct {
	mu   sync.Mutex // guards most
	most map[storage.AccountID]int
}

// full reports whether an account has as many as it may have.
func (r *rooms) full(id storage.AccountID, limit int, count func() (int, error)) (bool, error) {
	r.mu.Lock()
	n, known := r.most[id]
	r.mu.Unlock()
	if known && n < limit {
		return false, nil
	}
	n, err := count()
	if err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.most == nil {
		r.most = map[storage.AccountID]int{}
	}
	r.most[id] = n
	return n >= limit, nil
}

// made notes one more; that it may not come to be does not matter.
func (r *rooms) made(id storage.AccountID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n, known := r.most[id]; known {
		r.most[id] = n + 1
	}
}
