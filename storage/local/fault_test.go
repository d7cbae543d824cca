package local

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// fault fails the n-th operation of some kinds below a folder, and with forever
// all after it too.
type fault struct {
	folder  string
	kinds   []errorfs.OpKind
	err     error
	forever bool

	mu   sync.Mutex
	left int // 0: nothing fails
	hit  bool
	kind errorfs.OpKind // of the one that was hit
}

func (f *fault) String() string { return "fault" }

func (f *fault) arm(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left, f.hit = n, false
}

func (f *fault) wasHit() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hit
}

// MaybeError implements errorfs.Injector.
func (f *fault) MaybeError(op errorfs.Op) error {
	if !strings.Contains(op.Path, f.folder) {
		return nil
	}
	for _, k := range f.kinds {
		if k != op.Kind {
			continue
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.left > 0 {
			f.left--
			if f.left > 0 {
				return nil
			}
			f.hit, f.kind = true, op.Kind
			return f.err
		}
		if f.hit && f.forever {
			return f.err
		}
	}
	return nil
}

// within fails the test when fn hangs.
func within(t *testing.T, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		stacks := make([]byte, 1<<20)
		t.Fatalf("%s hangs\n%s", what, stacks[:runtime.Stack(stacks, true)])
	}
}

// A disk fails at any write or sync, once or for ever: what was acknowledged is there
// after a restart, nothing hangs, and the process lives.
func TestLaw01DiskFailureLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	syncs := []errorfs.OpKind{errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo}
	writes := []errorfs.OpKind{errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpCreate, errorfs.OpRename}
	for _, folder := range []string{"packs", "index"} {
		for kind, kinds := range map[string][]errorfs.OpKind{"sync": syncs, "write": writes} {
			for _, forever := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s of %s, for ever %v", kind, folder, forever), func(t *testing.T) {
					hits := 0
					for n := 1; n < 60; n = n + 1 + n/4 {
						if failAt(t, &fault{folder: folder, kinds: kinds, err: syscall.EIO, forever: forever}, n) {
							hits++
						}
					}
					if hits < 5 {
						t.Errorf("only %d failures happened: this proves nothing", hits)
					}
				})
			}
		}
	}
}

func failAt(t *testing.T, f *fault, n int) (hit bool) {
	t.Helper()
	fs, o, a, acked, refused := brokenAt(t, f, n)
	o.FS = fs.CrashClone(vfs.CrashCloneCfg{})
	proveKept(t, n, o, a, acked, refused)
	return f.wasHit()
}

// brokenAt delivers to a copy whose disk fails at the n-th operation, and closes it.
func brokenAt(t *testing.T, f *fault, n int) (fs *vfs.MemFS, o Options, a storage.Account, acked map[string]bool, refused int) {
	t.Helper()
	fs = newFS(t)
	o = options(t, injected(fs, f))
	o.PackBytesMax = 4 << 10
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	m := serve(t, s, 1, 0)
	a = account(t, m, "u1@example.test")
	f.arm(n)
	acked = map[string]bool{}
	within(t, "a delivery after the failure", func() {
		for i := range 30 {
			d := storage.Delivery{Body: spooled(mail(i)), Recipients: []storage.Recipient{{Account: a.ID}}}
			if err := m.Deliver(context.Background(), d)[0]; err == nil {
				acked[mail(i)] = true
			} else {
				refused++
			}
			if i%10 == 9 {
				s.guarded(func() error { _, err := s.db.AsyncFlush(); return err })
			}
		}
	})
	select {
	case <-s.Failed():
		d := storage.Delivery{Body: spooled("late"), Recipients: []storage.Recipient{{Account: a.ID}}}
		if err := m.Deliver(context.Background(), d)[0]; err == nil {
			t.Error("acknowledged after the store had failed")
		}
	default:
		// (a pack that could not be begun promised nothing)
		if f.wasHit() && f.kind == errorfs.OpFileSyncData {
			t.Errorf("failure %d: a sync failed, and the store goes on", n)
		}
	}
	within(t, "Close", func() { s.Close() })
	if s.Failure() != nil {
		if err := s.Release(); err != nil {
			t.Errorf("failure %d: %v", n, err)
		}
	}
	return fs, o, a, acked, refused
}

