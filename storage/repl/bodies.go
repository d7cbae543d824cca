package repl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// Bodies implements ReplicationServer: it sends what is asked for and, when the
// first message says so, what arrives.
func (s *Server) Bodies(stream Replication_BodiesServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	c, ok := s.Copies.Copy(slot.ID(first.Slot))
	if !ok {
		return status.Errorf(codes.FailedPrecondition, "bodies of %s: no copy is open here", slot.ID(first.Slot))
	}
	var arrivals <-chan slot.BodyRef
	if first.Push {
		var stop func()
		arrivals, stop = c.Arrivals()
		defer stop()
	}
	wants := make(chan slot.BodyRef)
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	go func() {
		for {
			w, err := stream.Recv()
			if err == nil {
				var g slot.GUID
				if g, err = slot.GUIDFromBytes(w.Guid); err == nil {
					select {
					case wants <- slot.BodyRef{GUID: g, ID: slot.BodyID(w.BodyId)}:
						continue
					case <-ctx.Done():
						return
					}
				}
			}
			cancel(err)
			return
		}
	}()
	for {
		// What is asked for goes first: an event waits for it.
		var ref slot.BodyRef
		asked := true
		select {
		case ref = <-wants:
		default:
			select {
			case ref = <-wants:
			case ref = <-arrivals:
				asked = false
			case <-ctx.Done():
				if err := context.Cause(ctx); !errors.Is(err, io.EOF) {
					return err
				}
				return nil
			}
		}
		if err := sendBody(stream, c, ref, asked); err != nil {
			return err
		}
	}
}

// sendBody sends a body. One that was not asked for is passed over when it is not
// to be had: its delivery may have been refused, and nothing is known about what
// the replica will need.
func sendBody(stream Replication_BodiesServer, c Copy, ref slot.BodyRef, asked bool) error {
	body, note, err := c.Body(ref)
	if err != nil && !asked {
		return nil
	}
	if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrCorrupt) {
		unneeded, uerr := c.BodyUnneeded(ref)
		if uerr != nil {
			return toStatus(uerr)
		}
		return stream.Send(&BodyFrame{Guid: ref.GUID[:], BodyId: uint64(ref.ID), Gone: true, Unneeded: unneeded, Unread: blob.Unread(err), Last: true})
	}
	if err != nil {
		return toStatus(err)
	}
	defer body.Close()
	size := body.Size()
	for off := int64(0); ; {
		f := &BodyFrame{Guid: ref.GUID[:], BodyId: uint64(ref.ID), Data: make([]byte, min(bodyFrameBytes, size-off))}
		if off == 0 {
			f.Note, f.Size = note, size
		}
		if n, err := body.ReadAt(f.Data, off); n < len(f.Data) {
			return status.Errorf(codes.DataLoss, "read body %s: %v", ref, err)
		}
		off += int64(len(f.Data))
		f.Crc32C, f.Last = event.Checksum(f.Data), off == size
		if err := stream.Send(f); err != nil {
			return err
		}
		if f.Last {
			return nil
		}
	}
}

// bodyStream is a replica's end of a Bodies stream.
type bodyStream struct {
	slot   Copy
	spool  *storage.SpoolDir
	stream Replication_BodiesClient
	count  func(bytes int)

	sending sync.Mutex // held while a want is sent; never while mu is

	mu    sync.Mutex    // guards all below
	news  chan struct{} // closed and replaced when a body came, is gone, or the stream ended
	asked map[slot.BodyRef]bool
	gone  map[slot.BodyRef]goneBody
	err   error
}

// goneBody is the other end's word that it does not have a body.
type goneBody struct{ gone, unneeded bool }

// openBodies opens the stream; run must be called.
func openBodies(ctx context.Context, c ReplicationClient, s Copy, spool *storage.SpoolDir, push bool, count func(int)) (*bodyStream, error) {
	stream, err := c.Bodies(ctx)
	if err != nil {
		return nil, fmt.Errorf("open bodies of %s: %w", s.ID(), err)
	}
	if err := stream.Send(&BodyWant{Slot: uint32(s.ID()), Push: push}); err != nil {
		return nil, fmt.Errorf("open bodies of %s: %w", s.ID(), err)
	}
	return &bodyStream{slot: s, spool: spool, stream: stream, count: count, news: make(chan struct{}),
		asked: map[slot.BodyRef]bool{}, gone: map[slot.BodyRef]goneBody{}}, nil
}

// run takes bodies until the stream ends.
func (b *bodyStream) run() error {
	err := b.take()
	b.mu.Lock()
	b.err = err
	b.mu.Unlock()
	b.tell(slot.BodyRef{}, goneBody{})
	return err
}

func (b *bodyStream) take() error {
	for {
		f, err := b.stream.Recv()
		if err != nil {
			return err
		}
		g, err := slot.GUIDFromBytes(f.Guid)
		if err != nil {
			return err
		}
		ref := slot.BodyRef{GUID: g, ID: slot.BodyID(f.BodyId)}
		if f.Gone {
			b.tell(ref, goneBody{true, f.Unneeded})
			continue
		}
		if err := b.takeBody(ref, f); err != nil {
			return err
		}
		b.tell(ref, goneBody{})
	}
}

// takeBody takes one body, proves it against its GUID, and stages it (law 6).
func (b *bodyStream) takeBody(ref slot.BodyRef, f *BodyFrame) error {
	sp, note, err := receiveBody(b.stream.Recv, ref, f, b.spool, b.count)
	if err != nil {
		return err
	}
	defer sp.Close()
	if have, err := b.slot.HasBody(ref); err != nil || have {
		return err
	}
	return b.slot.StageBody(ref, note, sp, sp.Size())
}

func (b *bodyStream) tell(ref slot.BodyRef, gone goneBody) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.gone, ref)
	if gone.gone {
		b.gone[ref] = gone
	}
	delete(b.asked, ref)
	close(b.news)
	b.news = make(chan struct{})
}

// want asks for a body, once.
func (b *bodyStream) want(ref slot.BodyRef) error {
	b.mu.Lock()
	asked, err := b.asked[ref], b.err
	b.asked[ref] = true
	b.mu.Unlock()
	if asked || err != nil {
		return err
	}
	// Not under mu: Send waits when the other end is busy sending bodies, which
	// take() must go on taking.
	b.sending.Lock()
	defer b.sending.Unlock()
	return b.stream.Send(&BodyWant{Guid: ref.GUID[:], BodyId: uint64(ref.ID)})
}

// isGone reports, once, that the other end does not have a body.
func (b *bodyStream) isGone(ref slot.BodyRef) goneBody {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.gone[ref]
	delete(b.gone, ref)
	return g
}

// wait returns a channel that is closed at the next news.
func (b *bodyStream) wait() (<-chan struct{}, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.news, b.err
}
