// Package raftfsm binds the pure state machine of raftfsm/cluster to
// hashicorp/raft: it proposes commands, applies what was committed, takes and
// restores snapshots, and keeps Raft's trouble with its disk away from mail
// (law 9). A Node never decides anything about ownership.
//
// What can go wrong on Raft's disk is terminal for Raft in this process, and for
// nothing else: see latch. But a full disk is waited for: see room. A Node that is halted answers State with what it
// applied last and refuses to propose, like one that has no quorum.
package raftfsm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

// Config describes a Node. Dir, Name and Transport are required.
type Config struct {
	Dir       string            // holds raft.db, snapshots and the server ID; belongs to one Node
	Memory    Memory            // what this server remembers, beside Dir
	Name      slot.NodeName     // this node's name in the cluster
	ServerID  string            // its name in Raft; "" takes the one in Dir, or makes one
	Addr      string            // peer address told to others, host:port; "" is that of Transport
	Transport StreamLayer       // closed by the Node
	Logger    *slog.Logger      // nil discards
	Features  slot.FeatureLevel // what this release knows; 0: cluster.KnownFeatures

	Timings

	// OnCondition is told when a condition begins, and with a nil error when it
	// ends. It is called from Raft's goroutines and must return at once.
	OnCondition func(name string, err error)

	// GiveUpBallast frees what is kept for a full disk, and reports whether there was
	// some; nil: there is none.
	GiveUpBallast func() bool

	wrap func(backend) backend // lets tests break the disk
}

// Timings are how patient Raft is, and how much of its log it keeps; 0 is what the
// comments say.
type Timings struct {
	HeartbeatTimeout  time.Duration // 1 s; a follower without contact for so long stands for election
	ElectionTimeout   time.Duration // 1 s
	LeaseTimeout      time.Duration // 500 ms; a leader without a quorum for so long steps down
	StallLimit        time.Duration // 10 s; a store operation that takes longer halts Raft
	SnapshotInterval  time.Duration // 2 min between looks at whether one is due
	SnapshotThreshold uint64        // 1,024 log entries make one due
	TrailingLogs      uint64        // 4,096 log entries stay for followers that are a little behind
}

// Memory is what a server remembers of Raft outside of its Dir.
type Memory struct {
	Dir string // holds what it has promised and known; "" is Config.Dir with ".remembered"
	Ran bool   // it ran before: when both folders are empty they were emptied
}

// files are what a Node has open; nil when they could not be opened.
type files struct {
	back     backend
	mem      *memory
	abstains *abstention // nil: this server votes
}

// ends are how the parts of a Node come to their end.
type ends struct {
	opened chan struct{} // closed when Raft runs, or never will
	stop   chan struct{} // ends our own goroutines
	kept   chan struct{} // closed when the state was kept for the next start
}

// underway is what those share who come while an entry of theirs would have to wait.
type underway struct {
	group  group
	proofs proofs
}

// Node is one server of the Raft cluster.
type Node struct {
	cfg   Config
	id    raft.ServerID
	log   *slog.Logger
	latch *latch
	fsm   *fsm
	gate  *gate
	trans *transport
	known knownFile
	underway
	files

	ends
	mu      sync.Mutex  // guards what follows, and files and id until opened is closed
	raft    *raft.Raft  // nil before it runs
	stopped raft.Future // of the first raft.Shutdown; later ones do not wait
}

// Open starts Raft from what Dir holds; it never bootstraps. Whatever is wrong with
// Raft's files gives a Node that is halted, see Err: it answers State with what this
// server knew when it ran last, and mail on healthy disks goes on (law 9). One that finds
// no room is returned while it waits for room: Raft runs when there is some. An error
// means that cfg is not complete.
func Open(cfg Config) (*Node, error) {
	cfg = cfg.withDefaults()
	if cfg.Dir == "" || cfg.Name == "" || cfg.Transport == nil {
		return nil, errors.New("open raft: Dir, Name and Transport are required")
	}
	n := newNode(cfg, nil)
	n.gate = newGate(cfg.Transport, cfg.Addr, max(3*cfg.HeartbeatTimeout, time.Second))
	n.trans = newTransport(n.gate, newHclog(n.log).Named("transport"), 10*cfg.HeartbeatTimeout, n.addrOf, n.leads)
	n.latch.room = n.newRoom()
	n.latch.watch(n.cfg.StallLimit)
	full := n.latch.room.begins()
	go n.run()
	select {
	case <-n.opened:
	case <-full:
	}
	return n, nil
}

