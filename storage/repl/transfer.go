package repl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// wantedMax is how many bodies a transfer has under way.
const wantedMax = 64

// ownRecordsMax is how many records of the slot itself are kept in memory until
// the others are written; there are two.
const ownRecordsMax = 16

// transfer has the state fetched, when the node lets it.
func (f *Follower) transfer(ctx context.Context) error {
	if f.o.Fill == nil {
		return f.fetchState(ctx, unmeasured{})
	}
	f.set(func(s *FollowerState) { s.Problem = "it waits for its turn to fetch the whole state" })
	return f.o.Fill(ctx, f.fetchState)
}

// unmeasured is a transfer that nobody looks at.
type unmeasured struct{}

func (unmeasured) At(string)                                {}
func (unmeasured) Total(int64, int64)                       {}
func (unmeasured) Items(int64)                              {}
func (unmeasured) Spend(ctx context.Context, _ int64) error { return ctx.Err() }

// fetchState replaces this copy's state by the master's: records from a snapshot,
// then the bodies that are not here. It is *building* until that has ended, and
// starts again after a crash; bodies that came before are not fetched again.
func (f *Follower) fetchState(ctx context.Context, p FillProgress) error {
	began := f.o.Clock.Mono()
	f.began(FollowerState{Problem: "the whole state is being fetched"})
	p.At("records")
	s := f.o.Slot
	stream, err := f.o.Client.State(ctx, &StateRequest{Slot: uint32(s.ID()), Epoch: uint32(f.o.Epoch)})
	if err != nil {
		return err
	}
	// What is here is dropped only when the master has begun to send what
	// replaces it.
	fr, err := stream.Recv()
	if err != nil {
		return fmt.Errorf("state of %s: %w", s.ID(), err)
	}
	if err := s.BeginImport(ctx); err != nil {
		return err
	}
	var own []event.Record // the slot's own records: written last, they say where the state stands
	records, taken := 0, int64(0)
	for {
		size := frameBytes(fr)
		if err := p.Spend(ctx, size); err != nil {
			return err
		}
		taken += size
		recs, slots, err := f.stateFrame(fr)
		if err != nil {
			return err
		}
		if own, records = append(own, slots...), records+len(recs); len(own) > ownRecordsMax {
			return storage.Errorf(storage.ErrCorrupt, "state of %s: it has more than %d records of the slot itself", s.ID(), ownRecordsMax)
		}
		if err := s.ImportRecords(ctx, recs); err != nil {
			return err
		}
		if fr.Last {
			break
		}
		if fr, err = stream.Recv(); err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("state of %s: %w", s.ID(), err)
		}
	}
	bodies, err := f.fetchBodies(ctx, p, taken)
	if err != nil {
		return err
	}
	p.At("proves what came")
	if err := s.FinishImport(ctx, own); err != nil {
		return err
	}
	f.refill = false
	f.log.Info("state fetched", "records", records, "bodies", bodies, "took", (f.o.Clock.Mono() - began).Round(time.Millisecond))
	return nil
}

// frameBytes is how much the records of a frame take.
func frameBytes(fr *StateFrame) (size int64) {
	for _, r := range fr.Records {
		size += int64(len(r.Key) + len(r.Value))
	}
	return size
}

// stateFrame checks a frame and returns its records, those of the slot itself apart.
func (f *Follower) stateFrame(fr *StateFrame) (recs, own []event.Record, err error) {
	id := f.o.Slot.ID()
	if slot.Epoch(fr.Epoch) < f.o.Epoch || stateChecksum(fr.Records) != fr.Crc32C {
		return nil, nil, storage.Errorf(storage.ErrCorrupt, "state of %s: a frame of epoch %d with a wrong checksum or an old epoch", id, fr.Epoch)
	}
	for _, r := range fr.Records {
		switch {
		case len(r.Key) == 0 || !isState(r.Key[0]):
			return nil, nil, storage.Errorf(storage.ErrCorrupt, "state of %s: a record that is no state", id)
		case r.Key[0] == event.PrefixSlot:
			own = append(own, event.Record{Key: r.Key, Value: r.Value})
		default:
			recs = append(recs, event.Record{Key: r.Key, Value: r.Value})
		}
	}
	return recs, own, nil
}

