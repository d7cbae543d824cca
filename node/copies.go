package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"mailnode/failover"
	"mailnode/node/admin"
	"mailnode/node/config"
	"mailnode/node/monitor"
	"mailnode/node/rpc"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/local"
	"mailnode/storage/repl"
	"mailnode/storage/slot"
)

// copies holds this node's copies. Each is a keeper of its own: one goroutine
// that looks at what Raft says of the slot and works towards it (STYLE: plan,
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
	n    *Node
	id   slot.ID
	log  *slog.Logger
	poke chan struct{} // look at Raft again now

	mu       sync.Mutex // guards all below
	copy     *local.Slot
	refused  error // why the copy could not be opened
	role     failover.Role
	epoch    slot.Epoch
	waiting  string // a master that does not serve yet: why
	lost     error  // a master whose copy has lost events: it must not serve
	master   *local.Master
	feed     *repl.Feed
	follower *repl.Follower
	leave    func() // ends the role
}

// Copy implements repl.Copies.
func (c *copies) Copy(id slot.ID) (repl.Copy, bool) {
	s := c.slot(id)
	return s, s != nil
}

func (c *copies) slot(id slot.ID) *local.Slot {
	if k := c.keeper(id); k != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.copy
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

// serving gives the store of a slot that this node serves, else nil.
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
	for ctx.Err() == nil && c.n.raft != nil {
		changed := c.n.raft.Changed()
		for _, sl := range c.n.raft.State().Slots {
			if sl.Holds(c.n.cfg.Node.Name) {
				c.keep(ctx, sl.ID)
			}
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
	k := &keeper{n: c.n, id: id, log: c.n.log.With("slot", id), poke: make(chan struct{}, 1), role: failover.RoleNone}
	c.m[id] = k
	c.n.wg.Go(func() { k.run(ctx) })
}

// close closes the copies, after their keepers have ended.
func (c *copies) close() {
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
	wg.Wait()
}

// pokeAll makes every keeper look again.
func (c *copies) pokeAll() {
	for _, k := range c.all() {
		k.wake()
	}
}

func (k *keeper) wake() {
	select {
	case k.poke <- struct{}{}:
	default:
	}
}

const retryRole = time.Second

// run converges until ctx ends.
func (k *keeper) run(ctx context.Context) {
	defer k.end()
	if !k.openCopy() {
		return // refused: a person must act, and the process be restarted
	}
	failed := k.copy.Failed()
	for ctx.Err() == nil {
		changed := k.n.raft.Changed()
		var retry <-chan time.Time
		if sl, ok := k.n.raft.State().Slot(k.id); ok && failed != nil && !k.converge(ctx, sl) {
			retry = time.After(retryRole)
		}
		select {
		case <-changed:
		case <-k.poke:
		case <-retry:
		case <-failed:
			k.end()
			k.n.setCondition(monitor.SlotFailed, k.id.String(), k.copy.Failure())
			failed = nil
		case <-ctx.Done():
		}
	}
}

func (k *keeper) openCopy() bool {
	marker := filepath.Join(k.n.cfg.Node.Data, "held", k.id.String())
	_, missing := os.Stat(marker)
	s, err := k.openFiles(missing == nil)
	if err == nil && missing != nil {
		err = k.n.remember(marker)
	}
	k.n.setCondition(monitor.SlotRefused, k.id.String(), err)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.copy, k.refused = s, err
	if err != nil {
		k.copy = nil
		k.log.Error("slot refused", "err", err)
	}
	return err == nil
}

// remember notes that this node has a copy of a slot. A folder that is gone
// later, with its disk or by somebody's hand, is told apart from a new slot's by it.
func (n *Node) remember(marker string) error {
	if err := os.MkdirAll(filepath.Dir(marker), 0o700); err != nil {
		return err
	}
	return admin.ReplaceFile(marker, nil)
}

func (k *keeper) openFiles(held bool) (*local.Slot, error) {
	return local.Open(local.Options{
		FS: k.n.fs, Dir: filepath.Join(k.n.cfg.Node.Data, "slots", k.id.String()), Cluster: k.n.id.ClusterID(), Slot: k.id,
		Logger: k.n.log, Clock: k.n.clock, Resources: k.n.resources, Passwords: k.n.passwords, OnDamage: k.n.onDamage,
		JournalEventsMax: int(k.n.cfg.JournalMax), Refill: held,
	})
}

func (n *Node) onDamage(id slot.ID, err error) {
	n.setCondition(monitor.MessageMissing, id.String(), err)
}

// end leaves the role.
func (k *keeper) end() {
	k.mu.Lock()
	leave := k.leave
	k.master, k.feed, k.follower, k.leave, k.role, k.epoch = nil, nil, nil, nil, failover.RoleNone, 0
	k.mu.Unlock()
	if leave != nil {
		leave()
	}
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
	same := k.role == want && k.epoch == sl.Epoch && (want != failover.RoleMaster || k.master != nil)
	k.mu.Unlock()
	if same {
		return true
	}
	k.end()
	k.mu.Lock()
	k.role, k.epoch = want, sl.Epoch
	k.mu.Unlock()
	defer k.n.tellSoon()
	switch want {
	case failover.RoleMaster:
		if err := k.lead(ctx, sl); err != nil {
			k.log.Info("slot not served yet", "epoch", sl.Epoch, "err", err)
			var lost lostEvents
			k.mu.Lock()
			k.waiting, k.lost = err.Error(), nil
			if errors.As(err, &lost) {
				k.lost = lost
			}
			k.mu.Unlock()
			return false
		}
	case failover.RoleReplica:
		if err := k.follow(ctx, sl); err != nil {
			k.log.Warn("slot not followed", "err", err)
			return false
		}
	}
	return true
}

func (k *keeper) follow(ctx context.Context, sl cluster.Slot) error {
	conn, err := k.n.peers.conn(sl.Master)
	if err != nil {
		return err
	}
	f := repl.NewFollower(repl.FollowerOptions{
		Slot: k.copy, Node: k.n.cfg.Node.Name, Master: sl.Master, Epoch: sl.Epoch, Client: repl.NewReplicationClient(conn),
		Spool: k.n.spool, Clock: k.n.clock, Logger: k.n.log, OnFenced: k.wake,
		OnSetAside: func(name string) {
			k.n.setCondition(monitor.CopyDiverged, k.id.String(), fmt.Errorf("this copy held what the new master never saw; it is kept in %s",
				filepath.Join(k.n.cfg.Node.Data, "slots", k.id.String(), "quarantine", name)))
		},
	})
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { f.Run(ctx) })
	k.mu.Lock()
	defer k.mu.Unlock()
	k.follower, k.waiting, k.lost = f, "", nil
	k.leave = func() { cancel(); wg.Wait() }
	return nil
}

// lead serves the slot, after the checks of DESIGN section 6.
func (k *keeper) lead(ctx context.Context, sl cluster.Slot) error {
	sl, err := k.mayServe(ctx, sl)
	if err != nil {
		return err
	}
	feed := repl.NewFeed(repl.FeedOptions{
		Slot: k.copy, Epoch: sl.Epoch, Protected: sl.Protected, InSync: sl.InSync, AckTimeout: k.n.cfg.Replication.AckTimeout,
		WaitForReplica: k.n.cfg.Replication.Ack == config.AckReplica && len(sl.Replicas) > 0,
		Recorder:       recorder{k.n}, Clock: k.n.clock, Logger: k.n.log, OnFenced: func(slot.Epoch) { k.wake() },
	})
	m, err := k.copy.Serve(ctx, sl.Epoch, sl.Unclean, pauseGate{k.n, feed})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { feed.Run(ctx) })
	k.mu.Lock()
	defer k.mu.Unlock()
	k.master, k.feed, k.waiting, k.lost = m, feed, "", nil
	k.leave = func() { m.Stop(); feed.Close(); cancel(); wg.Wait() }
	k.log.Info("slot served", "epoch", sl.Epoch, "unclean", sl.Unclean)
	return nil
}

