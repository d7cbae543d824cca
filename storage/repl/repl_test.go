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
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"mailnode/storage"
	"mailnode/storage/check"
	"mailnode/storage/event"
	"mailnode/storage/local"
	"mailnode/storage/repl/ack"
	"mailnode/storage/slot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// side is one node with a copy of slot s003.
type side struct {
	t     *testing.T
	name  slot.NodeName
	fs    *vfs.MemFS
	o     local.Options
	spool *storage.SpoolDir

	mu     sync.Mutex
	copy   *local.Slot // the test itself sets it, under mu; streams read it through Copy
	feed   *Feed
	master *local.Master
	stop   func()

	as     func(*local.Slot) Copy // what its server uses instead of copy, when not nil
	lis    *bufconn.Listener
	server *grpc.Server
	conn   *grpc.ClientConn
}

// record is Raft's record of the slot, as the state machine keeps it.
type record struct {
	mu     sync.Mutex
	log    []string
	now    Recorded
	refuse bool // no leader is there
	lose   bool // it is recorded, and the answer is lost
	gone   bool // another epoch has begun, and this node has not applied it
}

// protectedBy is a record as an earlier process left it.
func protectedBy(in ...slot.NodeName) *record {
	return &record{now: Recorded{Record: ack.Record{Version: 1, Protected: len(in) > 0, InSync: in}}}
}

// Record implements Recorder.
func (r *record) Record(_ context.Context, s slot.ID, e slot.Epoch, rec ack.Record) (ack.Outcome, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.gone:
		return ack.Refused, ErrEpochOver
	case r.refuse:
		return ack.NotSent, fmt.Errorf("no leader")
	case rec.Version != r.now.Record.Version:
		return ack.Refused, fmt.Errorf("the record is of version %d", r.now.Record.Version)
	}
	rec.Version++
	r.now.Record = rec
	if rec.Protected {
		r.log = append(r.log, fmt.Sprintf("%s protected by %v", s, rec.InSync))
	} else {
		r.log = append(r.log, fmt.Sprintf("%s unprotected", s))
	}
	if r.lose {
		return ack.Unknown, fmt.Errorf("no answer")
	}
	return ack.Done, nil
}

// Drop implements Recorder.
func (r *record) Drop(_ context.Context, s slot.ID, _ slot.Epoch, d ack.Drop) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d.Version != r.now.Record.Version {
		return fmt.Errorf("the record is of version %d", r.now.Record.Version)
	}
	gone := func(n slot.NodeName) bool { return n == d.Node }
	r.now.Record.Version++
	r.now.Listed = slices.DeleteFunc(slices.Clone(r.now.Listed), gone)
	r.now.Leaving = slices.DeleteFunc(slices.Clone(r.now.Leaving), func(l ack.Leaver) bool { return gone(l.Node) })
	r.log = append(r.log, fmt.Sprintf("%s dropped %s", s, d.Node))
	return nil
}

// Recorded implements Recorder.
func (r *record) Recorded(slot.ID) Recorded {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

// begin is what Raft has when a master begins to serve an epoch.
func (r *record) begin(e slot.Epoch) Recorded {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now.Epoch != e && r.now.Epoch != 0 {
		r.now.Record = ack.Record{Version: r.now.Record.Version + 1}
	}
	r.now.Epoch, r.now.Listed = e, []slot.NodeName{"n1", "n2", "n3"}
	return r.now
}

func (r *record) protected() bool { return r.Recorded(3).Record.Protected }

// Copy implements Copies.
func (s *side) Copy(slot.ID) (Copy, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.as != nil {
		return s.as(s.copy), true
	}
	return s.copy, true
}

// open opens the copy as it lies on the disk; the one before is closed.
func (s *side) open() {
	s.t.Helper()
	c, err := local.Open(s.o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.copy = c
}

// serveAs changes what the side's server uses instead of its copy.
func (s *side) serveAs(as func(*local.Slot) Copy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.as = as
}

func (s *side) Feed(slot.ID) *Feed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.feed
}

func (s *side) PeerName(context.Context) (slot.NodeName, bool) { return "", false }

func newSide(t *testing.T, name slot.NodeName) *side {
	t.Helper()
	r := local.NewResources(8 << 20)
	t.Cleanup(r.Close)
	s := &side{t: t, name: name, fs: vfs.NewCrashableMem(), spool: &storage.SpoolDir{FS: vfs.NewMem(), Dir: "/"}}
	s.o = local.Options{FS: s.fs, Dir: "/slots/s003", Cluster: "test", Slot: 3, Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		Clock: storage.SystemClock(), Resources: r, Passwords: local.NewPasswords(2)}
	s.open()
	s.lis = bufconn.Listen(1 << 20)
	s.server = grpc.NewServer()
	RegisterReplicationServer(s.server, &Server{Copies: s})
	go s.server.Serve(s.lis)
	var err error
	s.conn, err = grpc.NewClient("passthrough:///test", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return s.lis.Dial() }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.endRole()
		s.conn.Close()
		s.server.Stop()
		if err := s.copy.Snapshot(func(x local.Snapshot) error {
			found, err := check.Run(x, check.Options{Bodies: !s.copy.Building()})
			for _, f := range found {
				t.Errorf("check %s: %s", name, f)
			}
			return err
		}); err != nil {
			t.Errorf("check %s: %v", name, err)
		}
		s.copy.Close()
	})
	return s
}

