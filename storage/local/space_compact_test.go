package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// stock is mail in a slot, of which bodies can be freed, with what clients must
// be able to read.
type stock struct {
	t    *testing.T
	s    *Slot
	m    *Master
	a    storage.Account
	box  storage.Ref
	text map[storage.UID]string
	n    int
}

func newStock(t *testing.T, s *Slot) *stock {
	t.Helper()
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	b, err := m.Mailbox(context.Background(), a.ID, "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	return &stock{t: t, s: s, m: m, a: a, box: storage.Ref{Account: a.ID, Mailbox: b.ID}, text: map[storage.UID]string{}}
}

// put delivers messages, every third of which zstd cannot shrink.
func (k *stock) put(messages int) {
	k.t.Helper()
	for range messages {
		k.n++
		text := mail(k.n) + strings.Repeat(fmt.Sprintf("line of %d\r\n", k.n), 40)
		if k.n%3 == 0 {
			rng := rand.New(rand.NewPCG(uint64(k.n), 1))
			b := make([]byte, 500)
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
			text = mail(k.n) + string(b)
		}
		deliver(k.t, k.m, text, k.a)
		k.text[storage.UID(k.n)] = text
	}
}

// drop makes messages vanish, their tombstones and their bodies' places too.
func (k *stock) drop(dead func(storage.UID) bool) {
	k.t.Helper()
	ctx := context.Background()
	var uids []storage.UID
	for u := range k.text {
		if dead(u) {
			uids = append(uids, u)
			delete(k.text, u)
		}
	}
	if _, err := k.m.SetFlags(ctx, k.box, uids, storage.FlagChange{Flags: storage.Flags{System: storage.Deleted}}); err != nil {
		k.t.Fatal(err)
	}
	gone, err := k.m.Expunge(ctx, k.box, uids)
	if err != nil || len(gone) != len(uids) {
		k.t.Fatalf("expunge %d: %d, %v", len(uids), len(gone), err)
	}
	if f := free(k.t, k.m); f.Messages != len(uids) {
		k.t.Fatalf("freed %+v, want %d messages", f, len(uids))
	}
}

// reopen closes and opens the slot: its packs are closed ones then.
func (k *stock) reopen(o Options) {
	k.t.Helper()
	closeOnce(k.t, k.s)
	k.s = openSlot(k.t, o)
	k.m = serve(k.t, k.s, 1, 0)
}

// openUnchecked is for slots from which a test took bodies behind the index's back.
func openUnchecked(t *testing.T, o Options) *Slot {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// prove reads everything that must be there, from the store and for a replica.
func (k *stock) prove(what string) {
	k.t.Helper()
	proveStock(k.t, k.m, k.a, k.text, what)
}

func proveStock(t *testing.T, m *Master, a storage.Account, want map[storage.UID]string, what string) {
	t.Helper()
	_, got := inbox(t, m, a)
	for uid, text := range want {
		if got[uid] != text {
			t.Errorf("%s: UID %d has %d bytes, want %d", what, uid, len(got[uid]), len(text))
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: %d messages, want %d", what, len(got), len(want))
	}
	if t.Failed() {
		t.FailNow()
	}
}

func (k *stock) compact(o CompactOptions) CompactResult {
	k.t.Helper()
	r, err := k.s.CompactPacks(context.Background(), o)
	if err != nil {
		k.t.Fatalf("compact: %v (%+v)", err, r)
	}
	return r
}

func (k *stock) packBytes() (packs int, size int64) {
	k.t.Helper()
	list, err := k.s.packs.ClosedPacks()
	if err != nil {
		k.t.Fatal(err)
	}
	for _, p := range list {
		size += p.Bytes
	}
	return len(list), size
}

func smallPacks(t *testing.T, fs vfs.FS) Options {
	o := options(t, fs)
	o.PackBytesMax, o.Undelete = 8<<10, -1
	return o
}

// The room of dead bodies is freed, the living stay as they are, and a second compaction
// finds nothing to do.
func TestCompactionGivesRoomBack(t *testing.T) {
	o := smallPacks(t, newFS(t))
	k := newStock(t, openSlot(t, o))
	k.put(120)
	k.drop(func(u storage.UID) bool { return u%4 != 0 })
	_, before := k.packBytes()
	var told CompactProgress
	var spent int64
	r := k.compact(CompactOptions{Progress: func(p CompactProgress) { told = p },
		Spend: func(_ context.Context, n int64) error { spent += n; return nil }})
	k.prove("after compaction")
	_, after := k.packBytes()
	if r.Removed == 0 || r.Moved == 0 || r.Damaged != 0 || after > before/2 {
		t.Errorf("%d bytes before, %d after: %+v", before, after, r)
	}
	if told.BytesDone != told.BytesAll || told.BytesAll == 0 || spent < r.WrittenBytes+told.BytesAll {
		t.Errorf("progress %+v, spent %d: %+v", told, spent, r)
	}
	if r := k.compact(CompactOptions{}); r.Moved != 0 || r.Removed != 0 {
		t.Errorf("the second time: %+v", r)
	}
	// The pack that was being written is closed by a restart.
	k.reopen(o)
	k.prove("after a restart")
	k.drop(func(storage.UID) bool { return true })
	k.compact(CompactOptions{})
	if n, size := k.packBytes(); n != 0 {
		t.Errorf("all is dead, and %d packs with %d bytes are left", n, size)
	}
	k.put(3)
	k.prove("mail after all was dead")
}

// With Compress, packs without dead bodies become smaller too, once; and a
// replica gets the bodies as they were received.
func TestCompactionCompressesOldPacks(t *testing.T) {
	o := smallPacks(t, newFS(t))
	k := newStock(t, openSlot(t, o))
	k.put(60)
	k.reopen(o)
	_, before := k.packBytes()
	if r := k.compact(CompactOptions{}); r.Moved != 0 {
		t.Fatalf("nothing is dead and Compress is off: %+v", r)
	}
	hour := CompactOptions{Compress: true, CompressAfter: 3_600_000_000_000}
	if r := k.compact(hour); r.Moved != 0 {
		t.Fatalf("no pack is an hour old: %+v", r)
	}
	k.advance(hour.CompressAfter.Milliseconds())
	if r := k.compact(hour); r.Moved != 60 {
		t.Fatalf("all packs are an hour old: %+v", r)
	}
	_, after := k.packBytes()
	if float64(after) > 0.6*float64(before) {
		t.Errorf("%d bytes became %d", before, after)
	}
	k.prove("compressed")
	if r := k.compact(CompactOptions{Compress: true}); r.Moved != 0 {
		t.Errorf("compressed again: %+v", r)
	}
	r := openSlot(t, options(t, newFS(t)))
	evs := journalOf(t, k.s, 0)
	giveBodies(t, k.s, r, evs)
	if n, err := applyAll(context.Background(), r, evs); err != nil || n != len(evs) {
		t.Fatal(n, err)
	}
	same(t, k.s, r)
	encoded := 0
	if err := k.s.read(func(v *view) error {
		return each(v, event.SpanOf([]byte{event.PrefixBody}), func(_, value []byte) error {
			if len(value) == encodedLocationBytes {
				encoded++
			}
			return nil
		})
	}); err != nil || encoded != 40 {
		t.Errorf("%d of 60 bodies are encoded, 40 shrink (%v)", encoded, err)
	}
}

// advance lets the slot clock run without waiting.
func (k *stock) advance(ms int64) {
	k.t.Helper()
	k.m.clockBase += uint64(ms)
	k.put(1)
	delete(k.text, storage.UID(k.n))
	k.text[storage.UID(k.n)] = mail(k.n) + strings.Repeat(fmt.Sprintf("line of %d\r\n", k.n), 40)
}

// Locations as releases before compaction wrote them stay readable; anything of neither
// form is damage.
func TestLocationsOfOldReleases(t *testing.T) {
	old := make([]byte, 24)
	be.PutUint32(old, 7)
	be.PutUint64(old[4:], 1000)
	be.PutUint64(old[12:], 2000)
	be.PutUint32(old[20:], 30)
	want := blob.Location{Pack: 7, Offset: 1000, Size: 2000, NoteBytes: 30}
	if got, err := decodeLocation(old); err != nil || got != want || !bytes.Equal(encodeLocation(want), old) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	want.Encoding, want.Stored = 1, 900
	if got, err := decodeLocation(encodeLocation(want)); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, n := range []int{0, 23, 25, 32, 34} {
		if _, err := decodeLocation(make([]byte, n)); !errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if _, err := decodeLocation(make([]byte, encodedLocationBytes)); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("encoded as nothing: %v", err)
	}
}

// Packs stay while anything may need them: a pin, a state that was set aside, a transfer,
// a body that waits for its event. Afterwards they go.
func TestLaw07NothingThatIsNeededIsCompacted(t *testing.T) {
	ctx := context.Background()
	o := smallPacks(t, newFS(t))
	k := newStock(t, openSlot(t, o))
	k.put(60)
	k.reopen(o)
	k.drop(func(u storage.UID) bool { return u%2 == 0 || u < 20 })
	packs, _ := k.packBytes()
	still := func(why string) {
		t.Helper()
		if n, _ := k.packBytes(); n < packs {
			t.Errorf("%s: %d of %d packs are left", why, n, packs)
		}
	}

	release := k.s.PinPacks()
	if r := k.compact(CompactOptions{DeadShareMin: 0.1}); r.Removed != 0 || r.Kept == 0 {
		t.Errorf("pinned: %+v", r)
	}
	still("a pin")
	release()

	name, err := k.s.SetAside(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if r := k.compact(CompactOptions{DeadShareMin: 0.1}); r.Removed != 0 || r.Kept == 0 {
		t.Errorf("set aside: %+v", r)
	}
	still("a state in quarantine")
	dir := o.FS.PathJoin(o.Dir, "quarantine", name)
	f, err := o.FS.OpenReadWrite(o.FS.PathJoin(dir, pinFile), "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("0"), 0); err != nil { // fewer packs than it needs
		t.Fatal(err)
	}
	f.Close()
	if r := k.compact(CompactOptions{DeadShareMin: 0.1}); r.Removed != 0 {
		t.Errorf("set aside with a damaged note: %+v", r)
	}
	still("a state in quarantine that does not say what it needs")
	if err := o.FS.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}

	k.s.building.Store(true)
	if _, err := k.s.CompactPacks(ctx, CompactOptions{}); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("while building: %v", err)
	}
	k.s.building.Store(false)
	still("a transfer")

	if r := k.compact(CompactOptions{DeadShareMin: 0.1}); r.Removed < packs-1 {
		t.Errorf("nothing needs %d packs: %+v", packs, r)
	}
	k.prove("in the end")
}

// A state that was set aside can be read whole after compactions: the packs of
// its time stay, those of later do not.
func TestLaw07SetAsideStateKeepsItsPacksOnly(t *testing.T) {
	o := smallPacks(t, newFS(t))
	k := newStock(t, openSlot(t, o))
	k.put(30)
	places := map[slot.BodyRef]blob.Location{}
	if err := k.s.read(func(v *view) error {
		return each(v, event.SpanOf([]byte{event.PrefixBody}), func(key, value []byte) error {
			ref := slot.BodyRef{ID: slot.BodyID(be.Uint64(key[33:]))}
			copy(ref.GUID[:], key[1:])
			loc, err := decodeLocation(value)
			places[ref] = loc
			return err
		})
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.s.SetAside(context.Background()); err != nil {
		t.Fatal(err)
	}
	k.put(90)
	k.drop(func(u storage.UID) bool { return u%10 != 0 })
	k.reopen(o)
	if r := k.compact(CompactOptions{}); r.Removed == 0 {
		t.Errorf("later packs must go: %+v", r)
	}
	for ref, loc := range places {
		b, err := k.s.packs.Open(ref, loc)
		if err != nil {
			t.Fatalf("the state in quarantine has lost a body: %v", err)
		}
		b.Close()
	}
	k.prove("beside it")
}

// A body that was staged, whose event comes after the compaction, is there then;
// one whose event never comes holds its pack until the next compaction only.
func TestLaw01StagedBodySurvivesCompaction(t *testing.T) {
	ctx := context.Background()
	from := openSlot(t, options(t, newFS(t)))
	m := serve(t, from, 1, 0)
	a := account(t, m, "u1@example.test")
	for i := range 40 {
		deliver(t, m, mail(i)+strings.Repeat("x", 400), a)
	}
	s := openUnchecked(t, smallPacks(t, newFS(t)))
	evs := journalOf(t, from, 0)
	giveBodies(t, from, s, evs)
	if n, err := applyAll(ctx, s, evs[:len(evs)-20]); err != nil || n != len(evs)-20 {
		t.Fatal(n, err)
	}
	for _, ev := range evs[:len(evs)-20] {
		for _, ref := range ev.Bodies() {
			if err := s.do(ctx, func(x *txn) error { return x.b.Delete(event.BodyKey(ref), nil) }); err != nil {
				t.Fatal(err)
			}
		}
	}
	r, err := s.CompactPacks(ctx, CompactOptions{})
	if err != nil || r.Removed == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if n, err := applyAll(ctx, s, evs[len(evs)-20:len(evs)-10]); err != nil || n != 10 {
		t.Fatalf("events whose bodies were staged before the compaction: %d, %v", n, err)
	}
	for range 2 {
		if _, err := s.CompactPacks(ctx, CompactOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	last := evs[len(evs)-10:]
	missing, err := s.MissingBodies(last[0])
	if err != nil || len(missing) != 1 {
		t.Errorf("a body that waited for two compactions: missing %v, %v", missing, err)
	}
	giveBodies(t, from, s, last)
	if n, err := applyAll(ctx, s, last); err != nil || n != 10 {
		t.Fatal(n, err)
	}
	same(t, from, s)
}

// A damaged body is reported, and its pack stays; all others move.
func TestLaw07DamagedBodyKeepsItsPack(t *testing.T) {
	fs := newFS(t)
	o := smallPacks(t, fs)
	var reported atomic.Int32
	o.OnDamage = func(Damage) { reported.Add(1) }
	k := newStock(t, openSlot(t, o))
	k.put(60)
	k.reopen(o)
	k.drop(func(u storage.UID) bool { return u%3 != 0 })
	bad := bodyOf(t, k.m, k.box, 9)
	var at blob.Location
	if err := k.s.read(func(v *view) (err error) { at, err = k.s.locate(v, bad); return err }); err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("%s/packs/%08d.pack", o.Dir, at.Pack)
	f, err := fs.OpenReadWrite(path, "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0x55}, at.Offset+5); err != nil {
		t.Fatal(err)
	}
	f.Close()
	r := k.compact(CompactOptions{})
	if r.Damaged != 1 || r.Kept != 1 || reported.Load() != 1 || r.Removed == 0 {
		t.Errorf("%+v, %d reported", r, reported.Load())
	}
	if _, err := fs.Stat(path); err != nil {
		t.Errorf("the pack of the damaged body: %v", err)
	}
	if _, err := k.m.OpenBody(context.Background(), k.box, 9); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("the damaged body: %v", err)
	}
	k.drop(func(u storage.UID) bool { return u == 9 }) // given up
	if r := k.compact(CompactOptions{}); r.Removed != 1 || r.Damaged != 0 {
		t.Errorf("afterwards: %+v", r)
	}
}

// Close ends a compaction at any point, and so does a caller that gives up; the next
// compaction goes on.
func TestLaw12CompactionEndsWhenAsked(t *testing.T) {
	o := smallPacks(t, newFS(t))
	k := newStock(t, openSlot(t, o))
	k.put(40)
	k.reopen(o)
	k.drop(func(u storage.UID) bool { return u%2 == 0 })
	ctx, cancel := context.WithCancel(context.Background())
	left := 5
	r, err := k.s.CompactPacks(ctx, CompactOptions{DeadShareMin: 0.1, Spend: func(ctx context.Context, _ int64) error {
		if left--; left == 0 {
			cancel()
		}
		return ctx.Err()
	}})
	if !errors.Is(err, storage.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %+v, %v", r, err)
	}
	began := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		_, err := k.s.CompactPacks(context.Background(), CompactOptions{DeadShareMin: 0.1, Spend: func(ctx context.Context, _ int64) error {
			close(began)
			<-ctx.Done()
			return ctx.Err()
		}})
		ended <- err
	}()
	<-began
	if _, err := k.s.CompactPacks(context.Background(), CompactOptions{}); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("a second one at the same time: %v", err)
	}
	within(t, "Close", func() { k.s.Close() })
	within(t, "the compaction", func() {
		if err := <-ended; !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("closed: %v", err)
		}
	})
	k.s = openSlot(t, o)
	k.m = serve(t, k.s, 1, 0)
	if r := k.compact(CompactOptions{DeadShareMin: 0.1}); r.Moved == 0 {
		t.Errorf("the next one: %+v", r)
	}
	k.prove("in the end")
}
