package raftfsm

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/raft"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// restart starts a stopped server again at its address.
func restart(t *testing.T, s *server) *server {
	t.Helper()
	cfg := s.cfg
	cfg.Transport = listen(t, s.Node.cfg.Addr)
	return start(t, cfg)
}

// forgetting are the ways in which a server's Raft files lose what they had.
var forgetting = map[string]func(t *testing.T, dir string, older []byte){
	"emptied":      func(t *testing.T, dir string, _ []byte) { write(t, filepath.Join(dir, logName), nil) },
	"an older one": func(t *testing.T, dir string, older []byte) { write(t, filepath.Join(dir, logName), older) },
	"log gone":     func(t *testing.T, dir string, _ []byte) { remove(t, filepath.Join(dir, logName)) },
	"folder gone":  func(t *testing.T, dir string, _ []byte) { remove(t, dir) },
	"cut short": func(t *testing.T, dir string, _ []byte) {
		if err := os.Truncate(filepath.Join(dir, logName), 8192); err != nil {
			t.Fatal(err)
		}
	},
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// TestLaw04ForgottenVoteIsNotGivenAgain: one server is away while the other two
// record a new epoch; then one of these two forgets. It must not make a leader
// together with the one that was away, or the old epoch comes true again. When the
// one that knows returns, the forgetful one is filled, votes again, and the cluster
// lives without the one that filled it.
func TestLaw04ForgottenVoteIsNotGivenAgain(t *testing.T) {
	for name, forget := range forgetting {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := trio(t)
			leader, others := leaderOf(t, all)
			forgetful, away := others[0], others[1]
			commit(t, all, cluster.AssignSlot{Slot: 0, Master: "n1", Replicas: []slot.NodeName{"n2", "n3"}})
			until(t, "all know the slot", func() bool { sl, _ := away.State().Slot(0); return sl.Epoch == 1 })
			older := copyOfLog(t, forgetful)
			away.end(t)
			commit(t, []*server{leader, forgetful}, cluster.SetUnprotected{Slot: 0, Epoch: 1, Since: 5})
			until(t, "both know", func() bool {
				a, _ := leader.State().Slot(0)
				b, _ := forgetful.State().Slot(0)
				return a.UnprotectedSince == 5 && b.UnprotectedSince == 5
			})
			leader.end(t)
			forgetful.end(t)

			forget(t, forgetful.cfg.Dir, older)
			forgetful, away = restart(t, forgetful), restart(t, away)
			forgetful.want(t, ConditionStoreFailed)
			if !forgetful.abstains.holds() {
				t.Fatal("it votes")
			}
			if sl, _ := forgetful.State().Slot(0); sl.UnprotectedSince != 5 {
				t.Errorf("it has forgotten the state too: %+v", sl)
			}
			until(t, "it was asked for votes", func() bool { return forgetful.abstains.asked.Load() >= 5 })
			if forgetful.Quorum() || away.Quorum() {
				t.Fatal("a leader was elected that lacks what was committed")
			}

			knows := restart(t, leader)
			until(t, "the log is filled", func() bool { return !forgetful.abstains.holds() })
			next, _ := leaderOf(t, []*server{knows, forgetful, away})
			if sl, _ := next.State().Slot(0); sl.UnprotectedSince != 5 {
				t.Errorf("the new leader knows %+v", sl)
			}
			knows.end(t)
			commit(t, []*server{forgetful, away}, cluster.SetUnprotected{Slot: 0, Epoch: 1, Since: 4})
			forgetful.end(t)
			if again := restart(t, forgetful); again.abstains != nil {
				t.Error("it abstains again after it was filled")
			}
		})
	}
}

// Files that were only out of reach, such as a disk that was not mounted, are put
// back: they are what the server wrote last, and it votes without a leader. So two of
// three that were lost together make a leader again.
func TestLaw04OwnFilesPutBack(t *testing.T) {
	all := trio(t)
	leader, others := leaderOf(t, all)
	commit(t, all, cluster.AssignSlot{Slot: 0, Master: "n1"})
	until(t, "both know", func() bool {
		return !slices.ContainsFunc(others, func(s *server) bool { sl, _ := s.State().Slot(0); return sl.Epoch != 1 })
	})
	for _, s := range all {
		s.end(t)
	}
	owns := map[*server][]byte{}
	for _, s := range others {
		owns[s] = copyOfLog(t, s)
		write(t, filepath.Join(s.cfg.Dir, logName), nil)
	}
	knows := restart(t, leader)
	for i, s := range others {
		others[i] = restart(t, s)
		owns[others[i]] = owns[s]
	}
	until(t, "they were asked for votes", func() bool {
		return !slices.ContainsFunc(others, func(s *server) bool { return s.abstains.asked.Load() < 3 })
	})
	if knows.Quorum() {
		t.Fatal("a leader was elected by those who abstain")
	}
	for i, s := range others {
		s.end(t)
		write(t, filepath.Join(s.cfg.Dir, logName), owns[s])
		if others[i] = restart(t, s); others[i].abstains != nil {
			t.Error("it has its own files again and abstains")
		}
	}
	leaderOf(t, append(others, knows))
}

