package repl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// FollowerOptions makes a Follower.
type FollowerOptions struct {
	Slot   Copy
	Node   slot.NodeName // this node
	Master slot.NodeName
	Epoch  slot.Epoch // as Raft says
	Client ReplicationClient
	Spool  *storage.SpoolDir
	Clock  storage.Clock
	Logger *slog.Logger
	// Others returns the copies beside this one and the master's, which are asked
	// for bodies that the master does not have; nil: there are none.
	Others func() []ReplicationClient
	// OnFenced is told when the master says a lower epoch than this node knows,
	// or refuses because of a higher one; the caller reads Raft again.
	OnFenced func()
	// OnSetAside is told the name under which a diverged state was set aside.
	OnSetAside func(name string)
	// Fill runs a state transfer, when its turn has come; nil: at once. It returns when
	// that has ended, or ctx has.
	Fill func(ctx context.Context, transfer func(ctx context.Context, p FillProgress) error) error
	// OnEnded, when not nil, is told of each stream that had begun and broke.
	OnEnded func(why error)
}

// FillProgress is told how far a state transfer has come, and holds it back (law 12).
type FillProgress interface {
	At(what string)
	Total(bytes, bodies int64)
	Items(bodies int64)
	// Spend waits until so many bytes more may be taken.
	Spend(ctx context.Context, bytes int64) error
}

// Follower keeps one copy up to date with its master.
type Follower struct {
	o   FollowerOptions
	log *slog.Logger
	// refill says that this copy needs the whole state; the master is told before
	// anything is dropped, so that it no longer counts this copy (law 1). Run's own.
	refill bool
	// progress says that this connection has made an event durable, ended why the
	// one before ended, until then; both Run's own.
	progress bool
	ended    string

	mu     sync.Mutex // guards all below
	state  FollowerState
	bytes  uint64 // received since the stream began
	worked uint64 // what the copy had worked when it began
	poked  chan struct{}

	again chan string // capacity 1: why the whole state is to be fetched
}

// FollowerState tells how a replica stands.
type FollowerState struct {
	Connected bool
	Viable    bool
	// Problem is why the copy is not viable, or why the last stream ended, until an
	// event has come through again.
	Problem               string
	Ends                  int           // of streams that had begun, since this node follows
	LastEnd               string        // why the last of them ended
	Head                  slot.Position // the master's, as last heard
	HeadClock             uint64        // its slot clock, ms
	HeadBirths, HeadBytes uint64        // its totals (event.Head)
	HeardAt               time.Duration // Clock.Mono of the last heartbeat or event
	Counted               bool          // recorded as in-sync, as the master said
	LagMs                 uint64        // as the master last said
}

const (
	poisonPause = 5 * time.Second // before the state is fetched for an event that could not be applied
	silentAfter = 5 * time.Second // without a heartbeat the stream is opened again
	ackEvery    = 500 * time.Millisecond
	bodyGrace   = 300 * time.Millisecond // a pushed body may still be on its way
)

// NewFollower makes a Follower; Run does its work.
func NewFollower(o FollowerOptions) *Follower {
	return &Follower{o: o, log: o.Logger.With("slot", o.Slot.ID(), "master", o.Master), poked: make(chan struct{}, 1), again: make(chan string, 1)}
}

