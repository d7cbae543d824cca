package cli_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A full disk: mail is put off with 452 4.3.1, reading goes on, nothing is half
// written, and when there is room again mail flows by itself (LAWS row 9). The
// disk is a tmpfs of its own.
func TestSystemFullDisk(t *testing.T) {
	dir := shortDir(t)
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=256m", "mailnode-test", dir).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: no tmpfs can be mounted here (root is needed): %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("unmount %s: %v: %s", dir, err, out)
		}
	})
	s := startSystem(t, dir, "--nodes", "1", "--slots", "2", "--users", "2")
	n := s.node("n1")
	users := s.demo().Users
	for range 5 {
		if err := s.deliver(n, users[0]); err != nil {
			t.Fatal(err)
		}
	}
	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const belowReserve = 60 << 20 // the store keeps 64 MiB
	for mb := make([]byte, 1<<20); ; {
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		if st.Bavail*uint64(st.Bsize) < belowReserve {
			break
		}
		if _, err := f.Write(mb); err != nil {
			t.Fatal(err)
		}
	}
	var refused error
	s.within(5*time.Second, "mail is put off", func() bool { refused = s.deliver(n, users[0]); return refused != nil })
	if !strings.Contains(refused.Error(), "452 4.3.1") {
		t.Errorf("full disk: %v, want 452 4.3.1", refused)
	}
	s.verify(n)
	s.within(5*time.Second, "status says that the disk is full", func() bool {
		_, out := s.cli(n, "status") // conditions are looked at once a second
		return strings.Contains(out, "disk-full")
	})
	// To the last byte: what needs no room goes on from the ballast, and reading in any case.
	for block := make([]byte, 4096); ; {
		if _, err := f.Write(block); err != nil {
			break
		}
	}
	if refused = s.deliver(n, users[0]); refused == nil || !strings.Contains(refused.Error(), "452 4.3.1") {
		t.Errorf("no byte left: %v, want 452 4.3.1", refused)
	}
	s.verify(n)
	s.fillRaft(n, f)
	s.verify(n)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	f.Close()
	s.within(5*time.Second, "mail flows again", func() bool { return s.deliver(n, users[1]) == nil })
	s.verify(n)
	s.within(10*time.Second, "raft goes on", func() bool {
		exit, _ := s.cli(n, "cluster", "token", "n9", "--yes")
		return exit == 0
	})
}

// fillRaft has Raft write to a full disk until the ballast is used up, and it waits.
func (s *system) fillRaft(n demoNode, filler *os.File) {
	ctx, cancel := context.WithCancel(s.t.Context())
	var asked sync.WaitGroup
	asked.Go(func() {
		for ctx.Err() == nil {
			_ = exec.CommandContext(ctx, s.bin, "--socket", n.Admin, "cluster", "token", "n9", "--yes").Run() // it waits for a leader
			_, _ = filler.Write(make([]byte, 4096))
		}
	})
	s.within(20*time.Second, "raft waits for room", func() bool {
		_, out := s.cli(n, "status")
		return strings.Contains(out, "raft-no-room")
	})
	cancel()
	asked.Wait()
}
