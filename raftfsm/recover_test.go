package raftfsm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

func raise(with ...slot.NodeName) cluster.RaiseGeneration {
	return cluster.RaiseGeneration{With: with, By: "eve", Why: "two nodes burnt"}
}

// recovered checks that a server leads alone and has the raised numbers.
func recovered(t *testing.T, s *server) {
	t.Helper()
	until(t, "the survivor leads", s.IsLeader)
	until(t, "its state is raised", func() bool { return s.State().Generation == 1 })
	if sl, _ := s.State().Slot(0); sl.Epoch != 17 || sl.Unclean != 16 || sl.Master != "n1" || sl.Protected {
		t.Errorf("after the recovery: %+v", sl)
	}
	if !s.State().Belongs(s.cfg.Name) {
		t.Error("the survivor does not belong to the new generation")
	}
	if !s.mem.get().Sole {
		t.Error("it does not remember that it has the only vote")
	}
	s.must(t, cluster.SetUnprotected{Slot: 0, Epoch: 17, Since: 9})
}

// lost is a trio of which two are gone for good; slot 0 has a master.
func lost(t *testing.T) (survivor *server, gone []*server) {
	t.Helper()
	all := trio(t)
	commit(t, all, cluster.AssignSlot{Slot: 0, Master: "n1", Replicas: []slot.NodeName{"n2", "n3"}})
	until(t, "all know the slot", func() bool {
		return !slices.ContainsFunc(all, func(s *server) bool { sl, _ := s.State().Slot(0); return sl.Epoch != 1 })
	})
	_, others := leaderOf(t, all)
	survivor = others[0]
	for _, s := range all {
		if s != survivor {
			s.end(t)
			gone = append(gone, s)
		}
	}
	until(t, "the survivor knows no leader", func() bool { return !survivor.Quorum() })
	return survivor, gone
}

// The survivor of three goes on alone without being stopped; it is refused while there
// is a leader. A restart keeps what was recovered.
func TestRecover(t *testing.T) {
	survivor, _ := lost(t)
	if err := survivor.Recover(t.Context(), raise(survivor.cfg.Name)); err != nil {
		t.Fatal(err)
	}
	recovered(t, survivor)
	if err := survivor.Recover(t.Context(), raise(survivor.cfg.Name)); err == nil || !strings.Contains(err.Error(), "there is a leader") {
		t.Errorf("a second time: %v", err)
	}
	survivor.end(t)
	survivor = restart(t, survivor)
	until(t, "it leads again", survivor.IsLeader)
	if sl, _ := survivor.State().Slot(0); sl.Epoch != 17 || sl.UnprotectedSince != 9 {
		t.Errorf("after a restart: %+v", sl)
	}
}

// A survivor whose log was lost as well goes on with the state that it knew.
func TestRecoverWithoutALog(t *testing.T) {
	survivor, _ := lost(t)
	survivor.end(t)
	write(t, filepath.Join(survivor.cfg.Dir, logName), nil)
	survivor = restart(t, survivor)
	if !survivor.Abstains() {
		t.Fatal("it votes without its log")
	}
	if err := survivor.Recover(t.Context(), raise(survivor.cfg.Name)); err != nil {
		t.Fatal(err)
	}
	if survivor.Abstains() {
		t.Error("it abstains although it is the only one left")
	}
	recovered(t, survivor)
	survivor.end(t)
	survivor = restart(t, survivor)
	until(t, "it leads again", survivor.IsLeader)
	if survivor.Abstains() {
		t.Error("it abstains again after a restart")
	}
}

// What was never committed and lies in the survivor's log counts: nobody can say any
// more that it was not.
func TestRecoverKeepsTheTailOfTheLog(t *testing.T) {
	survivor, _ := lost(t)
	end := survivor.LogEnd()
	zone, term := "cellar", survivor.raft.CurrentTerm()+1
	tail := cluster.Encode(cluster.UpdateMember{Name: "n1", Zone: &zone})
	err := survivor.send(t.Context(), &raft.AppendEntriesRequest{RPCHeader: survivor.header(), Term: term, Leader: survivor.header().Addr,
		PrevLogEntry: end.Index, PrevLogTerm: end.Term, Entries: []*raft.Log{{Index: end.Index + 1, Term: term, Type: raft.LogCommand, Data: tail}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if m, _ := survivor.State().Member("n1"); m.Zone != "" {
		t.Fatal("the tail was applied before it was committed")
	}
	until(t, "its leader is forgotten", func() bool { return !survivor.Quorum() })
	if err := survivor.Recover(t.Context(), raise(survivor.cfg.Name)); err != nil {
		t.Fatal(err)
	}
	recovered(t, survivor)
	if m, _ := survivor.State().Member("n1"); m.Zone != zone {
		t.Errorf("the tail is gone: %+v", m)
	}
}

// startCopy starts a stopped server with a copy of its files.
func startCopy(t *testing.T, s *server) *server {
	t.Helper()
	cfg := s.cfg
	cfg.Dir, cfg.Transport = filepath.Join(t.TempDir(), "raft"), listen(t, s.Node.cfg.Addr)
	for from, to := range map[string]string{s.Node.cfg.Dir: cfg.Dir, s.Node.cfg.Memory.Dir: cfg.Dir + ".remembered"} {
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	return start(t, cfg)
}

// Wherever the survivor's disk gives up under the recovery, it is recovered after a
// restart or it is not, and then the same call does it.
func TestLaw04RecoverSurvivesACrash(t *testing.T) {
	had, _ := lost(t)
	had.end(t)
	for writes := 0; ; writes++ {
		survivor := startCopy(t, had)
		survivor.disk.failAfter(writes, errors.New("the machine stops here"))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		err := survivor.Recover(ctx, raise(survivor.cfg.Name))
		cancel()
		survivor.disk.set(nil, nil)
		if err == nil && survivor.Err() == nil {
			if writes < 2 {
				t.Fatalf("only %d writes were made to fail", writes)
			}
			survivor.end(t)
			return
		}
		survivor.end(t)
		survivor = restart(t, survivor)
		ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
		err = survivor.Recover(ctx, raise(survivor.cfg.Name))
		cancel()
		if err != nil && !strings.Contains(err.Error(), "there is a leader") {
			t.Fatalf("after write %d failed: %v", writes, err)
		}
		recovered(t, survivor)
		survivor.end(t)
	}
}

// Another survivor follows the recovered one, with a vote when it has its log.
func TestRecoverWithAnother(t *testing.T) {
	survivor, gone := lost(t)
	if err := survivor.Recover(t.Context(), raise(survivor.cfg.Name, gone[0].cfg.Name)); err != nil {
		t.Fatal(err)
	}
	other := restart(t, gone[0])
	until(t, "it has a vote", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return survivor.AddVoter(ctx, other.ServerID(), other.Node.cfg.Addr) == nil
	})
	until(t, "it knows of the recovery", func() bool { return other.State().Generation == 1 && other.State().Belongs(other.cfg.Name) })
	leaderOf(t, []*server{survivor, other})
}