// run opens Raft, and does what goes on for as long as it runs.
func (n *Node) run() {
	if err := n.openWithRoom(); err != nil {
		n.latch.trip(conditionOf(err), err)
	}
	if n.latch.Err() != nil {
		n.stopRaft()
	}
	close(n.opened)
	go n.observe()
	n.keepKnown()
}

// openAgainEvery is how often Raft is opened again that found no room: it proves its
// files each time.
const openAgainEvery = time.Second

// openWithRoom opens Raft, as soon as there is room for that.
func (n *Node) openWithRoom() error {
	err := n.open()
	if !noRoom(err) {
		return err
	}
	n.latch.room.begin(err)
	defer n.latch.room.end()
	tick := time.NewTicker(openAgainEvery)
	defer tick.Stop()
	for noRoom(err) {
		select {
		case <-tick.C:
			err = n.open()
		case <-n.stop:
			return fmt.Errorf("shut down while it waited for room: %w", err)
		case <-n.latch.Tripped():
			return n.latch.Err()
		}
	}
	if err != nil {
		n.latch.trip(conditionOf(err), err) // before it no longer waits
	}
	return err
}

// newNode makes a Node of which nothing is open yet; onHalt is its own when nil.
func newNode(cfg Config, onHalt func(*ErrHalted)) *Node {
	n := &Node{cfg: cfg, log: cfg.Logger, ends: ends{make(chan struct{}), make(chan struct{}), make(chan struct{})}}
	if onHalt == nil {
		onHalt = n.halt
	}
	n.latch = newLatch(onHalt)
	known, err := readKnown(cfg.Memory.Dir)
	if err != nil {
		n.log.Warn("cluster state of the last run not readable", "cause", err)
	}
	n.fsm = newFSM(n.latch, known, n.snapshotDone)
	n.known.written = n.State().Index
	n.fsm.features, n.fsm.beforeSeen = cfg.Features, n.keepIfSole
	return n
}

// conditionOf names what an error of Open means.
func conditionOf(err error) string {
	if errors.Is(err, errBadSum) {
		return ConditionLogCorrupt
	}
	return ConditionStoreFailed
}

// open opens the files and starts Raft.
func (n *Node) open() error {
	err := n.openWithin(openStalls * n.cfg.StallLimit)
	if disk.NoRoom(err) && n.giveUpBallast() {
		err = n.openWithin(openStalls * n.cfg.StallLimit)
	}
	if err != nil {
		return err
	}
	if n.cfg.wrap != nil {
		n.back = n.cfg.wrap(n.back)
	}
	if n.mem.get().Owes > 0 && n.abstains == nil {
		a := newAbstention(n.mem, n.filled)
		n.mu.Lock()
		n.abstains = a
		n.mu.Unlock()
		n.trans.abstains = a
	}
	n.tellSetAside()
	r, err := n.start()
	if err != nil {
		if noRoom(err) { // it is opened again
			err, n.back = errors.Join(err, closeBackend(n.back, err)), nil
		}
		return fmt.Errorf("open raft in %q: %w", n.cfg.Dir, err)
	}
	go n.trans.pass(n.stop)
	n.mu.Lock()
	n.raft = r
	n.mu.Unlock()
	if err := n.fsm.tooNew(n.State()); err != nil { // by what was known in the last run
		n.latch.trip(ConditionLogNewer, err)
	}
	return nil
}

// openStalls is how many StallLimits the proof of the files may take: it reads all of
// them.
const openStalls = 3

// openWithin opens the files, in a Node of its own: of a disk that hangs this one has
// nothing, and does not wait for it.
func (n *Node) openWithin(limit time.Duration) error {
	if err := n.remember(); err != nil {
		return err
	}
	opener := newNode(n.cfg, func(*ErrHalted) {})
	opener.mem = n.mem
	done := make(chan error, 1)
	go func() { done <- opener.openFiles() }()
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case err := <-done:
		n.mu.Lock()
		opener.abstains = n.abstains
		n.files, n.id = opener.files, opener.id
		n.mu.Unlock()
		if err != nil && n.back != nil { // it may be opened again
			err, n.back = errors.Join(err, closeBackend(n.back, err)), nil
		}
		return err
	case <-late.C:
		return fmt.Errorf("open raft in %q: its disk has not answered for %s", n.cfg.Dir, limit)
	}
}

// start runs raft.NewRaft in a goroutine of its own: the latch ends the
// goroutine that meets a fault, and a write may hang.
func (n *Node) start() (*raft.Raft, error) {
	snaps, err := n.snapshots()
	if err != nil {
		return nil, err
	}
	s := &store{back: n.back, latch: n.latch, mem: n.mem, snaps: snaps, self: n.id, abstains: n.abstains}
	conf := n.cfg.raftConfig(n.id)
	conf.Logger = newHclog(n.log.With("server", string(n.id)))
	var r *raft.Raft
	err = n.latch.run(func() (err error) {
		r, err = raft.NewRaft(conf, n.fsm, s, s, snaps, n.trans)
		return err
	})
	return r, err
}

