package raftfsm

import (
	"errors"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"mailnode/node/testport"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// TestRaftHearsOfASilentPeerOnce: what Raft sends of its log to a peer that is away
// fails once, and then waits until a heartbeat has reached the peer, or until this
// server leads no more.
func TestRaftHearsOfASilentPeerOnce(t *testing.T) {
	var leads atomic.Bool
	leads.Store(true)
	addr := testport.Take(t).Addr()
	from := newTransport(newGate(listenNew(t), "from", time.Second), hclog.NewNullLogger(), time.Second,
		func(raft.ServerID) (string, bool, error) { return addr, true, nil }, leads.Load)
	defer from.Close()
	send := func(req *raft.AppendEntriesRequest) error {
		return from.AppendEntries("n2", "", req, &raft.AppendEntriesResponse{})
	}
	entry, beat := &raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 7}, &raft.AppendEntriesRequest{Term: 1}
	if err := send(entry); err == nil || errors.Is(err, raft.ErrNotLeader) {
		t.Fatalf("to nobody: %v", err)
	}
	second := make(chan error, 1)
	go func() { second <- send(entry) }()
	for range 20 { // Raft's pause would be ten seconds by now
		if err := send(beat); err == nil {
			t.Fatal("a heartbeat to nobody")
		}
	}
	select {
	case err := <-second:
		t.Fatalf("Raft was told a second time: %v", err)
	default:
	}
	to := newTransport(newGate(listen(t, addr), addr, time.Second), hclog.NewNullLogger(), time.Second, from.addrOf, leads.Load)
	go to.pass(t.Context().Done())
	go func() {
		for rpc := range to.Consumer() {
			rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
		}
	}()
	if err := send(beat); err != nil {
		t.Fatal(err)
	}
	if err := <-second; err != nil {
		t.Errorf("the peer is back: %v", err)
	}
	to.Close()
	from.CloseStreams()
	if err := send(beat); err == nil {
		t.Fatal("a heartbeat to nobody")
	}
	leads.Store(false)
	if err := send(entry); !errors.Is(err, raft.ErrNotLeader) {
		t.Errorf("of a server that leads no more: %v", err)
	}
}

// TestLongFollowerCatchesUp prints how long a follower that was away for 12 s needs,
// from its start, to apply what the leader has.
func TestLongFollowerCatchesUp(t *testing.T) {
	if os.Getenv("MAILNODE_LONG") == "" {
		t.Skip("SKIPPED: MAILNODE_LONG is not set")
	}
	all := make([]*server, 3)
	for i := range all {
		cfg := config(t, []string{"n1", "n2", "n3"}[i], listenNew(t))
		cfg.Timings = Timings{} // the real ones
		if i == 0 {
			all[i] = first(t, cfg)
			continue
		}
		all[i] = start(t, cfg)
		all[0].must(t, cluster.AddMember{Member: all[i].member()})
		if err := all[0].AddVoter(t.Context(), all[i].ServerID(), all[i].Node.cfg.Addr); err != nil {
			t.Fatal(err)
		}
	}
	leader, follower := all[0], all[2]
	leader.must(t, cluster.AssignSlot{Slot: 0, Master: "n1"})
	var took []time.Duration
	for i := range 10 {
		cfg := follower.cfg
		addr := cfg.Transport.Addr().String()
		follower.end(t)
		want := leader.must(t, cluster.SetUnprotected{Slot: 0, Epoch: 1, Since: slot.Position(1<<20 - i)}).Index
		away := time.NewTimer(12 * time.Second)
		<-away.C
		cfg.Transport = listen(t, addr)
		began := time.Now()
		follower = start(t, cfg)
		until(t, "the follower has all", func() bool { return follower.State().Index >= want })
		took = append(took, time.Since(began))
		t.Logf("restart %d: %s", i+1, took[i].Round(time.Millisecond))
	}
	slices.Sort(took)
	t.Logf("min %s, median %s, max %s", took[0], took[len(took)/2], took[len(took)-1])
}
