package local

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// history is the state at each position, by the master's journal: the oracle of every
// crash. It applies events to a plain map.
type history struct {
	records map[string][]byte
	sum     event.Digest
	at      map[slot.Position]event.Digest
	last    slot.Position
}

func newHistory() *history {
	return &history{records: map[string][]byte{}, at: map[slot.Position]event.Digest{0: {}}}
}

func recordSum(key, value []byte) event.Digest {
	h := sha256.New()
	binary.Write(h, binary.BigEndian, uint32(len(key)))
	h.Write(key)
	h.Write(value)
	return event.ParseDigest(h.Sum(nil)[:16])
}

// Get, Set and Delete implement event.Records.
func (h *history) Get(key []byte) ([]byte, bool, error) {
	v, ok := h.records[string(key)]
	return v, ok, nil
}

func (h *history) Set(key, value []byte) {
	h.Delete(key)
	h.records[string(key)] = slices.Clone(value)
	h.sum = h.sum.Add(recordSum(key, value))
}

func (h *history) Delete(key []byte) {
	if v, ok := h.records[string(key)]; ok {
		h.sum = h.sum.Sub(recordSum(key, v))
		delete(h.records, string(key))
	}
}

// follow reads on in a journal.
func (h *history) follow(t *testing.T, s *Slot) {
	t.Helper()
	for _, ev := range journalOf(t, s, h.last) {
		if err := event.Apply(h, ev); err != nil {
			t.Fatal(err)
		}
		h.last = slot.Position(ev.Position)
		h.at[h.last] = h.sum
	}
}

// stateOf sums the whole state of a copy: equal sums are equal bytes.
func stateOf(s *Slot) (sum event.Digest, err error) {
	err = s.ReadState(func(r event.Record) error {
		sum = sum.Add(recordSum(r.Key, r.Value))
		return nil
	})
	return sum, err
}

// harness runs operations on one copy and takes the power away before and after
// everything in them that makes something durable.
type harness struct {
	t    *testing.T
	rng  *rand.Rand
	fs   *powerFS
	o    Options
	s    *Slot    // the copy that loses power
	w    *walk    // on the master, which is s itself, or the one that s follows
	hist *history // of the master
	kept []string // names in quarantine/ that were acknowledged

	replica *replicaHarness // nil when s is the master
	shown   atomic.Uint64   // the highest position that anyone was shown

	mu     sync.Mutex // guards photos
	photos []crashPoint
	points int // how many were proved

	pointsMax int       // how many are proved per operation, taken by chance
	until     time.Time // afterwards one
}

// crashPoint is a photograph, and what was promised when it was taken.
type crashPoint struct {
	photo
	must     slot.Position
	kept     []string
	building bool // a state transfer was under way
}

// harnessOp is one operation that must survive a power loss at any moment. It
// returns when nothing of it runs any more, in the background either.
type harnessOp struct {
	name string
	run  func(h *harness) error
}

const undeleteOp = "delete and undelete an account"

// harnessOps are all of them. A new one is one line here.
func harnessOps() []harnessOp {
	var out []harnessOp
	for _, op := range walkOps() {
		out = append(out, harnessOp{op.name, func(h *harness) error { return op.run(h.w) }})
	}
	return append(out,
		harnessOp{"deliver side by side", (*harness).deliverSideBySide},
		harnessOp{"flush the index", func(h *harness) error { return h.s.guarded(h.s.db.Flush) }},
		harnessOp{"compact the index", (*harness).compactIndex},
		harnessOp{"fill a pack", (*harness).fillPack},
		harnessOp{"compact the packs", (*harness).compactPacks},
		harnessOp{"count again", func(h *harness) error {
			_, err := h.s.Recount(context.Background(), Scope{}, RecountOptions{})
			return err
		}},
		harnessOp{"free", func(h *harness) error { _, err := h.w.m.Free(context.Background(), polite); return err }},
		harnessOp{undeleteOp, (*harness).undeleteAccount},
		harnessOp{"trim the journal", func(h *harness) error { return h.s.TrimJournal(context.Background(), h.hist.last) }},
		harnessOp{"quarantine an event", (*harness).quarantine},
		harnessOp{"set aside", (*harness).setAside},
		harnessOp{"clean restart", func(h *harness) error { return h.restart(false) }},
		harnessOp{"power loss and restart", func(h *harness) error { return h.restart(true) }},
	)
}

