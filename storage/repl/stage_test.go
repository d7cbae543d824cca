package repl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"mailnode/failover"
	"mailnode/failover/sim"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/local"
	"mailnode/storage/repl/ack"
	"mailnode/storage/slot"
)

const (
	stageSlot   = slot.ID(0)
	stageLeader = slot.NodeName("n4") // leads Raft, and has no copy
)

// stage plays the words of sim.Story on real stores with real feeds and followers,
// in a bubble of testing/synctest: time passes when nothing else can happen. The
// part of a node is played as node plays it.
type stage struct {
	t       *testing.T
	log     *slog.Logger
	names   []slot.NodeName // n1 to n3
	nodes   map[slot.NodeName]*realNode
	account storage.Account

	mu     sync.Mutex // guards all below, and the nodes' up and applied
	cut    map[[2]slot.NodeName]bool
	states []*cluster.State // Raft's, after each command
	acked  map[uint64]bool
}

// realNode is one node with a copy.
type realNode struct {
	st      *stage
	name    slot.NodeName
	fs      *vfs.MemFS
	saved   *vfs.MemFS
	disk    *valve // closed: nothing is synced
	intake  *valve // closed: nothing is taken in from a master
	effort  atomic.Uint64
	o       local.Options
	spool   *storage.SpoolDir
	copy    *local.Slot
	up      bool
	applied int // of the states
	server  *grpc.Server
	lis     *bufconn.Listener
	conns   map[slot.NodeName]*grpc.ClientConn
	links   []link
	life    context.Context // until it goes down
	dies    context.CancelFunc

	role     failover.Role
	epoch    slot.Epoch
	feed     *Feed
	master   *local.Master
	follower *Follower
	leave    func()
	fenced   atomic.Bool
	asked    time.Duration
	askedIn  slot.Epoch
	lostTo   slot.NodeName
}

// link is one connection that a node has made.
type link struct {
	to   slot.NodeName
	conn net.Conn
}

func newStage(t *testing.T, log *slog.Logger) *stage {
	st := &stage{t: t, log: log, names: []slot.NodeName{"n1", "n2", "n3"}, nodes: map[slot.NodeName]*realNode{}, cut: map[[2]slot.NodeName]bool{},
		states: []*cluster.State{cluster.New()}, acked: map[uint64]bool{}}
	for i, name := range append(st.names, stageLeader) {
		m := cluster.Member{Name: name, ServerID: string(name) + "-1", Addr: "127.0.0.1:24", Role: cluster.Voter}
		if i == 0 {
			st.must(cluster.Init{ClusterID: "stage", SlotCount: 1, DefaultReplicas: 2, First: m})
		} else {
			st.must(cluster.AddMember{Member: m})
		}
	}
	st.must(cluster.AssignSlot{Slot: stageSlot, Master: "n1", Replicas: []slot.NodeName{"n2", "n3"}})
	for _, name := range st.names {
		n := &realNode{st: st, name: name, fs: vfs.NewCrashableMem(), disk: &valve{}, intake: &valve{}, spool: &storage.SpoolDir{FS: vfs.NewMem(), Dir: "/"},
			applied: len(st.states) - 1}
		n.o = local.Options{Dir: "/slots/s000", Cluster: "stage", Slot: stageSlot, Logger: log.With("node", name), Clock: storage.SystemClock(),
			Resources: local.NewResources(1 << 20), Passwords: local.NewPasswords(1), Limits: local.Limits{HangAfter: time.Hour}}
		st.nodes[name] = n
		n.start()
	}
	n1 := st.nodes["n1"]
	n1.converge()
	var err error
	if st.account, err = n1.master.CreateAccount(n1.life, "u1@example.test", "pw", 0); err != nil {
		t.Fatal(err)
	}
	st.rest(30)
	return st
}

func (st *stage) must(c cluster.Command) {
	if _, err := st.commit(c); err != nil {
		st.t.Fatalf("%+v: %v", c, err)
	}
}