func (s *side) endRole() {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
}

func (s *side) lead(e slot.Epoch, x slot.UncleanCount, rec *record, ackTimeout time.Duration) {
	s.t.Helper()
	s.endRole()
	h, err := s.copy.Head()
	if err != nil {
		s.t.Fatal(err)
	}
	c, _ := s.Copy(3)
	f, err := NewFeed(FeedOptions{Slot: c, Epoch: e, WaitForReplica: true, AckTimeout: ackTimeout, ProtectAfter: 50 * time.Millisecond,
		Recorded: rec.begin(e), Again: h.Lineage.Last() == e, Recorder: rec, Clock: s.o.Clock, Logger: s.o.Logger})
	if err != nil {
		s.t.Fatal(err)
	}
	m, err := s.copy.Serve(context.Background(), e, x, f)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	s.feed, s.master = f, m
	s.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f.Run(ctx) })
	s.stop = func() {
		m.Stop()
		f.Close()
		cancel()
		wg.Wait()
		s.mu.Lock()
		s.feed, s.master = nil, nil
		s.mu.Unlock()
	}
}

func (s *side) follow(master *side, e slot.Epoch) *Follower {
	return s.followWith(master, e, func(*Follower) {})
}

// followWith lets the test change the follower before it begins.
func (s *side) followWith(master *side, e slot.Epoch, change func(*Follower)) *Follower {
	s.endRole()
	f := NewFollower(FollowerOptions{Slot: s.copy, Node: s.name, Master: master.name, Epoch: e, Client: NewReplicationClient(master.conn),
		Spool: s.spool, Clock: s.o.Clock, Logger: s.o.Logger})
	change(f)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f.Run(ctx) })
	s.stop = func() { cancel(); wg.Wait() }
	return f
}

// damage writes a wrong record behind the store's back.
func (s *side) damage(key, value []byte) {
	s.t.Helper()
	s.copy.Close()
	db, err := pebble.Open("/slots/s003/index", &pebble.Options{FS: s.fs, FormatMajorVersion: pebble.FormatWALSyncChunks, Logger: quiet{}})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := db.Set(key, value, pebble.Sync); err != nil {
		s.t.Fatal(err)
	}
	if err := errors.Join(db.Flush(), db.Close()); err != nil { // no doubt about the log in use
		s.t.Fatal(err)
	}
	s.open()
}

type quiet struct{}

func (quiet) Infof(string, ...any)      {}
func (quiet) Errorf(string, ...any)     {}
func (quiet) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		<-tick.C
	}
}

func sameState(t *testing.T, a, b *side) {
	t.Helper()
	eventually(t, "both copies at one position", func() bool {
		ha, err1 := a.copy.Head()
		hb, err2 := b.copy.Head()
		return err1 == nil && err2 == nil && ha.Position == hb.Position && !hb.Building && slices.Equal(ha.Lineage, hb.Lineage)
	})
	_, da, err := a.copy.Digest()
	if err != nil {
		t.Fatal(err)
	}
	_, db, err := b.copy.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if da != db {
		t.Fatalf("digests differ at the same position: %s and %s (law 8)", da, db)
	}
}

func text(i, size int) string {
	return fmt.Sprintf("Subject: %d\r\n\r\n%s\r\n", i, strings.Repeat("x", size))
}