// A server that had not acknowledged a single entry owes none: the power that fails
// while a cluster is founded does not leave a founder that waits for a leader for ever.
func TestFounderLosesAnEmptyLog(t *testing.T) {
	cfg := config(t, "n1", listenNew(t))
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(cfg.Dir, logName), make([]byte, 16<<10)) // never came to the disk
	s := start(t, cfg)
	s.want(t, ConditionStoreFailed)
	if s.abstains != nil {
		t.Fatal("it abstains, and nobody can fill it")
	}
	if err := s.Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "it leads", s.IsLeader)
}

// commit proposes a command at whoever leads, until it is applied: on a busy machine
// the leadership moves.
func commit(t *testing.T, among []*server, c cluster.Command) {
	t.Helper()
	until(t, "the command is applied", func() bool {
		return slices.ContainsFunc(among, func(s *server) bool {
			_, err := s.Propose(t.Context(), decidedOn(s.Node, c))
			var exists cluster.ErrExists // an earlier try was applied after all
			return err == nil || errors.As(err, &exists)
		})
	})
}

// copyOfLog returns a server's log as it is on disk now.
func copyOfLog(t *testing.T, s *server) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.cfg.Dir, logName))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestLaw04AbstentionSurvivesARestart: what a leader has filled in part is no more
// than a part, however often the server starts.
func TestLaw04AbstentionSurvivesARestart(t *testing.T) {
	all := trio(t)
	_, others := leaderOf(t, all)
	commit(t, all, cluster.AssignSlot{Slot: 0, Master: "n1"})
	forgetful := others[0]
	until(t, "it knows", func() bool { sl, _ := forgetful.State().Slot(0); return sl.Epoch == 1 })
	for _, s := range all {
		s.end(t)
	}
	owed := forgetful.mem.get().Last
	write(t, filepath.Join(forgetful.cfg.Dir, logName), nil)
	forgetful = restart(t, forgetful)
	part := &raft.Log{Index: 1, Term: 1, Type: raft.LogNoop}
	s := &store{back: forgetful.back, latch: forgetful.latch, mem: forgetful.mem, self: forgetful.id}
	if err := s.StoreLog(part); err != nil {
		t.Fatal(err)
	}
	forgetful.end(t)
	forgetful = restart(t, forgetful)
	if p := forgetful.mem.get(); p.Owes != owed || !forgetful.abstains.holds() {
		t.Errorf("after a part was filled it remembers %+v, it owes %d", p, owed)
	}
	v := &store{back: forgetful.back, latch: forgetful.latch, mem: forgetful.mem, self: forgetful.id, abstains: forgetful.abstains}
	if err := v.SetUint64([]byte(keyVoteTerm), 9); !errors.Is(err, errAbstains) {
		t.Errorf("it votes for itself: %v", err)
	}
}

// TestMemoryOfOneRecordIsEnough: either of the two records may be torn.
func TestMemoryOfOneRecordIsEnough(t *testing.T) {
	dir := t.TempDir()
	m, err := openMemory(dir)
	if err != nil || m.known {
		t.Fatalf("a new memory: %+v, %v", m, err)
	}
	for i := range uint64(5) {
		if err := m.change(func(p *promises) { p.Term = i + 1 }); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := openMemory(dir); err == nil {
		t.Error("two processes have it open")
	}
	if err := m.close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, memoryName))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		at, n int
		want  uint64
	}{
		"the older one": {0, 100, 5}, "the newer one": {memoryRecordLen, 100, 4}, "cut short": {memoryRecordLen + 50, -1, 4}, "both": {0, 2 * memoryRecordLen, 0},
	} {
		torn := append([]byte(nil), whole...)
		if tt.n < 0 {
			torn = torn[:tt.at]
		}
		for i := range tt.n {
			torn[tt.at+i] ^= 0xFF
		}
		write(t, filepath.Join(dir, memoryName), torn)
		m, err := openMemory(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.get().Term; got != tt.want || m.known != (tt.want > 0) {
			t.Errorf("torn: %s: term %d, known %t, want %d", name, got, m.known, tt.want)
		}
		if err := m.close(); err != nil {
			t.Fatal(err)
		}
	}
}
