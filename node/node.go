// Package node assembles one node from its configuration: it opens the peer
// port, Raft, the copies of its slots and the frontends, and stops them in the
// opposite order. What it coordinates is decided elsewhere: who owns a slot in
// raftfsm/cluster, what the mail is in storage, when to change masters in
// failover and by a person.
//
// Follow one slot in keeper.go, one client in route.go, one failover in
// duties.go (evidence, proposals) and backend_failover.go (confirm).
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"

	"mailnode/failover"
	"mailnode/imapd"
	"mailnode/lmtpd"
	"mailnode/node/admin"
	"mailnode/node/config"
	"mailnode/node/job"
	"mailnode/node/monitor"
	"mailnode/node/peer"
	"mailnode/raftfsm"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/disk"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// Node is one running node.
type Node struct {
	cfg     config.Config
	log     *slog.Logger
	version string
	clock   storage.Clock
	fs      vfs.FS

	features slot.FeatureLevel // what this release knows; tests change it

	links
	outlook
	stores
	patience
	frontends

	wg sync.WaitGroup
}

// links are what ties a node to the others.
type links struct {
	id     *peer.Identity
	first  admin.FirstStart
	port   *peer.Port
	dialer *peer.Dialer
	raft   *raftfsm.Node // halted when Raft's disk is unusable: mail goes on (law 9)
	// raftOpened is closed when raft is set: the peer port is open before.
	raftOpened chan struct{}
	peers      *peers
	grpc       *grpc.Server
	past       outOfDate // see generation.go
	recovering atomic.Bool
}

// outlook is what a node knows of the others and of itself, and tells.
type outlook struct {
	evidence   *failover.Evidence
	conditions *monitor.Conditions
	metrics    *monitor.Metrics
	lastTick   atomic.Int64 // Clock.Mono of the last tick, ns: the pause detector
	stopping   atomic.Bool
	// clientsOpen is set when IMAP and LMTP listen.
	clientsOpen atomic.Bool
	ledAt       atomic.Int64           // Clock.Mono when a leader with a quorum was last known, ns
	fenced      atomic.Bool            // see fence.go
	gone        atomic.Pointer[string] // why this node is no member any more; nil: it is one
	reporting   reporting
	asides      *asides
	currency    *currency // see unknown.go
	happenings  *happenings
}

// stores are a node's copies, and what they share.
type stores struct {
	resources *local.Resources
	passwords *local.Passwords
	jobs      *job.Registry
	volumes   *volumes
	room      freeSpace
	spool     *storage.SpoolDir
	copies    *copies
}

// patience is how long a node waits with what it does by itself; tests change it.
type patience struct {
	protectAfter time.Duration // repl.FeedOptions.ProtectAfter; 0: its default
	giveUpAfter  time.Duration // see keeper_mender.go
	moveWithin   time.Duration // failover.GiveUpMoveAfter
	scrubDelay   time.Duration // before the first scrub of this process
	upkeepEvery  time.Duration // a copy's turn in upkeep
	voteKeptFor  time.Duration // see voters.go
	dropAskEvery time.Duration // see keeper_dropped.go
	hangAfter    time.Duration // local.Limits.HangAfter; 0: its default
}

// frontends are what clients and MTAs talk to.
type frontends struct {
	imap *imapd.Server
	lmtp *lmtpd.Server
}

// reporting is what a node's reports to the others need.
type reporting struct {
	boot string        // of this process
	soon chan struct{} // capacity 1: tellSoon
	seq  atomic.Uint64 // of the last report
}

// The bounds of a clean stop. Whatever clients do, all but the closing of the
// copies takes at most 25 s together; the systemd unit allows for that too.
const (
	drainTimeout = 8 * time.Second // for clients in a transaction, then they are cut off
	cutWithin    = 2 * time.Second // until what served them has ended
	settleWithin = 3 * time.Second // for jobs, and for what this node does by itself
	closePeers   = 2 * time.Second // for streams to other nodes, and for Raft
	leaveWithin  = time.Second     // for handshakes of the peer port
)

// Run runs a node until ctx ends, then stops it cleanly: frontends first, so
// that what was accepted is answered; then the copies, each marked clean; Raft
// and the peer port last. ready is called when everything is open.
func Run(ctx context.Context, cfg config.Config, log *slog.Logger, version string, ready func()) error {
	return newNode(cfg, log, version).run(ctx, ready)
}

