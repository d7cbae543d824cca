package raftfsm

import (
	"time"

	"github.com/hashicorp/raft"
)

// leadsAgainEvery is how often a request that waits for a silent peer looks whether
// this server still leads.
const leadsAgainEvery = 50 * time.Millisecond

// isHeartbeat reports whether a request only says that there is a leader: Raft sends
// those beside its log, and never waits for long between two of them.
func isHeartbeat(req *raft.AppendEntriesRequest) bool {
	return len(req.Entries) == 0 && req.PrevLogEntry == 0 && req.LeaderCommitIndex == 0
}

// awaitPeer waits for a peer that does not answer until a heartbeat has reached it.
// Raft doubles its pause with each request of its log that fails, to ten seconds, and
// nothing ends such a pause: a server that came back would not learn for so long what
// it has missed. So Raft gets one failure, and then nothing until the peer answers.
func (t *transport) awaitPeer(id raft.ServerID) error {
	t.mu.Lock()
	heard := t.peers[id].silent
	t.mu.Unlock()
	if heard == nil {
		return nil
	}
	tick := time.NewTicker(leadsAgainEvery)
	defer tick.Stop()
	for {
		select {
		case <-heard:
			return nil
		case <-tick.C:
			if !t.leads() {
				return raft.ErrNotLeader
			}
		}
	}
}

// reached notes how a request to a peer ended.
func (t *transport) reached(id raft.ServerID, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	switch {
	case err == nil && p.silent != nil:
		close(p.silent)
		p.silent = nil
	case err != nil && p.silent == nil:
		p.silent = make(chan struct{})
	}
	t.peers[id] = p
}
