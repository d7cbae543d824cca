// Package disk is about what a disk can do to us. It knows no mail.
//
// A Space keeps room: it says, before anything is written, whether something may
// still grow on a file system; keeps account of what was announced and is not
// written yet; and holds a ballast, a file whose blocks are given up when a write
// finds no room after all. It also says whether its disk is slow or fails. A Watchdog
// notices a disk that no longer answers.
// A Latch remembers the first failure, which is final. WriteFile replaces a small
// file, so that a crash leaves the old one or the new.
package disk

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Level says how much room a change must leave on its disk.
type Level int

// The levels. What frees room, or takes none to speak of, may use what growth
// must leave. The bodies that a replica takes over stand between, so that it can
// follow a master whose disk is as full as its own.
const (
	Grow   Level = iota // new mail, mailboxes, keywords, users: ReserveBytes stay free
	Follow              // a master's bodies, on a replica: half of them
	Change              // flags, expunging, deleting, what a replica is told: FloorBytes, and the ballast counts as free
)

const (
	// ReserveBytes is what growth must leave free.
	ReserveBytes = 64 << 20
	// FloorBytes is what any change must leave.
	FloorBytes = 4 << 20
	// BallastBytes is the size of the ballast of one file system.
	BallastBytes = 32 << 20
	// ballastRoomBytes is what must be free before a ballast is made (again):
	// making it must not bring the disk back to the reserve.
	ballastRoomBytes = 2*ReserveBytes + BallastBytes

	ballastName = "BALLAST"
	// lookEvery is how old the answer of the file system may be. Meanwhile what
	// was admitted counts as written.
	lookEvery = 100 * time.Millisecond
)

// ErrFull says that a change would not leave enough room. Nothing was written.
var ErrFull = errors.New("disk full")

// NoRoom reports whether a write failed for want of room on the disk, or in the
// quota that the system gives to whoever runs the node.
func NoRoom(err error) bool {
	return errors.Is(err, ErrFull) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Disks are the Spaces of a node: all that lies below one registered folder
// shares one.
type Disks struct {
	mu     sync.Mutex
	spaces []*Space
}

// At returns the Space of a folder: that of the nearest folder above it for which
// At was called before, else a new one. mono is a monotonic clock.
func (d *Disks) At(fs vfs.FS, dir string, mono func() time.Duration) *Space {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := nearest(d.spaces, dir)
	if s == nil {
		s = &Space{dir: dir}
		s.use(fs, mono)
		d.spaces = append(d.spaces, s)
	} else if s.dir == dir {
		s.use(fs, mono) // who opens the folder again may come with another seam
	}
	return s
}

// nearest returns the Space of the folder that a path lies in; of several, the lowest.
func nearest(spaces []*Space, path string) *Space {
	var best *Space
	for _, s := range spaces {
		if s.covers(path) && (best == nil || len(s.dir) > len(best.dir)) {
			best = s
		}
	}
	return best
}

// Space is the room of the file system that one folder lies on. Its methods may
// be called at the same time.
type Space struct {
	dir  string
	seam atomic.Pointer[seam]

	asking  sync.Mutex // held while the file system is asked
	tending sync.Mutex // held while the ballast is made or given up

	noBallast atomic.Bool // the file system cannot keep one

	mu      sync.Mutex // guards all below; never held while the disk is waited for
	known   bool
	at      time.Duration // of the last look
	free    int64         // then
	taken   int64         // since, by whoever was admitted
	held    int64         // announced, and neither written nor given up
	ballast int64         // bytes that the ballast has
	strain  strain
}

// seam is what a Space reaches the disk and the clock through.
type seam struct {
	fs   vfs.FS
	mono func() time.Duration
}

func (s *Space) fs() vfs.FS { return s.seam.Load().fs }

func (s *Space) covers(dir string) bool {
	rest, below := strings.CutPrefix(dir, strings.TrimSuffix(s.dir, "/"))
	return below && (rest == "" || rest[0] == '/')
}

func (s *Space) use(fs vfs.FS, mono func() time.Duration) {
	s.asking.Lock()
	defer s.asking.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seam.Store(&seam{fs, mono})
	s.known, s.taken = false, 0
}

// Hold is room that was announced.
type Hold struct {
	s     *Space
	bytes int64
}

// Hold keeps room for bytes that are about to be written. The error is ErrFull:
// they would not leave what the level must leave.
func (s *Space) Hold(l Level, bytes int64) (*Hold, error) {
	s.refresh()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.admit(l, bytes); err != nil {
		return nil, err
	}
	s.held += bytes
	return &Hold{s, bytes}, nil
}

// Release ends a hold: what it announced is written, or will never be. Until the
// next look it counts as written. A nil Hold has nothing to release.
func (h *Hold) Release() { h.Wrote(1 << 62) }

// Wrote says that so many of the bytes are written, at most those that are left, and
// returns how many it took.
func (h *Hold) Wrote(bytes int64) int64 {
	if h == nil {
		return 0
	}
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	bytes = min(bytes, h.bytes)
	h.s.held -= bytes
	h.s.taken += bytes
	h.bytes -= bytes
	return bytes
}

// Cancel ends a hold of which no more will be written, or which another takes over.
func (h *Hold) Cancel() {
	if h == nil {
		return
	}
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	h.s.held -= h.bytes
	h.bytes = 0
}

// Allow is Hold for nothing in particular, from what is known now: it never asks
// the disk, which may hang.
func (s *Space) Allow(l Level) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.admit(l, 0)
}

// Took notes bytes that were written and had no hold.
func (s *Space) Took(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken += bytes
}

// admit reports whether so many bytes more leave enough; s.mu is held.
func (s *Space) admit(l Level, bytes int64) error {
	if !s.known { // a file system that cannot say (tests) has no limit
		return nil
	}
	room, leave := s.free-s.taken-s.held-bytes, int64(ReserveBytes)
	switch l {
	case Follow:
		leave = ReserveBytes / 2
	case Change:
		room, leave = room+s.ballast, FloorBytes
	}
	if room < leave {
		return fmt.Errorf("%w: %q would have less than %d MiB left: free space or add a disk", ErrFull, s.dir, leave>>20)
	}
	return nil
}

// refresh asks the file system, unless it was asked just now or somebody does.
func (s *Space) refresh() {
	now := s.seam.Load().mono()
	s.mu.Lock()
	fresh := s.known && now-s.at < lookEvery
	s.mu.Unlock()
	if fresh || !s.asking.TryLock() {
		return
	}
	defer s.asking.Unlock()
	_ = s.look(now) // what cannot be asked stays as it was known last
}

func (s *Space) look(now time.Duration) error {
	s.mu.Lock()
	before := s.taken
	s.mu.Unlock()
	u, err := s.fs().GetDiskUsage(s.dir)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known, s.at, s.free = true, now, int64(min(u.AvailBytes, 1<<62))
	s.taken -= before // what came meanwhile may not be in the answer
	return nil
}

// String names the folder.
func (s *Space) String() string { return s.dir }

// Free asks the file system what is free. An error: it cannot say.
func (s *Space) Free() (bytes uint64, err error) {
	u, err := s.fs().GetDiskUsage(s.dir)
	return u.AvailBytes, err
}
