package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/disk"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// valve holds syncs of files whose name has a suffix, while it is closed, and counts the
// other syncs of its file system.
type valve struct {
	mu     sync.Mutex
	suffix string
	shut   chan struct{} // nil: open
	err    error         // what the held syncs return when they are let go
	held   chan struct{} // gets a value for each sync that is held
	syncs  map[string]int
}

func newValve() *valve { return &valve{held: make(chan struct{}, 1000), syncs: map[string]int{}} }

func (v *valve) String() string { return "valve" }

// close holds syncs from now on, at the longest until the test ends.
func (v *valve) close(t *testing.T, suffix string) {
	t.Cleanup(func() { v.open(nil) })
	v.mu.Lock()
	defer v.mu.Unlock()
	v.suffix, v.shut, v.err = suffix, make(chan struct{}), nil
}

func (v *valve) open(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.shut != nil && v.err == nil {
		v.err = err
		close(v.shut)
	}
	if v.err == nil {
		v.shut = nil
	}
}

func (v *valve) count(suffix string) (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for path, k := range v.syncs {
		if strings.HasSuffix(path, suffix) {
			n += k
		}
	}
	return n
}

// MaybeError implements errorfs.Injector.
func (v *valve) MaybeError(op errorfs.Op) error {
	if op.Kind != errorfs.OpFileSyncData {
		return nil
	}
	path := strings.TrimSuffix(op.Path, ".new")
	v.mu.Lock()
	v.syncs[path]++
	shut := v.shut
	if shut == nil || !strings.HasSuffix(path, v.suffix) {
		v.mu.Unlock()
		return nil
	}
	v.mu.Unlock()
	v.held <- struct{}{}
	<-shut
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err
}

// started runs fn beside the test and returns a channel of its result.
func started(fn func() error) <-chan error {
	c := make(chan error, 1)
	go func() { c <- fn() }()
	return c
}

func deliverTo(m *Master, a storage.Account, text string) func() error {
	return func() error {
		return m.Deliver(context.Background(), storage.Delivery{Body: spooled(text), Recipients: []storage.Recipient{{Account: a.ID}}})[0]
	}
}

// eventually waits for what another goroutine is about to do.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	within(t, what, func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for !is() {
			<-tick.C
		}
	})
}

func unanswered(t *testing.T, what string, c <-chan error) {
	t.Helper()
	if len(c) > 0 {
		t.Errorf("%s was answered before it was durable", what)
	}
}

// While one group's log is being synced the next is built and its packs are
// synced. Readers, watchers and replicas see neither.
func TestLaw01NothingInFlightIsShown(t *testing.T) {
	v := newValve()
	fs := newFS(t)
	o := options(t, injected(fs, v))
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	deliver(t, m, mail(0), a)
	before, err := s.Head()
	if err != nil {
		t.Fatal(err)
	}
	ref := storage.Ref{Account: a.ID, Mailbox: inboxID(t, m, a)}
	changed, stop := m.Watch(ref)
	defer stop()
	moved := s.HeadMoved()
	v.close(t, ".log")
	first := started(deliverTo(m, a, mail(1)))
	<-v.held
	packs := v.count(".pack")
	second := started(deliverTo(m, a, mail(2)))
	eventually(t, "the second group", func() bool { _, found, _ := s.get(event.MessageKey(ref, 3)); return found })
	if v.count(".pack") == packs {
		t.Error("the second group went to the index before its packs were synced")
	}
	box, got := inbox(t, m, a)
	if now, err := s.Head(); err != nil || len(got) != 1 || box.UIDNext != 2 || now.Position != before.Position {
		t.Errorf("readers see %d messages, UIDNEXT %d, head %s (%v)", len(got), box.UIDNext, now.Position, err)
	}
	unanswered(t, "a delivery", first)
	unanswered(t, "the next one", second)
	select {
	case <-changed:
		t.Error("a watcher was told of a message in flight")
	case <-moved:
		t.Error("the replicas were told of an event in flight")
	default:
	}
	checkClone(t, o, fs.CrashClone(vfs.CrashCloneCfg{}), a, got)
	v.open(nil)
	if err := errors.Join(<-first, <-second); err != nil {
		t.Error(err)
	}
	if _, got := inbox(t, m, a); len(got) != 3 {
		t.Errorf("%d messages in the end", len(got))
	}
}

