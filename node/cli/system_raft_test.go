package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// kill ends a node's process without a word, and waits until it is gone.
func (s *system) kill(n demoNode) {
	s.t.Helper()
	if err := syscall.Kill(n.PID, syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	s.within(10*time.Second, n.Name+" is dead", func() bool {
		code, _ := s.cli(n, "status")
		return code != 0
	})
}

func (s *system) restart(name string) {
	s.t.Helper()
	if out, err := exec.Command(s.bin, "demo", "--dir", s.dir, "--restart", name).CombinedOutput(); err != nil {
		s.t.Fatalf("restart %s: %v: %s", name, err, out)
	}
}

func (s *system) raftFile(name string) string {
	return filepath.Join(s.dir, name, "data", "raft", "raft.db")
}

// TestLongRaftFileIsEmptied: n1 is away while n2 and n3 decide that it is replaced.
// Then all die, and n2's raft.db is emptied. n1, which does not know of the decision,
// and n2, which has forgotten it, must not decide anything together: what was
// acknowledged in the new epoch would be hidden. When n3 is back all mail is there.
func TestLongRaftFileIsEmptied(t *testing.T) {
	skipUnlessLong(t)
	s := startSystem(t, shortDir(t), "--users", "6", "--slots", "6")
	s.allProtected(s.node("n1"))
	s.kill(s.node("n1"))
	n2, n3 := s.node("n2"), s.node("n3")
	s.within(30*time.Second, "a proposal about n1", func() bool {
		st := s.status(n2)
		return len(st.Proposals) == 1 && st.Proposals[0].Node == "n1"
	})
	if code, out := s.cli(n2, "failover", "confirm", "--yes"); code != 0 {
		t.Fatalf("confirm: exit %d: %s", code, out)
	}
	users := s.demo().Users
	for i := range 30 {
		s.within(10*time.Second, "mail in the new epoch", func() bool { return s.deliver(n3, users[i%len(users)]) == nil })
	}
	s.kill(n2)
	s.kill(n3)
	if err := os.Truncate(s.raftFile("n2"), 0); err != nil {
		t.Fatal(err)
	}
	s.restart("n1")
	s.restart("n2")
	s.within(20*time.Second, "n2 says what it lost", func() bool {
		_, out := s.cli(s.node("n2"), "status", "--json")
		return strings.Contains(out, "raft-store-failed") && strings.Contains(out, "takes no part in votes")
	})
	asked := 0
	s.within(30*time.Second, "n1 has asked for votes a few times", func() bool {
		b, err := os.ReadFile(filepath.Join(s.dir, "n1", "log"))
		asked = strings.Count(string(b), "starting election")
		return err == nil && asked >= 1
	})
	for _, u := range users {
		if err := s.deliver(s.node("n1"), u); err == nil {
			t.Errorf("%s was given mail by a cluster that has forgotten an epoch", u)
		}
	}
	s.restart("n3")
	s.allProtected(s.node("n1"))
	for _, n := range s.demo().Nodes {
		s.verify(n)
	}
}

// TestLongRaftFileIsCut: raft.db is cut short at several sizes, under
// a running process and before a start. The process lives, and its mail flows.
func TestLongRaftFileIsCut(t *testing.T) {
	skipUnlessLong(t)
	s := startSystem(t, shortDir(t), "--nodes", "1", "--slots", "2", "--users", "2")
	users := s.demo().Users
	whole, err := os.ReadFile(s.raftFile("n1"))
	if err != nil {
		t.Fatal(err)
	}
	for size := int64(0); size < int64(len(whole)); size += 3*4096 + 1999 {
		n := s.node("n1")
		if err := os.Truncate(s.raftFile("n1"), size); err != nil {
			t.Fatal(err)
		}
		s.cli(n, "cluster", "token", "n7") // it writes, or runs into what is missing
		if err := s.deliver(n, users[0]); err != nil {
			t.Errorf("cut to %d bytes while it runs: %v", size, err)
		}
		s.kill(n)
		if err := os.Truncate(s.raftFile("n1"), size); err != nil {
			t.Fatal(err)
		}
		s.restart("n1")
		n = s.node("n1")
		s.within(20*time.Second, "mail flows", func() bool { return s.deliver(n, users[1]) == nil })
		if _, out := s.cli(n, "status"); !strings.Contains(out, "raft-store-failed") {
			t.Errorf("cut to %d bytes: status does not say so: %s", size, out)
		}
	}
	s.verify(s.node("n1"))
}
