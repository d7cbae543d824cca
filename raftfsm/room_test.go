package raftfsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// fullDisk is what a write of bbolt meets on a disk without room.
func fullDisk(cause error) error { return &fs.PathError{Op: "write", Path: logName, Err: cause} }

// wantsNoRoom: it waits, says so, and neither leads nor counts for a quorum.
func (s *server) wantsNoRoom(t *testing.T) {
	t.Helper()
	s.want(t, ConditionNoRoom)
	if s.IsLeader() || s.Quorum() || s.Err() != nil {
		t.Errorf("it waits for room: leads %t, has a quorum %t, %v", s.IsLeader(), s.Quorum(), s.Err())
	}
	if _, err := s.Propose(t.Context(), cluster.AssignSlot{Slot: 7, Master: "n1"}); cluster.OutcomeOf(err) != cluster.NotDone {
		t.Errorf("a command meanwhile: %v", err)
	}
}

// TestLaw09FullRaftDiskOfALeader: a leader that finds no room is no leader any more,
// the others go on, and it follows them again when there is room.
func TestLaw09FullRaftDiskOfALeader(t *testing.T) {
	for _, cause := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		t.Run(cause.Error(), func(t *testing.T) {
			t.Parallel()
			all := trio(t)
			old, others := leaderOf(t, all)
			old.must(t, cluster.AssignSlot{Slot: 0, Master: "n1"})
			old.disk.set(fullDisk(cause), nil)
			_, err := old.Propose(t.Context(), cluster.AssignSlot{Slot: 1, Master: "n1"})
			if !errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("the command under way: %v", err)
			}
			old.wantsNoRoom(t)
			next, _ := leaderOf(t, others)
			want := next.must(t, cluster.AssignSlot{Slot: 2, Master: "n2"}).Index

			old.disk.set(nil, nil)
			until(t, "the full node follows again", func() bool { return old.State().Index >= want && old.Quorum() })
			next.end(t) // now its vote and its log are needed
			last, _ := leaderOf(t, without(all, next))
			last.must(t, cluster.AssignSlot{Slot: 3, Master: "n2"})
		})
	}
}

func without(all []*server, gone *server) (left []*server) {
	for _, s := range all {
		if s != gone {
			left = append(left, s)
		}
	}
	return left
}

// TestLaw09FullRaftDiskOfAMajority: a leader without a follower that can write has no
// quorum, and has one again when there is room.
func TestLaw09FullRaftDiskOfAMajority(t *testing.T) {
	all := trio(t)
	leader, others := leaderOf(t, all)
	for _, s := range others {
		s.disk.set(fullDisk(syscall.ENOSPC), nil)
	}
	go func() { _, _ = leader.Propose(t.Context(), cluster.AssignSlot{Slot: 0, Master: "n1"}) }()
	for _, s := range others {
		s.wantsNoRoom(t)
	}
	until(t, "the leader has no quorum", func() bool { return !leader.Quorum() })
	for _, s := range others {
		s.disk.set(nil, nil)
	}
	again, _ := leaderOf(t, all)
	again.must(t, cluster.AssignSlot{Slot: 1, Master: "n1"})
}

// TestFullRaftDiskStops: a node that waits for room ends when it is told to, and
// starts again with all that it had acknowledged.
func TestFullRaftDiskStops(t *testing.T) {
	n1 := first(t, config(t, "n1", listenNew(t)))
	n1.must(t, cluster.AssignSlot{Slot: 0, Master: "n1"})
	n1.disk.set(fullDisk(syscall.ENOSPC), nil)
	_, err := n1.Propose(t.Context(), cluster.AssignSlot{Slot: 1, Master: "n1"})
	if !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("the command under way: %v", err)
	}
	n1.wantsNoRoom(t)
	if !n1.DecidesAlone() {
		t.Error("the only voter has nobody to ask, and asks")
	}
	before := time.Now()
	n1.end(t)
	if took := time.Since(before); took > 2*time.Second {
		t.Errorf("it took %s to shut down", took)
	}
	cfg := n1.cfg
	cfg.Transport = listenNew(t)
	again := start(t, cfg)
	until(t, "a leader", again.IsLeader)
	again.must(t, cluster.AssignSlot{Slot: 2, Master: "n1"})
	if sl, _ := again.State().Slot(0); sl.Master != "n1" {
		t.Errorf("it starts with %+v", sl)
	}
}

