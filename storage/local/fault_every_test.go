package local

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"mailnode/storage"
)

// fileFault is one way in which a disk fails an operation that changes it.
type fileFault struct {
	name    string
	err     error
	short   bool // a write ends half way
	forever bool
}

func fileFaults() []fileFault {
	return []fileFault{
		{"EIO once", syscall.EIO, false, false},
		{"EIO for ever", syscall.EIO, false, true},
		{"short write", syscall.EIO, true, false},
		{"ENOSPC once", syscall.ENOSPC, false, false},
		{"ENOSPC for ever", syscall.ENOSPC, false, true},
		{"short write and ENOSPC for ever", syscall.ENOSPC, true, true},
	}
}

// inject fails the n-th change of the disk from now on; after tells what was hit.
func (h *harness) inject(f fileFault, n int) (hit func() (errorfs.Op, bool)) {
	var mu sync.Mutex
	var at errorfs.Op
	was := false
	h.fs.watch(func(op errorfs.Op, after bool) error {
		mu.Lock()
		defer mu.Unlock()
		if after || op.Kind.ReadOrWrite() != errorfs.OpIsWrite || f.err == syscall.ENOSPC && !takesSpace(op.Kind) {
			return nil
		}
		if n--; n > 0 || n < 0 && !f.forever {
			return nil
		}
		if !was {
			was, at = true, op
		}
		if f.short && (op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpFileWriteAt) {
			return errShort{f.err}
		}
		return f.err
	})
	return func() (errorfs.Op, bool) {
		mu.Lock()
		defer mu.Unlock()
		return at, was
	}
}

// takesSpace reports whether a full disk refuses an operation. A sync can meet ENOSPC too
// (delayed allocation); that is as final as EIO.
func takesSpace(k errorfs.OpKind) bool {
	return slices.Contains([]errorfs.OpKind{errorfs.OpCreate, errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpFilePreallocate,
		errorfs.OpLink, errorfs.OpMkdirAll, errorfs.OpFileSync, errorfs.OpFileSyncData}, k)
}

// A disk fails one operation that changes it, or all from there on, at any point of what
// the copy does. Every caller gets an answer. The copy goes on, and can be read; or it
// reports that it has stopped, and acknowledges nothing more. A new process finds one
// position of the journal, with all that was shown.
func TestLaw01FaultAtEveryFileOperation(t *testing.T) {
	outcomes := map[string]int{}
	runSeeds(t, 2, func(t *testing.T, rng *rand.Rand, until time.Time) (proved int) {
		for ; proved < 4 || proved < 40 && time.Now().Before(until); proved++ {
			h, ops := newHarness(t, rng, 3), harnessOps()
			ops = ops[:len(ops)-2] // the restarts
			if rng.IntN(3) == 0 {
				h, ops = newReplicaHarness(t, rng), replicaOps()
				ops = ops[:len(ops)-2]
			}
			f, op := fileFaults()[rng.IntN(len(fileFaults()))], ops[rng.IntN(len(ops))]
			h.faulty(f, op, 1+rng.IntN(20), outcomes)
			if t.Failed() {
				t.Fatalf("after %s, %s", f.name, op.name)
			}
		}
		return proved
	})
	t.Log(outcomes)
}

func (h *harness) faulty(f fileFault, op harnessOp, n int, outcomes map[string]int) {
	t := h.t
	t.Helper()
	hit := h.inject(f, n)
	var err error
	within(t, op.name, func() {
		done := make(chan struct{})
		go func() { defer close(done); err = op.run(h) }()
		if f.err == syscall.ENOSPC && strings.HasSuffix(op.name, "the index") {
			// Pebble's own work waits for room, and goes on by itself.
			select {
			case <-done:
			case <-time.After(300 * time.Millisecond):
				h.fs.watch(nil)
			}
		}
		<-done
	})
	at, was := hit()
	what := fmt.Sprintf("%s, %s at %d of %s", op.name, f.name, at.Kind, at.Path)
	if !was && err != nil {
		t.Fatalf("%s: %v", op.name, err)
	}
	old, stopped := h.s, h.s.Failure() != nil
	if was && strings.Contains(at.Path, "packs/") && at.Kind == errorfs.OpFileSyncData && !stopped {
		t.Errorf("%s: a sync of a pack failed, and the copy goes on", what)
	}
	h.wellAgain(what, old)
	switch {
	case stopped:
		outcomes["stopped"]++
		if err := h.w.deliver(h.w.accounts[0]); h.replica == nil && err == nil {
			t.Errorf("%s: acknowledged after the copy had stopped", what)
		}
	case was:
		outcomes["went on"]++
		if h.replica == nil {
			h.w.model = model{} // it does not know how much of the operation happened
			if err := errors.Join(h.w.m.Deliver(context.Background(), storage.Delivery{Body: spooled("later"),
				Recipients: []storage.Recipient{{Account: h.w.accounts[0].ID}}})...); err != nil && old.Failure() == nil {
				t.Errorf("%s: the disk is well again, and mail does not flow: %v", what, err)
			}
		}
		if old.Failure() == nil { // a flush beside the operation may have met it later
			h.show()
		}
	}
	if err != nil && was && !isClosedKind(err) && !errors.Is(err, f.err) {
		t.Errorf("%s: an error of no kind: %v", what, err)
	}
	within(t, "Close", func() { old.Close() })
	h.fs.watch(func(op errorfs.Op, after bool) error {
		if !after && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.EROFS // its process is dead, whatever Pebble still has under way
		}
		return nil
	})
	h.fs = newPowerFS(h.fs.mem)
	h.o.FS = h.fs
	h.s = openSlot(t, h.o)
	if h.replica == nil {
		h.hist.follow(t, h.s)
	} else {
		h.hist.follow(t, h.w.m.s)
		h.replica.importing = h.s.Building()
	}
	h.photograph(what)
	p := h.photos[len(h.photos)-1]
	h.prove(p, "all unsynced lost", p.synced)
}

