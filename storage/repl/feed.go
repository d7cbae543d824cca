package repl

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// Copies is how a Server finds what this node has.
type Copies interface {
	// Copy returns this node's copy of a slot, if it has one open.
	Copy(s slot.ID) (Copy, bool)
	// Feed returns the feed of a slot that this node is master of, else nil.
	Feed(s slot.ID) *Feed
	// PeerName returns the proved name of the node at the other end of a call.
	PeerName(ctx context.Context) (slot.NodeName, bool)
}

// Server answers the replication calls of other nodes.
type Server struct {
	UnimplementedReplicationServer
	Copies Copies
}

var _ ReplicationServer = (*Server)(nil)

const heartbeatEvery = time.Second

// streamedBirthsMax is how many messages a slot may have had so that a new copy gets them
// as events: beyond it is filled by a state transfer, which is bounded (law 12).
const streamedBirthsMax = 64

// Follow implements ReplicationServer.
func (s *Server) Follow(stream Replication_FollowServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	h := first.Hello
	if h == nil {
		return status.Error(codes.InvalidArgument, "follow: the first message must be a hello")
	}
	if name, ok := s.Copies.PeerName(stream.Context()); ok && string(name) != h.Node {
		return status.Errorf(codes.PermissionDenied, "follow: the certificate is %q's, the hello %q's", name, h.Node)
	}
	f := s.Copies.Feed(slot.ID(h.Slot))
	if f == nil {
		return status.Errorf(codes.FailedPrecondition, "follow %s: this node is not its master", slot.ID(h.Slot))
	}
	if higher := max(slot.Epoch(h.Epoch), lineage(h.Lineage).Last()); higher > f.o.Epoch {
		f.fenced(fmt.Sprintf("%s knows epoch %d", h.Node, higher))
		return status.Errorf(codes.FailedPrecondition, "follow %s: epoch %d is over", slot.ID(h.Slot), f.o.Epoch)
	}
	if !f.lists(slot.NodeName(h.Node)) {
		return status.Errorf(codes.Unavailable, "follow %s: Raft does not list %s as a replica", slot.ID(h.Slot), h.Node)
	}
	return f.serve(stream, h)
}

// serve runs one replica's stream.
func (f *Feed) serve(stream Replication_FollowServer, h *Hello) error {
	name := slot.NodeName(h.Node)
	head, err := f.o.Slot.Head()
	if err != nil {
		return toStatus(err)
	}
	at := slot.Position(h.Position)
	w := &Welcome{Head: uint64(head.Position), Lineage: branches(head.Lineage), Transfer: h.Building || h.Refill}
	if !h.Building { // also of one that is to be refilled: what only it has is set aside first (law 7)
		c, err := f.covers(at, lineage(h.Lineage), head)
		if err != nil {
			return toStatus(err)
		}
		// The state does not need a damaged event (law 5).
		w.Diverged, w.Transfer = c == coversNot, w.Transfer || c != coversAll
	}
	// An empty copy of a slot that has some mail takes the state, politely, though the journal
	// may go back to the beginning.
	w.Transfer = w.Transfer || at == 0 && head.Births > streamedBirthsMax
	if w.Transfer = w.Transfer || w.Diverged || f.wantsRefetch(name, true); w.Transfer {
		f.refill(name)
	}
	if err := stream.Send(&FollowDown{Epoch: uint32(f.o.Epoch), Welcome: w}); err != nil {
		return err
	}
	if w.Transfer {
		return nil // the replica fetches the state and comes back
	}
	conn := f.connect(name, at)
	defer f.disconnect(name, conn)
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				cancel(err)
				return
			}
			if m.Ack != nil {
				f.onAck(name, conn, m.Ack)
			}
		}
	}()
	return f.send(ctx, stream, name, conn, at)
}

