package repl

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"mailnode/storage"
	"mailnode/storage/repl/ack"
	"mailnode/storage/slot"
)

// Recorder records in Raft what a later plan of a failover rests on.
type Recorder interface {
	// Record has Raft record how a slot is protected, if its record is still of
	// r.Version. It returns when that is decided, or ctx has ended; err says why an
	// outcome is not ack.Done. ErrEpochOver: Raft has a higher epoch.
	Record(ctx context.Context, s slot.ID, e slot.Epoch, r ack.Record) (ack.Outcome, error)
	// Drop has Raft take a replica that leaves off the list, if its record of the slot
	// is still the one that the drop was decided on.
	Drop(ctx context.Context, s slot.ID, e slot.Epoch, d ack.Drop) error
	// Recorded returns what Raft has, as this node has applied it.
	Recorded(s slot.ID) Recorded
}

// Recorded is Raft's record of a slot.
type Recorded struct {
	Epoch   slot.Epoch
	Listed  []slot.NodeName // the replicas
	Leaving []ack.Leaver    // those of them that are to be dropped
	Record  ack.Record
}

// ErrEpochOver is proof that the master's epoch has ended.
var ErrEpochOver = errors.New("the epoch is over")

// FeedOptions makes a Feed.
type FeedOptions struct {
	Slot  Copy
	Epoch slot.Epoch
	// WaitForReplica is ack = "replica".
	WaitForReplica bool
	// Recorded is what Raft has of the slot, proved to be so just now.
	Recorded Recorded
	// Again says that this copy has served the epoch before.
	Again bool
	// WithoutRaft says that a person lets it serve although Recorded is not proved.
	WithoutRaft bool
	// AckTimeout is how long no byte may move before the master goes on alone.
	AckTimeout time.Duration
	// ProtectAfter is how long a replica must be at the head before the slot
	// counts as protected again; 0: 10 s.
	ProtectAfter time.Duration
	Recorder     Recorder
	Clock        storage.Clock
	Logger       *slog.Logger
	// OnFenced is called once when somebody proves that the epoch is over.
	OnFenced func()
}

// Feed is the sending side of one slot at its master. It drives ack.Step, whose
// State says what may be acknowledged.
type Feed struct {
	o     FeedOptions
	log   *slog.Logger
	ended chan struct{} // closed with closed: streams end at once

	mu      sync.Mutex    // guards all below
	moved   chan struct{} // closed and replaced when anything below changes
	st      ack.State
	todo    []ack.Action  // for Run: proposals and marks
	work    chan struct{} // capacity 1: there is something to do
	heads   []headAt      // where the head was, oldest first: for lags that are shown
	refetch map[slot.NodeName]bool
	handing int // hand-overs that wait for what replicas hold
	closed  error
}

type headAt struct {
	position slot.Position
	at       time.Duration
}

// NewFeed makes a Feed. It acknowledges nothing before Run is called.
func NewFeed(o FeedOptions) (*Feed, error) {
	if o.ProtectAfter == 0 {
		o.ProtectAfter = 10 * time.Second
	}
	f := &Feed{o: o, log: o.Logger.With("slot", o.Slot.ID(), "epoch", o.Epoch), ended: make(chan struct{}), moved: make(chan struct{}), work: make(chan struct{}, 1)}
	head, err := o.Slot.Head()
	if err != nil {
		return nil, err
	}
	since, alone, err := o.Slot.Alone()
	if err != nil {
		return nil, err
	}
	st, acts := ack.New(ack.Settings{Waits: o.WaitForReplica, AckTimeout: o.AckTimeout, ProtectAfter: o.ProtectAfter},
		ack.Start{At: o.Clock.Mono(), Head: head.Position, Recorded: o.Recorded.Record, Listed: o.Recorded.Listed, Leaving: o.Recorded.Leaving, Again: o.Again, WithoutRaft: o.WithoutRaft,
			Alone: alone && o.Again, AloneSince: since})
	f.st = st
	f.do(acts)
	return f, nil
}

// step is the one way in which the state changes. The caller holds mu. A feed that
// has ended decides nothing more: that its streams end is no news.
func (f *Feed) step(e ack.Event) {
	if f.closed != nil {
		return
	}
	next, acts := ack.Step(f.st, e)
	f.st = next
	f.do(acts)
}

// do carries out what is quick, and leaves the rest to Run. The caller holds mu.
func (f *Feed) do(acts []ack.Action) {
	for _, a := range acts {
		switch a.(type) {
		case ack.Release:
			f.changed()
		case ack.End:
			f.end(storage.Errorf(storage.ErrNotMaster, "slot %s: epoch %d has ended", f.o.Slot.ID(), f.o.Epoch))
		default:
			f.todo = append(f.todo, a)
			select {
			case f.work <- struct{}{}:
			default:
			}
		}
	}
}

