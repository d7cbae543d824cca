package local

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/event"
)

// Listings that nobody asks for are given back; the others stay.
func TestListingGivenBackWhenIdle(t *testing.T) {
	var now atomic.Int64
	o := options(t, newFS(t))
	o.Clock.Mono = func() time.Duration { return time.Duration(now.Load()) }
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	one, two := fill(t, m, a, "one", 100), fill(t, m, a, "two", 100)
	read := func(ref storage.Ref) {
		t.Helper()
		if err := m.Scan(context.Background(), ref, 0, ^storage.UID(0), func(storage.Message) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	cache := o.Resources.listings
	read(one)
	read(two)
	now.Add(int64(listingIdle - time.Second))
	cache.sweep()
	if cached(m, one) == nil || cached(m, two) == nil {
		t.Fatal("given back too early")
	}
	read(two)
	now.Add(int64(time.Second))
	cache.sweep()
	if cached(m, one) != nil || cached(m, two) == nil {
		t.Fatal("want the idle one given back, the other one kept")
	}
	if cache.bytes != cached(m, two).bytes() {
		t.Fatalf("%d bytes are counted, one listing is there of %d", cache.bytes, cached(m, two).bytes())
	}
	now.Add(int64(listingIdle))
	cache.sweep()
	if len(cache.shelves) != 0 || cache.bytes != 0 || cache.sweeper != nil {
		t.Fatalf("%d listings, %d bytes are left", len(cache.shelves), cache.bytes)
	}
	read(one)
	if closeOnce(t, s); len(cache.shelves) != 0 || cache.bytes != 0 {
		t.Fatal("listings outlive their slot")
	}
}

// The sweep runs by itself.
func TestListingSweepRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newListingCache(1 << 20)
		s := &Slot{o: Options{Clock: storage.SystemClock()}}
		h := c.shelf(shelfKey{s: s}, true)
		c.put(h, &listing{chunks: [][]entry{make([]entry, 100)}})
		if time.Sleep(listingIdle - time.Second); h.current.Load() == nil {
			t.Fatal("given back too early")
		}
		if time.Sleep(listingIdle); h.current.Load() != nil || c.bytes != 0 {
			t.Fatal("not given back")
		}
		c.close()
	})
}

// Over its budget the cache gives back the listings that were unused for longest; a
// mailbox too large for it is read from the records.
func TestListingBudget(t *testing.T) {
	o := options(t, newFS(t))
	o.Resources.listings.bytesMax = 100_000
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	refs := []storage.Ref{fill(t, m, a, "one", 1000), fill(t, m, a, "two", 1000), fill(t, m, a, "three", 1000), fill(t, m, a, "large", 3000)}
	have := func() (out [4]bool) {
		for i, r := range refs {
			out[i] = cached(m, r) != nil
		}
		return out
	}
	for i, want := range [][4]bool{{true}, {true, true}, {false, true, true}, {false, true, true}} {
		var got []storage.Message
		if err := m.Scan(context.Background(), refs[i], 0, ^storage.UID(0), collect(&got)); err != nil {
			t.Fatal(err)
		}
		if d := differ(plain(t, m, refs[i], 0, ^storage.UID(0)), got); d != "" {
			t.Fatal(d)
		}
		if uids, err := m.UIDs(context.Background(), refs[i]); err != nil || len(uids) != len(got) {
			t.Fatalf("UIDs: %d, want %d, %v", len(uids), len(got), err)
		}
		if have() != want {
			t.Fatalf("after mailbox %d the cache has %v, want %v", i, have(), want)
		}
		if o.Resources.listings.bytes > o.Resources.listings.bytesMax {
			t.Fatalf("%d bytes, the budget is %d", o.Resources.listings.bytes, o.Resources.listings.bytesMax)
		}
	}
}

// A few messages of a mailbox that nobody has open do not cost the whole mailbox.
func TestListingNotForFew(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	ref := fill(t, m, a, "box", 2000)
	for _, tt := range []struct {
		lo, hi storage.UID
		want   int
	}{{7, 7, 1}, {1990, 2100, 11}, {5, 4, 0}} {
		var got []storage.Message
		if err := m.Scan(context.Background(), ref, tt.lo, tt.hi, collect(&got)); err != nil || len(got) != tt.want {
			t.Fatalf("Scan %d:%d: %d messages, %v", tt.lo, tt.hi, len(got), err)
		}
	}
	if cached(m, ref) != nil {
		t.Fatal("a listing was made for a few messages")
	}
}

// openBench is a mailbox of n messages on disk, with what it takes to open it as
// after a start: nothing of it in mailnode's memory.
type openBench struct {
	b   *testing.B
	o   Options
	s   *Slot
	m   *Master
	ref storage.Ref
	n   int
}