func (s *side) deliver(a storage.Account, body string) error {
	sp := s.spool.New()
	io.WriteString(sp, body)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return s.master.Deliver(ctx, storage.Delivery{Body: sp, Recipients: []storage.Recipient{{Account: a.ID}}})[0]
}

func (s *side) account(addr slot.Address) storage.Account {
	s.t.Helper()
	a, err := s.master.CreateAccount(context.Background(), addr, "pw", 0)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func (s *side) bodies(a storage.Account) map[string]int {
	s.t.Helper()
	ctx := context.Background()
	box, err := s.master.Mailbox(ctx, a.ID, "INBOX")
	if err != nil {
		s.t.Fatal(err)
	}
	ref := storage.Ref{Account: a.ID, Mailbox: box.ID}
	out := map[string]int{}
	if err := s.master.Scan(ctx, ref, 1, ^storage.UID(0), func(m storage.Message) error {
		r, err := s.master.OpenBody(ctx, ref, m.UID)
		if err != nil {
			return err
		}
		b := make([]byte, r.Size())
		if _, err := r.ReadAt(b, 0); err != nil && err != io.EOF {
			return err
		}
		out[string(b)]++
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
	return out
}

// While protected, an acknowledged delivery is applied on the replica at the
// moment of the acknowledgement; when the replica has gone, the slot is recorded
// as unprotected before anything else is acknowledged.
func TestLaw01AcknowledgedIsOnTheReplica(t *testing.T) {
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	rec := &record{}
	n1.lead(1, 0, rec, 2*time.Second) // long enough for a slow machine never to go alone
	a := n1.account("u1@example.test")
	n2.follow(n1, 1)
	eventually(t, "protected", func() bool { waits, _ := n1.feed.State(); return rec.protected() && waits })
	for i := range 30 {
		if err := n1.deliver(a, text(i, 10000*i)); err != nil {
			t.Fatal(err)
		}
		h1, _ := n1.copy.Head()
		h2, err := n2.copy.Head()
		if err != nil || h2.Position < h1.Position {
			t.Fatalf("acknowledged at %s, the replica has %s (%v); recorded: %v", h1.Position, h2.Position, err, rec.log)
		}
	}
	sameState(t, n1, n2)
	n2.endRole()
	if err := n1.deliver(a, text(31, 10)); err != nil {
		t.Fatal(err)
	}
	if rec.protected() {
		t.Fatalf("acknowledged alone without a record: %v", rec.log)
	}
	n2.follow(n1, 1)
	eventually(t, "protected again", func() bool { return rec.protected() })
	sameState(t, n1, n2)
}

// Without a quorum the master goes on alone all the same.
func TestLaw01GoesOnWithoutQuorum(t *testing.T) {
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	rec := &record{}
	n1.lead(1, 0, rec, 200*time.Millisecond)
	a := n1.account("u1@example.test")
	n2.follow(n1, 1)
	eventually(t, "protected", func() bool { return waitsNow(n1) })
	rec.mu.Lock()
	rec.refuse = true
	rec.mu.Unlock()
	n2.endRole()
	if err := n1.deliver(a, text(1, 10)); err != nil {
		t.Fatal(err)
	}
	rec.mu.Lock()
	rec.refuse = false
	rec.mu.Unlock()
	eventually(t, "the record is made up for", func() bool { return !rec.protected() })
}

// A new replica, and one that is further behind than the journal, gets the state
// and every body.
func TestTransferOfAWholeState(t *testing.T) {
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	n1.lead(1, 0, &record{}, time.Second)
	a := n1.account("u1@example.test")
	for i := range 300 {
		if err := n1.deliver(a, text(i, 100)); err != nil {
			t.Fatal(err)
		}
	}
	h, _ := n1.copy.Head()
	if err := n1.copy.TrimJournal(context.Background(), h.Position); err != nil {
		t.Fatal(err)
	}
	if err := n1.deliver(a, text(300, 3<<20)); err != nil {
		t.Fatal(err)
	}
	n2.follow(n1, 1)
	sameState(t, n1, n2)
	want := n1.bodies(a)
	n1.endRole()
	n2.lead(2, 1, &record{}, time.Second)
	if got := n2.bodies(a); len(got) != 301 || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("the replica has %d messages, the master had %d", len(got), len(want))
	}
}

// An old master that comes back with events that nobody else has sets its state
// aside and becomes an ordinary replica; no UID names two messages.
func TestLaw02Law07DivergedCopyIsSetAside(t *testing.T) {
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	n1.lead(1, 0, &record{}, 100*time.Millisecond)
	a := n1.account("u1@example.test")
	n2.follow(n1, 1)
	if err := n1.deliver(a, text(1, 10)); err != nil {
		t.Fatal(err)
	}
	sameState(t, n1, n2)
	n2.endRole()
	if err := n1.deliver(a, text(2, 10)); err != nil { // only n1 has it
		t.Fatal(err)
	}
	n1.endRole()
	n2.lead(2, 1, &record{}, time.Second)
	box, err := n2.master.Mailbox(context.Background(), a.ID, "INBOX")
	if err != nil || box.UIDNext != 1+1<<22 {
		t.Fatalf("UIDNEXT of the unclean epoch is %d (%v): UID 2 was given out already", box.UIDNext, err)
	}
	if err := n2.deliver(a, text(3, 10)); err != nil {
		t.Fatal(err)
	}
	n1.follow(n2, 2)
	sameState(t, n2, n1)
	names, err := n1.copy.Quarantined()
	if err != nil || len(names) != 1 {
		t.Fatalf("quarantine holds %v, %v", names, err)
	}
	if name := names[0]; !strings.HasPrefix(name, "diverged-1-") {
		t.Fatalf("set aside as %q", name)
	}
}

// An event that cannot be applied is set aside; the copy is filled again and the
// stream goes on.
func TestLaw05PoisonEventDoesNotStopReplication(t *testing.T) {
	t.Parallel()
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	n1.lead(1, 0, &record{}, 100*time.Millisecond)
	a := n1.account("u1@example.test")
	n2.follow(n1, 1)
	sameState(t, n1, n2)
	n2.endRole()
	// Damage what the replica derived: the next event's digests will not fit.
	box, err := n1.master.Mailbox(context.Background(), a.ID, "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	n2.damage(event.StatsKey(storage.Ref{Account: a.ID, Mailbox: box.ID}), event.Marshal(&event.MailboxStats{Digest: event.Digest{Hi: 1}.Bytes()}))
	f := n2.follow(n1, 1)
	quarantinedAndOn(t, n1, n2, a, f)
}

// quarantinedAndOn wants the replica to set the next event aside, to have the
// master's state all the same, and to follow on.
func quarantinedAndOn(t *testing.T, n1, n2 *side, a storage.Account, f *Follower) {
	t.Helper()
	if err := n1.deliver(a, text(1, 10)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the event is in quarantine", func() bool {
		names, _ := n2.copy.Quarantined()
		return len(names) == 1 && strings.HasPrefix(names[0], "event-1-")
	})
	sameState(t, n1, n2)
	if err := n1.deliver(a, text(2, 10)); err != nil {
		t.Fatal(err)
	}
	sameState(t, n1, n2)
	eventually(t, "viable again", func() bool { return f.State().Viable })
}

// A replica that knows a higher epoch stops the master at once.
func TestLaw04HigherEpochFencesTheMaster(t *testing.T) {
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	n1.lead(1, 0, &record{}, time.Second)
	a := n1.account("u1@example.test")
	n2.follow(n1, 2)
	eventually(t, "fenced", func() bool { return n1.deliver(a, "x\r\n") != nil })
}

// reopen closes the copy and opens it as it lies on fs.
func (s *side) reopen(fs *vfs.MemFS) {
	s.t.Helper()
	if err := s.copy.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.fs, s.o.FS = fs, fs
	s.open()
}

func journalKeyAfter(p slot.Position) []byte { return event.JournalKey(p + 1) }

func (s *side) get(key []byte) (value []byte, found bool, err error) {
	err = s.copy.Snapshot(func(x local.Snapshot) error {
		value, found, err = x.Get(key)
		return err
	})
	return value, found, err
}

// waitsNow reports whether a change that is made now waits for a replica.
func waitsNow(s *side) bool { waits, _ := s.feed.State(); return waits }

// list has Raft list other replicas.
func (r *record) list(listed []slot.NodeName, leaving ...ack.Leaver) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.Record.Version++
	r.now.Listed, r.now.Leaving = listed, leaving
}
