package local

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// Compaction of a disk that fails: reads and deliveries go on, nothing is lost,
// and the next compaction does what this one could not.
func TestCompactionFailureIsItsOwn(t *testing.T) {
	t.Parallel()
	cases := map[string]*fault{
		"read of an old pack":      {kinds: []errorfs.OpKind{errorfs.OpFileReadAt}, err: syscall.EIO},
		"write of the new, EIO":    {kinds: []errorfs.OpKind{errorfs.OpFileWriteAt, errorfs.OpCreate, errorfs.OpRename}, err: syscall.EIO},
		"write of the new, ENOSPC": {kinds: []errorfs.OpKind{errorfs.OpFileWriteAt, errorfs.OpCreate}, err: syscall.ENOSPC},
		"sync of the new":          {kinds: []errorfs.OpKind{errorfs.OpFileSyncData, errorfs.OpFileSync}, err: syscall.EIO},
		"removal of the old":       {kinds: []errorfs.OpKind{errorfs.OpRemove}, err: syscall.EIO},
	}
	for name, f := range cases {
		t.Run(name, func(t *testing.T) {
			f.folder = "packs"
			failed := 0
			for n := 1; n < 40; n = n + 1 + n/3 {
				o := smallPacks(t, injected(newFS(t), f))
				k := newStock(t, openSlot(t, o))
				k.put(40)
				k.reopen(o)
				k.drop(func(u storage.UID) bool { return u%3 != 0 })
				f.arm(n)
				r, err := k.s.CompactPacks(context.Background(), CompactOptions{})
				hit := f.wasHit()
				f.arm(0)
				if hit && (err != nil || r.Damaged > 0) {
					failed++
				}
				if err != nil && !errors.Is(err, storage.ErrUnavailable) && !errors.Is(err, storage.ErrDiskFull) {
					t.Fatalf("failure %d: %v", n, err)
				}
				if f.err == syscall.ENOSPC && hit && !errors.Is(err, storage.ErrDiskFull) {
					t.Fatalf("failure %d: a full disk returns %v", n, err)
				}
				if k.s.Failure() != nil {
					t.Fatalf("failure %d: the slot has stopped: %v", n, k.s.Failure())
				}
				k.prove(fmt.Sprintf("failure %d", n))
				k.put(2)
				k.compact(CompactOptions{})
				k.prove(fmt.Sprintf("after failure %d", n))
			}
			if failed < 2 {
				t.Errorf("%d failures were met: this proves nothing", failed)
			}
		})
	}
}

// everyWrite takes crash clones before every write that some operation makes.
type everyWrite struct {
	fs  *vfs.MemFS
	rng *rand.Rand

	mu     sync.Mutex
	on     bool
	clones []*vfs.MemFS
}

func (c *everyWrite) String() string { return "everyWrite" }

// MaybeError implements errorfs.Injector.
func (c *everyWrite) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpRename, errorfs.OpRemove, errorfs.OpCreate, errorfs.OpFileWriteAt:
	default:
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.on {
		percent := []int{0, 50, 100}[len(c.clones)%3]
		c.clones = append(c.clones, c.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: c.rng}))
	}
	return nil
}

func (c *everyWrite) set(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.on = on
}