func isClosedKind(err error) bool {
	return errors.Is(err, storage.ErrUnavailable) || errors.Is(err, storage.ErrDiskFull) || errors.Is(err, storage.ErrCorrupt)
}

// A read that fails is an error of its caller alone, and of a kind that loses no mail;
// other reads go on, and so do changes.
func TestLaw09ReadErrorIsTheRequestsOwn(t *testing.T) {
	runSeeds(t, 2, func(t *testing.T, rng *rand.Rand, until time.Time) (proved int) {
		d := newDamagedDisk(t, rng, false)
		for ; proved < 3 || proved < 60 && time.Now().Before(until); proved++ {
			fs := newPowerFS(d.copy())
			o := d.o
			o.FS, o.Resources = fs, NewResources(1<<10)
			s, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			m := serve(t, s, 1, 0)
			n := 1 + rng.IntN(100)
			var mu sync.Mutex
			fs.watch(func(op errorfs.Op, after bool) error {
				mu.Lock()
				defer mu.Unlock()
				if !after && (op.Kind == errorfs.OpFileReadAt || op.Kind == errorfs.OpFileRead || op.Kind == errorfs.OpOpen) {
					if n--; n == 0 {
						return syscall.EIO
					}
				}
				return nil
			})
			bad := reading{read: map[string]string{}, errs: map[string]error{}}
			bad.readAsClient(m)
			for what, err := range bad.errs {
				if !isClosedKind(err) {
					t.Errorf("%s: an error of no kind: %v", what, err)
				}
			}
			for what, got := range bad.read {
				if want := d.want[what]; got != want && !strings.HasPrefix(what, "LIST") && what != "accounts" && bad.errs[what] == nil {
					t.Errorf("%s: got %q beside a read error, want %q", what, got, want)
				}
			}
			fs.watch(nil)
			good := reading{read: map[string]string{}, errs: map[string]error{}}
			good.readAsClient(m)
			if len(good.errs) > 0 || s.Failure() != nil {
				t.Errorf("after one read error: %v, %v", good.errs, s.Failure())
			}
			accounts, err := m.Accounts(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			deliver(t, m, mail(1), accounts[0])
			closeOnce(t, s)
			o.Resources.Close()
			if t.Failed() {
				return proved
			}
		}
		return proved
	})
}

// A slow disk makes acknowledgements slow, and nothing else: readers do not wait for a
// sync, and those that wait share one. How slow the disk is decides the test: no sync
// ends before a reader that began after it has read everything, and the first one not
// before all other deliveries wait.
func TestSlowDiskOnlySlows(t *testing.T) {
	h, slow := newHarness(t, rand.New(rand.NewPCG(1, 1)), 12), &slowDisk{}
	h.fs.watch(slow.hold)
	errs := make(chan error, len(h.w.accounts))
	deliver := func(a storage.Account) {
		d := storage.Delivery{Body: spooled(h.w.text()), Recipients: []storage.Recipient{{Account: a.ID}}}
		go func() { errs <- h.w.m.Deliver(context.Background(), d)[0] }()
	}
	within(t, "a reader or a delivery beside a sync", func() {
		deliver(h.w.accounts[0])
		var held []chan struct{}
		for len(held) == 0 {
			dumpStore(t, h.w.m)
			held = slow.take()
		}
		for _, a := range h.w.accounts[1:] {
			deliver(a)
		}
		for h.s.com.lanes.waiting() < len(h.w.accounts)-1 {
			dumpStore(t, h.w.m)
		}
		for left := len(h.w.accounts); left > 0; {
			select {
			case err := <-errs:
				if left--; err != nil {
					t.Error(err)
				}
			default:
				held = append(held, slow.take()...)
				dumpStore(t, h.w.m)
				for _, sync := range held {
					close(sync)
				}
				held = nil
			}
		}
	})
	h.fs.watch(nil)
	for _, sync := range slow.take() {
		close(sync)
	}
	if slow.syncs == 0 || slow.syncs > 4 {
		t.Errorf("one delivery and then %d made %d syncs, want at most one of the packs and one of the index for each group", len(h.w.accounts)-1, slow.syncs)
	}
}

// slowDisk holds each sync up until somebody closes its channel.
type slowDisk struct {
	mu    sync.Mutex // guards both
	syncs int
	held  []chan struct{}
}

func (d *slowDisk) hold(op errorfs.Op, after bool) error {
	if after || op.Kind != errorfs.OpFileSyncData {
		return nil
	}
	sync := make(chan struct{})
	d.mu.Lock()
	d.syncs++
	d.held = append(d.held, sync)
	d.mu.Unlock()
	<-sync
	return nil
}

// take returns the syncs that are held up, to be closed by the caller.
func (d *slowDisk) take() []chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	held := d.held
	d.held = nil
	return held
}
