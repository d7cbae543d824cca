package repl

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// sendEvents sends events in their order, as many in one message as fit a frame;
// a larger one goes in parts.
func sendEvents(events [][]byte, send func(group [][]byte, part *EventPart) error) error {
	var group [][]byte
	size := 0
	flush := func() error {
		if len(group) == 0 {
			return nil
		}
		err := send(group, nil)
		group, size = nil, 0
		return err
	}
	for _, e := range events {
		large := len(e) > frameBytesMax/2
		if large || size+len(e) > frameBytesMax {
			if err := flush(); err != nil {
				return err
			}
		}
		if !large {
			group, size = append(group, e), size+len(e)
			continue
		}
		for len(e) > 0 {
			piece := e[:min(len(e), frameBytesMax)]
			e = e[len(piece):]
			if err := send(nil, &EventPart{Data: piece, Crc32C: event.Checksum(piece), Last: len(e) == 0}); err != nil {
				return err
			}
		}
	}
	return flush()
}

// joiner makes events of what sendEvents sent.
type joiner struct {
	bytesMax int // of one event; 0: event.BytesMax
	partial  []byte
}

// take returns the events that a message ends. Each part is proved, and how much is
// kept of an event that may never end is bounded (laws 6 and 9).
func (j *joiner) take(group [][]byte, p *EventPart) ([][]byte, error) {
	if p == nil {
		if len(j.partial) > 0 && len(group) > 0 {
			return nil, storage.Errorf(storage.ErrCorrupt, "receive event: another one came before its last part")
		}
		return group, nil
	}
	bytesMax := j.bytesMax
	if bytesMax == 0 {
		bytesMax = event.BytesMax
	}
	switch {
	case event.Checksum(p.Data) != p.Crc32C:
		return nil, storage.Errorf(storage.ErrCorrupt, "receive event: a part's checksum does not match")
	case len(j.partial)+len(p.Data) > bytesMax:
		return nil, storage.Errorf(storage.ErrCorrupt, "receive event: it has more than %d bytes", bytesMax)
	}
	if j.partial = append(j.partial, p.Data...); !p.Last {
		return group, nil
	}
	whole := j.partial
	j.partial = nil
	return append(group, whole), nil
}

// Journal implements ReplicationServer.
func (s *Server) Journal(req *JournalRequest, stream Replication_JournalServer) error {
	c, ok := s.Copies.Copy(slot.ID(req.Slot))
	if !ok {
		return status.Errorf(codes.FailedPrecondition, "journal of %s: no copy is open here", slot.ID(req.Slot))
	}
	events, _, err := c.JournalAfter(slot.Position(req.After), frameBytesMax/2)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return stream.Send(&JournalReply{Gone: true})
	case err != nil:
		return toStatus(err)
	}
	return sendEvents(events, func(group [][]byte, part *EventPart) error {
		return stream.Send(&JournalReply{Events: group, Part: part})
	})
}

// readJournal calls fn for some of another copy's events after a position, and
// returns their number; none: it has no more, or, when gone, its journal does not go
// back that far.
func readJournal(ctx context.Context, c ReplicationClient, id slot.ID, after slot.Position, fn func(*event.Event) error) (n int, gone bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Journal(ctx, &JournalRequest{Slot: uint32(id), After: uint64(after)})
	if err != nil {
		return 0, false, err
	}
	var parts joiner
	for {
		r, err := stream.Recv()
		if err == io.EOF && len(parts.partial) > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err == io.EOF {
			return n, false, nil
		}
		if err != nil {
			return n, false, fmt.Errorf("journal of %s after %s: %w", id, after, err)
		}
		if r.Gone {
			return n, true, nil
		}
		raws, err := parts.take(r.Events, r.Part)
		if err != nil {
			return n, false, err
		}
		for _, raw := range raws {
			ev, err := event.Decode(raw)
			if err == nil {
				err = fn(ev)
			}
			if err != nil {
				return n, false, err
			}
			n++
		}
	}
}