func newHarness(t *testing.T, rng *rand.Rand, accounts int) *harness {
	t.Helper()
	h := &harness{t: t, rng: rng, fs: newPowerFS(vfs.NewCrashableMem()), hist: newHistory(), pointsMax: 1000}
	if accounts > 10 {
		h.pointsMax = 6 // each takes its time
	}
	h.o = options(t, h.fs)
	h.o.sizes = someSizes(t, rng)
	h.o.PackBytesMax, h.o.JournalEventsMax, h.o.Undelete = 24<<10, 64, -1 // Free takes all that was removed
	h.s = openSlot(t, h.o)
	h.w = newWalk(t, serve(t, h.s, 1, 0), rng, accounts)
	h.hist.follow(t, h.s)
	h.show()
	return h
}

// someSizes returns the ordinary sizes, or such that nearly everything that may be a
// large change is one.
func someSizes(t *testing.T, rng *rand.Rand) sizes {
	if rng.IntN(2) == 0 {
		return sizes{}
	}
	t.Log("everything is a large change")
	return sizes{small: -1, copied: -1, applied: 2}
}

// show notes what a reader sees now; a power loss from here on must not take it
// back, acknowledged or not (LAWS §4.8).
func (h *harness) show() {
	head, err := h.s.Head()
	for was := h.shown.Load(); err == nil && uint64(head.Position) > was; was = h.shown.Load() {
		if h.shown.CompareAndSwap(was, uint64(head.Position)) {
			return
		}
	}
}