// pauseAfter is the gap between two ticks after which this process was stopped.
const pauseAfter = 2 * time.Second

// pauseGate withholds acknowledgements from the moment at which this process
// goes on after a pause until it knows that its epochs are still its own.
type pauseGate struct {
	n    *Node
	feed *repl.Feed
}

// Await implements local.Gate.
func (g pauseGate) Await(ctx context.Context, p slot.Position) error {
	if err := g.feed.Await(ctx, p); err != nil {
		return err
	}
	if g.n.clock.Mono()-time.Duration(g.n.lastTick.Load()) >= pauseAfter {
		return storage.Errorf(storage.ErrUnavailable, "this node was paused: it asks first whether it is still the master")
	}
	return nil
}

const (
	freshWithin = 2 * time.Second
	compareWith = 500 * time.Millisecond // a copy that is believed alive answers sooner
)

// mayServe proves that the epoch is still this node's, by a leader with a
// quorum, and that no copy that answers is ahead: what one has more is taken
// from it first. It gives the slot as Raft has it now.
func (k *keeper) mayServe(ctx context.Context, sl cluster.Slot) (cluster.Slot, error) {
	fctx, cancel := context.WithTimeout(ctx, freshWithin)
	defer cancel()
	if err := k.n.fresh(fctx); err != nil {
		return sl, fmt.Errorf("waits for a quorum that says whether epoch %d is still this node's: %w", sl.Epoch, err)
	}
	now, _ := k.n.raft.State().Slot(k.id)
	if now.Master != k.n.cfg.Node.Name || now.Epoch != sl.Epoch {
		return sl, fmt.Errorf("epoch %d is over", sl.Epoch)
	}
	if k.copy.Building() {
		return sl, lostEvents{errors.New("this copy is empty or half filled, and its node is the slot's master")}
	}
	var wg sync.WaitGroup
	answers := make([]failover.CopyAnswer, len(now.Replicas))
	for i, r := range now.Replicas {
		wg.Go(func() {
			actx, cancel := context.WithTimeout(ctx, compareWith)
			defer cancel()
			if got, err := k.n.Ask(actx, r, []slot.ID{k.id}); err == nil && len(got) == 1 {
				answers[i] = got[0]
			}
		})
	}
	wg.Wait()
	for i, a := range answers {
		if err := k.compare(ctx, now, now.Replicas[i], a); err != nil {
			return sl, err
		}
	}
	return now, nil
}

