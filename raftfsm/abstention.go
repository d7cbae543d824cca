package raftfsm

import (
	"errors"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// abstention keeps a server whose log was lost out of all votes: it gives none, asks
// for none and takes over from nobody, until a leader has filled it again. Then it
// has everything that it ever acknowledged and that may have been committed:
//
//   - a leader that it follows has a term that is not below any that this server has
//     known, because the term is remembered outside of the log;
//   - that leader has whatever was committed before it was elected. Its majority
//     has one server in common with each majority that this server was a part of,
//     and a server that abstains was not the one in common;
//   - this server's log is the leader's log up to the end of what it once had, or to
//     the leader's own end.
//
// While it abstains it acknowledges what it is given, and that counts: it has it.
type abstention struct {
	mem    *memory
	over   atomic.Bool
	asked  atomic.Int64 // how often it was asked for a vote, or to take over
	filled func(error)  // called once, when it is over or could not be recorded
}

var errAbstains = errors.New("this server's log was lost: it takes no part in votes until a leader has filled it")

func newAbstention(mem *memory, filled func(error)) *abstention {
	return &abstention{mem: mem, filled: filled}
}

// holds reports whether the server abstains; a nil abstention never does.
func (a *abstention) holds() bool { return a != nil && !a.over.Load() }

// answered answers what is about votes, and looks at what a leader sends.
func (a *abstention) answered(rpc *raft.RPC, stop <-chan struct{}) bool {
	head := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}
	switch c := rpc.Command.(type) {
	case *raft.RequestVoteRequest:
		a.asked.Add(1)
		rpc.Respond(&raft.RequestVoteResponse{RPCHeader: head, Term: c.Term}, nil)
		return true
	case *raft.RequestPreVoteRequest:
		a.asked.Add(1)
		rpc.Respond(&raft.RequestPreVoteResponse{RPCHeader: head, Term: c.Term}, nil)
		return true
	case *raft.TimeoutNowRequest:
		a.asked.Add(1)
		rpc.Respond(nil, errAbstains)
		return true
	case *raft.AppendEntriesRequest:
		to, got := rpc.RespChan, make(chan raft.RPCResponse, 1)
		rpc.RespChan = got
		go func() {
			select {
			case r := <-got:
				a.look(c, r)
				to <- r // has room for it
			case <-stop:
			}
		}()
	}
	return false
}

// look ends the abstention when the log has been filled.
func (a *abstention) look(c *raft.AppendEntriesRequest, r raft.RPCResponse) {
	resp, ok := r.Response.(*raft.AppendEntriesResponse)
	if !ok || r.Error != nil || !resp.Success {
		return
	}
	end := c.PrevLogEntry
	if n := len(c.Entries); n > 0 {
		end = c.Entries[n-1].Index
	}
	// A leader sends no entries when it has none beyond the previous one. A heartbeat
	// names no previous one.
	whole := len(c.Entries) == 0 && c.PrevLogEntry > 0
	if !whole && end < a.mem.get().Owes || a.over.Load() {
		return
	}
	err := a.mem.change(func(p *promises) { p.Owes = 0 })
	if err == nil && !a.over.CompareAndSwap(false, true) {
		return
	}
	a.filled(err)
}