// filled is told that a leader has filled this server's log again.
func (n *Node) filled(err error) {
	if err != nil {
		n.latch.trip(ConditionStoreFailed, fmt.Errorf("remember that raft's log is filled: %w", err))
		return
	}
	n.log.Info("raft's log is filled again: this server votes", "votes_refused", n.abstains.asked.Load())
	n.tellSetAside()
}

// tellSetAside keeps ConditionStoreFailed up for as long as what was set aside lies
// there: a person should look at the disk.
func (n *Node) tellSetAside() {
	aside := wasSetAside(n.cfg.Dir)
	switch {
	case n.abstains.holds():
		n.cfg.OnCondition(ConditionStoreFailed, fmt.Errorf("%s: this node takes no part in votes until a leader has filled it again", cmp.Or(aside, "raft's files were lost")))
	case aside != "":
		n.cfg.OnCondition(ConditionStoreFailed, fmt.Errorf("%s, and filled again: this node votes. When you have looked at the disk, remove %q", aside, filepath.Join(n.cfg.Dir, asideName)))
	default:
		n.cfg.OnCondition(ConditionStoreFailed, nil)
	}
}

// Abstains reports whether this server takes no part in votes, because its log was
// lost and no leader has filled it yet.
func (n *Node) Abstains() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.abstains.holds()
}

// DecidesAlone reports whether Raft's files failed, or have no room, on a server that
// is the only one with a vote: nobody can have changed the state that it knows.
func (n *Node) DecidesAlone() bool {
	var halted *ErrHalted
	failed := errors.As(n.Err(), &halted) && (halted.Condition == ConditionStoreFailed || halted.Condition == ConditionLogCorrupt)
	n.mu.Lock()
	mem := n.mem
	n.mu.Unlock()
	return (failed || n.latch.room.waits()) && mem != nil && mem.get().Sole && n.State().ClusterID != ""
}

// run executes f, which the latch may end, in a goroutine.
func (l *latch) run(f func() error) error {
	done := make(chan error, 1)
	go func() {
		defer close(done)
		defer func() {
			if r := recover(); r != nil {
				done <- fmt.Errorf("%v", r)
			}
		}()
		done <- f()
	}()
	select {
	case err, returned := <-done:
		if returned {
			return err
		}
	case <-l.Tripped():
	}
	return l.Err()
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.OnCondition == nil {
		c.OnCondition = func(string, error) {}
	}
	if c.Addr == "" && c.Transport != nil {
		c.Addr = c.Transport.Addr().String()
	}
	c.Memory.Dir = orElse(c.Memory.Dir, c.Dir+".remembered")
	c.Features = orElse(c.Features, cluster.KnownFeatures)
	c.HeartbeatTimeout = orElse(c.HeartbeatTimeout, time.Second)
	c.ElectionTimeout = orElse(c.ElectionTimeout, c.HeartbeatTimeout)
	c.LeaseTimeout = orElse(c.LeaseTimeout, c.HeartbeatTimeout/2)
	c.StallLimit = orElse(c.StallLimit, 10*time.Second)
	c.SnapshotInterval = orElse(c.SnapshotInterval, 2*time.Minute)
	c.SnapshotThreshold = orElse(c.SnapshotThreshold, 1024)
	c.TrailingLogs = orElse(c.TrailingLogs, 4096)
	return c
}

func orElse[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

func (c Config) raftConfig(id raft.ServerID) *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = id
	conf.HeartbeatTimeout = c.HeartbeatTimeout
	conf.ElectionTimeout = c.ElectionTimeout
	conf.LeaderLeaseTimeout = c.LeaseTimeout
	conf.SnapshotInterval = c.SnapshotInterval
	conf.SnapshotThreshold = c.SnapshotThreshold
	conf.TrailingLogs = c.TrailingLogs
	conf.ShutdownOnRemove = true
	conf.NoLegacyTelemetry = true
	return conf
}

// halt is the latch's hook: it makes this node silent, so that the others elect
// a leader whose disk works, and tells the operator.
func (n *Node) halt(fault *ErrHalted) {
	n.gate.close()
	n.stopRaft()
	_ = n.trans.Close() // its listener only; there is nothing to be done about an error
	select {
	case <-n.stop: // what fails while the files are being closed is no news
		return
	default:
	}
	n.log.Error("raft stopped on this node", "condition", fault.Condition, "cause", fault.Cause)
	n.cfg.OnCondition(fault.Condition, fmt.Errorf("%w; %s", fault.Cause, whenHalted(fault.Condition)))
	n.fsm.publish(nil)
}

