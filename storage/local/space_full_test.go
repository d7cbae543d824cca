package local

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"mailnode/storage"
	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

// fullDisk refuses whatever takes space, from the n-th such operation on, until
// there is room again. Some writes are cut in half, as a full disk does it.
type fullDisk struct {
	mu   sync.Mutex
	left int    // operations until it is full; 0: never
	only string // what their paths have
	full bool
	kind errorfs.OpKind // of the first that was refused
	path string
	err  error
}

func (d *fullDisk) refuses(op errorfs.Op) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Contains([]errorfs.OpKind{errorfs.OpCreate, errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpFilePreallocate}, op.Kind) || !strings.Contains(op.Path, d.only) {
		return nil
	}
	if d.left > 0 {
		if d.left--; d.left == 0 {
			d.full, d.kind, d.path = true, op.Kind, op.Path
		}
	}
	if !d.full {
		return nil
	}
	if len(op.Path)%2 == 0 && (op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpFileWriteAt) {
		return errShort{d.err}
	}
	return d.err
}

func (d *fullDisk) hasRoom() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full, d.left = false, 0
}

// The disk is full from any write on, in the midst of any operation. Every caller gets an
// answer; what is shown can be read all the time; the power may fail meanwhile and takes
// nothing that was shown. When there is room again the same process goes on, and has all
// that it acknowledged.
func TestLaw01FullDiskAtEveryWrite(t *testing.T) {
	waited := 0
	runSeeds(t, 2, func(t *testing.T, rng *rand.Rand, until time.Time) (proved int) {
		for ; proved < 6 || proved < 60 && (waited == 0 || time.Now().Before(until)); proved++ {
			h, ops := newHarness(t, rng, 3), harnessOps()
			h.until = until
			ops = ops[:len(ops)-2] // the restarts
			if h.fullAt(ops[rng.IntN(len(ops))], 1+rng.IntN(10)*2+proved%2) {
				waited++
			}
			closeOnce(t, h.s)
		}
		return proved
	})
	t.Log(waited, "times a write of the index waited")
	if waited == 0 {
		t.Error("no write of an index has met the full disk: this proves nothing")
	}
}

// fullAt runs an operation on a disk that gets full, and reports whether the index
// had to wait.
func (h *harness) fullAt(op harnessOp, n int) (waited bool) {
	t, ctx := h.t, context.Background()
	t.Helper()
	d := &fullDisk{left: n, err: syscall.ENOSPC}
	if h.rng.IntN(4) == 0 {
		d.err = syscall.EDQUOT
	}
	if n%2 == 0 { // the index has a disk of its own
		d.only = "/index/"
	}
	photos := 0
	h.fs.watch(func(what errorfs.Op, after bool) error {
		if after {
			return nil
		}
		err := d.refuses(what)
		if err != nil && photos < 4 { // a few of the moments at which it is full
			photos++
			h.photograph(fmt.Sprintf("%s: full at %d of %s", op.name, what.Kind, what.Path))
		}
		return err
	})
	stop := h.look()
	done := make(chan error, 1)
	go func() { done <- op.run(h) }()
	var err error
	ended := false
	select {
	case err = <-done:
		ended = true
	case <-time.After(300 * time.Millisecond): // Pebble's own work waits for room
	}
	for i := 0; i < 200 && h.s.space.stall.err() == nil; i++ { // others go on, until nothing does
		if err := h.w.m.Deliver(ctx, storage.Delivery{Body: spooled(fmt.Sprintf("beside %d\r\n\r\n", i)),
			Recipients: []storage.Recipient{{Account: h.w.accounts[0].ID}}})[0]; err != nil {
			break
		}
	}
	waited = h.s.space.stall.err() != nil
	h.proveFull(op.name, waited)
	d.hasRoom()
	within(t, op.name, func() {
		if !ended {
			err = <-done
		}
		awaitRoom(h.s)
	})
	stop()
	h.fs.watch(nil)
	if h.s.Failure() != nil {
		t.Fatalf("%s, full at %d of %s: the copy has stopped: %v", op.name, d.kind, d.path, h.s.Failure())
	}
	if err != nil && (!d.wasFullOnce() || !isClosedKind(err) && !errors.Is(err, d.err)) {
		t.Errorf("%s: %v", op.name, err)
	}
	if err != nil && op.name == undeleteOp {
		// Its undelete was refused, or its deletion, or either has come to pass all the
		// same. A caller that was refused asks again; the delivery proves that it is there.
		_, _ = h.w.m.UndeleteAccount(ctx, h.w.accounts[0].Address)
	}
	deliver(t, h.w.m, "room again\r\n\r\n", h.w.accounts[0])
	h.show()
	h.hist.follow(t, h.s)
	h.photograph(op.name + ": room again")
	for _, p := range h.taken() {
		h.prove(p, "torn", p.develop(t, h.rng))
		h.prove(p, "all unsynced lost", p.synced)
	}
	return waited
}

