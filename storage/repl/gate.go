package repl

import (
	"context"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// Recorder records in Raft what a later plan of a failover rests on. A call
// returns when it is recorded, or an error when that is not known.
type Recorder interface {
	SetUnprotected(ctx context.Context, s slot.ID, e slot.Epoch, since slot.Position) error
	SetProtected(ctx context.Context, s slot.ID, e slot.Epoch, inSync []slot.NodeName) error
	SetInSync(ctx context.Context, s slot.ID, e slot.Epoch, inSync []slot.NodeName) error
	// RecordedProtected says whether Raft, as this node knows it, has the slot
	// as protected in that epoch.
	RecordedProtected(s slot.ID, e slot.Epoch) bool
}

// FeedOptions makes a Feed.
type FeedOptions struct {
	Slot  Copy
	Epoch slot.Epoch
	// WaitForReplica is ack = "replica" for a slot that has replicas.
	WaitForReplica bool
	// Protected and InSync are what Raft has recorded for the slot.
	Protected bool
	InSync    []slot.NodeName
	// AckTimeout is how long no byte may move before the master goes on alone.
	AckTimeout time.Duration
	// ProtectAfter is how long a replica must be at the head before the slot
	// counts as protected again; 0: 10 s.
	ProtectAfter time.Duration
	Recorder     Recorder
	Clock        storage.Clock
	Logger       *slog.Logger
	// OnFenced is called once when a replica knows a higher epoch.
	OnFenced func(higher slot.Epoch)
}

const (
	tickEvery    = 100 * time.Millisecond
	recordWithin = 2 * time.Second
	behindAfter  = time.Second // a replica that lacks what is older is not at the head
	evictAfter   = 10 * time.Second
	recordAgain  = time.Second // after a record whose outcome is not known
)

// Feed is the sending side of one slot at its master.
type Feed struct {
	o   FeedOptions
	log *slog.Logger

	mu        sync.Mutex    // guards all below
	moved     chan struct{} // closed and replaced when anything below changes
	replicas  map[slot.NodeName]*replica
	inSync    []slot.NodeName // whose acknowledgements count
	waits     bool            // changes wait for one of inSync
	protected bool            // as Raft has recorded it
	unsure    bool            // Raft may have inSync as protecting the slot, or not
	tryAfter  time.Duration   // when the record is tried again, while unsure
	released  slot.Position   // the highest position that may have been acknowledged
	waiting   int             // changes that wait
	waitSince time.Duration   // since when, or since the last progress
	heads     []headAt        // where the head was, oldest first
	refetch   map[slot.NodeName]bool
	closed    error
}

// replica is what the master knows of one follower; it outlives connections.
type replica struct {
	name       slot.NodeName
	conn       int // number of its newest connection: acks of older ones are stale
	connected  bool
	acked      slot.Position
	bytes      uint64
	viable     bool
	problem    string
	progress   time.Duration // when it last moved
	atHead     bool
	atHeadFrom time.Duration
}

type headAt struct {
	position slot.Position
	at       time.Duration
}

// NewFeed makes a Feed; Run must be called for it to notice time passing.
func NewFeed(o FeedOptions) *Feed {
	if o.ProtectAfter == 0 {
		o.ProtectAfter = 10 * time.Second
	}
	f := &Feed{o: o, log: o.Logger.With("slot", o.Slot.ID(), "epoch", o.Epoch), moved: make(chan struct{}),
		replicas: map[slot.NodeName]*replica{}, protected: o.Protected, inSync: slices.Clone(o.InSync)}
	f.waits = o.WaitForReplica && o.Protected
	// An earlier process may have acknowledged all that is durable here.
	head, err := o.Slot.Head()
	if f.released = head.Position; err != nil {
		f.released = math.MaxUint64 // not known: no replica ever holds enough to take another's place
	}
	return f
}

// Await holds an acknowledgement back until law 1 allows it: it implements
// storage/local's Gate.
func (f *Feed) Await(ctx context.Context, p slot.Position) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waits && f.closed == nil && f.acked() < p {
		if f.waiting == 0 {
			f.waitSince = f.o.Clock.Mono()
		}
		f.waiting++
		defer func() { f.waiting-- }()
	}
	for f.waits && f.closed == nil && f.acked() < p {
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
	if f.closed != nil {
		return f.closed
	}
	f.released = max(f.released, p)
	return nil
}

// acked is the highest position that a replica which counts has made durable.
func (f *Feed) acked() slot.Position {
	var p slot.Position
	for _, n := range f.inSync {
		if r := f.replicas[n]; r != nil && r.viable {
			p = max(p, r.acked)
		}
	}
	return p
}

func (f *Feed) changed() {
	close(f.moved)
	f.moved = make(chan struct{})
}

// Close ends the feed: what still waits is not acknowledged.
func (f *Feed) Close() {
	f.end(storage.Errorf(storage.ErrNotMaster, "slot %s: this node is no longer its master", f.o.Slot.ID()))
}

func (f *Feed) end(why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed == nil {
		f.closed = why
		f.changed()
	}
}

// fenced stops the master: somebody knows a higher epoch.
func (f *Feed) fenced(higher slot.Epoch) {
	f.log.Warn("a replica knows a higher epoch", "higher", higher)
	f.end(storage.Errorf(storage.ErrNotMaster, "slot %s: epoch %d has ended, %d began elsewhere", f.o.Slot.ID(), f.o.Epoch, higher))
	if f.o.OnFenced != nil {
		f.o.OnFenced(higher)
	}
}

func (f *Feed) onAck(n slot.NodeName, conn int, a *Ack) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.replicas[n]
	if r.conn != conn {
		return
	}
	now := f.o.Clock.Mono()
	if slot.Position(a.Position) > r.acked || a.BytesReceived > r.bytes {
		r.progress = now
	}
	r.acked, r.bytes = slot.Position(a.Position), a.BytesReceived
	r.viable, r.problem = a.Viable, a.Problem
	f.changed()
}