// A refusal because of something that is in flight, and the answer of a change that
// found nothing to do, wait for it too: they tell of it.
func TestLaw01RefusalWaitsForWhatItReports(t *testing.T) {
	ctx := context.Background()
	for what, want := range map[string]error{"a refusal": storage.ErrExists, "a change of nothing": nil} {
		t.Run(what, func(t *testing.T) {
			v := newValve()
			s := openSlot(t, options(t, injected(newFS(t), v)))
			m := serve(t, s, 1, 0)
			a := account(t, m, "u1@example.test")
			create := func() error { _, err := m.CreateMailbox(ctx, a.ID, "new", ""); return err }
			v.close(t, ".log")
			first := started(create)
			<-v.held
			next := create
			if want == nil {
				next = func() error { return s.do(ctx, func(*txn) error { return nil }) }
			}
			second := started(next)
			eventually(t, "the second group", func() bool { return len(s.com.line.flights) == 1 || len(second) == 1 })
			unanswered(t, "what is in flight", first)
			unanswered(t, what, second)
			v.open(nil)
			if err := <-first; err != nil {
				t.Error(err)
			}
			if err := <-second; !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		})
	}
}

func inboxID(t *testing.T, m *Master, a storage.Account) storage.MailboxID {
	t.Helper()
	box, err := m.Mailbox(context.Background(), a.ID, "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	return box.ID
}

// A sync that fails, of the log or of the packs, fails every change under way;
// nothing hangs, and what was acknowledged before is there after a restart.
func TestLaw01FailedSyncFailsAllInFlight(t *testing.T) {
	for _, failing := range []string{".log", ".pack"} {
		t.Run(failing, func(t *testing.T) {
			v := newValve()
			fs := newFS(t)
			o := options(t, injected(fs, v))
			s := openSlot(t, o)
			m := serve(t, s, 1, 0)
			a := account(t, m, "u1@example.test")
			deliver(t, m, mail(0), a)
			_, before := inbox(t, m, a)
			v.close(t, failing)
			under := []<-chan error{started(deliverTo(m, a, mail(1)))}
			<-v.held
			for i := range 20 {
				under = append(under, started(deliverTo(m, a, mail(2+i))))
			}
			under = append(under, started(func() error { return m.Subscribe(context.Background(), a.ID, "x", true) }))
			v.open(syscall.EIO)
			within(t, "a change under way", func() {
				for _, c := range under {
					if err := <-c; err == nil {
						t.Error("acknowledged, and its sync failed")
					}
				}
			})
			if s.Failure() == nil {
				t.Error("a sync failed, and the store goes on")
			}
			within(t, "Close", func() { s.Close() })
			checkClone(t, o, fs.CrashClone(vfs.CrashCloneCfg{}), a, before)
		})
	}
}

// Close waits for what is in flight, and answers it; what comes later is refused.
func TestCloseDrainsThePipeline(t *testing.T) {
	v := newValve()
	o := options(t, injected(newFS(t), v))
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	v.close(t, ".log")
	under := started(deliverTo(m, a, mail(1)))
	<-v.held
	closed := started(s.Close)
	eventually(t, "Close", func() bool {
		select {
		case <-s.com.quit:
			return true
		default:
			return false
		}
	})
	unanswered(t, "a delivery", under)
	unanswered(t, "Close", closed)
	v.open(nil)
	within(t, "Close", func() {
		if err := errors.Join(<-under, <-closed); err != nil {
			t.Error(err)
		}
	})
	within(t, "a change after Close", func() {
		for range 200 {
			if err := s.do(context.Background(), func(*txn) error { return nil }); err == nil {
				t.Error("a closed copy took a change")
			}
		}
	})
	r := openSlot(t, o)
	if _, got := inbox(t, serve(t, r, 1, 0), a); len(got) != 1 {
		t.Errorf("%d messages after Close", len(got))
	}
}

// A body that was staged after its group's sync of the packs had begun is made
// durable before the index points to it all the same.
func TestLaw01BodyStagedLateIsSynced(t *testing.T) {
	v := newValve()
	fs := newFS(t)
	o := options(t, injected(fs, v))
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	deliver(t, m, mail(0), a)
	late := spooled(mail(1))
	ref := slot.BodyRef{GUID: late.GUID(), ID: 77}
	summary, err := summarize(late)
	if err != nil {
		t.Fatal(err)
	}
	base := &event.MessageRecord{InternalDateUnix: 1, Size: late.Size(), Guid: ref.GUID[:], BodyId: uint64(ref.ID), Summary: summary}
	early := spooled("early")
	if err := s.stage(slot.BodyRef{GUID: early.GUID(), ID: 1}, disk.Grow, &blob.BirthNote{}, early, early.Size()); err != nil {
		t.Fatal(err)
	}
	v.close(t, ".pack")
	if err := s.do(context.Background(), func(x *txn) error {
		<-v.held // the group's sync
		v.open(nil)
		if err := s.packs.Sync(); err != nil { // waits for it
			return err
		}
		if err := s.stage(ref, disk.Grow, &blob.BirthNote{}, late, late.Size()); err != nil {
			return err
		}
		changes, err := m.deliverOne(x, base, quotaCounts{}, a.ID)
		if err != nil {
			return err
		}
		return m.emit(x, changes...)
	}); err != nil {
		t.Fatal(err)
	}
	_, got := inbox(t, m, a)
	if len(got) != 2 {
		t.Fatalf("%d messages", len(got))
	}
	checkClone(t, o, fs.CrashClone(vfs.CrashCloneCfg{}), a, got)
}

// moment is what was known when a crash clone was taken, and the clone.
type moment struct {
	seen  map[storage.UID]string // by a reader, or acknowledged
	clone *vfs.MemFS
}

// clones takes crash clones at syncs, whatever is in flight then.
type clones struct {
	fs  *vfs.MemFS
	rng *rand.Rand

	mu    sync.Mutex
	acked map[storage.UID]string
	taken []moment
	every int
	n     int
}

func (c *clones) String() string { return "clones" }

// MaybeError implements errorfs.Injector.
func (c *clones) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.n++; c.every > 0 && c.n%c.every == 0 && len(c.taken) < 16 {
			c.take(c.acked)
		}
	}
	return nil
}