// wellAgain makes the disk work again, or gives it room.
func (h *harness) wellAgain(what string, s *Slot) {
	h.t.Helper()
	h.fs.watch(nil)
	within(h.t, what, func() { awaitRoom(s) })
}

// awaitRoom waits until a copy has noticed that there is room again.
func awaitRoom(s *Slot) {
	for s.space.stall.err() != nil && s.Failure() == nil {
		<-time.After(time.Millisecond)
	}
}

// proveFull proves that a full disk refuses changes when the index waits for room,
// and is read from in any case.
func (h *harness) proveFull(what string, waited bool) {
	t := h.t
	t.Helper()
	within(t, "a change on a full disk", func() {
		if _, err := h.w.m.CreateMailbox(context.Background(), h.w.accounts[0].ID, "full", ""); err != nil && !isClosedKind(err) {
			t.Errorf("%s: an error of no kind: %v", what, err)
		} else if err == nil && waited {
			t.Errorf("%s: acknowledged while the index waits for room", what)
		}
	})
	h.photograph(what + ": full")
	within(t, "reading on a full disk", func() { dumpStore(t, h.w.m) })
}

func (d *fullDisk) wasFullOnce() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.path != ""
}

// A copy that waits for room can be closed: it counts as one that stopped
// uncleanly, and has all that it acknowledged.
func TestLaw01FullDiskThenStopped(t *testing.T) {
	fs := newPowerFS(vfs.NewCrashableMem())
	o := options(t, fs)
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	deliver(t, m, mail(1), a)
	fillIndex(t, fs, m, a)
	within(t, "Close", func() { s.Close() })
	o.FS = fs.mem.CrashClone(vfs.CrashCloneCfg{})
	r := openSlot(t, o)
	_, got := inbox(t, serve(t, r, 1, 0), a)
	if len(got) == 0 || got[storage.UID(1)] != mail(1) && !slices.Contains(texts(got), mail(1)) {
		t.Errorf("%d messages are there after a stop on a full disk", len(got))
	}
}

func texts[K comparable](m map[K]string) (out []string) {
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

// fillIndex refuses every write of the index from now on, until the copy waits.
func fillIndex(t *testing.T, fs *powerFS, m *Master, a storage.Account) {
	t.Helper()
	fs.watch(func(op errorfs.Op, after bool) error {
		if !after && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpFileSyncData && strings.Contains(op.Path, "/index/") {
			return syscall.ENOSPC
		}
		return nil
	})
	if _, err := m.CreateMailbox(t.Context(), a.ID, "full", ""); !errors.Is(err, storage.ErrDiskFull) {
		t.Fatalf("created on a full disk: %v", err)
	}
	if m.s.space.stall.err() == nil {
		t.Fatal("the index does not wait for room")
	}
}

// A change that is refused on a full disk is refused at once: nobody waits for room.
func TestFullDiskRefusesAtOnce(t *testing.T) {
	fs := newPowerFS(vfs.NewCrashableMem())
	s := openSlot(t, options(t, fs))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	deliver(t, m, mail(1), a)
	fillIndex(t, fs, m, a)
	writes := 0
	fs.watch(func(op errorfs.Op, after bool) error {
		if !after && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			if strings.Contains(op.Path, "/packs/") {
				writes++
			}
			return syscall.ENOSPC
		}
		return nil
	})
	for i := range 100 {
		d := storage.Delivery{Body: spooled(mail(i)), Recipients: []storage.Recipient{{Account: a.ID}}}
		if err := m.Deliver(t.Context(), d)[0]; !errors.Is(err, storage.ErrDiskFull) {
			t.Fatalf("delivered on a full disk: %v", err)
		}
	}
	if writes != 0 {
		t.Errorf("%d bodies were written that could not be committed", writes)
	}
	fs.watch(nil)
	awaitRoom(s)
	deliver(t, m, mail(2), a)
}