// commit applies a command, and returns the index of the state after it.
func (st *stage) commit(c cluster.Command) (int, error) {
	next := st.states[len(st.states)-1].Clone()
	if _, err := next.Apply(uint64(len(st.states)), c); err != nil {
		return 0, err
	}
	st.states = append(st.states, next)
	return len(st.states) - 1, nil
}

func (st *stage) record() cluster.Slot {
	st.mu.Lock()
	defer st.mu.Unlock()
	sl, _ := st.states[len(st.states)-1].Slot(stageSlot)
	return sl
}

func (st *stage) acknowledged(id uint64) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.acked[id]
}

// quorum reports whether Raft's leader has one. The caller holds mu.
func (st *stage) quorum() bool {
	count := 1
	for _, n := range st.nodes {
		if n.up && !st.cut[[2]slot.NodeName{n.name, stageLeader}] {
			count++
		}
	}
	return count > 2
}

// reaches reports whether a node can ask Raft's leader. The caller holds mu.
func (n *realNode) reaches() bool {
	return n.up && !n.st.cut[[2]slot.NodeName{n.name, stageLeader}] && n.st.quorum()
}

func (st *stage) linked(a, b *realNode) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return a.up && b.up && !st.cut[[2]slot.NodeName{a.name, b.name}]
}

// play plays a word, but for deliver.
func (st *stage) play(x sim.Word) {
	n := st.nodes[x.Node]
	switch x.Verb {
	case sim.VerbHold:
		n.disk.close()
	case sim.VerbSync:
		n.disk.open()
	case sim.VerbStall:
		n.intake.close()
	case sim.VerbFlow:
		n.intake.open()
	case sim.VerbCut, sim.VerbMend:
		st.link(x.Node, x.Other, x.Verb == sim.VerbCut)
	case sim.VerbIsolate, sim.VerbJoin:
		for _, o := range append(st.names, stageLeader) {
			if o != x.Node && (x.Verb == sim.VerbIsolate || !st.isolated(o)) {
				st.link(x.Node, o, x.Verb == sim.VerbIsolate)
			}
		}
	case sim.VerbCrash:
		n.crash()
	case sim.VerbStop:
		n.endRole()
		n.down()
	case sim.VerbStart:
		n.start()
	case sim.VerbSave:
		n.saved = n.image(n.fs)
	case sim.VerbRestore:
		n.crash()
		n.fs = n.image(n.saved)
		n.start()
	case sim.VerbPromise:
		n.promise(st.record().Epoch + 1)
	case sim.VerbPromote:
		st.promote(n)
	case sim.VerbLearn:
		n.fresh()
	case sim.VerbTrim:
		h, err := n.copy.Head()
		if err == nil {
			err = n.copy.TrimJournal(n.life, h.Position)
		}
		if err != nil {
			st.t.Fatal(err)
		}
	case sim.VerbRefill:
		n.follower.Refetch("it is told to")
	}
}

// image is what a crash would leave now.
func (n *realNode) image(fs *vfs.MemFS) *vfs.MemFS {
	synctest.Wait()
	return fs.CrashClone(vfs.CrashCloneCfg{})
}

func (st *stage) isolated(n slot.NodeName) bool { return st.cut[[2]slot.NodeName{n, stageLeader}] }

func (st *stage) link(a, b slot.NodeName, cut bool) {
	st.mu.Lock()
	st.cut[[2]slot.NodeName{a, b}], st.cut[[2]slot.NodeName{b, a}] = cut, cut
	st.mu.Unlock()
	if cut && a != stageLeader && b != stageLeader {
		st.nodes[a].drop(b)
		st.nodes[b].drop(a)
	}
}