// State tells how the replica stands.
func (f *Follower) State() FollowerState {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

func (f *Follower) set(fn func(s *FollowerState)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn(&f.state)
}

// Run follows until ctx ends, over any number of connections.
func (f *Follower) Run(ctx context.Context) {
	var again retry
	var told warnings
	for ctx.Err() == nil {
		began := f.o.Clock.Mono()
		f.progress = false
		err := f.follow(ctx)
		if ctx.Err() != nil {
			f.set(func(s *FollowerState) { s.Connected = false })
			return
		}
		f.noteEnd(err, &told)
		if status.Code(err) == codes.FailedPrecondition && f.o.OnFenced != nil {
			f.o.OnFenced()
		}
		select {
		case <-ctx.Done():
		case <-time.After(again.after(err != nil, f.progress || f.o.Clock.Mono()-began > time.Minute)):
		}
	}
}

// noteEnd says, where it can be seen, why a connection ended; nil: as it should.
// One that was refused was no stream: a master may be down for a long time.
func (f *Follower) noteEnd(err error, told *warnings) {
	began := false
	f.set(func(s *FollowerState) {
		began, s.Connected = s.Connected, false
		if err == nil {
			return
		}
		if s.Problem = err.Error(); began {
			s.LastEnd, s.Ends = s.Problem, s.Ends+1
		}
	})
	switch {
	case err == nil:
		f.ended = ""
	case !began:
		f.log.Debug("following refused", "err", err)
	default:
		f.ended = err.Error()
		told.ended(f.log, f.o.Clock.Mono(), err)
		if f.o.OnEnded != nil {
			f.o.OnEnded(err)
		}
	}
}

// errTransfer says that the next connection must begin with a state transfer.
var errTransfer = errors.New("the whole state is needed")

// errUnneeded is errTransfer for a body that the master has given up: the event
// that names it can never be applied, and the state holds without it.
var errUnneeded = fmt.Errorf("its master has given up a body: %w", errTransfer)

// follow is one connection; nil means that a transfer has ended well.
func (f *Follower) follow(whole context.Context) error {
	ctx, cancel := context.WithCancelCause(whole) // ends with the stream
	defer cancel(nil)
	head, err := f.o.Slot.Head()
	if err != nil {
		return err
	}
	// Asked under a higher epoch, this copy acknowledges nothing to a lower one: the
	// new master counts on having heard everything (law 1).
	promised, err := f.o.Slot.Promised()
	if err != nil {
		return err
	}
	stream, err := f.o.Client.Follow(ctx)
	if err != nil {
		return err
	}
	hello := &Hello{Slot: uint32(f.o.Slot.ID()), Epoch: uint32(max(f.o.Epoch, promised)), Node: string(f.o.Node), Position: uint64(head.Position),
		Lineage: branches(head.Lineage), Building: head.Building, Refill: f.refill}
	if err := stream.Send(&FollowUp{Hello: hello}); err != nil && err != io.EOF {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	w := first.Welcome
	if w == nil {
		return status.Error(codes.Internal, "follow: the first message was no welcome")
	}
	if known := max(f.o.Epoch, promised); slot.Epoch(first.Epoch) < known {
		return status.Errorf(codes.FailedPrecondition, "follow %s: %s is at epoch %d, this node knows %d", f.o.Slot.ID(), f.o.Master, first.Epoch, known)
	}
	if w.Transfer {
		diverged := w.Diverged || head.Lineage.Diverged(head.Position, lineage(w.Lineage), slot.Position(w.Head))
		if diverged && !head.Building {
			if err := f.setAside(ctx, head, w); err != nil {
				return err
			}
		}
		err := f.transfer(ctx)
		if status.Code(err) == codes.DataLoss && !f.o.Slot.Building() {
			f.refill = false // the master's state is damaged: what is here follows on as it is
		}
		return err
	}
	err = f.stream(ctx, cancel, stream, head.Position, slot.Position(w.Head))
	if errors.Is(err, errTransfer) {
		select {
		case <-whole.Done():
			return whole.Err()
		case <-time.After(pauseBefore(err)):
		}
		f.refill = true
		return nil
	}
	return err
}

// pauseBefore is how long a transfer waits: otherwise an event
// that cannot be applied would be fetched with the state again and again.
func pauseBefore(err error) time.Duration {
	if errors.Is(err, errUnneeded) {
		return backOffMin
	}
	return poisonPause
}

func (f *Follower) setAside(ctx context.Context, head event.Head, w *Welcome) error {
	name, err := f.o.Slot.SetAside(ctx)
	if err != nil {
		return err
	}
	shared := head.Lineage.Shared(head.Position, lineage(w.Lineage), slot.Position(w.Head))
	f.log.Warn("this copy had diverged: its state is set aside", "name", name, "head", head.Position, "shared", shared, "master_head", slot.Position(w.Head))
	if f.o.OnSetAside != nil {
		f.o.OnSetAside(name)
	}
	return nil
}

// stream applies events as they come.
func (f *Follower) stream(ctx context.Context, cancel context.CancelCauseFunc, stream Replication_FollowClient, at, history slot.Position) error {
	f.began(FollowerState{Viable: true, Head: at, HeardAt: f.o.Clock.Mono()})
	bodies, err := openBodies(ctx, f.o.Client, f.o.Slot, f.o.Spool, true, f.received)
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel(nil)
	running.Go(func() { cancel(fmt.Errorf("bodies: %w", bodies.run())) })
	events := newEventQueue()
	running.Go(func() { cancel(f.receive(ctx, stream, events)) })
	running.Go(func() { f.watchSilence(ctx, cancel) })
	err = f.applyLoop(ctx, stream, bodies, events, at, history)
	if err == nil || errors.Is(err, context.Canceled) {
		err = context.Cause(ctx)
	}
	return err
}

// began notes that a stream, or a transfer, has begun.
func (f *Follower) began(s FollowerState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.Connected, s.Ends, s.LastEnd = true, f.state.Ends, f.state.LastEnd
	if s.Viable {
		s.Problem = f.ended
	}
	f.state, f.bytes, f.worked = s, 0, f.o.Slot.Worked()
}

func (f *Follower) received(n int) {
	f.mu.Lock()
	f.bytes += uint64(n)
	f.mu.Unlock()
	select {
	case f.poked <- struct{}{}:
	default:
	}
}

// watchSilence ends a connection whose master says nothing, not even heartbeats.
func (f *Follower) watchSilence(ctx context.Context, cancel context.CancelCauseFunc) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if f.o.Clock.Mono()-f.State().HeardAt > silentAfter {
				cancel(fmt.Errorf("no heartbeat from %s for %s", f.o.Master, silentAfter))
				return
			}
		}
	}
}