func newOpenBench(b *testing.B, n int) *openBench {
	dir := b.TempDir()
	if d := os.Getenv("MAILNODE_BENCH_DIR"); d != "" {
		dir = filepath.Join(d, b.Name())
		b.Cleanup(func() { os.RemoveAll(dir) })
	}
	x := &openBench{b: b, n: n, o: Options{FS: vfs.Default, Dir: dir, Cluster: "test", Slot: 7, Logger: slog.New(slog.DiscardHandler),
		Clock: storage.SystemClock(), Passwords: NewPasswords(2)}}
	x.open()
	b.Cleanup(x.close)
	a, err := x.m.CreateAccount(b.Context(), "u1@example.test", "pw", 0)
	if err != nil {
		b.Fatal(err)
	}
	x.ref = fill(b, x.m, a, "box", n)
	// Flags set in pieces, so that MODSEQs differ as in a mailbox that is used.
	for lo := 1; lo < n; lo += 3000 {
		var uids []storage.UID
		for u := lo; u < min(lo+1000, n); u++ {
			uids = append(uids, storage.UID(u))
		}
		f := storage.Flags{System: storage.Seen, Keywords: []string{"$Label" + string(rune('0'+lo/1000%5))}}
		if _, err := x.m.SetFlags(b.Context(), x.ref, uids, storage.FlagChange{Op: storage.FlagsAdd, Flags: f}); err != nil {
			b.Fatal(err)
		}
	}
	return x
}

func (x *openBench) open() {
	var err error
	x.o.Resources = NewResources(256 << 20)
	if x.s, err = Open(x.o); err != nil {
		x.b.Fatal(err)
	}
	if x.m, err = x.s.Serve(x.b.Context(), 1, 0, NoGate{}); err != nil {
		x.b.Fatal(err)
	}
}

func (x *openBench) close() {
	x.m.Stop()
	x.s.Close()
	x.o.Resources.Close()
}

// view reads what UID FETCH 1:* (FLAGS) shows.
func (x *openBench) view() {
	n := 0
	if err := x.m.Scan(context.Background(), x.ref, 0, ^storage.UID(0), func(storage.Message) error { n++; return nil }); err != nil || n != x.n {
		x.b.Errorf("%d messages, %v", n, err)
	}
}

func heapBytes() int64 {
	runtime.GC()
	runtime.GC()
	var st runtime.MemStats
	runtime.ReadMemStats(&st)
	return int64(st.HeapAlloc)
}

// BenchmarkOpenMailbox opens a mailbox of 100,000 messages: cold, right after
// the copy was opened (block cache and listings empty); warm; and by 50 sessions
// at once, cold. bytes/msg is the heap that opening adds, for all sessions.
func BenchmarkOpenMailbox(b *testing.B) {
	const messages = 100_000
	x := newOpenBench(b, messages)
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			x.close()
			x.open()
			b.StartTimer()
			x.view()
		}
	})
	b.Run("warm", func(b *testing.B) {
		x.view()
		for b.Loop() {
			x.view()
		}
	})
	b.Run("records", func(b *testing.B) { // without a listing, block cache warm
		for b.Loop() {
			if err := x.s.read(func(v *view) error {
				return scanRecords(v, x.ref, 0, ^storage.UID(0), 0, func(storage.Message) error { return nil })
			}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("50sessions", x.sessions)
	b.Run("change", func(b *testing.B) { // one flag changes, then the view is read
		x.view()
		for i := 0; b.Loop(); i++ {
			b.StopTimer()
			op := storage.FlagOp(1 + i%2)
			if _, err := x.m.SetFlags(b.Context(), x.ref, []storage.UID{50_000}, storage.FlagChange{Op: op, Flags: storage.Flags{System: storage.Flagged}}); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if _, err := x.m.UIDs(b.Context(), x.ref); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// sessions is 50 at once, all cold.
func (x *openBench) sessions(b *testing.B) {
	var bytes int64
	for b.Loop() {
		b.StopTimer()
		x.close()
		x.open()
		x.m.s.read(func(v *view) error {
			return each(v, event.MessagesIn(x.ref, 0, ^storage.UID(0)), func(_, _ []byte) error { return nil })
		}) // blocks do not count below
		before := heapBytes()
		uids := make([][]storage.UID, 50)
		b.StartTimer()
		var all sync.WaitGroup
		for i := range uids {
			all.Go(func() {
				var err error
				if uids[i], err = x.m.UIDs(context.Background(), x.ref); err != nil {
					b.Error(err)
				}
				x.view()
			})
		}
		all.Wait()
		b.StopTimer()
		bytes += heapBytes() - before
		runtime.KeepAlive(uids)
		b.StartTimer()
	}
	b.ReportMetric(float64(bytes)/float64(b.N)/float64(x.n), "bytes/msg")
}