func newNode(cfg config.Config, log *slog.Logger, version string) *Node {
	return &Node{cfg: cfg, log: log.With("node", cfg.Node.Name), version: version, clock: storage.SystemClock(), fs: vfs.Default,
		features: cluster.KnownFeatures,
		links:    links{raftOpened: make(chan struct{})},
		outlook:  outlook{reporting: reporting{boot: newBoot(), soon: make(chan struct{}, 1)}},
		patience: patience{giveUpAfter: giveUpAfter, moveWithin: failover.GiveUpMoveAfter, scrubDelay: scrubDelay, upkeepEvery: upkeepEvery, voteKeptFor: voteKeptFor, dropAskEvery: dropAskEvery}}
}

func (n *Node) run(ctx context.Context, ready func()) error {
	if err := n.open(); err != nil {
		return err
	}
	work, stopWork := context.WithCancel(context.Background())
	err := n.start(work)
	if err == nil {
		n.clientsOpen.Store(!n.cfg.Node.Witness)
		n.log.Info("node serves", "version", n.version, "peer", n.cfg.Node.PeerAdvertise)
		ready()
		<-ctx.Done()
		n.log.Info("node stops")
	}
	n.stop(stopWork)
	return err
}

// open opens what does not serve yet.
func (n *Node) open() error {
	cfg := n.cfg
	id, err := peer.Load(cfg.Node.Data)
	if err != nil {
		return fmt.Errorf("open node %q: %w", cfg.Node.Name, err)
	}
	if id.Name() != cfg.Node.Name {
		return fmt.Errorf("open node %q: its data folder %q belongs to node %q: is `name` in the configuration right?", cfg.Node.Name, cfg.Node.Data, id.Name())
	}
	n.id = id
	n.first = n.firstStart()
	for _, sub := range []string{"slots", "spool"} {
		if err := os.MkdirAll(filepath.Join(cfg.Node.Data, sub), 0o700); err != nil {
			return fmt.Errorf("open node %q: %w", cfg.Node.Name, err)
		}
	}
	if err := emptyDir(filepath.Join(cfg.Node.Data, "spool")); err != nil {
		return fmt.Errorf("open node %q: %w", cfg.Node.Name, err)
	}
	n.conditions = monitor.NewConditions()
	n.metrics = monitor.NewMetrics(n.sources(), n.version)
	n.resources = local.NewResources(cfg.CacheBytes)
	n.resources.OnSync, n.resources.OnAck, n.resources.OnClosure = n.metrics.FsyncTook, n.metrics.AckWaited, n.metrics.ClosureTook
	n.passwords = local.NewPasswords(max(1, runtime.NumCPU()))
	n.spool = &storage.SpoolDir{FS: n.fs, Dir: filepath.Join(cfg.Node.Data, "spool")}
	n.evidence = failover.NewEvidence(cfg.Node.Name, n.clock.Mono())
	n.lastTick.Store(int64(n.clock.Mono()))
	n.ledAt.Store(int64(n.clock.Mono()))
	n.jobs = job.New(job.Options{Clock: n.clock, Logger: n.log.With("part", "jobs"), RunningMax: map[string]int{job.Reindex: cfg.ReindexWorkers, job.Resync: fillsMax}})
	n.volumes = newVolumes(n.fs, cfg)
	for _, dir := range n.volumes.folders() { // before a copy asks for one below it
		n.resources.Disks.At(n.fs, dir, n.clock.Mono)
	}
	n.spool.Space = n.resources.Disks.At(n.fs, n.spool.Dir, n.clock.Mono)
	n.copies, n.currency = newCopies(n), newCurrency(n.clock.Mono, n.Fresh)
	n.asides = newAsides(n)
	if err := n.past.load(cfg.Node.Data); err != nil {
		return fmt.Errorf("open node %q: %w", cfg.Node.Name, err)
	}
	n.happenings = newHappenings(n)
	o := peer.Options{Log: n.log, Admit: n.admit, OnGone: n.isGone, TellBehind: n.tellBehind, HigherGeneration: n.hearGeneration}
	if n.port, err = peer.Listen(cfg.Node.Peer, id, o); err != nil {
		return err
	}
	n.dialer = peer.NewDialer(id, o)
	n.peers = newPeers(n)
	return n.openRaft()
}

