package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"mailnode/failover"
	"mailnode/node/peer"
	"mailnode/node/rpc"
	"mailnode/raftfsm"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/repl"
	"mailnode/storage/slot"
)

// service answers what other nodes ask.
type service struct {
	rpc.UnimplementedNodeServer
	n *Node
}

// serveGRPC serves replication and the node service on the peer port.
func (n *Node) serveGRPC() {
	n.grpc = grpc.NewServer(grpc.Creds(rpc.Credentials()), grpc.MaxRecvMsgSize(messageBytesMax), grpc.WaitForHandlers(true),
		grpc.InitialWindowSize(4<<20), grpc.InitialConnWindowSize(8<<20),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))
	rpc.RegisterNodeServer(n.grpc, service{n: n})
	repl.RegisterReplicationServer(n.grpc, &repl.Server{Copies: n.copies})
	n.wg.Go(func() { n.logErr("serve peers", n.grpc.Serve(n.port.Listener(peer.ProtoGRPC))) })
}

// Report implements rpc.NodeServer.
func (s service) Report(ctx context.Context, in *rpc.Json) (*rpc.Json, error) {
	var r failover.Report
	if err := json.Unmarshal(in.Body, &r); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "read report: %v", err)
	}
	if name, ok := rpc.PeerName(ctx); !ok || name != r.Node {
		return nil, status.Errorf(codes.PermissionDenied, "a report about %q from %q", r.Node, name)
	}
	s.n.peers.answers(r.Node)
	s.n.evidence.Hear(s.n.clock.Mono(), r)
	s.n.asides.hear(r)
	s.n.hearHigher(r)
	s.n.hearLeftBehind(r)
	over := s.n.ended(r)
	if len(over) == 0 {
		return &rpc.Json{}, nil
	}
	b, err := json.Marshal(over)
	if err != nil {
		return nil, err
	}
	return &rpc.Json{Body: b}, nil
}

// Ask implements rpc.NodeServer.
func (s service) Ask(ctx context.Context, in *rpc.Json) (*rpc.Json, error) {
	var q []failover.Question
	if err := json.Unmarshal(in.Body, &q); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "read questions: %v", err)
	}
	got, err := heard(ctx, s.n, func() failover.Answer { return s.n.answer(ctx, q) })
	if err != nil {
		return nil, status.FromContextError(err).Err()
	}
	b, err := json.Marshal(got)
	if err != nil {
		return nil, err
	}
	return &rpc.Json{Body: b}, nil
}

// Ask implements failover.Asker.
func (n *Node) Ask(ctx context.Context, node slot.NodeName, q []failover.Question) (failover.Answer, error) {
	if node == n.cfg.Node.Name {
		return heard(ctx, n, func() failover.Answer { return n.answer(ctx, q) })
	}
	var out failover.Answer
	client, err := n.peers.node(node)
	if err != nil {
		return out, err
	}
	b, err := json.Marshal(q)
	if err != nil {
		return out, err
	}
	got, err := client.Ask(ctx, &rpc.Json{Body: b})
	if err != nil {
		return out, fmt.Errorf("ask node %q: %w", node, err)
	}
	if err := json.Unmarshal(got.Body, &out); err != nil {
		return out, fmt.Errorf("read answer of node %q: %w", node, err)
	}
	return out, nil
}

// Propose implements rpc.NodeServer.
func (s service) Propose(ctx context.Context, in *rpc.Command) (*rpc.Proposed, error) {
	c, err := cluster.Decode(in.Frame)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "read command: %v", err)
	}
	if !s.n.raft.IsLeader() {
		return &rpc.Proposed{NotLeader: true}, nil
	}
	r, err := s.n.commit(ctx, c)
	if err == nil {
		return &rpc.Proposed{Index: r.Index, Proposal: r.Proposal, Epoch: uint32(r.Epoch)}, nil
	}
	var elsewhere raftfsm.ErrNotLeader
	if errors.As(err, &elsewhere) {
		return &rpc.Proposed{NotLeader: true}, nil
	}
	if kind, body := refusalTo(err); kind != "" {
		return &rpc.Proposed{RefusalKind: kind, Refusal: body, Index: r.Index}, nil
	}
	switch cluster.OutcomeOf(err) {
	case cluster.NotDone, cluster.Halted:
		return nil, status.Error(codes.FailedPrecondition, err.Error()) // see notProposed
	}
	return nil, status.Error(codes.Unknown, err.Error())
}

// Fresh implements rpc.NodeServer.
func (s service) Fresh(ctx context.Context, _ *rpc.Empty) (*rpc.Index, error) {
	if !s.n.raft.IsLeader() {
		return nil, status.Error(codes.FailedPrecondition, "this node is not the leader")
	}
	i, err := s.n.raft.Fresh(ctx)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &rpc.Index{Index: i}, nil
}

// Account implements rpc.NodeServer.
func (s service) Account(ctx context.Context, in *rpc.AccountCall) (*rpc.AccountReply, error) {
	m := s.n.copies.serving(slot.ID(in.Slot))
	if m == nil {
		return &rpc.AccountReply{Failure: rpc.Wrap(storage.Errorf(storage.ErrMoved, "node %q does not serve slot %s", s.n.cfg.Node.Name, slot.ID(in.Slot)))}, nil
	}
	r, err := runAccount(ctx, m, in)
	if err != nil {
		return &rpc.AccountReply{Failure: rpc.Wrap(s.n.certain(ctx, m, err))}, nil
	}
	return r, nil
}

// Deliver implements rpc.NodeServer.
func (s service) Deliver(stream grpc.ClientStreamingServer[rpc.DeliverPart, rpc.DeliverReply]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	refuse := func(err error) error {
		reply := &rpc.DeliverReply{}
		for range first.Recipients {
			reply.Failures = append(reply.Failures, rpc.Wrap(err))
		}
		return stream.SendAndClose(reply)
	}
	sp, err := s.n.spool.Announce(storage.SpoolOwner{Name: "other nodes"}, 0)
	if err != nil {
		return refuse(err)
	}
	defer sp.Close()
	for part := first; ; {
		if _, err := sp.Write(part.Data); err != nil {
			return refuse(err)
		}
		if part, err = stream.Recv(); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
	}
	if guid, err := slot.GUIDFromBytes(first.Guid); err != nil || guid != sp.GUID() {
		return status.Error(codes.DataLoss, "the body does not fit its GUID")
	}
	d := storage.Delivery{Body: sp, InternalDate: time.Unix(first.DateUnix, 0)}
	for _, r := range first.Recipients {
		d.Recipients = append(d.Recipients, storage.Recipient{Account: storage.AccountID(r.Account), Address: slot.Address(r.Address)})
	}
	reply := &rpc.DeliverReply{}
	m := s.n.copies.serving(slot.ID(first.Slot))
	if m == nil {
		return refuse(storage.Errorf(storage.ErrMoved, "node %q does not serve slot %s", s.n.cfg.Node.Name, slot.ID(first.Slot)))
	}
	for _, err := range m.Deliver(stream.Context(), d) {
		f := rpc.Wrap(err)
		if f == nil {
			f = &rpc.Failure{}
		}
		reply.Failures = append(reply.Failures, f)
	}
	return stream.SendAndClose(reply)
}
