package raftfsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/raft"

	"mailnode/raftfsm/cluster"
)

// Recover makes this server the only voter, for a cluster whose majority is lost for
// good: a person's decision (LAWS §6.12). Of raise the generation expected, with whom
// the cluster goes on, by whom and why are given. The caller has made sure that nobody
// outside of the new generation is talked to any more.
//
// It does not touch Raft's files. This server, which follows nobody, is sent what a
// leader of a later term would send it: two entries behind its log, the configuration
// of the survivors and RaiseGeneration, and that all of its log is committed. Both are
// in its log or neither is, its promises are kept as they are for any leader, and Raft
// goes on running. So a crash leaves a server that has been recovered, or one that has
// not, and for which the same call does it. A server that has lost its log is first
// given what it knows as a snapshot, and abstains until it has the two entries.
//
// Other survivors are put into the configuration without a vote; whoever leads gives
// them one when they have the log.
func (n *Node) Recover(ctx context.Context, raise cluster.RaiseGeneration) error {
	switch err := n.Err(); {
	case err != nil:
		return fmt.Errorf("recover raft: %w", err)
	case n.latch.room.waits():
		return fmt.Errorf("recover raft: %w", errNoRoom)
	case n.State().ClusterID == "":
		return errors.New("recover raft: this server knows no cluster")
	case n.Quorum():
		return errors.New("recover raft: there is a leader")
	}
	err := errBehind
	for errors.Is(err, errBehind) && ctx.Err() == nil { // it may have stood for election meanwhile
		err = n.takeOver(ctx, raise)
	}
	if err == nil {
		err = n.send(ctx, &raft.TimeoutNowRequest{RPCHeader: n.header()}, nil) // it need not wait for its own silence
	}
	if err == nil {
		err = n.raised(ctx, raise)
	}
	if err != nil {
		return fmt.Errorf("recover raft %q: %w", n.id, err)
	}
	return nil
}

// errBehind says that the term of what was sent is over.
var errBehind = errors.New("this server has gone on to a later term")

// takeOver sends the entries of the recovery, in a term of their own.
func (n *Node) takeOver(ctx context.Context, raise cluster.RaiseGeneration) error {
	term, end := n.raft.CurrentTerm()+1, n.LogEnd()
	survivors := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: n.id, Address: raft.ServerAddress(n.cfg.Addr)}}}
	for _, m := range n.State().Members {
		if m.ServerID != "" && m.ServerID != string(n.id) && slices.Contains(raise.With, m.Name) {
			survivors.Servers = append(survivors.Servers, raft.Server{Suffrage: raft.Nonvoter, ID: raft.ServerID(m.ServerID), Address: raft.ServerAddress(m.Addr)})
		}
	}
	if end.Index == 0 {
		end = cluster.LogEnd{Term: term, Index: max(n.mem.get().Owes, n.State().Index) + 1}
		if err := n.sendKnown(ctx, end, survivors); err != nil {
			return err
		}
	}
	raise.End = end
	entries := []*raft.Log{
		{Index: end.Index + 1, Term: term, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(survivors)},
		{Index: end.Index + 2, Term: term, Type: raft.LogCommand, Data: cluster.Encode(raise)},
	}
	return n.send(ctx, &raft.AppendEntriesRequest{RPCHeader: n.header(), Term: term, Leader: n.header().Addr,
		PrevLogEntry: end.Index, PrevLogTerm: end.Term, Entries: entries, LeaderCommitIndex: end.Index + 2}, nil)
}

// sendKnown gives a server without a log the state that it knows.
func (n *Node) sendKnown(ctx context.Context, end cluster.LogEnd, survivors raft.Configuration) error {
	known := cluster.EncodeSnapshot(n.State())
	return n.send(ctx, &raft.InstallSnapshotRequest{RPCHeader: n.header(), SnapshotVersion: raft.SnapshotVersionMax, Term: end.Term, Leader: n.header().Addr,
		LastLogIndex: end.Index, LastLogTerm: end.Term, Configuration: raft.EncodeConfiguration(survivors), ConfigurationIndex: end.Index, Size: int64(len(known))},
		known)
}

// header is that of this server itself: nobody else is meant.
func (n *Node) header() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(n.id), Addr: []byte(n.cfg.Addr)}
}

// send hands Raft a request as if a peer had sent it, and waits for the answer.
func (n *Node) send(ctx context.Context, request any, body []byte) error {
	answers := make(chan raft.RPCResponse, 1)
	n.trans.hand(raft.RPC{Command: request, Reader: bytes.NewReader(body), RespChan: answers}, ctx.Done())
	select {
	case a := <-answers:
		if a.Error != nil {
			return a.Error
		}
		return taken(a.Response)
	case <-ctx.Done():
		return ctx.Err()
	case <-n.latch.Tripped():
		return n.latch.Err()
	case <-n.stop:
		return errors.New("this node shuts down")
	}
}

// taken reads whether a request was taken.
func taken(response any) error {
	switch r := response.(type) {
	case *raft.AppendEntriesResponse:
		if !r.Success {
			return errBehind
		}
	case *raft.InstallSnapshotResponse:
		if !r.Success {
			return errBehind
		}
	}
	return nil
}

// raised waits until this server leads and has applied the recovery.
func (n *Node) raised(ctx context.Context, raise cluster.RaiseGeneration) error {
	for {
		changed := n.Changed()
		if st := n.State(); st.Generation > raise.Generation && n.IsLeader() {
			return nil
		}
		select {
		case <-changed:
		case <-time.After(n.cfg.HeartbeatTimeout): // the term has its leader a moment after it was announced
		case <-n.latch.Tripped():
			return n.latch.Err()
		case <-ctx.Done():
			return fmt.Errorf("its log is that of the survivors, and it does not lead yet: %w", ctx.Err())
		}
	}
}

// LogEnd returns the end of this server's log, zero when it has none.
func (n *Node) LogEnd() cluster.LogEnd {
	if n.raft == nil {
		return cluster.LogEnd{}
	}
	stats := n.raft.Stats()
	number := func(key string) uint64 {
		v, _ := strconv.ParseUint(stats[key], 10, 64) // Raft writes numbers
		return v
	}
	end := cluster.LogEnd{Term: number("last_log_term"), Index: number("last_log_index")}
	if i := number("last_snapshot_index"); i > end.Index {
		end = cluster.LogEnd{Term: number("last_snapshot_term"), Index: i}
	}
	return end
}