// Power fails at every sync, write and removal of a compaction: every message is
// there afterwards, and the next compaction ends the work.
func TestLaw01CompactionSurvivesPowerLoss(t *testing.T) {
	t.Parallel()
	sd := seed(t)
	fs := newFS(t)
	cut := &everyWrite{fs: fs, rng: rand.New(rand.NewPCG(sd, 3))}
	o := smallPacks(t, injected(fs, cut))
	k := newStock(t, openSlot(t, o))
	k.put(60)
	k.reopen(o)
	k.drop(func(u storage.UID) bool { return u > 20 && u%4 != 0 })
	cut.set(true)
	r := k.compact(CompactOptions{Compress: true})
	cut.set(false)
	if r.Moved < 20 || r.Removed < 3 || len(cut.clones) < 20 {
		t.Fatalf("%d crash points of %+v: this proves nothing", len(cut.clones), r)
	}
	k.prove("without a crash")
	_, want := k.packBytes()
	step := max(1, len(cut.clones)/60)
	for i := int(sd % uint64(step)); i < len(cut.clones); i += step {
		func() {
			oc := o
			oc.FS = cut.clones[i]
			s := openSlot(t, oc)
			defer closeOnce(t, s)
			m := serve(t, s, 1, 0)
			what := fmt.Sprintf("crash %d of %d", i, len(cut.clones))
			proveStock(t, m, k.a, k.text, what)
			for range 2 {
				if _, err := s.CompactPacks(context.Background(), CompactOptions{Compress: true}); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			proveStock(t, m, k.a, k.text, what+", compacted again")
			again := &stock{t: t, s: s}
			if _, size := again.packBytes(); size > want+want/2 {
				t.Errorf("%s: %d bytes are left, %d without the crash", what, size, want)
			}
		}()
	}
}

// besideMail is mail that comes, is read and goes while packs are compacted.
type besideMail struct {
	t   *testing.T
	s   *Slot
	m   *Master
	a   storage.Account
	box storage.Ref

	mu    sync.Mutex
	texts map[slot.GUID]string // of all that was ever delivered
}

// deliver delivers some messages of random sizes.
func (w *besideMail) deliver(rng *rand.Rand, from, messages int) {
	for i := range messages {
		text := mail(from+i) + strings.Repeat("y", rng.IntN(2000))
		w.mu.Lock()
		w.texts[slot.SumGUID([]byte(text))] = text
		w.mu.Unlock()
		deliver(w.t, w.m, text, w.a)
	}
}

func (w *besideMail) list() (list []storage.Message) {
	if err := w.m.Scan(context.Background(), w.box, 1, ^storage.UID(0), func(msg storage.Message) error {
		list = append(list, msg)
		return nil
	}); err != nil {
		w.t.Error(err)
	}
	return list
}

// read proves that a message is what was delivered, unless it is gone.
func (w *besideMail) read(msg storage.Message) {
	r, err := w.m.OpenBody(context.Background(), w.box, msg.UID)
	if errors.Is(err, storage.ErrNotFound) {
		return // expunged meanwhile
	}
	if err != nil {
		w.t.Errorf("UID %d: %v", msg.UID, err)
		return
	}
	defer r.Close()
	got := make([]byte, r.Size())
	if _, err := r.ReadAt(got, 0); err != nil {
		w.t.Errorf("UID %d: %v", msg.UID, err)
	}
	var ref slot.BodyRef
	if w.s.read(func(v *view) error {
		rec, err := loadMessage(v, w.box, msg.UID)
		if err == nil {
			ref = rec.Body()
		}
		return err
	}) != nil {
		return // expunged meanwhile
	}
	w.mu.Lock()
	want := w.texts[ref.GUID]
	w.mu.Unlock()
	if string(got) != want {
		w.t.Errorf("UID %d: %d bytes, want %d", msg.UID, len(got), len(want))
	}
	if rb, _, err := w.s.Body(ref); err == nil {
		rb.Close()
	} else if !errors.Is(err, storage.ErrNotFound) {
		w.t.Errorf("body of UID %d: %v", msg.UID, err)
	}
}

// readAndDrop reads at random until done is closed; one that drops also makes
// some messages vanish for good.
func (w *besideMail) readAndDrop(rng *rand.Rand, drops bool, done chan struct{}) {
	for {
		select {
		case <-done:
			return
		default:
		}
		list := w.list()
		for range min(len(list), 20) {
			w.read(list[rng.IntN(len(list))])
		}
		if drops && len(list) > 50 {
			i := rng.IntN(len(list) - 20)
			freeSome(w.t, w.m, w.box, list[i:i+15])
		}
	}
}

// Deliveries, reads, freeing and compactions at the same time: every message
// that is acknowledged can be read at any moment, and is what was delivered.
func TestLaw01Law06CompactionBesideMail(t *testing.T) {
	ctx := context.Background()
	sd := seed(t)
	o := smallPacks(t, newFS(t))
	o.OnDamage = func(d Damage) { t.Errorf("damage: %v", d.Err) }
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	b, err := m.Mailbox(ctx, a.ID, "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	w := &besideMail{t: t, s: s, m: m, a: a, box: storage.Ref{Account: a.ID, Mailbox: b.ID}, texts: map[slot.GUID]string{}}
	done := make(chan struct{})
	var others, work sync.WaitGroup
	var moved, removed atomic.Int64
	others.Go(func() {
		for {
			r, err := s.CompactPacks(ctx, CompactOptions{DeadShareMin: 0.2, Compress: true})
			if err != nil {
				t.Errorf("compact: %v", err)
				return
			}
			moved.Add(int64(r.Moved))
			removed.Add(int64(r.Removed))
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for g := range 2 {
		others.Go(func() { w.readAndDrop(rand.New(rand.NewPCG(sd, 100+uint64(g))), g == 0, done) })
	}
	for round := 0; round == 0 || round < 20 && (moved.Load() == 0 || removed.Load() == 0); round++ { // until the others had their turns
		for g := range 3 {
			work.Go(func() { w.deliver(rand.New(rand.NewPCG(sd, uint64(g+10*round))), g*10_000+round*120, 120) })
		}
		work.Wait()
	}
	close(done)
	others.Wait()
	if moved.Load() == 0 || removed.Load() == 0 {
		t.Errorf("%d bodies moved, %d packs removed: this proves nothing", moved.Load(), removed.Load())
	}
	for _, msg := range w.list() {
		w.read(msg)
	}
}

// freeSome expunges messages and then frees their bodies.
func freeSome(t *testing.T, m *Master, box storage.Ref, list []storage.Message) {
	t.Helper()
	ctx := context.Background()
	var uids []storage.UID
	for _, msg := range list {
		uids = append(uids, msg.UID)
	}
	if _, err := m.SetFlags(ctx, box, uids, storage.FlagChange{Flags: storage.Flags{System: storage.Deleted}}); err != nil {
		t.Error(err)
	}
	if _, err := m.Expunge(ctx, box, uids); err != nil {
		t.Error(err)
	}
	if _, err := m.Free(ctx, polite); err != nil {
		t.Error(err)
	}
}