// Pebble makes writers wait for a compaction, which waits for room: whichever of the
// two comes first, changes are refused until one of them has ended.
func TestFullDiskRefusesWhileACompactionIsAwaited(t *testing.T) {
	o := options(t, newFS(t))
	fs := roomFS{o.FS, new(atomic.Uint64)}
	fs.free.Store(1 << 40)
	o.FS = fs
	clock := newHandClock()
	o.Clock.Mono = clock.mono
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	deliver(t, m, mail(1), a)
	box, _ := inbox(t, m, a)
	c := spaceCommands{t.Context(), m, a, storage.Ref{Account: a.ID, Mailbox: box.ID}}
	compaction := func() <-chan error {
		fs.free.Store(disk.ReserveBytes/2 - 1)
		clock.add(time.Second)
		return started(s.leaveRoom)
	}
	stall := func() { s.writesStall("L0 file count limit exceeded") }
	for _, stallsFirst := range []bool{true, false} {
		var waiting <-chan error
		if stallsFirst {
			stall()
			deliver(t, m, mail(2), a) // there is room: it will not take long
			waiting = compaction()
		} else {
			waiting = compaction()
			for !compactionWaits(s) {
				<-time.After(time.Millisecond)
			}
			if err := c.set("known"); !errors.Is(err, storage.ErrDiskFull) {
				t.Errorf("a new keyword below the reserve: %v", err)
			}
			stall()
		}
		for s.space.stall.err() == nil {
			<-time.After(time.Millisecond)
		}
		if err := c.free()["flags"](); !errors.Is(err, storage.ErrDiskFull) {
			t.Errorf("flags while nothing can become durable (Pebble first: %v): %v", stallsFirst, err)
		}
		fs.free.Store(1 << 40)
		clock.add(time.Second)
		if err := <-waiting; err != nil {
			t.Error(err)
		}
		awaitRoom(s)
		deliver(t, m, mail(3), a)
		s.writesGoOn()
	}
}

func compactionWaits(s *Slot) bool {
	s.space.putOff.mu.Lock()
	defer s.space.putOff.mu.Unlock()
	return s.space.putOff.compactions > 0
}

// roomFS tells how much is free, which the test can change.
type roomFS struct {
	vfs.FS
	free *atomic.Uint64
}

func (f roomFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: f.free.Load()}, nil
}

// A state that finds no room when it is set aside is refused, and so it is when the
// index waits for room; nothing of the copy waits for what is set aside.
func TestFullDiskRefusesToSetAside(t *testing.T) {
	fs := newPowerFS(vfs.NewCrashableMem())
	s := openSlot(t, options(t, fs))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	deliver(t, m, mail(1), a)
	full := func(part string) {
		fs.watch(func(op errorfs.Op, after bool) error {
			if !after && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpFileSyncData && strings.Contains(op.Path, part) {
				return syscall.ENOSPC
			}
			return nil
		})
	}
	setAside := func() (err error) {
		within(t, "SetAside", func() { _, err = s.SetAside(t.Context()) })
		return err
	}
	full("/quarantine/")
	if err := setAside(); !errors.Is(err, storage.ErrDiskFull) {
		t.Errorf("set aside on a full disk: %v", err)
	}
	deliver(t, m, mail(2), a)
	fillIndex(t, fs, m, a)
	if err := setAside(); !errors.Is(err, storage.ErrDiskFull) {
		t.Errorf("set aside while the index waits for room: %v", err)
	}
	fs.watch(nil)
	awaitRoom(s)
	if err := setAside(); err != nil {
		t.Errorf("set aside when there is room again: %v", err)
	}
}

