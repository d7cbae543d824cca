package local

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mailnode/storage"
	"mailnode/storage/event"
)

func packName(n uint32) string { return fmt.Sprintf("%08d.pack", n) }

// tablesOf returns the paths of the index's tables that are worth a look.
func tablesOf(t *testing.T, s *Slot) (paths []string) {
	t.Helper()
	list, err := s.tables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range list {
		if table.Bytes > 4096 {
			paths = append(paths, s.o.FS.PathJoin(s.o.Dir, "index", table.Name))
		}
	}
	if len(paths) == 0 {
		t.Fatal("no table of the index is large enough")
	}
	return paths
}

// scrubbed runs a Scrub and returns its findings, and how many bytes it asked for.
func scrubbed(t *testing.T, s *Slot, from uint32) (found []ScrubFinding, total, spent int64) {
	t.Helper()
	if err := s.Scrub(t.Context(), ScrubOptions{FromPack: from,
		Spend: func(_ context.Context, n int64) error { spent += n; return nil },
		Total: func(n int64) { total = n },
		Found: func(f ScrubFinding) { found = append(found, f) }}); err != nil {
		t.Fatal(err)
	}
	return found, total, spent
}

// scrubBench has mail of two users in several packs, some of it shared, some
// expunged, and all of the index in tables.
func scrubBench(t *testing.T) (*Slot, *Master, storage.Account) {
	t.Helper()
	o := options(t, newFS(t))
	o.PackBytesMax = 4 << 10
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a, b := account(t, m, "a@example.test"), account(t, m, "b@example.test")
	for i := range 40 {
		deliver(t, m, mail(i)+strings.Repeat("x", 100*(i%7)), a)
		deliver(t, m, mail(100+i), a, b)
	}
	box, _ := inbox(t, m, b)
	expungeAll(t, m, storage.Ref{Account: b.ID, Mailbox: box.ID})
	// Compacted, so that the tables stay as they are.
	if err := errors.Join(s.packs.Sync(), s.db.Flush(), s.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false)); err != nil {
		t.Fatal(err)
	}
	return s, m, a
}

