package raftfsm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

func TestFormKillLeaderRestart(t *testing.T) {
	all := trio(t)
	leader, others := leaderOf(t, all)
	leader.must(t, cluster.AssignSlot{Slot: 3, Master: "n2", Replicas: []slot.NodeName{"n1"}})
	var notLeader ErrNotLeader
	until(t, "followers know the leader", func() bool { name, _, _ := others[0].Leader(); return name == leader.cfg.Name })
	if _, err := others[0].Propose(t.Context(), cluster.RejectProposal{Proposal: "x"}); !errors.As(err, &notLeader) || notLeader.Leader != leader.cfg.Name {
		t.Errorf("propose on a follower: %v", err)
	}
	var refused cluster.ErrExists
	if _, err := leader.Propose(t.Context(), cluster.AssignSlot{Slot: 3, Epoch: 1, Master: "n3"}); !errors.As(err, &refused) {
		t.Errorf("a refusal: %v", err)
	}
	servers, err := leader.Servers()
	if err != nil || len(servers) != 3 {
		t.Fatalf("servers %+v, %v", servers, err)
	}
	for _, s := range servers {
		if !s.Voter || s.Silent < 0 || s.Match == 0 || s.Addr == "" {
			t.Errorf("server %+v", s)
		}
	}
	until(t, "the follower has a quorum", others[0].Quorum)

	leader.end(t)
	next, _ := leaderOf(t, others)
	if sl, _ := next.State().Slot(3); sl.Master != "n2" || sl.Epoch != 1 {
		t.Errorf("the new leader knows %+v", sl)
	}
	next.must(t, cluster.SetUnprotected{Slot: 3, Epoch: 1, Since: 9})

	cfg := leader.cfg
	cfg.Transport = listen(t, leader.Node.cfg.Addr)
	back := start(t, cfg)
	if back.ServerID() != leader.ServerID() {
		t.Errorf("server ID %q became %q", leader.ServerID(), back.ServerID())
	}
	until(t, "the restarted node catches up", func() bool {
		changed := back.Changed()
		if sl, _ := back.State().Slot(3); sl.UnprotectedSince == 9 {
			return true
		}
		<-changed
		return false
	})
	// Raft notes the contact after it has handed the entries on, so the state can
	// be there first.
	until(t, "the restarted node has heard from a leader", func() bool {
		age, ok := back.LastContact()
		return ok && age < time.Minute
	})
}

// TestUnreachableVoter: a server that does not answer gets no vote, so that it
// takes no quorum away.
func TestUnreachableVoter(t *testing.T) {
	n1 := first(t, config(t, "n1", listenNew(t)))
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	err := n1.AddVoter(ctx, "n2-dead", "127.0.0.1:1")
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "never answered") {
		t.Errorf("got %v", err)
	}
	n1.must(t, cluster.AssignSlot{Slot: 0, Master: "n1"})
	if err := n1.RemoveServer(t.Context(), "n2-dead"); err != nil {
		t.Error(err)
	}
	if servers, err := n1.Servers(); err != nil || len(servers) != 1 {
		t.Errorf("servers %+v, %v", servers, err)
	}
}

func TestSnapshotForLateJoiner(t *testing.T) {
	cfg := config(t, "n1", listenNew(t))
	cfg.SnapshotThreshold, cfg.TrailingLogs, cfg.SnapshotInterval = 16, 4, 20*time.Millisecond
	n1 := first(t, cfg)
	n1.must(t, cluster.AssignSlot{Slot: 0, Master: "n1"})
	for i := range 60 {
		n1.must(t, cluster.SetUnprotected{Slot: 0, Epoch: 1, Since: slot.Position(1000 - i)})
	}
	until(t, "the log is trimmed", func() bool { i, err := n1.disk.FirstIndex(); return err == nil && i > 40 })

	n2 := start(t, config(t, "n2", listenNew(t)))
	if err := n1.AddVoter(t.Context(), n2.ServerID(), n2.Node.cfg.Addr); err != nil {
		t.Fatal(err)
	}
	n1.must(t, cluster.AddMember{Member: n2.member()})
	until(t, "same state", func() bool {
		return string(cluster.EncodeSnapshot(n1.State())) == string(cluster.EncodeSnapshot(n2.State()))
	})
	if i, err := n2.disk.FirstIndex(); err != nil || i <= 40 {
		t.Errorf("the joiner's log begins at %d, %v: it did not come by snapshot", i, err)
	}

	n2.end(t)
	n1.end(t)
	cfg.Transport = listen(t, n1.Node.cfg.Addr)
	again := start(t, cfg)
	until(t, "restored from disk", func() bool {
		sl, _ := again.State().Slot(0)
		return sl.UnprotectedSince == 941 && len(again.State().Members) == 2
	})
	if again.Quorum() {
		t.Error("one of two voters believes it has a quorum")
	}
}

