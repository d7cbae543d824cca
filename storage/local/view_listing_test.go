package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"mailnode/storage"
	"mailnode/storage/event"
)

// testSeed is SEED, or a new one; it is printed.
func testSeed(t testing.TB) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("SEED=%d", seed)
	return seed
}

func refOf(t testing.TB, m *Master, a storage.Account, name string) storage.Ref {
	t.Helper()
	box, err := m.Mailbox(context.Background(), a.ID, name)
	if err != nil {
		t.Fatal(err)
	}
	return storage.Ref{Account: a.ID, Mailbox: box.ID}
}

func collect(out *[]storage.Message) func(storage.Message) error {
	return func(m storage.Message) error {
		*out = append(*out, m)
		return nil
	}
}

// plain is the oracle: the records as they stand.
func plain(t testing.TB, m *Master, ref storage.Ref, lo, hi storage.UID) []storage.Message {
	t.Helper()
	var out []storage.Message
	if err := m.s.read(func(v *view) error {
		a, _, err := in(v, ref)
		if err != nil {
			return err
		}
		return scanRecords(v, ref, lo, hi, m.shownFloor(a), collect(&out))
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// differ is cmp.Diff for what is nearly always equal and long.
func differ(want, got []storage.Message) string {
	if slices.EqualFunc(want, got, func(x, y storage.Message) bool {
		return x.UID == y.UID && x.ModSeq == y.ModSeq && x.Size == y.Size && x.InternalDate.Equal(y.InternalDate) &&
			x.Flags.System == y.Flags.System && slices.Equal(x.Flags.Keywords, y.Flags.Keywords)
	}) {
		return ""
	}
	return cmp.Diff(want, got, cmpopts.EquateEmpty())
}

// cached is the mailbox's listing, nil when there is none.
func cached(m *Master, ref storage.Ref) *listing {
	c := m.s.o.Resources.listings
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.shelves[shelfKey{m.s, ref}]; h != nil {
		return h.current.Load()
	}
	return nil
}

// sameAsRecords compares Scan, UIDs and Changes with the oracle.
func sameAsRecords(t testing.TB, m *Master, ref storage.Ref, rng *rand.Rand, since map[storage.ModSeq][]storage.Message) {
	t.Helper()
	ctx := context.Background()
	all := plain(t, m, ref, 0, ^storage.UID(0))
	var got []storage.Message
	if err := m.Scan(ctx, ref, 0, ^storage.UID(0), collect(&got)); err != nil {
		t.Fatal(err)
	}
	if d := differ(all, got); d != "" {
		t.Fatalf("Scan and the records differ:\n%s", d)
	}
	l := cached(m, ref)
	if l == nil || l.bytes() != m.s.o.Resources.listings.bytes {
		t.Fatalf("after Scan the cache has listing %v, %d bytes", l, m.s.o.Resources.listings.bytes)
	}
	uids, err := m.UIDs(ctx, ref)
	if err != nil || len(uids) != len(all) {
		t.Fatalf("UIDs: %d, want %d (%v)", len(uids), len(all), err)
	}
	for i := range all {
		if all[i].UID != uids[i] {
			t.Fatalf("UIDs: [%d] is %d, want %d", i, uids[i], all[i].UID)
		}
	}
	lo := storage.UID(rng.IntN(3000))
	hi := lo + storage.UID(rng.IntN(3000))
	got = nil
	if err := m.Scan(ctx, ref, lo, hi, collect(&got)); err != nil {
		t.Fatal(err)
	}
	if d := differ(plain(t, m, ref, lo, hi), got); d != "" {
		t.Fatalf("Scan %d:%d and the records differ:\n%s", lo, hi, d)
	}
	for at, then := range since {
		cs, err := m.Changes(ctx, ref, at)
		if err != nil {
			t.Fatal(err)
		}
		if cs.Head != at && !slices.Equal(cs.UIDs, uids) {
			t.Fatalf("Changes returns other UIDs than UIDs")
		}
		if d := differ(all, follow(then, cs)); d != "" {
			t.Fatalf("Changes since %d does not lead to the records:\n%s", at, d)
		}
	}
	box, err := m.MailboxByID(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	if since[box.HighestModSeq] = all; len(since) > 4 {
		for at := range since { // any
			delete(since, at)
			break
		}
	}
}

// follow is what a session does with changes.
func follow(then []storage.Message, cs storage.ChangeSet) []storage.Message {
	now := map[storage.UID]storage.Message{}
	for _, m := range then {
		now[m.UID] = m
	}
	for _, m := range cs.Changed {
		now[m.UID] = m
	}
	for _, uid := range cs.Expunged {
		delete(now, uid)
	}
	return slices.SortedFunc(maps.Values(now), func(a, b storage.Message) int { return int(int64(a.UID) - int64(b.UID)) })
}

// someUIDs draws from what the mailbox has and had.
func someUIDs(rng *rand.Rand, highest storage.UID) []storage.UID {
	n := 1 + rng.IntN(30)
	if rng.IntN(20) == 0 {
		n = 600
	}
	first := 1 + storage.UID(rng.IntN(int(highest)))
	out := make([]storage.UID, 0, n)
	for range n {
		out = append(out, first)
		first += 1 + storage.UID(rng.IntN(3))
	}
	return out
}

// listingStep makes one random change of a mailbox.
func listingStep(t testing.TB, m *Master, a storage.Account, ref storage.Ref, rng *rand.Rand) {
	t.Helper()
	ctx := context.Background()
	box, err := m.MailboxByID(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	uids := someUIDs(rng, box.UIDNext)
	flags := storage.Flags{System: storage.SystemFlags(rng.IntN(32))}
	for k := range rng.IntN(4) {
		flags.Keywords = append(flags.Keywords, fmt.Sprintf("k%d-%d", k, rng.IntN(5)))
	}
	switch rng.IntN(10) {
	case 0, 1:
		_, err = m.Append(ctx, a.ID, storage.Append{Mailbox: box.Name, Body: spooled(mail(int(box.UIDNext))), Flags: flags,
			InternalDate: time.Unix(rng.Int64N(1<<33)-1<<32, 0)})
	case 2, 3, 4:
		_, err = m.SetFlags(ctx, ref, uids, storage.FlagChange{Op: storage.FlagOp(rng.IntN(3)), Flags: flags})
	case 5:
		_, err = m.SetFlags(ctx, ref, uids, storage.FlagChange{Op: storage.FlagsAdd, Flags: storage.Flags{System: storage.Deleted}})
	case 6:
		_, err = m.Expunge(ctx, ref, uids)
	case 7:
		_, err = m.Move(ctx, ref, uids, box.Name)
	case 8:
		_, err = m.Copy(ctx, ref, uids, box.Name)
	case 9:
		err = m.RenameMailbox(ctx, a.ID, box.Name, fmt.Sprintf("box%d", rng.IntN(1<<30)))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// fill makes a mailbox with n messages and a few keywords.
func fill(t testing.TB, m *Master, a storage.Account, name string, n int) storage.Ref {
	t.Helper()
	ctx := context.Background()
	if _, err := m.CreateMailbox(ctx, a.ID, name, ""); err != nil {
		t.Fatal(err)
	}
	ref := refOf(t, m, a, name)
	var uids []storage.UID
	for i := range min(n, 16) {
		got, err := m.Append(ctx, a.ID, storage.Append{Mailbox: name, Body: spooled(mail(i)), InternalDate: time.Unix(int64(1_790_000_000+i), 0)})
		if err != nil {
			t.Fatal(err)
		}
		uids = append(uids, got.UID)
	}
	for left := n - len(uids); left > 0; {
		got, err := m.Copy(ctx, ref, uids[:min(len(uids), left)], name)
		if err != nil {
			t.Fatal(err)
		}
		left -= len(got.To)
		if len(uids) < 1000 {
			uids = append(uids, got.To...)
		}
	}
	return ref
}

// After each of many random changes listings equal the records.
func TestListingEqualsTheRecords(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(testSeed(t), 1))
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	ref := fill(t, m, a, "box", 1200)
	since := map[storage.ModSeq][]storage.Message{}
	for range tries(60, 15) {
		for range 1 + rng.IntN(3) {
			listingStep(t, m, a, ref, rng)
		}
		sameAsRecords(t, m, ref, rng, since)
	}
	// The other master of an unclean epoch shows no MODSEQ below its floor (law 3).
	m.Stop()
	m = serve(t, s, 2, 1)
	sameAsRecords(t, m, ref, rng, since)
	box, err := m.MailboxByID(context.Background(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.DeleteMailbox(context.Background(), a.ID, box.Name); err != nil {
		t.Fatal(err)
	}
	if err := m.Scan(context.Background(), ref, 0, ^storage.UID(0), func(storage.Message) error { return nil }); !errors.Is(err, storage.ErrNotFound) {
		t.Fatalf("Scan of a deleted mailbox: %v", err)
	}
}

// Sessions that read while others change the mailbox: each, by UIDs and Changes
// alone, always has what the store has.
func TestListingConcurrent(t *testing.T) {
	seed := testSeed(t)
	ctx := context.Background()
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	ref := fill(t, m, a, "box", 700)
	stop := make(chan struct{})
	var readers, writers sync.WaitGroup
	for i := range 4 {
		readers.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			box, err := m.MailboxByID(ctx, ref)
			if err != nil {
				t.Error(err)
				return
			}
			at, mine := box.HighestModSeq, []storage.Message(nil)
			if err := m.Scan(ctx, ref, 0, ^storage.UID(0), collect(&mine)); err != nil {
				t.Error(err)
				return
			}
			for last := false; ; {
				cs, err := m.Changes(ctx, ref, at)
				if err != nil {
					t.Error(err)
					return
				}
				mine, at = follow(mine, cs), cs.Head
				if cs.UIDs != nil && !slices.EqualFunc(mine, cs.UIDs, func(x storage.Message, u storage.UID) bool { return x.UID == u }) {
					t.Errorf("at %d a session has other UIDs than the store", at)
					return
				}
				if last {
					if d := differ(plain(t, m, ref, 0, ^storage.UID(0)), mine); d != "" {
						t.Errorf("at the end a session has other messages than the records:\n%s", d)
					}
					return
				}
				if rng.IntN(3) == 0 {
					if err := m.Scan(ctx, ref, 0, ^storage.UID(0), func(storage.Message) error { return nil }); err != nil {
						t.Error(err)
						return
					}
				}
				select {
				case <-stop:
					last = true
				default:
				}
			}
		})
	}
	for i := range 2 {
		writers.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(100+i)))
			for range 60 {
				concurrentStep(t, m, a, ref, rng)
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
}

// concurrentStep is listingStep without renames, which another may have done.
func concurrentStep(t *testing.T, m *Master, a storage.Account, ref storage.Ref, rng *rand.Rand) {
	ctx := context.Background()
	uids := someUIDs(rng, 1500)
	var err error
	switch rng.IntN(5) {
	case 0:
		_, err = m.Append(ctx, a.ID, storage.Append{Mailbox: "box", Body: spooled(mail(1))})
	case 1, 2:
		k := fmt.Sprintf("k%d", rng.IntN(9))
		_, err = m.SetFlags(ctx, ref, uids, storage.FlagChange{Op: storage.FlagsAdd, Flags: storage.Flags{System: storage.Deleted, Keywords: []string{k}}})
	case 3:
		_, err = m.Expunge(ctx, ref, uids)
	case 4:
		_, err = m.Move(ctx, ref, uids, "box")
	}
	if err != nil {
		t.Error(err)
	}
}

// A state transfer replaces the records without raising a MODSEQ: nothing that
// was remembered before may be shown after it.
func TestListingForgottenByTransfer(t *testing.T) {
	ctx := context.Background()
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	ref := fill(t, m, a, "box", 30)
	var before []storage.Message
	if err := m.Scan(ctx, ref, 0, ^storage.UID(0), collect(&before)); err != nil {
		t.Fatal(err)
	}
	old := s.acquire()
	defer old.release()
	m.Stop()
	var slotRecords, others []event.Record
	if err := s.ReadState(func(r event.Record) error {
		r = event.Record{Key: slices.Clone(r.Key), Value: slices.Clone(r.Value)}
		if r.Key[0] == event.PrefixSlot {
			slotRecords = append(slotRecords, r)
		} else {
			others = append(others, r)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{
		func() error { return s.BeginImport(ctx) }, func() error { return s.ImportRecords(ctx, others) },
		func() error { return s.FinishImport(ctx, slotRecords) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		if l := cached(m, ref); l != nil {
			t.Fatal("a listing outlived a step of a state transfer")
		}
	}
	m = serve(t, s, 1, 0)
	// A reader that began before the transfer must not bring its state back.
	box, err := loadMailbox(old, ref)
	if err != nil {
		t.Fatal(err)
	}
	if l, err := m.listing(ctx, old, box, true, false); err != nil || l == nil || cached(m, ref) != nil {
		t.Fatalf("a reader of the old state: %v, %v; the cache has %v", l, err, cached(m, ref))
	}
	var after []storage.Message
	if err := m.Scan(ctx, ref, 0, ^storage.UID(0), collect(&after)); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, after); d != "" || cached(m, ref) == nil {
		t.Fatalf("after the transfer (listing %v):\n%s", cached(m, ref), d)
	}
}

// The result of edits is that of a map, and the older listing stays as it was.
func TestListingEdit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		model := map[storage.UID]entry{}
		l := &listing{}
		next := storage.UID(1)
		for round := range rapid.Int64Range(1, 6).Draw(t, "rounds") {
			edits := map[storage.UID]edit{}
			for range rapid.IntRange(0, 20).Draw(t, "runs") {
				first := storage.UID(rapid.IntRange(1, int(next)).Draw(t, "first"))
				live := rapid.Bool().Draw(t, "live")
				for i := range storage.UID(rapid.IntRange(1, 300).Draw(t, "length")) {
					edits[first+i] = edit{first + i, live, entry{uid: first + i, date: round, sizeFlags: 5 << 8}}
				}
			}
			sorted := slices.SortedFunc(maps.Values(edits), func(a, b edit) int { return int(a.uid) - int(b.uid) })
			before, uids := flatten(l), slices.Clone(l.uids)
			newer := *l
			newer.edit(sorted)
			if !slices.Equal(before, flatten(l)) || !slices.Equal(uids, l.uids) {
				t.Fatal("the older listing was changed")
			}
			l = &newer
			for uid, e := range edits {
				next = max(next, uid+1)
				if delete(model, uid); e.live {
					model[uid] = e.entry
				}
			}
			want := slices.SortedFunc(maps.Values(model), func(a, b entry) int { return int(a.uid) - int(b.uid) })
			if got := flatten(l); !slices.Equal(want, got) {
				t.Fatalf("edits went wrong:\n%s", cmp.Diff(want, got, cmp.AllowUnexported(entry{})))
			}
			if len(l.uids) != len(want) || l.messages != len(want) || l.bodyBytes != int64(5*len(want)) || len(l.chunks) > 3+2*len(want)/chunkEntriesMax {
				t.Fatalf("%d messages, %d UIDs, %d bytes, %d chunks; want %d", l.messages, len(l.uids), l.bodyBytes, len(l.chunks), len(want))
			}
			for i := range want {
				if l.uids[i] != want[i].uid || *l.find(want[i].uid) != want[i] {
					t.Fatalf("UID %d: [%d] is %d", want[i].uid, i, l.uids[i])
				}
			}
		}
	})
}

func flatten(l *listing) []entry { return slices.Concat(l.chunks...) }
