package index

import (
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// compactions bounds how many compactions of indexes run at once on the node,
// whatever the number of its slots (law 12). Those that wait take turns. An index
// that has failed gives back what it held, because its goroutines may be parked
// for ever (law 9).
//
// Pebble's locks come before this one: it is never held while a DB is called,
// but for GetAllowedWithoutPermission, which takes none.
type compactions struct {
	max int

	mu      sync.Mutex // guards all below, and all of each compactionShare
	offered sync.Cond  // an offer has returned
	running int
	members []*compactionShare // in turn: who has run goes to the end
}

// newCompactions returns a bound of so many at once.
func newCompactions(running int) *compactions {
	c := &compactions{max: running}
	c.offered.L = &c.mu
	return c
}

// share returns the share of one more index.
func (c *compactions) share() *compactionShare { return &compactionShare{all: c} }

// compactionShare is one index's share: it implements pebble.CompactionScheduler
// and its grants.
type compactionShare struct {
	all     *compactions
	db      pebble.DBForCompaction
	member  bool
	dead    bool // what it holds was given back
	running int
	wants   bool // was refused, or may have more to do
	asked   bool // an offer is under way
	waits   int  // writes that wait for room; meanwhile what it holds is others'
}

var (
	_ pebble.CompactionScheduler   = (*compactionShare)(nil)
	_ pebble.CompactionGrantHandle = (*compactionShare)(nil)
)

// Register implements pebble.CompactionScheduler.
func (s *compactionShare) Register(_ int, db pebble.DBForCompaction) {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	s.db, s.member = db, true
	s.all.members = append(s.all.members, s)
}

// Unregister implements pebble.CompactionScheduler.
func (s *compactionShare) Unregister() {
	c := s.all
	c.mu.Lock()
	defer c.mu.Unlock()
	s.leave()
	for s.asked && !s.dead {
		c.offered.Wait()
	}
}

func (s *compactionShare) leave() {
	s.member = false
	s.all.members = slices.DeleteFunc(s.all.members, func(m *compactionShare) bool { return m == s })
}

// drop gives back what a failed index holds.
func (s *compactionShare) drop() {
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
func (s *compactionShare) TrySchedule() (bool, pebble.CompactionGrantHandle) {
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

func (s *compactionShare) take() {
	c := s.all
	c.running++
	s.running++
	if i := slices.Index(c.members, s); i >= 0 {
		c.members = append(slices.Delete(c.members, i, i+1), s)
	}
}

// UpdateGetAllowedWithoutPermission implements pebble.CompactionScheduler.
func (s *compactionShare) UpdateGetAllowedWithoutPermission() {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	s.all.offer()
}

// offer gives what is free to those that want it; c.mu is held.
func (c *compactions) offer() {
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
func (s *compactionShare) ask() {
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
func (s *compactionShare) giveBack() {
	if s.dead {
		return
	}
	if s.waits == 0 {
		s.all.running--
	}
	s.running--
	s.all.offer()
}

// pause lends what an index holds to the others while one of its writes waits for room
// on its disk, which is not theirs (law 9).
func (s *compactionShare) pause() {
	c := s.all
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.waits++; s.waits == 1 && !s.dead {
		c.running -= s.running
		c.offer()
	}
}

// resume takes it back. More than max may run then, until the next one ends.
func (s *compactionShare) resume() {
	c := s.all
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.waits--; s.waits == 0 && !s.dead {
		c.running += s.running
		c.offer()
	}
}

// Done implements pebble.CompactionGrantHandle.
func (s *compactionShare) Done() {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	s.wants = s.member // Pebble asks once only while something waits
	s.giveBack()
}

// Started implements pebble.CompactionGrantHandle.
func (s *compactionShare) Started() {}

// MeasureCPU implements pebble.CompactionGrantHandle.
func (s *compactionShare) MeasureCPU(pebble.CompactionGoroutineKind) {}

// CumulativeStats implements pebble.CompactionGrantHandle.
func (s *compactionShare) CumulativeStats(pebble.CompactionGrantHandleStats) {}
