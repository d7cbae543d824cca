package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"mailnode/failover"
	"mailnode/node/monitor"
	"mailnode/node/rpc"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/local"
	"mailnode/storage/repl"
	"mailnode/storage/slot"
)

// copies holds this node's copies. Each is a keeper of its own: one goroutine
// that looks at what Raft says of the slot and works towards it (STYLE habit 2: plan,
// then converge). Nothing else remembers what is to be done.
type copies struct {
	n  *Node
	mu sync.Mutex
	m  map[slot.ID]*keeper
}

var _ repl.Copies = (*copies)(nil)

func newCopies(n *Node) *copies { return &copies{n: n, m: map[slot.ID]*keeper{}} }

// keeper keeps one copy in the role that Raft gives it.
type keeper struct {
	n   *Node
	id  slot.ID
	log *slog.Logger
	dir string // of the copy, set when it is opened
	// options are those of the copy, set when it is opened; the run loop's own.
	options local.Options
	poke    chan struct{} // look at Raft again now
	mend    *mender

	reindex reindexing // the run loop's own, and channels
	failed  bool       // the store has stopped for good; the run loop's own

	mu       sync.Mutex // guards all below
	copy     *local.Slot
	refused  error // why the copy could not be opened
	opening  openProgress
	role     failover.Role
	epoch    slot.Epoch
	term     uint64      // +1 whenever a role ends: one that was ended while it began is not taken
	waiting  string      // a master that does not serve yet: why
	lost     *lostEvents // a master whose copy has lost events: it must not serve
	told     toldEpochs
	master   *local.Master
	servedAt time.Duration // Clock.Mono when master began
	feed     *repl.Feed
	follower *repl.Follower
	leave    func()        // ends the role: at once what changes the mail, then it waits for the rest
	ended    chan struct{} // closed when the last role that was left has ended; nil: none was
	users    shownUsers
}

// toldEpochs are the epochs of which others have told a copy, or told it to ask.
type toldEpochs struct {
	promised slot.Epoch    // it acknowledges nothing to a lower epoch (law 1)
	higher   slot.Epoch    // the highest by which a master here was ended
	asked    slot.Epoch    // for which this master asks whether it may serve
	since    time.Duration // Clock.Mono when it began to
}

// openProgress is what a copy that is not open yet is doing.
type openProgress struct {
	step    string        // "" when it is open, or refused
	percent int           // -1: not known
	since   time.Duration // Clock.Mono
}

// openingStep implements local.Options.OnStep.
func (k *keeper) openingStep(step string, percent int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.opening.step == "" {
		k.opening.since = k.n.clock.Mono()
	}
	k.opening.step, k.opening.percent = step, percent
}

// Copy implements repl.Copies.
func (c *copies) Copy(id slot.ID) (repl.Copy, bool) {
	s := c.slot(id)
	return s, s != nil
}

func (c *copies) slot(id slot.ID) *local.Slot {
	if k := c.keeper(id); k != nil {
		return k.opened()
	}
	return nil
}

// Feed implements repl.Copies.
func (c *copies) Feed(id slot.ID) *repl.Feed {
	if k := c.keeper(id); k != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.feed
	}
	return nil
}

// PeerName implements repl.Copies.
func (c *copies) PeerName(ctx context.Context) (slot.NodeName, bool) { return rpc.PeerName(ctx) }

// serving returns the store of a slot that this node serves, else nil.
func (c *copies) serving(id slot.ID) *local.Master {
	if k := c.keeper(id); k != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.master
	}
	return nil
}

func (c *copies) keeper(id slot.ID) *keeper {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[id]
}

func (c *copies) all() []*keeper {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*keeper, 0, len(c.m))
	for _, k := range c.m {
		out = append(out, k)
	}
	return out
}