// drop breaks a node's connections to another.
func (n *realNode) drop(to slot.NodeName) {
	n.st.mu.Lock()
	var gone []link
	n.links = slices.DeleteFunc(n.links, func(l link) bool {
		if l.to != to {
			return false
		}
		gone = append(gone, l)
		return true
	})
	n.st.mu.Unlock()
	for _, l := range gone {
		l.conn.Close()
	}
	if n.follower != nil && n.follower.o.Master == to {
		n.intake.end()
	}
}

func (st *stage) promote(n *realNode) {
	st.mu.Lock()
	if st.quorum() {
		for _, c := range sim.Promotion(st.states[len(st.states)-1], n.name) {
			if _, err := st.commit(c); err != nil {
				break
			}
		}
	}
	st.mu.Unlock()
	n.fresh()
}

// rest lets time pass as sim.Story does.
func (st *stage) rest(seconds int) {
	if seconds == 0 {
		time.Sleep(sim.Moment)
	}
	for range seconds {
		for _, name := range st.names {
			st.nodes[name].converge()
		}
		time.Sleep(time.Second)
	}
}

// deliver begins a delivery, and returns the GUID of what was to be delivered.
func (st *stage) deliver(to slot.NodeName, id uint64) slot.GUID {
	n := st.nodes[to]
	body := n.spool.New()
	fmt.Fprintf(body, "Subject: %d for %s\r\n\r\n", id, to)
	if id == 0 {
		fmt.Fprintf(body, "at %s\r\n", storage.SystemClock().Mono())
	}
	guid := body.GUID()
	if n.master == nil {
		body.Close()
		return guid
	}
	m, ctx := n.master, n.life
	go func() {
		err := m.Deliver(ctx, storage.Delivery{Body: body, Recipients: []storage.Recipient{{Account: st.account.ID}}})[0]
		st.mu.Lock()
		defer st.mu.Unlock()
		st.acked[id] = st.acked[id] || err == nil
	}()
	synctest.Wait() // the next one comes after it
	return guid
}

// end brings everything down, and says what the checker found.
func (st *stage) end() (why string) {
	for _, name := range st.names {
		n := st.nodes[name]
		if !n.up {
			n.start()
		}
		n.disk.open()
		n.intake.open()
	}
	synctest.Wait()
	for _, name := range st.names {
		n := st.nodes[name]
		n.endRole()
		if err := checkStore(n.copy); err != nil && why == "" {
			why = fmt.Sprintf("check %s: %v", name, err)
		}
		n.down()
		n.o.Resources.Close()
	}
	synctest.Wait()
	return why
}

// start opens the copy and the port.
func (n *realNode) start() {
	n.o.FS = errorfs.Wrap(n.fs, n.disk)
	var err error
	if n.copy, err = local.Open(n.o); err != nil {
		n.st.t.Fatalf("%s: %v", n.name, err)
	}
	n.life, n.dies = context.WithCancel(context.Background())
	lis, server := bufconn.Listen(1<<20), grpc.NewServer()
	RegisterReplicationServer(server, &Server{Copies: n})
	go server.Serve(lis)
	n.conns = map[slot.NodeName]*grpc.ClientConn{}
	for _, to := range n.st.names {
		if n.conns[to], err = grpc.NewClient("passthrough:///stage", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 2, MaxDelay: time.Second}}),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return n.dial(ctx, n.st.nodes[to]) })); err != nil {
			n.st.t.Fatal(err)
		}
	}
	n.st.mu.Lock()
	defer n.st.mu.Unlock()
	n.lis, n.server, n.up, n.lostTo = lis, server, true, ""
}

func (n *realNode) dial(ctx context.Context, to *realNode) (net.Conn, error) {
	n.st.mu.Lock()
	up, cut, lis := to.up, n.st.cut[[2]slot.NodeName{n.name, to.name}], to.lis
	n.st.mu.Unlock()
	if !up || cut {
		return nil, fmt.Errorf("%s does not answer", to.name)
	}
	c, err := lis.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	n.st.mu.Lock()
	defer n.st.mu.Unlock()
	n.links = append(n.links, link{to.name, c})
	return c, nil
}

