package disk

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/errors/oserror"
)

// The ballast is for whoever has filled the disk beside us. Growth stops at the
// reserve, so it is never ours to take; but a log file or a backup may take the
// reserve too, and then flags, expunging and Raft would find nothing. It is given
// up when one of our own writes meets a full disk, not before: whoever fills the
// disk would take it as well.

// ErrNoBallast says that a disk has no ballast. It is told once.
var ErrNoBallast = errors.New("no ballast")

func (s *Space) ballastPath() string { return s.fs().PathJoin(s.dir, ballastName) }

// Tend looks at the disk and makes the ballast when there is room for it, and
// returns what is free. Whoever runs the node calls it each second; without that
// a Space has no ballast. ErrNoBallast: the file system cannot keep one (it has no
// fallocate); what is free is known all the same.
func (s *Space) Tend() (free uint64, err error) {
	s.asking.Lock()
	err = s.look(s.seam.Load().mono())
	s.asking.Unlock()
	if err != nil {
		return 0, fmt.Errorf("look at disk %q: %w", s.dir, err)
	}
	s.mu.Lock()
	left, have := s.free-s.held, s.ballast
	free = uint64(s.free)
	s.mu.Unlock()
	if have > 0 {
		return free, nil
	}
	if have, err := s.foundBallast(); err != nil {
		return free, fmt.Errorf("%w: %w", ErrNoBallast, err)
	} else if have {
		return free, nil
	}
	if left < ballastRoomBytes || s.noBallast.Load() {
		return free, nil
	}
	if err := s.makeBallast(); err != nil {
		s.noBallast.Store(!NoRoom(err))
		return free, fmt.Errorf("%w: %w", ErrNoBallast, err)
	}
	return free, nil
}

// foundBallast takes up the ballast of an earlier process. One that is not whole
// is removed: it was cut off while it was made.
func (s *Space) foundBallast() (bool, error) {
	s.tending.Lock()
	defer s.tending.Unlock()
	st, err := s.fs().Stat(s.ballastPath())
	if oserror.IsNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for ballast %q: %w", s.ballastPath(), err)
	}
	if st.Size() < BallastBytes {
		if err := s.fs().Remove(s.ballastPath()); err != nil {
			return false, fmt.Errorf("remove ballast %q: %w", s.ballastPath(), err)
		}
		return false, nil
	}
	s.hasBallast(BallastBytes)
	return true, nil
}

func (s *Space) hasBallast(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ballast = bytes
}

// makeBallast allocates the blocks and writes the last byte: its size says that
// it is whole.
func (s *Space) makeBallast() (err error) {
	s.tending.Lock()
	defer s.tending.Unlock()
	path := s.ballastPath()
	f, err := s.fs().Create(path, "mailnode-ballast")
	if err != nil {
		return fmt.Errorf("make ballast %q: %w", path, err)
	}
	if err = f.Preallocate(0, BallastBytes); err == nil {
		_, err = f.WriteAt([]byte{0}, BallastBytes-1)
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		s.fs().Remove(path)
		return fmt.Errorf("make ballast %q: %w", path, err)
	}
	s.hasBallast(BallastBytes)
	return nil
}

// GiveUpBallast frees the blocks of the ballast, and reports whether there was
// one: then a write that found no room is worth another try.
func (s *Space) GiveUpBallast() bool {
	s.tending.Lock()
	defer s.tending.Unlock()
	if err := s.fs().Remove(s.ballastPath()); err != nil {
		s.hasBallast(0)
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free, s.ballast = s.free+s.ballast, 0
	return true
}