// Await holds an acknowledgement back until law 1 allows it: it implements
// storage/local's Gate.
func (f *Feed) Await(ctx context.Context, p slot.Position) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed == nil && f.st.Released() < p {
		f.step(ack.Asked{At: f.o.Clock.Mono(), Position: p})
	}
	for f.closed == nil && f.st.Released() < p {
		moved := f.moved
		f.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			f.mu.Lock()
			return storage.Errorf(storage.ErrUnavailable, "wait for a replica of %s: %w", f.o.Slot.ID(), ctx.Err())
		}
		f.mu.Lock()
	}
	return f.closed
}

func (f *Feed) changed() {
	close(f.moved)
	f.moved = make(chan struct{})
}

// Close ends the feed: what still waits is not acknowledged.
func (f *Feed) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end(storage.Errorf(storage.ErrNotMaster, "slot %s: this node is no longer its master", f.o.Slot.ID()))
}

// end makes the feed acknowledge nothing more. The caller holds mu.
func (f *Feed) end(why error) {
	if f.closed == nil {
		f.closed = why
		close(f.ended)
		f.changed()
	}
}

// fenced stops the master: somebody has proof that its epoch is over.
func (f *Feed) fenced(why string) {
	f.mu.Lock()
	over := f.st.Over()
	f.step(ack.EpochOver{At: f.o.Clock.Mono()})
	f.mu.Unlock()
	if !over {
		f.log.Warn("the epoch is over: nothing more is acknowledged in it", "told_by", why)
		if f.o.OnFenced != nil {
			f.o.OnFenced()
		}
	}
}

func (f *Feed) onAck(n slot.NodeName, conn int, a *Ack) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.step(ack.Acked{At: f.o.Clock.Mono(), Node: n, Conn: conn, Position: slot.Position(a.Position), Moved: a.BytesReceived + a.Worked, Viable: a.Viable, Problem: a.Problem})
	if f.handing > 0 {
		f.changed()
	}
}

// connect notes that a replica holds everything up to p, and returns the number
// of the connection.
func (f *Feed) connect(n slot.NodeName, p slot.Position) (conn int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.step(ack.Connected{At: f.o.Clock.Mono(), Node: n, Position: p})
	return f.st.Replica(n).Conn
}

// refill notes, before the replica is told to, that it is about to drop its
// state: from now on it holds nothing that it once acknowledged (law 1).
func (f *Feed) refill(n slot.NodeName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.step(ack.Refilled{At: f.o.Clock.Mono(), Node: n})
}

func (f *Feed) disconnect(n slot.NodeName, conn int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.step(ack.Disconnected{At: f.o.Clock.Mono(), Node: n, Conn: conn})
}

// lists reports whether Raft lists a node as a replica of the slot.
func (f *Feed) lists(n slot.NodeName) bool {
	f.learn()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.st.Lists(n)
}

// ReplicaState is what the master knows of one replica.
type ReplicaState struct {
	Node      slot.NodeName
	Connected bool
	Times     int // it has connected, since this node serves
	Acked     slot.Position
	Viable    bool
	Problem   string
	InSync    bool          // its acknowledgement counts
	Lag       time.Duration // age of the oldest event that it has not made durable
}

// State tells how the slot is protected, for status and metrics: whether a change
// that is made now waits for a replica, and how each replica stands.
func (f *Feed) State() (protected bool, replicas []ReplicaState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.st.Replicas() {
		replicas = append(replicas, ReplicaState{Node: r.Name, Connected: r.Connected, Times: r.Conn, Acked: r.Acked, Viable: r.Viable,
			Problem: r.Problem, InSync: f.st.Counts(r.Name), Lag: f.lag(r.Acked)})
	}
	return f.st.Waits(), replicas
}

// Alone returns the position after which this master has acknowledged what no
// replica confirmed.
func (f *Feed) Alone() (since slot.Position, alone bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.st.Alone()
}

// lag is how long ago the head passed a position.
func (f *Feed) lag(acked slot.Position) time.Duration {
	for _, h := range f.heads {
		if h.position > acked {
			return f.o.Clock.Mono() - h.at
		}
	}
	return 0
}

// observe remembers where the head was. Entries that every replica has passed,
// and all but the last 4,000, go.
func (f *Feed) observe(head slot.Position, now time.Duration) {
	if n := len(f.heads); n == 0 || f.heads[n-1].position != head {
		f.heads = append(f.heads, headAt{head, now})
	}
	least := head
	for _, r := range f.st.Replicas() {
		least = min(least, r.Acked)
	}
	drop := 0
	for drop < len(f.heads)-1 && (f.heads[drop].position <= least || len(f.heads)-drop > 4000) {
		drop++
	}
	f.heads = slices.Delete(f.heads, 0, drop)
}