// proveKept opens a copy whose disk has failed, and returns what it has.
func proveKept(t *testing.T, n int, o Options, a storage.Account, acked map[string]bool, refused int) map[storage.UID]string {
	t.Helper()
	r := openSlot(t, o)
	_, got := inbox(t, serve(t, r, 1, 0), a)
	have := map[string]bool{}
	for _, text := range got {
		have[text] = true
	}
	for text := range acked {
		if !have[text] {
			t.Errorf("failure %d: acknowledged and lost: %q", n, text)
		}
	}
	if len(have) > len(acked)+refused || len(have) != len(got) {
		t.Errorf("failure %d: %d messages, %d different, %d acknowledged, %d refused", n, len(got), len(have), len(acked), refused)
	}
	closeOnce(t, r)
	return got
}

// TestLaw01FailedCopyIsOpenedAgain: the same failures, and the copy is opened again in
// the same process, on the same files. What it shows then no power cut takes away.
func TestLaw01FailedCopyIsOpenedAgain(t *testing.T) {
	t.Parallel()
	kinds := []errorfs.OpKind{errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpCreate}
	for _, folder := range []string{"packs", "index"} {
		hits := 0
		for n := 1; n < 60; n = n + 1 + n/4 {
			f := &fault{folder: folder, kinds: kinds, err: syscall.EIO, forever: true}
			fs, o, a, acked, refused := brokenAt(t, f, n)
			if f.wasHit() {
				hits++
			}
			f.arm(0) // the controller was reset
			shown := proveKept(t, n, o, a, acked, refused)
			o.FS = fs.CrashClone(vfs.CrashCloneCfg{})
			if after := proveKept(t, n, o, a, acked, refused); len(after) != len(shown) {
				t.Errorf("failure %d of %s: %d messages were shown, a power cut leaves %d", n, folder, len(shown), len(after))
			}
		}
		if hits < 5 {
			t.Errorf("only %d failures of %s happened: this proves nothing", hits, folder)
		}
	}
}

// A full disk refuses new mail by its own kind; reading and expunging go on, and
// so does mail when there is room again.
func TestFullDiskRefusesMailAndServesOn(t *testing.T) {
	ctx := context.Background()
	f := &fault{folder: "packs", kinds: []errorfs.OpKind{errorfs.OpFileWriteAt, errorfs.OpCreate}, err: syscall.ENOSPC, forever: true}
	o := options(t, injected(newFS(t), f))
	o.PackBytesMax = 1 << 10
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	deliver(t, m, mail(1), a)
	f.arm(1)
	for i := range 5 {
		d := storage.Delivery{Body: spooled(mail(2 + i)), Recipients: []storage.Recipient{{Account: a.ID}}}
		if err := m.Deliver(ctx, d)[0]; !errors.Is(err, storage.ErrDiskFull) {
			t.Fatalf("got %v, want %v", err, storage.ErrDiskFull)
		}
	}
	box, got := inbox(t, m, a)
	if len(got) != 1 {
		t.Fatalf("%d messages can be read", len(got))
	}
	ref := storage.Ref{Account: a.ID, Mailbox: box.ID}
	if _, err := m.SetFlags(ctx, ref, []storage.UID{1}, storage.FlagChange{Flags: storage.Flags{System: storage.Deleted}}); err != nil {
		t.Fatal(err)
	}
	if gone, err := m.Expunge(ctx, ref, nil); err != nil || len(gone) != 1 {
		t.Fatalf("expunge: %v, %v", gone, err)
	}
	f.mu.Lock()
	f.hit = false
	f.mu.Unlock()
	deliver(t, m, mail(9), a)
}

// An event that comes again, in the same group or a later one, changes nothing; another
// event at its position is another history.
func TestLaw08EventsMayComeAgain(t *testing.T) {
	ctx := context.Background()
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	for i := range 10 {
		deliver(t, m, mail(i), a)
	}
	r := openSlot(t, options(t, newFS(t)))
	evs := journalOf(t, s, 0)
	giveBodies(t, s, r, evs)
	for _, from := range []int{0, 3, 0, len(evs) - 1} {
		if n, err := applyAll(ctx, r, evs[from:]); err != nil || n != len(evs)-from {
			t.Fatalf("events from %d on: %d applied, %v", from, n, err)
		}
	}
	same(t, s, r)
	other := journalOf(t, s, 0)[5]
	other.SlotClockMs++
	if _, err := r.ApplyEvents(ctx, []*event.Event{other}); !errors.Is(err, storage.ErrDiverged) {
		t.Fatalf("another event at a position that is taken: %v", err)
	}
	same(t, s, r)
}