// lostEvents says that this node's copy lacks what it once had in this epoch:
// what clients were shown would be given out again (law 2). The slot stays down
// and is proposed; a new epoch has numbers of its own.
type lostEvents struct{ error }

// compare looks at what another copy has more than this one. A copy that begins
// a new epoch takes it first; one that served this epoch before has lost it.
func (k *keeper) compare(ctx context.Context, sl cluster.Slot, other slot.NodeName, a failover.CopyAnswer) error {
	head, err := k.copy.Head()
	if err != nil {
		return err
	}
	switch {
	case !a.Viable || a.Position <= head.Position:
		return nil
	case a.Lineage > sl.Epoch:
		return fmt.Errorf("%s has seen epoch %d, Raft here knows %d", other, a.Lineage, sl.Epoch)
	case a.Lineage == sl.Epoch:
		return lostEvents{fmt.Errorf("%s holds events up to %s, this copy ends at %s: it has lost events that it had", other, a.Position, head.Position)}
	}
	conn, err := k.n.peers.conn(other)
	if err != nil {
		return err
	}
	k.log.Warn("another copy is ahead: its events are taken first", "from", other, "here", head.Position, "there", a.Position)
	if _, err := repl.CatchUp(ctx, k.copy, repl.NewReplicationClient(conn), k.n.spool); err != nil {
		return fmt.Errorf("%s holds %s, this copy %s, and the difference cannot be had: %w", other, a.Position, head.Position, err)
	}
	return nil
}

// report describes the copy for other nodes.
func (k *keeper) report() failover.CopyReport {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := failover.CopyReport{Slot: k.id, Role: k.role, Epoch: k.epoch, Waiting: k.waiting, Serving: k.master != nil}
	if k.refused != nil {
		r.Failed = k.refused.Error()
		return r
	}
	if k.copy == nil {
		return r
	}
	if err := k.copy.Failure(); err != nil {
		r.Failed = err.Error()
		return r
	}
	if k.lost != nil {
		r.Failed = k.lost.Error()
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
	if k.follower != nil {
		st := k.follower.State()
		r.InSync, r.LagMs = st.Counted, int64(st.LagMs)
		r.Quarantined = st.Connected && !st.Viable && !head.Building
		r.Viable = r.Viable && !r.Quarantined
		if st.Head > head.Position {
			r.Head = st.Head
			r.HeadCount = failover.Counters{Events: st.Head.N(), Messages: st.HeadBirths, Bytes: st.HeadBytes}
		}
	}
	return r
}