// A replica on a full disk acknowledges nothing, and goes on by itself.
func TestLaw01FullReplicaGoesOnByItself(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	for i := range 5 {
		deliver(t, m, mail(i), a)
	}
	free := map[string]uint64{"/": 1 << 40}
	o := options(t, newFS(t))
	o.FS = fullFS{o.FS, free}
	clock := newHandClock()
	o.Clock.Mono = clock.mono
	r := openSlot(t, o)
	evs := journalOf(t, s, 0)
	giveBodies(t, s, r, evs)
	free["/"] = disk.ReserveBytes/2 - 1
	clock.add(time.Second)
	if err := r.StageBody(slot.BodyRef{GUID: spooled("x").GUID(), ID: 1}, nil, spooled("x"), 1); !errors.Is(err, storage.ErrDiskFull) {
		t.Errorf("a body was taken on a full disk: %v", err)
	}
	free["/"] = disk.FloorBytes - 1
	clock.add(time.Second)
	if n, err := r.ApplyEvents(t.Context(), evs); n != 0 || !errors.Is(err, storage.ErrDiskFull) {
		t.Fatalf("%d events applied on a full disk: %v", n, err)
	}
	if r.NoRoom() == nil {
		t.Error("nobody is told of it")
	}
	free["/"] = disk.FloorBytes + 1<<20
	clock.add(time.Second)
	if n, err := r.ApplyEvents(t.Context(), evs); n != len(evs) || err != nil {
		t.Fatalf("%d of %d events applied when there is room: %v", n, len(evs), err)
	}
	same(t, s, r)
	free["/"] = disk.ReserveBytes/2 - 1
	clock.add(time.Second)
	if err := r.BeginImport(t.Context()); !errors.Is(err, storage.ErrDiskFull) {
		t.Errorf("the copy was emptied on a disk that cannot take it again: %v", err)
	}
	same(t, s, r)
}

// Below the reserve every command is refused that takes more of the disk; reading goes on,
// and so does everything that frees room or needs none.
func TestFullDiskRefusesWhatGrows(t *testing.T) {
	for name, z := range map[string]sizes{"small changes": {}, "large changes": {small: -1, copied: -1}} {
		t.Run(name, func(t *testing.T) { refusesWhatGrows(t, z) })
	}
}

