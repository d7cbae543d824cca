package repl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// digestsPerFrame keeps a frame well under a megabyte.
const digestsPerFrame = 8192

// Digests implements ReplicationServer.
func (s *Server) Digests(req *DigestRequest, stream Replication_DigestsServer) error {
	c, ok := s.Copies.Copy(slot.ID(req.Slot))
	if !ok {
		return status.Errorf(codes.FailedPrecondition, "digests of %s: no copy is open here", slot.ID(req.Slot))
	}
	frame := &DigestFrame{}
	flush := func(last bool) error {
		frame.Crc32C, frame.Last = digestChecksum(frame), last
		err := stream.Send(frame)
		frame = &DigestFrame{}
		return err
	}
	if err := c.Digests(func(at slot.Position, rest event.Digest) error {
		frame.Position, frame.Rest = uint64(at), rest.Bytes()
		return nil
	}, func(r storage.Ref, d event.Digest) error {
		frame.Mailboxes = append(frame.Mailboxes, &MailboxSum{Account: uint64(r.Account), Mailbox: uint64(r.Mailbox), Digest: d.Bytes()})
		if len(frame.Mailboxes) < digestsPerFrame {
			return nil
		}
		return flush(false)
	}); err != nil {
		return toStatus(err)
	}
	return flush(true)
}

func digestChecksum(f *DigestFrame) uint32 {
	b := append(binary.BigEndian.AppendUint64(nil, f.Position), f.Rest...)
	for _, m := range f.Mailboxes {
		b = append(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, m.Account), m.Mailbox), m.Digest...)
	}
	return event.Checksum(b)
}

// Comparison is what Compare found.
type Comparison struct {
	Here, There slot.Position // where the two copies stood
	Mailboxes   []storage.Ref // that differ, in order
	Rest        bool          // accounts, addresses or subscriptions differ
}

// Differ reports whether anything does.
func (c Comparison) Differ() bool { return c.Rest || len(c.Mailboxes) > 0 }

const (
	compareTries = 10
	comparePause = 200 * time.Millisecond
)

// Compare looks for differences between this node's copy and another of the same
// lineage (law 8). The slot may move meanwhile: what the events between the two
// positions touch is not compared, since a replica proves each of those against
// the digests that the event carries. An error: it could not be compared.
func Compare(ctx context.Context, own Copy, c ReplicationClient) (Comparison, error) {
	var out Comparison
	var err error
	for range compareTries {
		var again bool
		if out, again, err = compareOnce(ctx, own, c); err == nil && !again || ctx.Err() != nil {
			return out, err
		}
		if err == nil {
			err = errors.New("they move too fast")
		}
		select {
		case <-ctx.Done():
			return out, ctx.Err()
		case <-time.After(comparePause):
		}
	}
	return out, fmt.Errorf("compare copies of %s at %s and %s: %w", own.ID(), out.Here, out.There, err)
}

func compareOnce(ctx context.Context, own Copy, c ReplicationClient) (out Comparison, again bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Digests(ctx, &DigestRequest{Slot: uint32(own.ID())})
	if err != nil {
		return out, false, err
	}
	there := &sums{next: stream.Recv}
	if err := there.fill(); err != nil {
		return out, false, err
	}
	out.There = there.at
	var differ []storage.Ref
	var bad error // not this copy's: it must not pass for damage of its index
	rest := false
	if err := own.Digests(func(at slot.Position, d event.Digest) error {
		out.Here, rest = at, d != there.rest
		return nil
	}, func(r storage.Ref, d event.Digest) error {
		var more []storage.Ref
		if more, bad = there.against(r, d); bad != nil {
			return io.ErrUnexpectedEOF
		}
		differ = append(differ, more...)
		return nil
	}); err != nil {
		return out, false, errors.Join(bad, err)
	}
	left, err := there.onlyThere()
	if err != nil {
		return out, false, err
	}
	differ = append(differ, left...)
	if out.Here == out.There {
		out.Mailboxes, out.Rest = differ, rest
		return out, false, nil
	}
	if len(differ) == 0 && !rest {
		return out, false, nil
	}
	touched, restTouched, err := between(ctx, own, c, out.Here, out.There)
	if err != nil {
		return out, false, err
	}
	for _, r := range differ {
		if !touched[r] {
			out.Mailboxes = append(out.Mailboxes, r)
		}
	}
	out.Rest = rest && !restTouched
	return out, rest && restTouched && len(out.Mailboxes) == 0, nil
}