// connect notes that a replica holds everything up to p, and gives the number
// of the connection.
func (f *Feed) connect(n slot.NodeName, p slot.Position) (conn int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.renewed(n)
	r.connected, r.acked, r.viable = true, p, true
	return r.conn
}

// refill notes, before the replica is told to, that it is about to drop its
// state: from now on it holds nothing that it once acknowledged (law 1).
func (f *Feed) refill(n slot.NodeName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renewed(n).problem = "the whole state is being fetched"
}

// renewed forgets what earlier connections of a replica said.
func (f *Feed) renewed(n slot.NodeName) *replica {
	conn := 1
	if old := f.replicas[n]; old != nil {
		conn = old.conn + 1
	}
	r := &replica{name: n, conn: conn, progress: f.o.Clock.Mono()}
	f.replicas[n] = r
	f.changed()
	return r
}

func (f *Feed) disconnect(n slot.NodeName, conn int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.replicas[n]; r.conn == conn {
		r.connected, r.atHead = false, false
	}
	f.changed()
}

// ReplicaState is what the master knows of one replica.
type ReplicaState struct {
	Node      slot.NodeName
	Connected bool
	Times     int // it has connected, since this node serves
	Acked     slot.Position
	Viable    bool
	Problem   string
	InSync    bool
	Lag       time.Duration // age of the oldest event that it has not made durable
}

// State tells how the slot is protected, for status and metrics.
func (f *Feed) State() (protected bool, replicas []ReplicaState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.replicas {
		replicas = append(replicas, ReplicaState{Node: r.name, Connected: r.connected, Times: r.conn, Acked: r.acked, Viable: r.viable,
			Problem: r.problem, InSync: slices.Contains(f.inSync, r.name) && f.protected, Lag: f.lag(r)})
	}
	slices.SortFunc(replicas, func(a, b ReplicaState) int {
		if a.Node < b.Node {
			return -1
		}
		return 1
	})
	return f.protected, replicas
}

// lag is how long ago the head passed what the replica has.
func (f *Feed) lag(r *replica) time.Duration {
	for _, h := range f.heads {
		if h.position > r.acked {
			return f.o.Clock.Mono() - h.at
		}
	}
	return 0
}
