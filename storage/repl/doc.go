// Package repl replicates a slot: a Feed at the master sends the journal to
// each replica and decides when a change may be acknowledged (law 1); a Follower
// at a replica takes it. It knows nothing of Raft: what has to be recorded there
// goes through Recorder.
//
// One event's way: the master's committer makes it durable (storage/local) ->
// Feed.send reads it from the journal (feed.go) -> Follower.receive checks its
// CRC and the sender's epoch, waits for the bodies it names, which came on a
// stream of their own (bodies.go), and applies it (follower.go) -> the Ack goes
// back -> ack.Step releases it -> Feed.Await lets the master answer its client
// (gate.go).
package repl

import (
	"context"
	"io"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// Copy is one node's copy of a slot, as replication sees it; storage/local has
// the only one. Every method is about what is durable.
type Copy interface {
	Source
	Sink
	Marks
}

// Marks are what a copy remembers of its own promises, durable when a call returns.
type Marks interface {
	// Alone returns the position after which this copy, as a master, has
	// acknowledged what no replica confirmed.
	Alone() (since slot.Position, alone bool, err error)
	MarkAlone(ctx context.Context, since slot.Position) error
	ClearAlone(ctx context.Context) error
	// Promised is the highest epoch under which this copy was asked what it holds:
	// it acknowledges nothing to a lower one.
	Promised() (slot.Epoch, error)
}

// Source is what a copy can give to others.
type Source interface {
	ID() slot.ID
	Head() (event.Head, error)
	// HeadMoved returns a channel that is closed at the next durable change.
	HeadMoved() <-chan struct{}
	JournalAfter(after slot.Position, bytesMax int) (events [][]byte, last slot.Position, err error)
	ReadState(fn func(r event.Record) error) error
	// ProveState reports whether the state can be read and is what its digests say.
	ProveState(ctx context.Context) error
	Body(ref slot.BodyRef) (body storage.BodyReader, note []byte, err error)
	// BodyUnneeded says that no message which anybody can see needs a body.
	BodyUnneeded(ref slot.BodyRef) (bool, error)
	// Digests returns the digests of one position: start's first, of everything but
	// mailboxes, then each live mailbox's in the order of account and mailbox.
	Digests(start func(at slot.Position, rest event.Digest) error, box func(r storage.Ref, d event.Digest) error) error
	// Arrivals returns bodies that come in, before their events, until stop.
	Arrivals() (bodies <-chan slot.BodyRef, stop func())
}

// Sink is what a copy can take from others.
type Sink interface {
	HasBody(ref slot.BodyRef) (bool, error)
	MissingBodies(ev *event.Event) ([]slot.BodyRef, error)
	StageBody(ref slot.BodyRef, note []byte, body io.ReaderAt, size int64) error
	KeepBodies(ctx context.Context, refs []slot.BodyRef) error
	NeededBodies(fn func(ref slot.BodyRef, size int64, live bool) error) error
	// ApplyEvents applies events until the first that cannot be; err says why. It
	// takes no more of them than one commit should have.
	ApplyEvents(ctx context.Context, evs []*event.Event) (applied int, err error)
	// Worked counts keys read and written for changes, also of those that have not
	// ended.
	Worked() uint64
	Quarantine(ev *event.Event, reason error) error
	SetAside(ctx context.Context) (name string, err error)
	BeginImport(ctx context.Context) error
	ImportRecords(ctx context.Context, recs []event.Record) error
	FinishImport(ctx context.Context, slotRecords []event.Record) error
	Building() bool
	Failed() <-chan struct{}
	Failure() error
}

const (
	// frameBytesMax is the size of what one message carries.
	frameBytesMax = 1 << 20
	// bodyFrameBytes is the size of a piece of a body, so that a large one shares
	// the connection.
	bodyFrameBytes = 256 << 10
)

func branches(l slot.Lineage) []*Branch {
	out := make([]*Branch, 0, len(l))
	for _, b := range l {
		out = append(out, &Branch{Epoch: uint32(b.Epoch), After: uint64(b.After)})
	}
	return out
}

func lineage(bs []*Branch) slot.Lineage {
	out := make(slot.Lineage, 0, len(bs))
	for _, b := range bs {
		out = append(out, slot.Branch{Epoch: slot.Epoch(b.Epoch), After: slot.Position(b.After)})
	}
	return out
}