// crash leaves on disk what was synced.
func (n *realNode) crash() {
	after := n.image(n.fs)
	n.down()
	n.fs = after
}

// down ends everything that runs. Nobody hears of it before the connections are
// gone.
func (n *realNode) down() {
	n.st.mu.Lock()
	n.up = false
	n.st.mu.Unlock()
	n.dies()
	n.server.Stop()
	n.lis.Close()
	for _, c := range n.conns {
		c.Close()
	}
	for _, o := range n.st.nodes {
		o.drop(n.name)
		n.drop(o.name)
	}
	synctest.Wait()
	n.disk.open()
	n.endRole()
	n.copy.Close()
}

// Copy implements Copies.
func (n *realNode) Copy(slot.ID) (Copy, bool) { return n.copy, true }

// Feed implements Copies.
func (n *realNode) Feed(slot.ID) *Feed {
	n.st.mu.Lock()
	defer n.st.mu.Unlock()
	return n.feed
}

// PeerName implements Copies.
func (n *realNode) PeerName(context.Context) (slot.NodeName, bool) { return "", false }

// Record implements Recorder, as node does.
func (n *realNode) Record(_ context.Context, s slot.ID, e slot.Epoch, r ack.Record) (ack.Outcome, error) {
	n.st.mu.Lock()
	defer n.st.mu.Unlock()
	if !n.reaches() {
		return ack.NotSent, errors.New("no leader")
	}
	var c cluster.Command = cluster.SetUnprotected{Slot: s, Epoch: e, Version: r.Version, Since: r.Since}
	if r.Protected {
		c = cluster.SetProtected{Slot: s, Epoch: e, Version: r.Version, InSync: r.InSync}
	}
	at, err := n.st.commit(c)
	var stale cluster.ErrStale
	switch {
	case err == nil:
		n.applied = max(n.applied, at)
		return ack.Done, nil
	case errors.As(err, &stale):
		return ack.Refused, fmt.Errorf("%w: %w", ErrEpochOver, err)
	}
	return ack.Refused, err
}

// Recorded implements Recorder.
func (n *realNode) Recorded(slot.ID) Recorded { return recordedOf(n.slot()) }

// Drop implements Recorder.
func (n *realNode) Drop(_ context.Context, s slot.ID, e slot.Epoch, d ack.Drop) error {
	n.st.mu.Lock()
	defer n.st.mu.Unlock()
	if !n.reaches() {
		return errors.New("no leader")
	}
	at, err := n.st.commit(cluster.EndDrop{Slot: s, Epoch: e, Version: d.Version, Node: d.Node})
	if err == nil {
		n.applied = max(n.applied, at)
	}
	return err
}

func recordedOf(sl cluster.Slot) Recorded {
	r := Recorded{Epoch: sl.Epoch, Listed: sl.Replicas, Record: ack.Record{Version: sl.Version, Protected: sl.Protected, InSync: sl.InSync, Since: sl.UnprotectedSince}}
	for _, l := range sl.MayLeave() {
		r.Leaving = append(r.Leaving, ack.Leaver(l))
	}
	return r
}

// slot is Raft's record, as the node has applied it.
func (n *realNode) slot() cluster.Slot {
	n.st.mu.Lock()
	defer n.st.mu.Unlock()
	sl, _ := n.st.states[n.applied].Slot(stageSlot)
	return sl
}

// fresh applies what Raft has; false: no leader can be asked.
func (n *realNode) fresh() bool {
	n.st.mu.Lock()
	defer n.st.mu.Unlock()
	if !n.reaches() {
		return false
	}
	n.applied = len(n.st.states) - 1
	return true
}

func (st *stage) endFenced() {
	for _, name := range st.names {
		if n := st.nodes[name]; n.fenced.Swap(false) {
			n.endRole()
		}
	}
}