func refusesWhatGrows(t *testing.T, z sizes) {
	ctx := t.Context()
	free := map[string]uint64{"/": 1 << 40}
	o := options(t, newFS(t))
	o.sizes = z
	o.FS = fullFS{o.FS, free}
	clock := newHandClock()
	o.Clock.Mono = clock.mono
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	for i := range 3 {
		deliver(t, m, mail(i), a)
	}
	box, _ := inbox(t, m, a)
	c := spaceCommands{ctx, m, a, storage.Ref{Account: a.ID, Mailbox: box.ID}}
	if err := errors.Join(c.set("known"), m.Subscribe(ctx, a.ID, "old", true)); err != nil {
		t.Fatal(err)
	}
	grows, frees := c.grow(), c.free()
	for _, left := range []uint64{disk.ReserveBytes - 1, disk.FloorBytes + 1<<20} {
		free["/"] = left
		clock.add(time.Second)
		before := dumpStore(t, m)
		for what, fn := range grows {
			if err := fn(); !errors.Is(err, storage.ErrDiskFull) {
				t.Errorf("%s with %d bytes left: %v", what, left, err)
			}
		}
		if after := dumpStore(t, m); after != before {
			t.Errorf("what was refused has changed\n%s\nto\n%s", before, after)
		}
	}
	for what, fn := range frees {
		if err := fn(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	free["/"] = disk.FloorBytes - 1
	clock.add(time.Second)
	if err := c.set("known2"); !errors.Is(err, storage.ErrDiskFull) {
		t.Errorf("a change with less than the floor left: %v", err)
	}
	dumpStore(t, m)
	free["/"] = 1 << 40
	clock.add(time.Second)
	for _, what := range []string{"APPEND", "COPY", "CREATE", "RENAME", "SUBSCRIBE", "new keyword", "user add", "MOVE", "RENAME INBOX", "delivery"} {
		if err := grows[what](); err != nil {
			t.Errorf("%s when there is room again: %v", what, err)
		}
	}
}

// spaceCommands are what clients and operators do, about one mailbox with three
// messages.
type spaceCommands struct {
	ctx context.Context
	m   *Master
	a   storage.Account
	ref storage.Ref
}

func (c spaceCommands) set(keywords ...string) error {
	_, err := c.m.SetFlags(c.ctx, c.ref, []storage.UID{1}, storage.FlagChange{Op: storage.FlagsAdd, Flags: storage.Flags{Keywords: keywords}})
	return err
}

// grow are those that must leave the reserve.
func (c spaceCommands) grow() map[string]func() error {
	return map[string]func() error{
		"APPEND": func() error {
			_, err := c.m.Append(c.ctx, c.a.ID, storage.Append{Mailbox: "INBOX", Body: spooled("x")})
			return err
		},
		"delivery": func() error {
			return c.m.Deliver(c.ctx, storage.Delivery{Body: spooled("x"), Recipients: []storage.Recipient{{Account: c.a.ID}}})[0]
		},
		"COPY":         func() error { _, err := c.m.Copy(c.ctx, c.ref, []storage.UID{2}, "Trash"); return err },
		"MOVE":         func() error { _, err := c.m.Move(c.ctx, c.ref, []storage.UID{2}, "Trash"); return err },
		"CREATE":       func() error { _, err := c.m.CreateMailbox(c.ctx, c.a.ID, "new", ""); return err },
		"RENAME":       func() error { return c.m.RenameMailbox(c.ctx, c.a.ID, "Junk", "Spam") },
		"RENAME INBOX": func() error { return c.m.RenameMailbox(c.ctx, c.a.ID, "INBOX", "old mail") },
		"SUBSCRIBE":    func() error { return c.m.Subscribe(c.ctx, c.a.ID, "Other", true) },
		"new keyword":  func() error { return c.set("known", "new") },
		"user add":     func() error { _, err := c.m.CreateAccount(c.ctx, slot.Address("u2@example.test"), "pw", 0); return err },
	}
}

// free are those that may use it.
func (c spaceCommands) free() map[string]func() error {
	return map[string]func() error{
		"keyword that is there": func() error { return c.set("known") },
		"flags": func() error {
			_, err := c.m.SetFlags(c.ctx, c.ref, []storage.UID{1, 3}, storage.FlagChange{Op: storage.FlagsAdd, Flags: storage.Flags{System: storage.Deleted}})
			return err
		},
		"UNSUBSCRIBE": func() error { return c.m.Subscribe(c.ctx, c.a.ID, "old", false) },
		"EXPUNGE":     func() error { _, err := c.m.Expunge(c.ctx, c.ref, []storage.UID{3}); return err },
		"DELETE":      func() error { return c.m.DeleteMailbox(c.ctx, c.a.ID, "Archive") },
		"passwd":      func() error { return c.m.SetPassword(c.ctx, c.a.ID, "other") },
	}
}

// handClock is a monotonic clock that a test moves.
type handClock struct {
	mu  sync.Mutex
	now time.Duration
}

func newHandClock() *handClock { return &handClock{} }

func (c *handClock) mono() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *handClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now += d
}

// A copy that cannot even be opened for want of room is refused by its own kind, so
// that it is opened again, and leaves nothing behind that would keep it from that.
func TestFullDiskPutsOffAnOpen(t *testing.T) {
	mem := newFS(t)
	o := options(t, mem)
	filled(t, o, 3)
	free := map[string]uint64{"/": disk.FloorBytes - 1}
	o.FS = fullFS{mem, free}
	if _, err := Open(o); !errors.Is(err, storage.ErrDiskFull) {
		t.Fatalf("opened on a full disk: %v", err)
	}
	free["/"] = disk.FloorBytes
	s := openSlot(t, o)
	if list, err := serve(t, s, 1, 0).Accounts(t.Context()); err != nil || len(list) == 0 {
		t.Errorf("%d accounts when there is room: %v", len(list), err)
	}
}

// A state is set aside after the flush of the start. When that flush waits for room, the
// request is refused and waits no longer.
func TestFullDiskRefusesToSetAsideBeforeTheStartIsFlushed(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	flushed := s.db.Settled
	s.db.Settled = make(chan struct{})
	defer func() { s.db.Settled = flushed }()
	s.stalls(syscall.ENOSPC)
	defer s.goesOn()
	if _, err := s.SetAside(t.Context()); !errors.Is(err, storage.ErrDiskFull) {
		t.Errorf("set aside while the flush of the start waits for room: %v, want ErrDiskFull", err)
	}
}