func isState(prefix byte) bool {
	for _, p := range event.StatePrefixes() {
		if p == prefix {
			return true
		}
	}
	return false
}

// fetchBodies asks for every body that the new state names and the packs lack. taken is
// what was fetched before, in bytes.
func (f *Follower) fetchBodies(ctx context.Context, p FillProgress, taken int64) (int, error) {
	bytes, bodies := taken, int64(0)
	if err := f.o.Slot.NeededBodies(func(_ slot.BodyRef, size int64, _ bool) error {
		bytes, bodies = bytes+size, bodies+1
		return ctx.Err()
	}); err != nil {
		return 0, err
	}
	p.Total(bytes, bodies)
	p.At("bodies")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b, err := openBodies(ctx, f.o.Client, f.o.Slot, f.o.Spool, false, f.received)
	if err != nil {
		return 0, err
	}
	ended := make(chan struct{})
	go func() { defer close(ended); b.run() }()
	defer func() { cancel(); <-ended }()
	fetch := bodyFetch{f: f, b: b, ctx: ctx, p: p}
	if err := f.o.Slot.NeededBodies(fetch.add); err != nil {
		return 0, err
	}
	return fetch.count, fetch.settle()
}

// bodyFetch asks for bodies in batches, each kept durably before the next.
type bodyFetch struct {
	f     *Follower
	b     *bodyStream
	ctx   context.Context
	p     FillProgress
	batch []wantedBody
	count int
}

type wantedBody struct {
	ref  slot.BodyRef
	live bool
}

func (x *bodyFetch) add(ref slot.BodyRef, size int64, live bool) error {
	if err := x.p.Spend(x.ctx, size); err != nil {
		return err
	}
	x.batch = append(x.batch, wantedBody{ref, live})
	if staged, err := x.f.o.Slot.HasBody(ref); err != nil {
		return err
	} else if !staged {
		if err := x.b.want(ref); err != nil {
			return err
		}
	}
	if len(x.batch) < wantedMax {
		return nil
	}
	return x.settle()
}

// settle waits for the batch. A live message's body that the master does not
// have fails the transfer: the copy must not count as viable without it.
func (x *bodyFetch) settle() error {
	var here []slot.BodyRef
	for _, w := range x.batch {
		err := x.f.awaitBodies(x.ctx, x.b, []slot.BodyRef{w.ref}, func() error { return nil })
		if errors.Is(err, storage.ErrUnavailable) && !w.live || errors.Is(err, errUnneeded) {
			continue // an expunged message may have lost its body everywhere
		}
		if err != nil {
			return err
		}
		here = append(here, w.ref)
	}
	asked := int64(len(x.batch))
	x.batch = x.batch[:0]
	x.count += len(here)
	if err := x.f.o.Slot.KeepBodies(x.ctx, here); err != nil {
		return err
	}
	x.p.Items(asked)
	return nil
}

// CatchUp brings a copy that nobody serves up to date with another copy of the
// same lineage which is ahead: before a promotion, and before a master that was
// stopped serves again. It returns the position reached.
func CatchUp(ctx context.Context, s Copy, c ReplicationClient, spool *storage.SpoolDir) (slot.Position, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b, err := openBodies(ctx, c, s, spool, false, func(int) {})
	if err != nil {
		return 0, err
	}
	ended := make(chan struct{})
	go func() { defer close(ended); b.run() }()
	defer func() { cancel(); <-ended }()
	f := &Follower{o: FollowerOptions{Slot: s}}
	untold := progress{waiting: func() error { return nil }, working: func() error { return nil }}
	for {
		head, err := s.Head()
		if err != nil {
			return 0, err
		}
		n, gone, err := readJournal(ctx, c, s.ID(), head.Position, func(ev *event.Event) error {
			_, err := f.applySome(ctx, b, []*event.Event{ev}, slot.Position(ev.Position), untold)
			return err
		})
		if gone {
			err = storage.Errorf(storage.ErrDiverged, "catch up %s after %s: the other copy has no events from there on", s.ID(), head.Position)
		}
		if err != nil || n == 0 {
			return head.Position, err
		}
	}
}