func (n *realNode) endRole() {
	if n.leave != nil {
		n.leave()
	}
	n.fenced.Store(false)
	n.leave, n.role, n.epoch = nil, failover.RoleNone, 0
}

// converge takes the part that the node's Raft says.
func (n *realNode) converge() {
	if !n.up {
		return
	}
	if n.fenced.Load() {
		n.endRole()
	}
	sl := n.slot()
	want := failover.RoleNone
	switch {
	case sl.Master == n.name:
		want = failover.RoleMaster
	case sl.Holds(n.name):
		want = failover.RoleReplica
	}
	if n.role != want || n.epoch != sl.Epoch {
		n.endRole()
		n.role, n.epoch = want, sl.Epoch
	}
	switch {
	case want == failover.RoleMaster && n.feed == nil:
		n.lead(sl)
	case want == failover.RoleReplica && n.follower == nil:
		n.follow(sl)
	}
}

func (n *realNode) follow(sl cluster.Slot) {
	n.follower = NewFollower(FollowerOptions{Slot: throttled{n.copy, n.intake, &n.effort}, Node: n.name, Master: sl.Master, Epoch: sl.Epoch,
		Client: NewReplicationClient(n.conns[sl.Master]), Spool: n.spool, Clock: n.o.Clock, Logger: n.o.Logger})
	ctx, cancel := context.WithCancel(n.life)
	var wg sync.WaitGroup
	f := n.follower
	wg.Go(func() { f.Run(ctx) })
	n.leave = func() { cancel(); wg.Wait(); n.follower = nil }
}

// promise is what a question under an epoch does to a node.
func (n *realNode) promise(e slot.Epoch) {
	p, err := n.copy.Promised()
	if err == nil && p < e {
		err = n.copy.Promise(n.life, e)
	}
	if err != nil {
		n.st.t.Error(err)
	}
	if n.epoch < e && n.role != failover.RoleNone {
		n.endRole()
	}
}

// ask asks another node, under an epoch, what it holds.
func (n *realNode) ask(to *realNode, e slot.Epoch) (a failover.CopyAnswer, ok bool) {
	if !n.st.linked(n, to) {
		return a, false
	}
	to.promise(e)
	h, err := to.copy.Head()
	if err != nil || !to.slot().Holds(to.name) && h.Position == 0 {
		return a, false
	}
	a.CopyReport = failover.CopyReport{Role: to.role, Serving: to.feed != nil, Epoch: to.epoch, Position: h.Position, Lineage: h.Lineage.Last()}
	a.Building, a.Viable = h.Building, !h.Building && h.Position > 0
	return a, true
}

// lead begins to serve, if it may.
func (n *realNode) lead(sl cluster.Slot) {
	now := n.o.Clock.Mono()
	if n.askedIn != sl.Epoch {
		n.askedIn, n.asked = sl.Epoch, now
	}
	s := failover.Start{LostTo: n.lostTo, Waited: now - n.asked, Passed: map[slot.NodeName]slot.Position{}}
	for {
		if !n.fresh() {
			return
		}
		s.Slot = n.slot()
		if s.Slot.Master != n.name || s.Slot.Epoch != sl.Epoch {
			return
		}
		h, err := n.copy.Head()
		if err != nil {
			n.st.t.Error(err)
			return
		}
		s.Position, s.Lineage, s.Building, s.Answers = h.Position, h.Lineage.Last(), h.Building, map[slot.NodeName]failover.CopyAnswer{}
		for _, r := range s.Slot.Replicas {
			if a, ok := n.ask(n.st.nodes[r], s.Slot.Epoch); ok {
				s.Answers[r] = a
			}
		}
		d := failover.MayServe(s)
		switch d.Begin {
		case failover.BeginServe:
			n.begin(s.Slot, s.Lineage == s.Slot.Epoch)
			return
		case failover.BeginLost:
			n.lostTo = d.From
			return
		case failover.BeginWait:
			return
		}
		a := s.Answers[d.From]
		_, err = CatchUp(n.life, n.copy, NewReplicationClient(n.conns[d.From]), n.spool)
		if err != nil && !(errors.Is(err, storage.ErrDiverged) && a.Lineage != s.Lineage) {
			return
		}
		s.Passed[d.From] = a.Position
	}
}