// operators raises the feature level to that of commands about machines.
func operators(t *testing.T, all []*server) {
	t.Helper()
	for _, s := range all {
		commit(t, all, cluster.UpdateMember{Name: s.cfg.Name, Features: cluster.KnownFeatures})
	}
	until(t, "the level is raised", func() bool {
		leader, _ := leaderOf(t, all)
		_, err := leader.Propose(t.Context(), cluster.RaiseFeatureLevel{From: 1, To: cluster.KnownFeatures})
		return err == nil || leader.State().Features() == cluster.KnownFeatures
	})
}

func TestRemovedServerHalts(t *testing.T) {
	all := trio(t)
	operators(t, all)
	leader, others := leaderOf(t, all)
	if err := leader.RemoveServer(t.Context(), leader.ServerID()); err != nil {
		t.Fatal(err)
	}
	leader.want(t, ConditionRemoved)
	next, _ := leaderOf(t, others)
	next.must(t, cluster.RemoveMember{Name: leader.cfg.Name})
}

// TestLaw04WhoTookThePlaceDoesNotVoteForTheOther: another machine answers at the
// address of a server that has left. It is not called in that one's name: it knows
// neither its votes nor what it acknowledged.
func TestLaw04WhoTookThePlaceDoesNotVoteForTheOther(t *testing.T) {
	all := trio(t)
	operators(t, all)
	leader, others := leaderOf(t, all)
	was := others[0].member()
	was.Features = cluster.KnownFeatures
	others[0].end(t)
	const hash = "0123456789012345678901234567890123456789012345678901234567890123"
	next := was
	next.ServerID, next.Key = "another-1", hash
	leader.must(t, cluster.AddToken{Token: cluster.Token{ID: "t1", Hash: hash, Node: was.Name, LeftS: 60}})
	leader.must(t, cluster.ReplaceMember{Member: next, Was: was.ServerID, Token: "t1", Hash: hash})
	cfg := config(t, string(was.Name), listen(t, was.Addr)) // an empty folder
	cfg.ServerID = next.ServerID
	other := start(t, cfg)
	if to, err := leader.trans.target(raft.ServerID(was.ServerID), raft.ServerAddress(was.Addr)); err == nil {
		t.Errorf("the former server is called at %q", to)
	}
	leader.must(t, cluster.AgeTokens{Seconds: 1})
	if n := other.State().Index; n != 0 || other.raft.LastIndex() != 0 {
		t.Fatalf("it was given the log in the other's name, up to %d", n)
	}
	if err := leader.RemoveServer(t.Context(), was.ServerID); err != nil {
		t.Fatal(err)
	}
	if err := leader.AddVoter(t.Context(), next.ServerID, next.Addr); err != nil {
		t.Fatal(err)
	}
	until(t, "it follows in its own", func() bool { return other.State().Index == leader.State().Index })
}

func TestOpenRefuses(t *testing.T) {
	cfg := config(t, "n1", listenNew(t))
	n1 := first(t, cfg)
	if !strings.HasPrefix(n1.ServerID(), "n1-") || len(n1.ServerID()) != len("n1-")+8 {
		t.Errorf("server ID %q", n1.ServerID())
	}
	if err := n1.Bootstrap(t.Context()); err == nil {
		t.Error("bootstrapped twice")
	}
	n1.end(t)
	refused := func(cfg Config, want string) {
		t.Helper()
		cfg.Transport = listenNew(t)
		n, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		asHalted(t, n.Err(), ConditionStoreFailed)
		if !strings.Contains(n.Err().Error(), want) {
			t.Errorf("refused with %q, want %q in it", n.Err(), want)
		}
		if err := n.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
	other := cfg
	other.ServerID = "other"
	refused(other, n1.ServerID())
	if err := os.Remove(filepath.Join(cfg.Dir, logName)); err != nil {
		t.Fatal(err)
	}
	forgetful := cfg
	forgetful.Memory.Dir = t.TempDir()
	refused(forgetful, "gone")
	write(t, filepath.Join(cfg.Dir, logName), nil)
	refused(forgetful, "gone")
	if _, err := Open(Config{}); err == nil {
		t.Error("opened nothing")
	}
	_ = cfg.Transport.Close()
}

func ExampleErrNotLeader() {
	fmt.Println(ErrNotLeader{Leader: "n2"})
	// Output: this node is not the raft leader, n2 is
}