// send sends events after a position as they become durable here, and a
// heartbeat each second, until the connection is no longer the replica's newest.
func (f *Feed) send(ctx context.Context, stream Replication_FollowServer, name slot.NodeName, conn int, at slot.Position) error {
	beat := time.NewTicker(heartbeatEvery)
	defer beat.Stop()
	if err := f.sendHeartbeat(stream, name); err != nil {
		return err
	}
	for {
		moved := f.o.Slot.HeadMoved()
		f.mu.Lock()
		closed, listed := f.closed, f.st.Lists(name) && f.st.Replica(name).Conn == conn
		f.mu.Unlock()
		switch {
		case closed != nil:
			return toStatus(closed)
		case !listed:
			return status.Errorf(codes.Unavailable, "follow %s: Raft no longer lists %s as a replica, or it follows by another connection", f.o.Slot.ID(), name)
		}
		if f.wantsRefetch(name, false) {
			return status.Error(codes.Aborted, "this copy was found to differ: it fetches the state")
		}
		events, last, err := f.o.Slot.JournalAfter(at, frameBytesMax/2)
		if err != nil {
			return toStatus(err)
		}
		if len(events) > 0 {
			if err := sendEvents(events, func(group [][]byte, part *EventPart) error {
				return stream.Send(&FollowDown{Epoch: uint32(f.o.Epoch), Events: group, Part: part})
			}); err != nil {
				return err
			}
			at = last
			continue
		}
		select {
		case <-moved:
		case <-beat.C:
			if err := f.sendHeartbeat(stream, name); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-f.ended:
		}
	}
}

func (f *Feed) sendHeartbeat(stream Replication_FollowServer, name slot.NodeName) error {
	head, err := f.o.Slot.Head()
	if err != nil {
		return toStatus(err)
	}
	b := &Heartbeat{Head: uint64(head.Position), SlotClockMs: head.ClockMs, Births: head.Births, BirthBytes: head.Bytes}
	f.mu.Lock()
	b.LagMs = uint64(f.lag(f.st.Replica(name).Acked) / time.Millisecond)
	b.Counted = f.st.Counts(name)
	f.mu.Unlock()
	return stream.Send(&FollowDown{Epoch: uint32(f.o.Epoch), Heartbeat: b})
}

// State implements ReplicationServer.
func (s *Server) State(req *StateRequest, stream Replication_StateServer) error {
	f := s.Copies.Feed(slot.ID(req.Slot))
	if f == nil {
		return status.Errorf(codes.FailedPrecondition, "state of %s: this node is not its master", slot.ID(req.Slot))
	}
	if name, ok := s.Copies.PeerName(stream.Context()); ok && !f.lists(name) {
		return status.Errorf(codes.Unavailable, "state of %s: Raft does not list %s as a replica", slot.ID(req.Slot), name)
	}
	// With the first frame the replica drops a state that may be sound (law 7).
	if err := f.o.Slot.ProveState(stream.Context()); err != nil {
		return toStatus(err)
	}
	frame := &StateFrame{Epoch: req.Epoch}
	size := 0
	flush := func(last bool) error {
		frame.Crc32C, frame.Last, frame.Epoch = stateChecksum(frame.Records), last, uint32(f.o.Epoch)
		err := stream.Send(frame)
		frame, size = &StateFrame{}, 0
		return err
	}
	if err := f.o.Slot.ReadState(func(r event.Record) error {
		if size+len(r.Key)+len(r.Value) > frameBytesMax && len(frame.Records) > 0 {
			if err := flush(false); err != nil {
				return err
			}
		}
		frame.Records = append(frame.Records, &StateRecord{Key: append([]byte(nil), r.Key...), Value: append([]byte(nil), r.Value...)})
		size += len(r.Key) + len(r.Value)
		return nil
	}); err != nil {
		return toStatus(err)
	}
	return flush(true)
}

func stateChecksum(recs []*StateRecord) uint32 {
	var b []byte
	for _, r := range recs {
		b = append(append(b, r.Key...), r.Value...)
	}
	return event.Checksum(b)
}

func toStatus(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, storage.ErrNotMaster):
		return status.Error(codes.FailedPrecondition, err.Error())
	case errors.Is(err, storage.ErrCorrupt):
		return status.Error(codes.DataLoss, err.Error())
	default:
		return status.Error(codes.Unavailable, err.Error())
	}
}
