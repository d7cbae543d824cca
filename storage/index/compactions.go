package index

import (
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// Compactions bounds how many compactions of indexes run at once on the node,
// whatever the number of its slots (law 12). Those that wait take turns. An index
// that has failed gives back what it held, because its goroutines may be parked
// for ever (law 9).
//
// Pebble's locks come before this one: it is never held while a DB is called,
// but for GetAllowedWithoutPermission, which takes none.
type Compactions struct {
	max int

	mu      sync.Mutex // guards all below, and all of each CompactionShare
	offered sync.Cond  // an offer has returned
	running int
	members []*CompactionShare // in turn: who has run goes to the end
}

// NewCompactions returns a bound of so many at once.
func NewCompactions(running int) *Compactions {
	c := &Compactions{max: running}
	c.offered.L = &c.mu
	return c
}

// Share returns the share of one more index.
func (c *Compactions) Share() *CompactionShare { return &CompactionShare{all: c} }

// CompactionShare is one index's share: it implements pebble.CompactionScheduler
// and its grants.
type CompactionShare struct {
	all     *Compactions
	db      pebble.DBForCompaction
	member  bool
	dead    bool // what it holds was given back
	running int
	wants   bool // was refused, or may have more to do
	asked   bool // an offer is under way
	waits   int  // writes that wait for room; meanwhile what it holds is others'
}

var (
	_ pebble.CompactionScheduler   = (*CompactionShare)(nil)
	_ pebble.CompactionGrantHandle = (*CompactionShare)(nil)
)

// Register implements pebble.CompactionScheduler.
func (s *CompactionShare) Register(_ int, db pebble.DBForCompaction) {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	s.db, s.member = db, true
	s.all.members = append(s.all.members, s)
}

// Unregister implements pebble.CompactionScheduler.
func (s *CompactionShare) Unregister() {
	c := s.all
	c.mu.Lock()
	defer c.mu.Unlock()
	s.leave()
	for s.asked && !s.dead {
		c.offered.Wait()
	}
}

func (s *CompactionShare) leave() {
	s.member = false
	s.all.members = slices.DeleteFunc(s.all.members, func(m *CompactionShare) bool { return m == s })
}

// Drop gives back what a failed index holds.
func (s *CompactionShare) Drop() {
	c := s.all
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.dead {
		return
	}
	s.leave()
	s.dead = true
	if s.waits == 0 {
		c.running -= s.running
	}
	c.offered.Broadcast()
	c.offer()
}

// TrySchedule implements pebble.CompactionScheduler.
func (s *CompactionShare) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	c := s.all
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.member {
		return false, nil
	}
	if s.waits > 0 || c.running >= c.max || s.running >= s.db.GetAllowedWithoutPermission() {
		s.wants = true
		return false, nil
	}
	s.take()
	return true, s
}

func (s *CompactionShare) take() {
	c := s.all
	c.running++
	s.running++
	if i := slices.Index(c.members, s); i >= 0 {
		c.members = append(slices.Delete(c.members, i, i+1), s)
	}
}

// UpdateGetAllowedWithoutPermission implements pebble.CompactionScheduler.
func (s *CompactionShare) UpdateGetAllowedWithoutPermission() {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	s.all.offer()
}

// offer gives what is free to those that want it; c.mu is held.
func (c *Compactions) offer() {
	for _, s := range slices.Clone(c.members) {
		if c.running >= c.max {
			return
		}
		if s.wants && !s.asked && s.waits == 0 && s.running < s.db.GetAllowedWithoutPermission() {
			s.wants, s.asked = false, true
			s.take()
			go s.ask()
		}
	}
}

// ask offers one compaction. It is a goroutine of its own, because the DB of an
// index that fails may never answer.
func (s *CompactionShare) ask() {
	taken := false
	if waiting, _ := s.db.GetWaitingCompaction(); waiting {
		taken = s.db.Schedule(s)
	}
	c := s.all
	c.mu.Lock()
	defer c.mu.Unlock()
	s.asked = false
	c.offered.Broadcast()
	if !taken {
		s.giveBack()
	}
}

// giveBack ends one compaction, or one that did not begin; c.mu is held.
func (s *CompactionShare) giveBack() {
	if s.dead {
		return
	}
	if s.waits == 0 {
		s.all.running--
	}
	s.running--
	s.all.offer()
}

// Pause lends what an index holds to the others while one of its writes waits for room
// on its disk, which is not theirs (law 9).
func (s *CompactionShare) Pause() {
	c := s.all
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.waits++; s.waits == 1 && !s.dead {
		c.running -= s.running
		c.offer()
	}
}

// Resume takes it back. More than max may run then, until the next one ends.
func (s *CompactionShare) Resume() {
	c := s.all
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.waits--; s.waits == 0 && !s.dead {
		c.running += s.running
		c.offer()
	}
}

// Done implements pebble.CompactionGrantHandle.
func (s *CompactionShare) Done() {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	s.wants = s.member // Pebble asks once only while something waits
	s.giveBack()
}

// Started implements pebble.CompactionGrantHandle.
func (s *CompactionShare) Started() {}

// MeasureCPU implements pebble.CompactionGrantHandle.
func (s *CompactionShare) MeasureCPU(pebble.CompactionGoroutineKind) {}

// CumulativeStats implements pebble.CompactionGrantHandle.
func (s *CompactionShare) CumulativeStats(pebble.CompactionGrantHandleStats) {}