// take clones; c.mu is held, so nothing is acknowledged meanwhile.
func (c *clones) take(seen map[storage.UID]string) {
	cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 0, 50, 100}[c.rng.IntN(4)], RNG: c.rng}
	c.taken = append(c.taken, moment{maps.Clone(seen), c.fs.CrashClone(cfg)})
}

// Power fails at any sync, with groups in flight, and whenever a reader has just
// read: what was acknowledged and what was read is there, and the whole is a
// state that the store had, since its journal is the beginning of the one that
// the store ended with (laws 1, 2, 8).
func TestLaw01PowerLossWithGroupsInFlight(t *testing.T) {
	sd := seed(t)
	fs := newFS(t)
	c := &clones{fs: fs, rng: rand.New(rand.NewPCG(sd, 1)), acked: map[storage.UID]string{}}
	o := options(t, injected(fs, c))
	o.PackBytesMax = 32 << 10
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	c.mu.Lock()
	c.every = 5
	c.mu.Unlock()
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	readers.Go(func() { readAndClone(t, m, a, c, stop) })
	write := func(from int, rng *rand.Rand) {
		writers.Go(func() {
			for i := range 12 {
				text := mail(from+i) + strings.Repeat("x", rng.IntN(3000))
				res, err := m.Append(context.Background(), a.ID, storage.Append{Mailbox: "INBOX", Body: spooled(text)})
				if err != nil {
					t.Error(err)
					return
				}
				c.mu.Lock()
				c.acked[res.UID] = text
				c.mu.Unlock()
			}
		})
	}
	// The larger the groups are that a busy machine makes, the fewer syncs there are.
	for round := 0; round == 0 || round < 10 && c.crashes() < 8; round++ {
		for w := range 8 {
			write(1000*w+100*round, rand.New(rand.NewPCG(sd, uint64(10+w+8*round))))
		}
		writers.Wait()
	}
	close(stop)
	readers.Wait()
	end := journalOf(t, s, 0)
	if len(c.taken) < 8 {
		t.Errorf("only %d crashes: this proves too little", len(c.taken))
	}
	short := 0
	for i, at := range c.taken {
		if t.Run(fmt.Sprint(i), func(t *testing.T) { short += proveMoment(t, o, a, at, end) }); t.Failed() {
			return
		}
	}
	if short == 0 {
		t.Error("no crash cut off a message: this proves nothing")
	}
}

func (c *clones) crashes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.taken)
}

// readAndClone reads, and lets the power fail at once.
func readAndClone(t *testing.T, m *Master, a storage.Account, c *clones, stop chan struct{}) {
	for n := 0; n < 8; {
		moved := m.s.HeadMoved()
		_, got := inbox(t, m, a)
		if len(got) > 5*n {
			n++
			c.mu.Lock()
			c.take(got)
			c.mu.Unlock()
		}
		select {
		case <-stop:
			return
		case <-moved:
		}
	}
}

// proveMoment opens a clone, and returns how many events it lacks.
func proveMoment(t *testing.T, o Options, a storage.Account, at moment, end []*event.Event) int {
	o.FS = at.clone
	s := openSlot(t, o)
	defer closeOnce(t, s) // runs the checker
	have := journalOf(t, s, 0)
	if len(have) > len(end) {
		t.Fatalf("%d events, the store ended with %d", len(have), len(end))
	}
	for i, ev := range have {
		if !bytes.Equal(event.Encode(ev), event.Encode(end[i])) {
			t.Fatalf("event %d is not what the store had there", i)
		}
	}
	_, got := inbox(t, serve(t, s, 1, 0), a)
	for uid, text := range at.seen {
		if got[uid] != text {
			t.Errorf("UID %d: got %.60q, acknowledged or read as %.60q", uid, got[uid], text)
		}
	}
	return len(end) - len(have)
}