// TestLaw09FullRaftDisk fills a real disk to its last byte, twice: the ballast takes
// the first, the second is waited for.
func TestLaw09FullRaftDisk(t *testing.T) {
	dir := tmpfs(t)
	ballast := filepath.Join(dir, "ballast")
	write(t, ballast, make([]byte, 1<<20))
	cfg := config(t, "n1", listenNew(t))
	cfg.Dir = filepath.Join(dir, "raft")
	cfg.GiveUpBallast = func() bool { return os.Remove(ballast) == nil }
	n1 := first(t, cfg)

	n1.must(t, cluster.AssignSlot{Slot: 0, Master: "n1"})

	fill(t, filepath.Join(dir, "filler"))
	since := slot.Position(1 << 20)
	next := func() cluster.Command { since--; return cluster.SetUnprotected{Slot: 0, Epoch: 1, Since: since} }
	for exists(ballast) {
		n1.must(t, next())
	}
	fill(t, filepath.Join(dir, "filler2"))
	for n1.IsLeader() {
		_, err := n1.Propose(t.Context(), decidedOn(n1.Node, next()))
		if err != nil && !errors.Is(err, ErrUnknownOutcome) {
			t.Fatal(err)
		}
	}
	n1.wantsNoRoom(t)
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
	until(t, "it leads again", n1.IsLeader)
	want := n1.must(t, next()).Index
	n1.end(t)

	cfg.Transport = listenNew(t)
	again := start(t, cfg)
	until(t, "a leader", again.IsLeader)
	if got := again.State().Index; got < want {
		t.Errorf("it starts with index %d, had acknowledged %d", got, want)
	}
	if wasSetAside(cfg.Dir) != "" {
		t.Error("its files were set aside")
	}
}

// TestLaw09FullRaftDiskAtAStart: a server that finds no room when Raft begins to write
// knows what it knew, decides nothing, and takes part by itself when there is room. It
// may be stopped and started meanwhile.
func TestLaw09FullRaftDiskAtAStart(t *testing.T) {
	cfg := config(t, "n1", listenNew(t))
	n1 := first(t, cfg)
	want := n1.must(t, cluster.AssignSlot{Slot: 0, Master: "n1"}).Index
	n1.end(t)
	full := &faultyBackend{err: fullDisk(syscall.ENOSPC)}
	for range 2 {
		cfg.Transport = listenNew(t)
		s := begin(t, cfg, full)
		s.wantsNoRoom(t)
		if sl, ok := s.State().Slot(0); !ok || sl.Master != "n1" || !s.DecidesAlone() {
			t.Errorf("it knows %+v", sl)
		}
		s.end(t)
	}
	cfg.Transport = listenNew(t)
	s := begin(t, cfg, full)
	s.wantsNoRoom(t)
	full.set(nil, nil)
	until(t, "it leads", s.IsLeader)
	if got := s.must(t, cluster.AssignSlot{Slot: 1, Master: "n1"}).Index; got <= want {
		t.Errorf("it goes on with index %d, had acknowledged %d", got, want)
	}
}

// TestLaw09FullRaftDiskBeforeTheFiles fills a real disk, so that not even Raft's files
// can be opened, or the folder of a new server made.
func TestLaw09FullRaftDiskBeforeTheFiles(t *testing.T) {
	dir := tmpfs(t)
	cfg := config(t, "n1", listenNew(t))
	cfg.Dir = filepath.Join(dir, "raft")
	fill(t, filepath.Join(dir, "filler"))
	s := begin(t, cfg, &faultyBackend{})
	s.wantsNoRoom(t)
	if _, err := s.Servers(); s.Abstains() || s.DecidesAlone() || !errors.Is(err, errNoRoom) {
		t.Errorf("it has no files; servers: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
	until(t, "Raft runs", func() bool { return s.running() != nil && !s.latch.room.waits() })
	if err := s.Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "it leads", s.IsLeader)
}

// fill writes until the disk has no byte left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); ; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// TestNoRoom tells a write that may be tried again from what is final.
func TestNoRoom(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{fmt.Errorf("write raft log: %w", fullDisk(syscall.ENOSPC)), true},
		{fullDisk(syscall.EDQUOT), true},
		{fullDisk(syscall.EIO), false},
		{syscall.ENOSPC, false}, // fdatasync, as bbolt calls it
		{&fs.PathError{Op: "sync", Path: logName, Err: syscall.ENOSPC}, false},
		{&os.LinkError{Op: "rename", Old: "a", New: "b", Err: syscall.ENOSPC}, true},
		{fmt.Errorf("file resize error: %s", &fs.PathError{Op: "truncate", Path: logName, Err: syscall.EDQUOT}), true},
		{fmt.Errorf("file sync error: %s", &fs.PathError{Op: "sync", Path: logName, Err: syscall.ENOSPC}), false},
	} {
		if got := noRoom(tt.err); got != tt.want {
			t.Errorf("%v: %t, want %t", tt.err, got, tt.want)
		}
	}
}

// tmpfs mounts a disk of 8 MiB.
func tmpfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=8m", "mailnode-test", dir).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: no tmpfs can be mounted here (root is needed): %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("unmount %s: %v: %s", dir, err, out)
		}
	})
	return dir
}