// One flipped bit anywhere in the record of a live body (header, birth note,
// body) is found, and named by the messages that it concerns.
func TestLaw06ScrubNamesDamagedBodies(t *testing.T) {
	s, m, a := scrubBench(t)
	if got, total, spent := scrubbed(t, s, 0); len(got) != 0 || total == 0 || spent == 0 {
		t.Fatalf("a sound copy: %+v, %d of %d bytes", got, spent, total)
	}
	box, _ := inbox(t, m, a)
	r := storage.Ref{Account: a.ID, Mailbox: box.ID}
	rng := rand.New(rand.NewPCG(seed(t), 1))
	for range 30 {
		uid := storage.UID(1 + rng.IntN(80))
		ref := bodyAt(t, s, r, uid)
		var path string
		var at int64
		if err := s.read(func(v *view) error {
			loc, err := s.locate(v, ref)
			path = s.o.FS.PathJoin(s.o.Dir, "packs", packName(loc.Pack))
			head := int64(loc.NoteBytes) + 68
			at = loc.Offset - head + rng.Int64N(head+loc.Size)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		flipBit(t, s.o.FS, path, at)
		got, _, _ := scrubbed(t, s, 0)
		if len(got) != 1 || got[0].Kind != BodyDamaged || got[0].Body != ref || got[0].Slot != 7 ||
			!slices.ContainsFunc(got[0].Messages, func(n MessageName) bool { return n.String() == fmt.Sprintf("a@example.test INBOX uid %d", uid) }) {
			t.Fatalf("uid %d, byte %d of %q: %+v", uid, at, path, got)
		}
		flipBit(t, s.o.FS, path, at)
	}
}

// Rot of a table on the disk is found although its blocks are in memory.
func TestLaw06ScrubReadsTheDiskNotTheCache(t *testing.T) {
	s, _, _ := scrubBench(t)
	for range 2 { // the second time all blocks are in the cache
		if err := s.read(func(v *view) error {
			return each(v, event.SpanOf(nil), func(_, _ []byte) error { return nil })
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range tablesOf(t, s) {
		flipBit(t, s.o.FS, path, 1000)
		got, _, _ := scrubbed(t, s, 0)
		number := strings.TrimSuffix(s.o.FS.PathBase(path), ".sst")
		if len(got) == 0 || slices.ContainsFunc(got, func(f ScrubFinding) bool { return f.Kind != IndexDamaged || !strings.Contains(f.Err.Error(), number) }) {
			t.Errorf("%q: %+v", path, got)
		}
		flipBit(t, s.o.FS, path, 1000)
	}
}

// A body without a place, and a counter that went wrong, are found; the body of an
// expunged message needs no place.
func TestLaw06ScrubFindsWhatRecordsSay(t *testing.T) {
	s, m, a := scrubBench(t)
	box, _ := inbox(t, m, a)
	r := storage.Ref{Account: a.ID, Mailbox: box.ID}
	ref := bodyAt(t, s, r, 3)
	place, usage := rawRecord(t, s, event.BodyKey(ref)), rawRecord(t, s, event.UsageKey(a.ID))
	damage := &event.AccountStats{Bytes: 1}
	for key, value := range map[string][]byte{string(event.BodyKey(ref)): nil, string(event.UsageKey(a.ID)): event.Marshal(damage)} {
		writeRecord(t, s, []byte(key), value)
	}
	got, _, _ := scrubbed(t, s, 0)
	kinds := map[FindingKind]int{}
	for _, f := range got {
		kinds[f.Kind]++
		if f.Kind == BodyMissing && (f.Body != ref || len(f.Messages) != 1) {
			t.Errorf("found %+v", f)
		}
	}
	if len(got) != 2 || kinds[BodyMissing] != 1 || kinds[RecordDiffers] != 1 {
		t.Errorf("found %+v", got)
	}
	writeRecord(t, s, event.BodyKey(ref), place)
	writeRecord(t, s, event.UsageKey(a.ID), usage)
}

func rawRecord(t *testing.T, s *Slot, key []byte) []byte {
	t.Helper()
	v, _, err := s.get(key)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// writeRecord changes a record behind the committer's back; nil deletes it.
func writeRecord(t *testing.T, s *Slot, key, value []byte) {
	t.Helper()
	if err := s.do(t.Context(), func(tx *txn) error {
		if value == nil {
			return tx.b.Delete(key, nil)
		}
		return tx.b.Set(key, value, nil)
	}); err != nil {
		t.Fatal(err)
	}
}

// A Scrub that is cut off goes on from there, and ends when it is told to.
func TestLaw12ScrubResumes(t *testing.T) {
	s, _, _ := scrubBench(t)
	_, whole, _ := scrubbed(t, s, 0)
	enough := errors.New("enough")
	var reached uint32
	spent := int64(0)
	x := &scrubbing{s: s, ctx: t.Context(), o: ScrubOptions{Reached: func(p uint32) { reached = p }, Found: func(f ScrubFinding) { t.Errorf("found %+v", f) },
		Spend: func(_ context.Context, n int64) error {
			if spent += n; spent > 9000 {
				return enough
			}
			return nil
		}}}
	if err := x.plan(); err != nil {
		t.Fatal(err)
	}
	x.windowBodies = 5
	if err := x.bodies(); !errors.Is(err, enough) || reached < 2 {
		t.Fatalf("cut off at pack %d: %v", reached, err)
	}
	_, rest, _ := scrubbed(t, s, reached)
	if rest > whole-4000 || rest < whole-9000 {
		t.Errorf("%d of %d bytes are left after pack %d", rest, whole, reached)
	}
	if n, err := s.Weight(); err != nil || n != whole {
		t.Errorf("weight %d, %v; want %d", n, err, whole)
	}
}

// Close does not wait for a scrub, which may read for days: it ends it.
func TestLaw12CloseEndsAScrub(t *testing.T) {
	s, _, _ := scrubBench(t)
	started, ended := make(chan struct{}), make(chan error, 1)
	once := sync.OnceFunc(func() { close(started) })
	go func() {
		ended <- s.Scrub(t.Context(), ScrubOptions{Found: func(ScrubFinding) {}, Spend: func(ctx context.Context, _ int64) error {
			once()
			<-ctx.Done()
			return ctx.Err()
		}})
	}()
	<-started
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, storage.ErrUnavailable) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on")
	}
}