// receive checks what comes and hands events to applyLoop.
func (f *Follower) receive(ctx context.Context, stream Replication_FollowClient, events *eventQueue) error {
	var parts joiner
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if slot.Epoch(m.Epoch) < f.o.Epoch {
			return status.Errorf(codes.FailedPrecondition, "follow %s: a message of epoch %d, this node knows %d", f.o.Slot.ID(), m.Epoch, f.o.Epoch)
		}
		f.set(func(s *FollowerState) {
			s.HeardAt = f.o.Clock.Mono()
			if b := m.Heartbeat; b != nil {
				s.Head, s.HeadClock, s.Counted, s.LagMs = slot.Position(b.Head), b.SlotClockMs, b.Counted, b.LagMs
				s.HeadBirths, s.HeadBytes = b.Births, b.BirthBytes
			}
		})
		raws, err := parts.take(m.Events, m.Part)
		if err != nil {
			return err
		}
		for _, raw := range raws {
			f.received(len(raw))
			ev, err := event.Decode(raw)
			if err != nil {
				return err
			}
			if err := events.put(ctx, ev, len(raw)); err != nil {
				return err
			}
		}
	}
}

// applyLoop applies groups of events and acknowledges them.
func (f *Follower) applyLoop(ctx context.Context, stream Replication_FollowClient, bodies *bodyStream, events *eventQueue, at, history slot.Position) error {
	tick := time.NewTicker(ackEvery)
	defer tick.Stop()
	var told uint64 // bytes received
	send := func(viable bool, problem string) error {
		return stream.Send(&FollowUp{Ack: &Ack{Position: uint64(at), BytesReceived: told, Viable: viable, Problem: problem, Worked: f.o.Slot.Worked() - f.worked}})
	}
	ack := func(viable bool, problem string) error {
		f.mu.Lock()
		told = f.bytes
		if f.state.Viable, f.state.Problem = viable, problem; viable && !f.progress {
			f.state.Problem = f.ended
		}
		f.mu.Unlock()
		return send(viable, problem)
	}
	acks := progress{waiting: func() error { return ack(true, "") }, working: func() error { return send(true, "") }}
	for {
		if err := ack(true, ""); err != nil {
			return err
		}
		var group []*event.Event
		select {
		case <-events.filled:
			group = events.take()
		case <-tick.C:
			continue
		case why := <-f.again:
			f.log.Warn("the whole state will be fetched", "why", why)
			if err := ack(false, why); err != nil {
				return err
			}
			return errTransfer
		case <-f.o.Slot.Failed():
			return f.o.Slot.Failure()
		case <-ctx.Done():
			return ctx.Err()
		}
		for len(group) > 0 {
			n, err := f.applySome(ctx, bodies, group, history, acks)
			if n > 0 {
				at = slot.Position(group[n-1].Position)
				group = group[n:]
				f.progress = true
				if ackErr := ack(true, ""); ackErr != nil && err == nil {
					err = ackErr
				}
			}
			if err != nil && refusesEvent(err) {
				if qerr := f.poison(group[0], err, ack); qerr != nil {
					return qerr
				}
				return errTransfer
			}
			if err != nil {
				return err
			}
		}
	}
}