// look keeps a reader looking at the copy until stop.
func (h *harness) look() (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	s := h.s
	go func() {
		defer close(done)
		for {
			moved := s.HeadMoved()
			h.show()
			select {
			case <-moved:
			case <-quit:
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}

func (h *harness) photograph(what string) {
	p := crashPoint{must: slot.Position(h.shown.Load()), building: h.replica != nil && h.replica.importing}
	h.mu.Lock()
	defer h.mu.Unlock()
	p.kept = slices.Clone(h.kept)
	p.photo = h.fs.photograph(what)
	h.photos = append(h.photos, p)
}

// taken returns the photographs and forgets them; work in the background may still
// add some, which count for the next operation.
func (h *harness) taken() []crashPoint {
	h.mu.Lock()
	defer h.mu.Unlock()
	photos := h.photos
	h.photos = nil
	return photos
}

// do runs an operation and takes photographs; prove looks at them.
func (h *harness) do(op harnessOp, torn int) {
	t := h.t
	t.Helper()
	h.taken()
	fs := h.fs
	fs.watch(func(what errorfs.Op, after bool) error {
		if changesDurability(what.Kind) {
			when := "before"
			if after {
				when = "after"
			}
			h.photograph(fmt.Sprintf("%s: %s op %d of %s", op.name, when, what.Kind, what.Path))
		}
		return nil
	})
	stop := h.look()
	err := op.run(h)
	stop()
	fs.watch(nil)
	if err != nil {
		t.Fatalf("%s: %v", op.name, err)
	}
	h.show()
	h.photograph(op.name + ": after it")
	h.hist.follow(t, h.w.m.s)
	if got, want := dumpStore(t, h.w.m), h.w.model.dump(); got != want {
		t.Fatalf("%s: the store has\n%s\nthe model\n%s", op.name, got, want)
	}
	photos := h.taken()
	h.rng.Shuffle(len(photos), func(i, j int) { photos[i], photos[j] = photos[j], photos[i] })
	for i, p := range photos[:min(len(photos), h.pointsMax)] {
		if i > 0 && time.Now().After(h.until) {
			break
		}
		for range torn {
			h.prove(p, "torn", p.develop(t, h.rng))
		}
		h.prove(p, "all unsynced lost", p.synced) // the last: it writes
	}
}

// prove opens a disk after a power loss. It is the state at a position that the
// journal had, whole; nothing that anyone was shown is lost; the laws hold; and
// no number is given out again.
func (h *harness) prove(p crashPoint, how string, fs *vfs.MemFS) {
	t := h.t
	t.Helper()
	h.points++
	defer func() {
		if t.Failed() {
			t.Fatalf("%s, %s", p.what, how)
		}
	}()
	o := h.o
	o.FS = fs
	s, err := Open(o)
	if err != nil {
		t.Fatalf("%s, %s: %v", p.what, how, err)
	}
	defer closeOnce(t, s)
	h.proveQuarantine(s, fs, p.kept)
	head, err := s.Head()
	if err != nil {
		t.Fatal(err)
	}
	if head.Building && h.replica != nil {
		h.replica.proveBuilding(p, s)
		return
	}
	want, known := h.hist.at[head.Position]
	got, err := stateOf(s)
	switch {
	case err != nil:
		t.Error(err)
	case head.Position < p.must:
		t.Errorf("the head is %s, a client was shown %s", head.Position, p.must)
	case !known:
		t.Errorf("the head is %s, which never was a position; the last is %s", head.Position, h.hist.last)
	case got != want:
		t.Errorf("the state at %s is not what it was", head.Position)
	default:
		h.proveNumbers(s, head.Position, p.must)
	}
}

// proveNumbers serves the copy and proves that new numbers are new.
func (h *harness) proveNumbers(s *Slot, was, shown slot.Position) {
	t, ctx := h.t, context.Background()
	e := was.Epoch()
	if h.replica != nil {
		e++
	}
	m := serve(t, s, e, slot.UncleanCount(e-1))
	accounts, err := m.Accounts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(accounts) == 0 {
		return // a replica that had nothing yet
	}
	a := accounts[h.rng.IntN(len(accounts))]
	box, err := m.Mailbox(ctx, a.ID, "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	deliver(t, m, "new\r\n\r\n", a)
	now, err := m.Mailbox(ctx, a.ID, "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	if now.UIDValidity != box.UIDValidity || now.UIDNext <= box.UIDNext || uint64(now.HighestModSeq) <= uint64(shown) {
		t.Errorf("after the crash the mailbox was %+v, then %+v; %d was shown before", box, now, shown)
	}
}

// proveQuarantine proves that what lies in quarantine is whole, and that everything that
// was acknowledged as set aside lies there.
func (h *harness) proveQuarantine(s *Slot, fs *vfs.MemFS, kept []string) {
	t := h.t
	names, err := s.Quarantined()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range kept {
		if !slices.Contains(names, name) {
			t.Errorf("quarantine has lost %s: it has %v", name, names)
		}
	}
	for _, name := range names {
		path := fs.PathJoin(h.o.Dir, "quarantine", name)
		if base, is := strings.CutSuffix(path, ".event"); is {
			if _, err := event.Decode(contentOf(fs, path)); err != nil || len(contentOf(fs, base+".reason")) == 0 {
				t.Errorf("quarantine has half of %s: %v", name, err)
			}
		} else if err := h.proveAside(fs, path); err != nil {
			t.Errorf("quarantine has half of %s: %v", name, err)
		}
	}
}

func (h *harness) proveAside(fs *vfs.MemFS, path string) error {
	db, err := pebble.Open(path, &pebble.Options{FS: fs, ReadOnly: true, Logger: silent{}})
	if err != nil {
		return err
	}
	defer db.Close()
	var head event.HeadRecord
	v := &view{viewState: &viewState{snap: db.NewSnapshot()}}
	defer v.snap.Close()
	if _, err := event.Load(v, event.HeadKey(), &head); err != nil {
		return err
	}
	var sum event.Digest
	for _, p := range event.StatePrefixes() {
		if err := each(v, event.SpanOf([]byte{p}), func(k, val []byte) error { sum = sum.Add(recordSum(k, val)); return nil }); err != nil {
			return err
		}
	}
	if h.hist.at[slot.Position(head.Position)] != sum {
		return fmt.Errorf("it is not the state at %s", slot.Position(head.Position))
	}
	return nil
}

type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(f string, a ...any) {
	panic(fmt.Sprintf(f, a...))
}

// deliverSideBySide makes groups: several changes in the committer at once.
func (h *harness) deliverSideBySide() error {
	var all sync.WaitGroup
	errs := make([]error, 12)
	for i := range errs {
		a := h.w.accounts[i%len(h.w.accounts)]
		text := h.w.text()
		h.w.model[a.ID]["INBOX"].add(modelMessage{guid: slot.SumGUID([]byte(text))})
		deliverOne := func() {
			d := storage.Delivery{Body: spooled(text), Recipients: []storage.Recipient{{Account: a.ID}}}
			errs[i] = h.w.m.Deliver(context.Background(), d)[0]
			h.show()
		}
		if i < len(h.w.accounts) {
			all.Go(deliverOne)
		} else { // the model knows the order within a mailbox
			all.Wait()
			deliverOne()
		}
	}
	all.Wait()
	return errors.Join(errs...)
}

func (h *harness) compactIndex() error {
	return h.s.guarded(func() error {
		return h.s.db.Compact(context.Background(), []byte{0}, []byte{0xff}, false)
	})
}

// compactPacks rewrites all packs that are closed and not pinned by a state set aside.
func (h *harness) compactPacks() error {
	_, err := h.s.CompactPacks(context.Background(), CompactOptions{DeadShareMin: 0.01, Compress: true})
	return err
}

func (h *harness) undeleteAccount() error {
	ctx, a := context.Background(), h.w.account()
	if err := h.w.m.DeleteAccount(ctx, a.ID); err != nil {
		return err
	}
	_, err := h.w.m.UndeleteAccount(ctx, a.Address)
	return err
}

func (h *harness) fillPack() error {
	for range 1 + h.o.PackBytesMax/3000 {
		if err := h.w.deliver(h.w.accounts[0]); err != nil {
			return err
		}
	}
	return nil
}

func (h *harness) keep(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kept = append(h.kept, name)
}

func (h *harness) quarantine() error {
	h.w.n++
	ev := &event.Event{Position: uint64(slot.At(1, uint64(h.w.n))), Changes: []*event.Change{subscriptionChange(1, strings.Repeat("x", h.rng.IntN(9000)), true)}}
	if err := h.s.Quarantine(ev, errors.New("it does not apply")); err != nil {
		return err
	}
	h.keep(fmt.Sprintf("event-1-%d.event", h.w.n))
	return nil
}

func (h *harness) setAside() error {
	name, err := h.s.SetAside(context.Background())
	if err == nil {
		h.keep(name)
	}
	return err
}

// restart ends the copy and opens it again, cleanly or by a power loss; the
// photographs show its end and its recovery.
func (h *harness) restart(powerLoss bool) error {
	if powerLoss {
		lost := h.fs.photograph("").synced
		h.s.Close()
		hook := h.fs.hook.Load()
		h.fs = newPowerFS(lost)
		h.fs.hook.Store(hook)
		h.o.FS = h.fs
	} else {
		closeOnce(h.t, h.s)
	}
	s, err := Open(h.o)
	if err != nil {
		return err
	}
	h.s = s
	h.t.Cleanup(func() { closeOnce(h.t, s) })
	if h.replica != nil {
		return nil
	}
	h.w.m.Stop()
	h.w.m, err = s.Serve(context.Background(), h.hist.last.Epoch(), 0, NoGate{})
	return err
}

// Power fails before and after everything that makes something durable, in every
// operation. What opens afterwards is one position of the journal, exactly:
// everything shown or acknowledged is there, nothing is half done (law 1), and
// no number is given out again (laws 2 and 3).
func TestLaw01Law02Law03EveryOperationSurvivesPowerLoss(t *testing.T) {
	t.Parallel()
	runSeeds(t, 4, func(t *testing.T, rng *rand.Rand, until time.Time) int {
		h := newHarness(t, rng, []int{3, 3, 50}[rng.IntN(3)])
		h.until = until
		ops := harnessOps()
		rng.Shuffle(len(ops), func(i, j int) { ops[i], ops[j] = ops[j], ops[i] })
		for _, op := range ops {
			h.do(op, 1)
		}
		return h.points
	})
}

var _ io.Closer = (*powerFile)(nil)