// begin makes the node the master.
func (n *realNode) begin(sl cluster.Slot, again bool) {
	f, err := NewFeed(FeedOptions{Slot: n.copy, Epoch: sl.Epoch, WaitForReplica: true, Recorded: recordedOf(sl), Again: again,
		AckTimeout: 2 * time.Second, Recorder: n, Clock: n.o.Clock, Logger: n.o.Logger, OnFenced: func() { n.fenced.Store(true) }})
	if err != nil {
		n.st.t.Error(err)
		return
	}
	m, err := n.copy.Serve(n.life, sl.Epoch, sl.Unclean, f)
	if err != nil {
		n.st.t.Errorf("%s: %v", n.name, err)
		return
	}
	ctx, cancel := context.WithCancel(n.life)
	var wg sync.WaitGroup
	wg.Go(func() { f.Run(ctx) })
	n.serve(f, m)
	n.lostTo = ""
	n.leave = func() { m.Stop(); f.Close(); cancel(); wg.Wait(); n.serve(nil, nil) }
}

func (n *realNode) serve(f *Feed, m *local.Master) {
	n.st.mu.Lock()
	defer n.st.mu.Unlock()
	n.feed, n.master = f, m
}

// valve holds up whoever comes while it is closed.
type valve struct {
	mu   sync.Mutex
	shut chan struct{} // closed when it opens; nil: it is open
	gone chan struct{} // closed when what came from elsewhere has ended
}

func (v *valve) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.shut == nil {
		v.shut, v.gone = make(chan struct{}), make(chan struct{})
	}
}

func (v *valve) open() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.shut != nil {
		close(v.shut)
		v.shut = nil
	}
}

// end refuses those who wait.
func (v *valve) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.shut != nil {
		close(v.gone)
		v.gone = make(chan struct{})
	}
}

func (v *valve) pass(ctx context.Context) error {
	v.mu.Lock()
	shut, gone := v.shut, v.gone
	v.mu.Unlock()
	if shut == nil {
		return nil
	}
	select {
	case <-shut:
		return nil
	case <-gone:
		return storage.Errorf(storage.ErrUnavailable, "take in: %w", io.ErrUnexpectedEOF)
	case <-ctx.Done():
		return storage.Errorf(storage.ErrUnavailable, "take in: %w", ctx.Err())
	}
}

// MaybeError implements errorfs.Injector: it fails nothing, and delays the syncs of
// the index's log. Those of packs hold a lock, for which nobody can wait in a bubble.
func (v *valve) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		if strings.HasSuffix(op.Path, ".log") {
			return v.pass(context.Background())
		}
	}
	return nil
}

// String implements errorfs.Injector.
func (v *valve) String() string { return "(valve)" }

// throttled is a copy that takes in what comes when its valve is open.
type throttled struct {
	*local.Slot
	intake *valve
	effort *atomic.Uint64 // what it has worked while it took in nothing
}

// Worked implements Copy.
func (c throttled) Worked() uint64 { return c.Slot.Worked() + c.effort.Load() }

// ApplyEvents implements Copy.
func (c throttled) ApplyEvents(ctx context.Context, evs []*event.Event) (int, error) {
	if err := c.intake.pass(ctx); err != nil {
		return 0, err
	}
	return c.Slot.ApplyEvents(ctx, evs)
}

// ImportRecords implements Copy.
func (c throttled) ImportRecords(ctx context.Context, recs []event.Record) error {
	if err := c.intake.pass(ctx); err != nil {
		return err
	}
	return c.Slot.ImportRecords(ctx, recs)
}