// openRaft starts Raft. When its files can't be used it is halted from the start:
// the node goes on with what it knew, like one without a quorum.
func (n *Node) openRaft() error {
	defer close(n.raftOpened)
	r, err := raftfsm.Open(raftfsm.Config{
		Dir: filepath.Join(n.cfg.Node.Data, "raft"), Memory: raftfsm.Memory{Dir: filepath.Join(n.cfg.Node.Data, "remembered"), Ran: n.raftRan()},
		Name: n.cfg.Node.Name, ServerID: n.first.ServerID, Addr: n.cfg.Node.PeerAdvertise,
		Transport: raftLayer{n}, Logger: n.log.With("part", "raft"), OnCondition: n.onRaftCondition, Features: n.features,
		GiveUpBallast: n.resources.Disks.At(n.fs, n.cfg.Node.Data, n.clock.Mono).GiveUpBallast,
	})
	if err != nil {
		return err
	}
	n.raft = r
	if id := r.ServerID(); r.Err() == nil && id != "" { // else it waits for room, and is noted at the next start
		n.logErr("remember raft's server", disk.ReplaceFile(n.raftMarker(), []byte(id+"\n")))
	}
	return nil
}

func (n *Node) raftMarker() string { return filepath.Join(n.cfg.Node.Data, "raft-server") }

// raftRan reports whether this node took part in Raft before: the first node must
// not found its cluster a second time, beside the one that there is.
func (n *Node) raftRan() bool {
	_, err := os.Stat(n.raftMarker())
	return !errors.Is(err, os.ErrNotExist)
}

func (n *Node) onRaftCondition(name string, err error) {
	if err != nil {
		n.log.Error("raft", "condition", name, "err", err)
	}
	n.setCondition(monitor.Name(name), "", err)
}

// setCondition sets a condition while err is not nil, and clears it otherwise.
func (n *Node) setCondition(name monitor.Name, about string, err error) {
	if err == nil {
		n.conditions.Clear(name, about)
		return
	}
	n.conditions.Set(name, about, err.Error())
}

// raftLayer gives Raft its share of the peer port.
type raftLayer struct{ n *Node }

func (l raftLayer) Accept() (net.Conn, error) { return l.n.port.Listener(peer.ProtoRaft).Accept() }
func (l raftLayer) Close() error              { return l.n.port.Listener(peer.ProtoRaft).Close() }

func (l raftLayer) Addr() net.Addr { return l.n.port.Addr() }

func (l raftLayer) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	if err := l.n.membership(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := l.n.dialer.Dial(ctx, peer.ProtoRaft, "", addr)
	if err != nil {
		return nil, err
	}
	if l.n.taken(addr, c.Key()) {
		c.Close()
		return nil, fmt.Errorf("dial raft server at %q: another machine than this node knows answers there", addr)
	}
	return c, nil
}

// stop ends everything in order; each step is bounded. What does not end in time
// is left behind, and what can be is closed and marked clean all the same.
func (n *Node) stop(stopWork context.CancelFunc) {
	n.stopping.Store(true)
	n.happenings.noteStop("is stopping")
	n.sayStopping()
	whole := n.step("serve clients", drainTimeout+cutWithin, n.stopFronts)
	n.sayStopped()
	n.happenings.noteStop("has stopped")
	stopWork()
	whole = n.step("run jobs", settleWithin, n.jobs.Close) && whole
	if n.grpc != nil {
		whole = n.step("serve peers", closePeers, n.grpc.Stop) && whole
	}
	whole = n.step("work", settleWithin, n.wg.Wait) && whole
	whole = n.copies.close() && whole
	n.peers.close()
	ctx, cancel := context.WithTimeout(context.Background(), closePeers)
	n.logErr("stop raft", n.raft.Shutdown(ctx))
	cancel()
	n.step("listen to peers", leaveWithin, func() { n.logErr("close peer port", n.port.Close()) })
	if whole {
		n.resources.Close()
	}
	n.log.Info("node stopped", "whole", whole)
}

// step reports whether a part of the node has ended in time.
func (n *Node) step(what string, d time.Duration, end func()) bool {
	ended := within(d, end)
	if !ended {
		n.log.Warn("a part of this node does not stop, and is left behind", "what", what, "after", d)
	}
	return ended
}

// stopFronts lets clients end what they are in the middle of, and cuts them off
// after drainTimeout.
func (n *Node) stopFronts() {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	n.port.Listener(peer.ProtoClient).Close()
	var fronts sync.WaitGroup
	if n.lmtp != nil {
		fronts.Go(func() { n.logErr("stop lmtp", n.lmtp.Shutdown(ctx)) })
	}
	if n.imap != nil {
		fronts.Go(func() { n.logErr("stop imap", n.imap.Shutdown(ctx)) })
	}
	fronts.Wait()
}

func (n *Node) logErr(what string, err error) {
	if err != nil && !errors.Is(err, net.ErrClosed) {
		n.log.Warn(what, "err", err)
	}
}

func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