// whenHalted says what holds until a person has acted.
func whenHalted(condition string) string {
	if condition == ConditionStoreFailed || condition == ConditionLogCorrupt {
		return "the slots that this node serves go on as without a quorum; look at the disk and restart mailnode: what is damaged is set aside then, and filled again"
	}
	return "the slots that this node serves go on as without a quorum"
}

// running returns Raft, nil before it runs.
func (n *Node) running() *raft.Raft {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.raft
}

// leads reports whether Raft leads, whatever its disk does.
func (n *Node) leads() bool {
	r := n.running()
	return r != nil && r.State() == raft.Leader
}

// stopRaft tells Raft to end, without waiting; nil before it was started.
func (n *Node) stopRaft() raft.Future {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.raft != nil && n.stopped == nil {
		n.stopped = n.raft.Shutdown()
	}
	return n.stopped
}

func (n *Node) snapshotDone(err error) {
	if err != nil {
		n.log.Warn("raft snapshot not written", "cause", err)
	}
	n.cfg.OnCondition(ConditionSnapshotFailed, err)
}

// observe drains LeaderCh, notices that the cluster removed this server, and that a
// person has removed what was set aside.
func (n *Node) observe() {
	r := n.running()
	if r == nil {
		return
	}
	tick := time.NewTicker(n.cfg.HeartbeatTimeout)
	defer tick.Stop()
	aside := wasSetAside(n.cfg.Dir) != ""
	for {
		select {
		case <-n.stop:
			return
		case <-n.latch.Tripped():
			return
		case leading := <-r.LeaderCh():
			if leading {
				n.trans.forget()
			}
			n.log.Info("raft leadership changed", "leading", leading)
			n.fsm.publish(nil)
		case <-tick.C:
			if r.State() == raft.Shutdown && n.unasked() {
				n.latch.trip(ConditionRemoved, errors.New("the cluster removed this server"))
				return
			}
			if aside {
				if aside = wasSetAside(n.cfg.Dir) != ""; !aside {
					n.tellSetAside()
				}
			}
		}
	}
}

// unasked reports whether Raft ended without being told to by stopRaft.
func (n *Node) unasked() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stopped == nil
}

// Shutdown ends Raft and closes its files. It waits until ctx ends for a disk or
// a peer that hangs; what then still runs does so without consequence.
func (n *Node) Shutdown(ctx context.Context) error {
	n.mu.Lock()
	select {
	case <-n.stop:
		n.mu.Unlock()
		return nil
	default:
		close(n.stop)
	}
	n.latch.dog.Close()
	n.mu.Unlock()
	n.stopRaft()
	n.gate.close()
	done := make(chan error, 1)
	go func() {
		var err error
		<-n.opened
		ended := n.stopRaft() // it may have begun to run just now
		if ended != nil {
			err = ended.Error()
		}
		<-n.kept
		done <- errors.Join(err, n.trans.Close(), n.closeFiles())
	}()
	select {
	case err := <-done:
		if err != nil && !errors.Is(err, os.ErrClosed) {
			return fmt.Errorf("shut down raft %q: %w", n.id, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("shut down raft %q: %w", n.id, ctx.Err())
	}
}

// closeFiles closes what is open of the files.
func (n *Node) closeFiles() error {
	var errs []error
	if n.back != nil {
		errs = append(errs, closeBackend(n.back, n.latch.Err()))
	}
	if n.mem != nil {
		errs = append(errs, n.mem.close())
	}
	return errors.Join(errs...)
}

// addrOf returns a server's address as the cluster's state has it. The error says that
// the server has left.
func (n *Node) addrOf(id raft.ServerID) (addr string, known bool, err error) {
	st := n.State()
	if m, ok := st.MemberByServerID(string(id)); ok {
		return m.Addr, true, nil
	}
	if slices.ContainsFunc(st.Former, func(f cluster.Former) bool { return f.ServerID == string(id) }) {
		return "", false, fmt.Errorf("raft server %q is no member any more", id)
	}
	return "", false, nil
}

// State returns the state applied last, in this run or the one before: it never
// goes back, and without a quorum it may be old. It never changes; nobody may
// change it.
func (n *Node) State() *cluster.State { return n.fsm.current.Load().state }

// Changed returns a channel that closes at the next applied change, change of this
// node's leadership, or halt. Take it first, then read State, then wait.
func (n *Node) Changed() <-chan struct{} { return n.fsm.current.Load().changed }