// refusesEvent reports whether the error is the event's own fault, rather than the
// disk's, the connection's or this node's. An event that does not follow the
// head, or whose body has gone again, is settled by the next connection.
func refusesEvent(err error) bool {
	return !errors.Is(err, errTransfer) && !errors.Is(err, storage.ErrUnavailable) && !errors.Is(err, storage.ErrDiskFull) &&
		!errors.Is(err, storage.ErrDiverged) && !errors.Is(err, storage.ErrNotFound) &&
		!errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) && status.Code(err) == codes.Unknown
}

// poison sets an event aside that cannot be applied (law 5). Until the state has
// been fetched this copy does not count (law 1).
func (f *Follower) poison(ev *event.Event, why error, ack func(bool, string) error) error {
	f.log.Error("an event could not be applied: it is in quarantine, the state will be fetched", "position", slot.Position(ev.Position), "err", why)
	if err := f.o.Slot.Quarantine(ev, why); err != nil {
		return err
	}
	return ack(false, fmt.Sprintf("event %s in quarantine: %v", slot.Position(ev.Position), why))
}

// applySome waits for bodies and applies what it can of the group in one commit.
// Bodies of events up to history are not pushed: they are asked for at once, the
// whole group's together.
func (f *Follower) applySome(ctx context.Context, bodies *bodyStream, group []*event.Event, history slot.Position, acks progress) (int, error) {
	for _, ev := range group {
		if slot.Position(ev.Position) > history {
			break
		}
		missing, err := f.o.Slot.MissingBodies(ev)
		if err != nil {
			return 0, err
		}
		for _, ref := range missing {
			if err := bodies.want(ref); err != nil {
				return 0, err
			}
		}
	}
	for i, ev := range group {
		missing, err := f.o.Slot.MissingBodies(ev)
		if err != nil {
			return 0, err
		}
		if len(missing) == 0 {
			continue
		}
		if i > 0 { // what is complete is made durable first
			return f.apply(ctx, group[:i], acks.working)
		}
		if err := f.awaitBodies(ctx, bodies, missing, acks.waiting); err != nil {
			return 0, err
		}
	}
	return f.apply(ctx, group, acks.working)
}

// progress tells the master while something takes its time: that bytes come in,
// or that the copy works. What comes in while it works is no sign of life of its
// disk.
type progress struct{ waiting, working func() error }

// apply applies what fits into one commit. A disk that is slow, or a large event,
// is told from a dead one by what the copy has read and written meanwhile.
func (f *Follower) apply(ctx context.Context, evs []*event.Event, working func() error) (applied int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		applied, err = f.o.Slot.ApplyEvents(ctx, evs)
	}()
	tick := time.NewTicker(ackEvery)
	defer tick.Stop()
	var broken error
	for {
		select {
		case <-done:
			if err == nil {
				err = broken
			}
			return applied, err
		case <-tick.C:
			if broken == nil {
				broken = working()
			}
		}
	}
}

// awaitBodies waits for bodies; those that were not pushed are asked for. While
// it waits, acknowledgements go on telling the master that bytes move. That a body
// is gone ends the stream.
func (f *Follower) awaitBodies(ctx context.Context, bodies *bodyStream, missing []slot.BodyRef, ack func() error) error {
	grace := time.NewTimer(bodyGrace)
	defer grace.Stop()
	tick := time.NewTicker(ackEvery)
	defer tick.Stop()
	for {
		news, err := bodies.wait()
		if err != nil {
			return err
		}
		left := missing[:0]
		for _, ref := range missing {
			have, err := f.o.Slot.HasBody(ref)
			if err != nil {
				return err
			}
			if !have {
				left = append(left, ref)
			}
			g := bodies.isGone(ref)
			if !have && g.gone {
				came, err := f.askOthers(ctx, ref, ack)
				switch {
				case err != nil:
					return err
				case came:
					left = left[:len(left)-1]
				case g.unneeded:
					return errUnneeded
				default:
					return storage.Errorf(storage.ErrUnavailable, "body %s: the master does not have it", ref)
				}
			}
		}
		if missing = left; len(missing) == 0 {
			return nil
		}
		select {
		case <-news:
		case <-grace.C:
			for _, ref := range missing {
				if err := bodies.want(ref); err != nil {
					return err
				}
			}
		case <-tick.C:
			if err := ack(); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