// run starts a keeper for each slot of which Raft gives this node a copy.
func (c *copies) run(ctx context.Context) {
	for ctx.Err() == nil {
		changed := c.n.raft.Changed()
		var mine []slot.ID
		for _, sl := range c.n.raft.State().Slots {
			if sl.Holds(c.n.cfg.Node.Name) {
				mine = append(mine, sl.ID)
			}
		}
		c.n.resources.Expect(len(mine))
		for _, id := range mine {
			c.keep(ctx, id)
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

func (c *copies) keep(ctx context.Context, id slot.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m[id] != nil {
		return
	}
	k := &keeper{n: c.n, id: id, log: c.n.log.With("slot", id), poke: make(chan struct{}, 1), role: failover.RoleNone, reindex: newReindexing()}
	k.mend = newMender(k)
	c.m[id] = k
	c.n.wg.Go(func() { k.run(ctx) })
}

// closeWithin is how long a copy may take to close. One whose disk hangs is left
// as it is: its next start finds that it was not closed.
const closeWithin = time.Minute

// close closes the copies, after their keepers have ended; false when one does not
// come to an end.
func (c *copies) close() bool {
	var wg sync.WaitGroup
	for _, k := range c.all() {
		wg.Go(func() {
			k.mu.Lock()
			s := k.copy
			k.copy = nil
			k.mu.Unlock()
			if s != nil {
				c.n.logErr("close slot", s.Close())
			}
		})
	}
	return within(closeWithin, wg.Wait)
}

// within runs fn, and reports whether it returned in time. It goes on in any case:
// what waits for a disk cannot be woken.
func within(d time.Duration, fn func()) bool {
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	return closes(done, d)
}

// closes reports whether a channel is closed in time.
func closes(c <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c:
		return true
	case <-t.C:
		return false
	}
}

func (k *keeper) wake() {
	select {
	case k.poke <- struct{}{}:
	default:
	}
}

const retryRole = time.Second

// run opens the copy and converges until ctx ends.
func (k *keeper) run(ctx context.Context) {
	defer k.end()
	k.openCopy(ctx)
	k.n.wg.Go(func() { k.mend.run(ctx) })
	for ctx.Err() == nil {
		k.turn(ctx)
	}
}

// turn converges once, and waits for what makes it necessary again.
func (k *keeper) turn(ctx context.Context) {
	k.mu.Lock()
	s, refused := k.copy, k.refused
	k.mu.Unlock()
	if s == nil && errors.Is(refused, storage.ErrDiskFull) {
		k.openWhenRoom(ctx)
		return
	}
	changed := k.n.raft.Changed()
	var retry <-chan time.Time
	var failed <-chan struct{}
	switch {
	case s == nil: // a person must act and restart the process, unless it is the index
		if local.IndexLost(refused) || k.reindex.pending != "" {
			k.mendIndex(refused)
			retry = time.After(rebuildAgainAfter)
		}
	case !k.failed:
		failed = s.Failed()
		if cause := k.reindex.cause; cause != nil {
			k.mendIndex(cause) // this copy's part may have changed
			retry = time.After(rebuildAgainAfter)
		}
		if sl, ok := k.n.raft.State().Slot(k.id); ok && !k.converge(ctx, sl) {
			retry = time.After(retryRole)
		}
	}
	select {
	case <-changed:
	case <-k.poke:
	case <-retry:
	case <-failed:
		k.failed = true
		k.end()
		k.n.setCondition(monitor.SlotFailed, k.id.String(), s.Failure())
	case w := <-k.reindex.parking:
		k.park(ctx, w)
	case err := <-k.reindex.broken:
		k.reindex.cause = err
	case err := <-k.reindex.wrong:
		k.countAgain(err)
	case <-ctx.Done():
	}
}

// roomAgainAfter is when a copy that found no room is opened again.
const roomAgainAfter = 3 * time.Second

// openWhenRoom tries again to open a copy that was refused for want of room.
func (k *keeper) openWhenRoom(ctx context.Context) {
	select {
	case <-time.After(roomAgainAfter):
		k.openCopy(ctx)
	case <-ctx.Done():
	}
}

func (k *keeper) openCopy(ctx context.Context) bool {
	k.openingStep("looks for its files", -1)
	s, err := k.openFiles(ctx)
	if ctx.Err() != nil && s == nil {
		return false
	}
	k.n.setCondition(monitor.SlotRefused, k.id.String(), err)
	if err == nil {
		k.n.asides.look(k.id, s) // what was set aside before this start
	}
	k.mu.Lock()
	again := errors.Is(k.refused, storage.ErrDiskFull) && errors.Is(err, storage.ErrDiskFull)
	k.copy, k.refused, k.opening = s, err, openProgress{}
	if err != nil {
		k.copy = nil
	}
	k.mu.Unlock()
	if err != nil {
		if !again {
			k.log.Error("slot refused", "err", err)
		}
		return false
	}
	k.n.wg.Go(func() { // reads all accounts: the copy serves meanwhile
		if err := s.CountUsers(ctx); err != nil && ctx.Err() == nil {
			k.log.Info("users not counted", "err", err)
		}
	})
	k.reindex.cause = nil
	k.tellIndexDamage(nil)
	k.n.conditions.Put(len(s.OwnerMended()) > 0, monitor.SlotFileMended, k.id.String(), strings.Join(s.OwnerMended(), ", "))
	k.madeAnew()
	return true
}

func (k *keeper) openFiles(ctx context.Context) (*local.Slot, error) {
	n := k.n
	p, err := n.volumes.find(k.id)
	if err != nil {
		return nil, err
	}
	k.openingStep("waits for its turn", -1)
	opened, err := n.volumes.opening(ctx, p)
	if err != nil {
		return nil, err
	}
	defer opened()
	k.dir, k.options = slotDir(p.volume, k.id), k.optionsAt(p)
	// A rebuild that was cut off goes on as a job, with others of its kind.
	mode, pending := local.RebuildPending(k.options)
	k.mu.Lock()
	k.reindex.pending = mode
	k.mu.Unlock()
	if pending {
		return nil, fmt.Errorf("open slot %s: the rebuild of its index was cut off, and goes on", k.id)
	}
	s, err := local.Open(k.options)
	if err != nil {
		return nil, err
	}
	if err := n.volumes.remember(k.id, p); err != nil {
		n.logErr("close slot", s.Close())
		return nil, fmt.Errorf("remember slot %s: %w", k.id, err)
	}
	return s, nil
}

// endWithin is how long whoever ends a role waits for that. A role whose disk hangs
// goes on ending by itself, and concerns its slot alone (law 9).
const endWithin = time.Second

// end leaves the role, and reports whether it has come to its end. Clients and
// replicas are refused at once; what may take longer are reads of a disk that
// hangs. Until they have ended no next role begins. It may be called from any
// goroutine but the role's own.
func (k *keeper) end() bool {
	ended := k.leaveRole()
	return ended == nil || closes(ended, endWithin)
}

// leaveRole is end without the wait: the channel is closed when the role has
// ended; nil: there was none.
func (k *keeper) leaveRole() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	leave, before := k.leave, k.ended
	k.term++
	k.master, k.feed, k.follower, k.leave, k.role, k.epoch = nil, nil, nil, nil, failover.RoleNone, 0
	if leave != nil {
		ended := make(chan struct{})
		k.ended = ended
		go func() {
			defer close(ended)
			leave()
			if before != nil {
				<-before
			}
		}()
	}
	return k.ended
}

// errNotEnded says that the role before holds up the next one.
var errNotEnded = errors.New("waits until what this node did for the slot before has ended: its disk does not answer")

// fenced ends a master that was told of a higher epoch, by whomever. Whether it
// serves on is asked again: of a leader with a quorum. It is told again and again
// until it knows the epoch itself, and only the first time is news.
func (k *keeper) fenced(higher slot.Epoch) {
	k.mu.Lock()
	over := k.role == failover.RoleMaster && k.epoch < higher && (k.told.higher < higher || k.master != nil)
	if over {
		k.told.higher = max(k.told.higher, higher)
	}
	k.mu.Unlock()
	if over {
		k.log.Warn("told of a higher epoch: this node stops serving the slot", "higher", higher)
		k.end()
		k.wake()
	}
}

// overNow is told by the feed that its epoch is over: nothing is acknowledged any
// more. It does not wait for the role, which may be waiting for the feed.
func (k *keeper) overNow() { k.n.wg.Go(func() { k.end(); k.wake() }) }

// answerWithin is how long an answer waits for the end of a role: a slot whose
// disk hangs must not hold up what its node says of the others (law 9).
const answerWithin = 300 * time.Millisecond

// promise makes this copy acknowledge nothing to an epoch lower than that of a
// node which asks what it holds (law 1). It returns when that is so, also when
// somebody else has asked at the same moment. That this node works under that
// epoch is not enough: a restart may know an older state of Raft.
func (k *keeper) promise(ctx context.Context, asked slot.Epoch) error {
	k.mu.Lock()
	s, promised := k.copy, k.told.promised
	k.mu.Unlock()
	if s == nil {
		return nil
	}
	if promised < asked && !begunAt(s, asked) {
		if err := s.Promise(ctx, asked); err != nil {
			return fmt.Errorf("promise slot %s: %w", k.id, err)
		}
	}
	// Looked at after the promise: a role that begins from now on reads it.
	k.mu.Lock()
	k.told.promised = max(k.told.promised, asked)
	over, role, ended := k.role != failover.RoleNone && k.epoch < asked, k.role, (<-chan struct{})(k.ended)
	k.mu.Unlock()
	if over {
		k.log.Info("asked under a higher epoch: this node ends its part", "role", role, "asked", asked)
		ended = k.leaveRole() // until it has ended it may still acknowledge
		k.wake()
	}
	if ended == nil || closes(ended, answerWithin) {
		return nil
	}
	return fmt.Errorf("promise slot %s: %w", k.id, errNotEnded)
}

// begunAt reports whether a copy has events of an epoch: no master of a lower one
// lets it follow.
func begunAt(s *local.Slot, e slot.Epoch) bool {
	head, err := s.Head()
	return err == nil && head.Lineage.Last() >= e
}

// take makes a role's parts seen, unless the role was ended while it began: then
// what was known when it began is no longer so.
func (k *keeper) take(term uint64, leave func(), set func()) error {
	k.mu.Lock()
	over := k.term != term
	if !over {
		k.leave = leave
		set()
	}
	k.mu.Unlock()
	if over {
		leave()
		return errors.New("the role was ended while it began")
	}
	return nil
}

// converge takes the role that Raft says; false asks to be called again soon.
func (k *keeper) converge(ctx context.Context, sl cluster.Slot) bool {
	me := k.n.cfg.Node.Name
	want := failover.RoleNone
	switch {
	case sl.Master == me:
		want = failover.RoleMaster
	case sl.Holds(me):
		want = failover.RoleReplica
	}
	k.mu.Lock()
	same := k.role == want && k.epoch == sl.Epoch && (want == failover.RoleNone || k.leave != nil)
	k.mu.Unlock()
	if same {
		return true
	}
	ended := k.end()
	k.mu.Lock()
	k.role, k.epoch = want, sl.Epoch
	if want == failover.RoleMaster && k.waiting == "" {
		k.waiting = "asks whether it may serve" // until it knows more
	}
	term := k.term
	k.mu.Unlock()
	defer k.n.tellSoon()
	var err error
	switch {
	case !ended:
		err = errNotEnded
	case want == failover.RoleMaster:
		err = k.lead(ctx, sl, term)
	case want == failover.RoleReplica:
		err = k.follow(ctx, sl, term)
	}
	if err == nil {
		return true
	}
	k.log.Info("role not taken yet", "role", want, "epoch", sl.Epoch, "err", err)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.term == term && want == failover.RoleMaster {
		k.waiting = err.Error()
	}
	return false
}

func (k *keeper) follow(ctx context.Context, sl cluster.Slot, term uint64) error {
	conn, err := k.n.peers.conn(sl.Master)
	if err != nil {
		return err
	}
	f := repl.NewFollower(repl.FollowerOptions{
		Slot: k.copy, Node: k.n.cfg.Node.Name, Master: sl.Master, Epoch: sl.Epoch, Client: repl.NewReplicationClient(conn),
		Spool: k.n.spool, Clock: k.n.clock, Logger: k.n.log, OnFenced: k.wake, OnSetAside: k.setAside,
		Others: k.clientsBeside(sl.Master), OnEnded: func(error) { k.n.metrics.StreamEnded(k.id) },
	})
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	taken := make(chan struct{}) // it acknowledges nothing before whoever ends the role would wait for it
	wg.Go(func() {
		select {
		case <-taken:
			f.Run(ctx)
		case <-ctx.Done():
		}
	})
	return k.take(term, func() { cancel(); wg.Wait() }, func() {
		k.follower, k.waiting, k.lost = f, "", nil
		close(taken)
	})
}

// hangsAfter is how long a disk may take to answer before others are told.
const hangsAfter = 5 * time.Second

// report describes the copy for other nodes. Neither it nor whoever else holds
// k.mu waits for a disk or a peer: all copies of the node are reported together
// (law 9).
func (k *keeper) report() failover.CopyReport {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := failover.CopyReport{Slot: k.id, Role: k.role, Epoch: k.epoch, Waiting: k.waiting, Serving: k.master != nil}
	if k.opening.step != "" {
		r.Opening, r.OpeningPercent, r.OpeningMs = k.opening.step, k.opening.percent, (k.n.clock.Mono() - k.opening.since).Milliseconds()
		return r
	}
	if k.refused != nil {
		r.Failed = k.refused.Error()
		return r
	}
	if k.copy == nil {
		return r
	}
	if what, since := k.copy.Hangs(); since >= min(hangsAfter, k.n.cfg.Replication.SuspectAfter) {
		r.Hangs, r.HangsMs = what, since.Milliseconds()
	}
	if err := k.copy.Failure(); err != nil {
		r.Failed = err.Error()
		return r
	}
	head, err := k.copy.Head()
	if err != nil {
		r.Failed = err.Error()
		return r
	}
	r.Position, r.Lineage, r.Building = head.Position, head.Lineage.Last(), head.Building
	r.Counters = failover.Counters{Events: head.Position.N(), Messages: head.Births, Bytes: head.Bytes}
	r.Viable = !head.Building && head.Position > 0 && r.Failed == "" // an empty copy proves nothing
	r.Head, r.HeadCount = head.Position, r.Counters
	if k.feed != nil {
		r.AloneSince, r.Alone = k.feed.Alone()
		protected, _ := k.feed.State()
		r.Protected, r.LagKnown = &protected, true
	}
	if k.follower != nil {
		st := k.follower.State()
		r.InSync, r.LagMs = st.Counted, int64(st.LagMs)
		r.LagKnown = st.Connected && !head.Building && k.n.clock.Mono()-st.HeardAt < lagHeardWithin
		r.Quarantined = st.Connected && !st.Viable && !head.Building
		r.Viable = r.Viable && !r.Quarantined
		if st.Head > head.Position {
			r.Head = st.Head
			r.HeadCount = failover.Counters{Events: st.Head.N(), Messages: st.HeadBirths, Bytes: st.HeadBytes}
		}
	}
	return r
}
