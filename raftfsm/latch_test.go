package raftfsm

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"mailnode/raftfsm/cluster"
)

// TestLaw09RaftDiskFailureKeepsProcess: whatever Raft's disk does to a leader,
// the process lives on, the node says so and keeps answering, and the others go
// on under a new leader.
func TestLaw09RaftDiskFailureKeepsProcess(t *testing.T) {
	for name, fault := range map[string]struct {
		err  error
		hang bool
	}{"write error": {err: syscall.EIO}, "sync of a full disk": {err: syscall.ENOSPC}, "hang": {hang: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lawNine(t, fault.err, fault.hang)
		})
	}
}

func lawNine(t *testing.T, fault error, hangs bool) {
	all := trioThatStalls(t, 3*time.Second)
	leader, others := leaderOf(t, all)
	leader.must(t, cluster.AssignSlot{Slot: 0, Master: "n1"})
	var hang chan struct{}
	if hangs {
		hang = make(chan struct{})
	}
	leader.disk.set(fault, hang)
	_, err := leader.Propose(t.Context(), decidedOn(leader.Node, cluster.SetUnprotected{Slot: 0, Epoch: 1, Since: 5}))
	if !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("the command under way: %v", err)
	}
	leader.want(t, ConditionStoreFailed)

	next, _ := leaderOf(t, others)
	next.must(t, cluster.SetUnprotected{Slot: 0, Epoch: 1, Since: 4})

	leader.disk.set(nil, nil) // a disk that works again changes nothing (fsync gate)
	if sl, _ := leader.State().Slot(0); sl.Master != "n1" || sl.UnprotectedSince != 0 {
		t.Errorf("the halted node knows %+v", sl)
	}
	_, err = leader.Propose(t.Context(), decidedOn(leader.Node, cluster.SetUnprotected{Slot: 0, Epoch: 1, Since: 3}))
	asHalted(t, err, ConditionStoreFailed)
	asHalted(t, leader.VerifyLeader(t.Context()), ConditionStoreFailed)
	if leader.Quorum() || leader.IsLeader() {
		t.Error("the halted node believes that it leads or has a quorum")
	}
	if hangs {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := leader.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("shut down while the disk hangs: %v", err)
		}
		close(hang)
		return
	}
	before := time.Now()
	leader.end(t)
	if took := time.Since(before); took > 2*time.Second {
		t.Errorf("the halted node took %s to shut down", took)
	}
}

// A vote or a term that cannot be written makes hashicorp/raft panic.
func TestLaw09TermWriteFailsOnFollower(t *testing.T) {
	all := trio(t)
	leader, others := leaderOf(t, all)
	others[0].disk.set(syscall.EIO, nil)
	leader.end(t)
	others[0].want(t, ConditionStoreFailed)
	asHalted(t, others[0].Err(), ConditionStoreFailed)
	if len(others[0].State().Members) != 3 {
		t.Error("the halted node forgot its state")
	}
}

func TestUnreadableCommandHalts(t *testing.T) {
	flipped := cluster.Encode(cluster.AssignSlot{Slot: 0, Master: "n1"})
	flipped[len(flipped)-3] ^= 1
	body := []byte(`{"k":"teleport","c":{}}`)
	unknown := binary.BigEndian.AppendUint32([]byte{1}, crc32.Checksum(append([]byte{1}, body...), crc32.MakeTable(crc32.Castagnoli)))
	for _, tt := range []struct {
		name, condition string
		frame           []byte
	}{{"flipped bit", ConditionLogCorrupt, flipped}, {"unknown command", ConditionLogNewer, append(unknown, body...)}} {
		t.Run(tt.name, func(t *testing.T) {
			n1 := first(t, config(t, "n1", listenNew(t)))
			n1.raft.Apply(tt.frame, 0)
			n1.want(t, tt.condition)
			if sl, _ := n1.State().Slot(0); sl.Master != "" {
				t.Errorf("it was applied: %+v", sl)
			}
		})
	}
}

// TestLaw06LogDamageIsFound changes what is on disk under Raft: an entry, its
// absence, the term. It is named, and nothing that was damaged is used. A sole voter
// goes on with the state that it knew, a server that remembers nothing does not.
func TestLaw06LogDamageIsFound(t *testing.T) {
	for name, damage := range map[string]func(b backend) error{
		"entry": func(b backend) error {
			var l raft.Log
			if err := b.GetLog(3, &l); err != nil {
				return err
			}
			l.Term++
			return b.StoreLog(&l)
		},
		"hole": func(b backend) error { return b.DeleteRange(3, 3) },
		"term": func(b backend) error {
			return b.Set([]byte("CurrentTerm"), []byte("\x00\x00\x00\x00\x00\x00\x00\x01abcd"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t, "n1", listenNew(t))
			n1 := first(t, cfg)
			n1.must(t, cluster.AssignSlot{Slot: 0, Master: "n1"})
			n1.end(t)
			b, err := openBackend(cfg.Dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(b); err != nil {
				t.Fatal(err)
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			cfg.Transport = listenNew(t)
			forgetful := cfg
			forgetful.Memory.Dir = t.TempDir()
			n, err := Open(forgetful)
			if err != nil {
				t.Fatal(err)
			}
			asHalted(t, n.Err(), ConditionLogCorrupt)
			if err := n.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			cfg.Transport = listenNew(t)
			again := start(t, cfg)
			again.want(t, ConditionStoreFailed)
			until(t, "a leader", again.IsLeader)
			if sl, _ := again.State().Slot(0); sl.Master != "n1" {
				t.Errorf("it goes on with %+v", sl)
			}
		})
	}
}