// sums reads the other copy's digests in their order.
type sums struct {
	next func() (*DigestFrame, error)
	at   slot.Position
	rest event.Digest
	list []*MailboxSum
	last bool
	read bool // the first frame
}

func (s *sums) fill() error {
	for len(s.list) == 0 && !s.last {
		f, err := s.next()
		if err != nil {
			return err
		}
		if digestChecksum(f) != f.Crc32C {
			return storage.Errorf(storage.ErrUnavailable, "receive digests: a frame's checksum does not match")
		}
		if !s.read {
			s.at, s.rest, s.read = slot.Position(f.Position), event.ParseDigest(f.Rest), true
		}
		s.list, s.last = f.Mailboxes, f.Last
	}
	return nil
}

// peek returns the next mailbox; ok is false at the end.
func (s *sums) peek() (r storage.Ref, d event.Digest, ok bool, err error) {
	if err := s.fill(); err != nil || len(s.list) == 0 {
		return r, d, false, err
	}
	m := s.list[0]
	return storage.Ref{Account: storage.AccountID(m.Account), Mailbox: storage.MailboxID(m.Mailbox)}, event.ParseDigest(m.Digest), true, nil
}

// against compares this copy's next mailbox with theirs.
func (s *sums) against(own storage.Ref, d event.Digest) (differ []storage.Ref, err error) {
	for {
		r, theirs, ok, err := s.peek()
		if err != nil {
			return differ, err
		}
		if !ok || before(own, r) {
			return append(differ, own), nil // only here
		}
		s.list = s.list[1:]
		if r == own {
			if theirs != d {
				differ = append(differ, own)
			}
			return differ, nil
		}
		differ = append(differ, r) // only there
	}
}

// onlyThere returns the mailboxes that only they have, after this copy's last.
func (s *sums) onlyThere() (only []storage.Ref, err error) {
	for {
		r, _, ok, err := s.peek()
		if err != nil || !ok {
			return only, err
		}
		only, s.list = append(only, r), s.list[1:]
	}
}

func before(a, b storage.Ref) bool {
	return a.Account < b.Account || a.Account == b.Account && a.Mailbox < b.Mailbox
}

// between returns the mailboxes that the events between two positions touch, from
// the copy that has them, and whether one touches anything else.
func between(ctx context.Context, own Copy, c ReplicationClient, here, there slot.Position) (touched map[storage.Ref]bool, rest bool, err error) {
	touched = map[storage.Ref]bool{}
	at, end := min(here, there), max(here, there)
	see := func(ev *event.Event) error {
		at = slot.Position(ev.Position)
		for _, d := range ev.Digests {
			touched[storage.Ref{Account: storage.AccountID(d.Account), Mailbox: storage.MailboxID(d.Mailbox)}] = true
		}
		for _, ch := range ev.Changes {
			rest = rest || ch.GetAccount() != nil || ch.GetAddress() != nil || ch.GetSubscription() != nil || ch.GetFreed() != nil
		}
		return nil
	}
	for at < end {
		before := at
		if here > there {
			err = ownJournal(own, at, see)
		} else {
			_, _, err = readJournal(ctx, c, own.ID(), at, see)
		}
		if err != nil {
			return nil, false, err
		}
		if at == before {
			return nil, false, storage.Errorf(storage.ErrUnavailable, "the events after %s are not there", at)
		}
	}
	return touched, rest, nil
}

func ownJournal(own Copy, after slot.Position, fn func(*event.Event) error) error {
	raws, _, err := own.JournalAfter(after, frameBytesMax/2)
	for _, raw := range raws {
		ev, bad := event.Decode(raw)
		if bad == nil {
			bad = fn(ev)
		}
		if bad != nil {
			return bad
		}
	}
	return err
}
