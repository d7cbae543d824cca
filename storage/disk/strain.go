package disk

import (
	"errors"
	"syscall"
	"time"
)

// When a disk counts as slow, or as failing. What is on it is still served: it is to be
// served elsewhere while that can be done in peace (law 9). Between the two figures of
// each pair nothing changes, so that what is proposed because of them does not come and
// go.
const (
	// SlowSync is what more than half of the syncs of a window take on a disk that is slow.
	SlowSync = 2 * time.Second
	// SlowSyncsMin is how many slow syncs a slow window has: one alone may have been that of
	// a whole pack.
	SlowSyncsMin = 3
	// EasySync is what more than half of them take at most on one that is well.
	EasySync = 500 * time.Millisecond
	// StrainWindow is over which syncs are counted; one without any tells nothing.
	StrainWindow = 10 * time.Second
	// SlowWindows is after how many slow windows in a row a disk is slow.
	SlowWindows = 6
	// EasyWindows is after how many easy windows in a row it is no longer.
	EasyWindows = 30
	// UnreadMax is how many places a disk may fail to read before it counts as failing: a
	// single bad sector is repaired from another copy.
	UnreadMax = 5
	// UnreadFor is how long it counts as failing after the last of them.
	UnreadFor = 24 * time.Hour

	unreadBytes = 1 << 20 // what is one place of a file
)

// strain is what a disk has shown of being slow or failing. It has no clock: now is
// monotonic, and whoever calls holds a lock.
type strain struct {
	begun              bool
	from               time.Duration // when the window began
	syncs, late, early int           // of the window: all, slow ones, easy ones
	slowRun, easyRun   int           // windows in a row
	slow               bool

	unread   map[unreadPlace]bool // at most UnreadMax; they are forgotten together
	unreadAt time.Duration        // the last
}

type unreadPlace struct {
	path string
	at   int64
}

// synced counts a sync that took so long.
func (s *strain) synced(now, took time.Duration) {
	s.window(now)
	s.syncs++
	if took > SlowSync {
		s.late++
	}
	if took <= EasySync {
		s.early++
	}
}

// window ends the window that is over.
func (s *strain) window(now time.Duration) {
	if !s.begun {
		s.begun, s.from = true, now
	}
	if now-s.from < StrainWindow {
		return
	}
	if s.syncs > 0 {
		mostLate, mostEarly := 2*s.late > s.syncs, 2*s.early > s.syncs
		switch {
		case !mostLate:
			s.slowRun = 0
		case s.late >= SlowSyncsMin:
			s.slowRun++
		}
		if s.easyRun++; !mostEarly {
			s.easyRun = 0
		}
		s.slow = s.slowRun >= SlowWindows || s.slow && s.easyRun < EasyWindows
	}
	s.from, s.syncs, s.late, s.early = now, 0, 0, 0
}

// read notes the error of a read.
func (s *strain) read(now time.Duration, path string, off int64, err error) {
	if !errors.Is(err, syscall.EIO) {
		return
	}
	s.forget(now)
	s.unreadAt = now
	if s.unread == nil {
		s.unread = map[unreadPlace]bool{}
	}
	if len(s.unread) < UnreadMax {
		s.unread[unreadPlace{path, off / unreadBytes}] = true
	}
}

func (s *strain) forget(now time.Duration) {
	if len(s.unread) > 0 && now-s.unreadAt >= UnreadFor {
		clear(s.unread)
	}
}

// trouble says what is wrong with the disk, "" when nothing is. The text does not change
// while that lasts.
func (s *strain) trouble(now time.Duration) string {
	s.window(now)
	s.forget(now)
	switch {
	case len(s.unread) >= UnreadMax:
		return "its disk fails: reads end in errors"
	case s.slow:
		return "its disk is slow: most syncs take more than " + SlowSync.String()
	}
	return ""
}

// Trouble says that the disk is slow or fails, though what is on it can be served; ""
// when it is well. It does not ask the disk.
func (s *Space) Trouble() string {
	now := s.seam.Load().mono()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.strain.trouble(now)
}

// synced runs a sync, and notes how long it took. A nil Space notes nothing.
func (s *Space) synced(sync func() error) error {
	if s == nil {
		return sync()
	}
	mono := s.seam.Load().mono
	began := mono()
	err := sync()
	now := mono()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strain.synced(now, now-began)
	return err
}

// wasRead notes how a read ended.
func (s *Space) wasRead(path string, off int64, err error) {
	if s == nil || err == nil {
		return
	}
	now := s.seam.Load().mono()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strain.read(now, path, off, err)
}