// When a caller gives up, its change has happened or never will: a replica tells on its
// next connection where it stands, and must still stand there.
func TestLaw08AbandonedChangeNeverRuns(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	hold, held := make(chan struct{}), make(chan struct{})
	go s.do(context.Background(), func(*txn) error { close(held); <-hold; return nil })
	<-held
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	ran := false // unguarded on purpose: the race detector watches
	queued := 0
	for range 50 {
		if err := s.do(ctx, func(*txn) error { ran = true; return nil }); err != nil {
			queued++
		}
	}
	close(hold)
	if err := s.do(context.Background(), func(*txn) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if ran || queued == 0 {
		t.Fatalf("a change that was given up ran (%v), %d were", ran, queued)
	}
}

// A change that fails after it has put something into the batch leaves nothing,
// also when others share its group.
func TestLaw01FailedChangeLeavesNothing(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	hold, held := make(chan struct{}), make(chan struct{})
	go s.do(context.Background(), func(*txn) error { close(held); <-hold; return nil })
	<-held
	bad := make(chan error, 1)
	go func() {
		bad <- s.do(context.Background(), func(x *txn) error {
			if err := x.b.Set([]byte("l-half"), nil, nil); err != nil {
				return err
			}
			panic("half way")
		})
	}()
	close(hold)
	if err := <-bad; err == nil {
		t.Fatal("a panic is no success")
	}
	deliver(t, m, mail(1), a)
	if _, found, err := s.get([]byte("l-half")); found || err != nil {
		t.Fatalf("half a change was committed (%v, %v)", found, err)
	}
}

// The journal stays near its limit; a position that it no longer reaches is reported as
// gone, one that it reaches is not.
func TestJournalIsTrimmed(t *testing.T) {
	o := options(t, newFS(t))
	o.JournalEventsMax = 100
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	box, err := m.Mailbox(context.Background(), a.ID, "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	deliver(t, m, mail(1), a)
	for i := range 1300 {
		f := storage.Flags{System: storage.Seen}
		if i%2 == 1 {
			f.System = 0
		}
		if _, err := m.SetFlags(context.Background(), storage.Ref{Account: a.ID, Mailbox: box.ID}, []storage.UID{1}, storage.FlagChange{Flags: f}); err != nil {
			t.Fatal(err)
		}
	}
	h, err := s.Head()
	if err != nil {
		t.Fatal(err)
	}
	kept := journalOf(t, s, h.KeptAfter)
	if len(kept) < 100 || len(kept) > 100+trimStepEvents || h.KeptAfter == 0 {
		t.Fatalf("the journal has %d events after %s", len(kept), h.KeptAfter)
	}
	if _, _, err := s.JournalAfter(h.KeptAfter-1, 1); !errors.Is(err, storage.ErrNotFound) {
		t.Fatalf("before the start: %v", err)
	}
	closeOnce(t, s)
	s = openSlot(t, o)
	if s.com.events != len(kept) {
		t.Fatalf("after a restart the journal is said to have %d events, it has %d", s.com.events, len(kept))
	}
}

func journalOf(t *testing.T, s *Slot, after slot.Position) (evs []*event.Event) {
	t.Helper()
	for {
		raws, last, err := s.JournalAfter(after, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(raws) == 0 {
			return evs
		}
		for _, raw := range raws {
			ev, err := event.Decode(raw)
			if err != nil {
				t.Fatal(err)
			}
			evs = append(evs, ev)
		}
		after = last
	}
}

func posOf(ev *event.Event) slot.Position { return slot.Position(ev.Position) }

// giveBodies stages what the events need.
func giveBodies(t *testing.T, from, to *Slot, evs []*event.Event) {
	t.Helper()
	if err := sendBodies(from, to, evs); err != nil {
		t.Fatal(err)
	}
}

func sendBodies(from, to *Slot, evs []*event.Event) error {
	for _, ev := range evs {
		missing, err := to.MissingBodies(ev)
		if err != nil {
			return err
		}
		for _, ref := range missing {
			b, note, err := from.Body(ref)
			if err != nil {
				return err
			}
			if err := to.StageBody(ref, note, b, b.Size()); err != nil {
				return err
			}
		}
	}
	return nil
}

func same(t *testing.T, a, b *Slot) {
	t.Helper()
	pa, da, err1 := a.Digest()
	pb, db, err2 := b.Digest()
	if err := errors.Join(err1, err2); err != nil || pa != pb || da != db {
		t.Fatalf("digest %s at %s, and %s at %s: %v", da, pa, db, pb, err)
	}
}
