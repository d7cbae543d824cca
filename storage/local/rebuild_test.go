package local

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// written makes a copy, fills it, closes it, and returns what clients saw of it. flush
// makes tables of what is in the log.
func written(t *testing.T, fs *vfs.MemFS, flush bool) (Options, []storage.Account, shown) {
	t.Helper()
	o := options(t, fs)
	o.PackBytesMax = 32 << 10
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a, b := account(t, m, "u1@example.test"), account(t, m, "u2@example.test")
	ctx := context.Background()
	for i := range 60 {
		deliver(t, m, mail(i)+strings.Repeat("x", 20*i), a, b)
		if flush && i%20 == 19 {
			if err := s.db.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := m.CreateMailbox(ctx, a.ID, "Projects/2024", ""); err != nil {
		t.Fatal(err)
	}
	box, _ := inbox(t, m, a)
	ref := storage.Ref{Account: a.ID, Mailbox: box.ID}
	if _, err := m.SetFlags(ctx, ref, []storage.UID{3, 4}, storage.FlagChange{Op: storage.FlagsAdd, Flags: storage.Flags{System: storage.Seen, Keywords: []string{"work"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Append(ctx, a.ID, storage.Append{Mailbox: "Projects/2024", Body: body(t, mail(1000)), Flags: storage.Flags{System: storage.Flagged}}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.SetFlags(ctx, ref, []storage.UID{10}, storage.FlagChange{Op: storage.FlagsAdd, Flags: storage.Flags{System: storage.Deleted}}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Expunge(ctx, ref, nil); err != nil {
		t.Fatal(err)
	}
	if flush {
		if err := s.db.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	accounts := []storage.Account{a, b}
	out := seenBy(t, m, accounts)
	closeOnce(t, s)
	return o, accounts, out
}

// shown is what clients see: "address mailbox" -> its messages, and every number
// with the message that it names.
type shown struct {
	bodies  map[string][]string  // GUID and flags, sorted
	numbers map[string]slot.GUID // address, mailbox, UIDVALIDITY, UID
	modseq  map[string]storage.ModSeq
	valid   map[string]storage.UIDValidity
}

func seenBy(t *testing.T, m *Master, accounts []storage.Account) shown {
	t.Helper()
	ctx := context.Background()
	out := shown{map[string][]string{}, map[string]slot.GUID{}, map[string]storage.ModSeq{}, map[string]storage.UIDValidity{}}
	for _, a := range accounts {
		boxes, err := m.Mailboxes(ctx, a.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range boxes {
			k := fmt.Sprintf("%s %s", a.Address, b.Name)
			out.valid[k], out.modseq[fmt.Sprintf("%s %d", k, b.UIDValidity)] = b.UIDValidity, b.HighestModSeq
			ref := storage.Ref{Account: a.ID, Mailbox: b.ID}
			if err := m.Scan(ctx, ref, 1, ^storage.UID(0), func(msg storage.Message) error {
				guid := guidOf(t, m, ref, msg.UID)
				out.bodies[k] = append(out.bodies[k], fmt.Sprintf("%.8s %s", guid, flagText(msg.Flags)))
				out.numbers[fmt.Sprintf("%s %d %d", k, b.UIDValidity, msg.UID)] = guid
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			slices.Sort(out.bodies[k])
		}
	}
	return out
}

// sameNumbers proves laws 2 and 3 between what was and what is.
func sameNumbers(t *testing.T, was, is shown) {
	t.Helper()
	for k, g := range is.numbers {
		if old, there := was.numbers[k]; there && old != g {
			t.Errorf("%s named %.8s and names %.8s", k, old, g)
		}
	}
	for k, m := range is.modseq {
		if m < was.modseq[k] {
			t.Errorf("HIGHESTMODSEQ of %s was %d and is %d", k, was.modseq[k], m)
		}
	}
}

func rebuildAlone(t *testing.T, o Options) Rebuilt {
	t.Helper()
	out, err := Rebuild(context.Background(), o, RebuildOptions{Mode: Alone, Epoch: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", out)
	return out
}

// indexFiles lists files of the index by how their names begin or end.
func indexFiles(t *testing.T, fs vfs.FS, part string) []string {
	t.Helper()
	names, err := fs.List("/slots/s007/index")
	if err != nil {
		t.Fatal(err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, part) && !strings.HasSuffix(n, part) })
	slices.Sort(names)
	if len(names) == 0 {
		t.Fatalf("no file %q in the index", part)
	}
	return names
}

// garble changes bytes of a file from a part of its length on.
func garble(t *testing.T, fs vfs.FS, path string, from float64, n int) {
	t.Helper()
	f, err := fs.OpenReadWrite(path, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	at := int64(from * float64(st.Size()))
	b := make([]byte, min(int64(n), st.Size()-at))
	if _, err := f.ReadAt(b, at); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	for i := range b {
		b[i] ^= 0x5a
	}
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// The whole index is gone: every message comes back from the packs, with the flags
// of its birth, under a new UIDVALIDITY; no number names two messages.
func TestLaw02Law07RebuildFromPacksAlone(t *testing.T) {
	fs := newFS(t)
	o, accounts, was := written(t, fs, false)
	if err := fs.RemoveAll("/slots/s007/index"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(o); err == nil || !IndexLost(err) {
		t.Fatalf("packs without an index were opened: %v", err)
	}
	for _, path := range []string{"/slots/s007/SLOT", "/slots/s007/packs/SLOT"} {
		if err := fs.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(o); err == nil || IndexLost(err) {
		t.Fatalf("a disk that may be another's is not to be rebuilt by a program: %v", err)
	}
	got := rebuildAlone(t, o)
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	is := seenBy(t, m, accounts)
	sameNumbers(t, was, is)
	for k, v := range is.valid {
		if was.valid[k] == v {
			t.Errorf("%s has kept UIDVALIDITY %d", k, v)
		}
	}
	// The expunged message is back (better twice than never), flags are those of birth.
	if n := len(is.bodies["u1@example.test INBOX"]); n != 60 || len(is.bodies["u2@example.test INBOX"]) != 60 {
		t.Errorf("INBOX of u1 has %d messages, want 60", n)
	}
	if got := is.bodies["u1@example.test Projects/2024"]; len(got) != 1 || !strings.HasSuffix(got[0], `\Flagged`) {
		t.Errorf("Projects/2024: %v", got)
	}
	if got.FromPacks != 121 || got.Kept != 0 || len(got.Made) != 2 {
		t.Errorf("%+v", got)
	}
	if a, err := m.Address(context.Background(), "u1@example.test"); err != nil || a.Account != accounts[0].ID {
		t.Errorf("address: %+v, %v", a, err)
	}
	if _, err := m.Authenticate(context.Background(), accounts[0].ID, storage.Attempt{Password: "pw"}); err == nil {
		t.Error("a password works that nobody knows")
	}
	deliver(t, m, "after\r\n\r\n", accounts...)
}

// Damage of one table: what is outside it keeps UIDs, flags and UIDVALIDITY, the
// rest comes back; nothing is lost.
func TestLaw02Law07RebuildWithOneTableGarbled(t *testing.T) {
	t.Parallel()
	for _, from := range []float64{0, 0.6, 0.98} {
		t.Run(fmt.Sprint(from), func(t *testing.T) {
			fs := newFS(t)
			o, accounts, was := written(t, fs, true)
			tables := indexFiles(t, fs, ".sst")
			garble(t, fs, "/slots/s007/index/"+tables[0], from, 300)
			got := rebuildAlone(t, o)
			s := openSlot(t, o)
			m := serve(t, s, 1, 0)
			is := seenBy(t, m, accounts)
			sameNumbers(t, was, is)
			complete(t, was, is)
			if got.Old != "index-1" || len(got.Lost) == 0 {
				t.Errorf("%+v", got)
			}
		})
	}
}

// complete proves that no message of before is missing.
func complete(t *testing.T, was, is shown) {
	t.Helper()
	for k, list := range was.bodies {
		have := map[string]int{}
		for _, b := range is.bodies[k] {
			have[b[:8]]++
		}
		for _, b := range list {
			if have[b[:8]] == 0 {
				t.Errorf("%s: message %s is gone", k, b)
			}
		}
	}
}

// A sound index loses nothing and keeps everything, UIDVALIDITY too.
func TestRebuildOfASoundIndexChangesNothing(t *testing.T) {
	for _, flush := range []bool{false, true} {
		fs := newFS(t)
		o, accounts, was := written(t, fs, flush)
		got := rebuildAlone(t, o)
		s := openSlot(t, o)
		m := serve(t, s, 1, 0)
		is := seenBy(t, m, accounts)
		sameNumbers(t, was, is)
		if fmt.Sprint(was.bodies) != fmt.Sprint(is.bodies) || !maps.Equal(was.valid, is.valid) || !maps.Equal(was.numbers, is.numbers) {
			t.Errorf("clients see %v, they saw %v", is, was)
		}
		if got.NewUIDValidity != 0 || got.FromPacks != 0 || len(got.Lost) != 0 || got.Kept != 120 {
			t.Errorf("%+v", got)
		}
		if _, err := m.Authenticate(context.Background(), accounts[0].ID, storage.Attempt{Password: "pw"}); err != nil {
			t.Error(err)
		}
	}
}

// The write-ahead log or the list of files is garbled: what is before the damage
// keeps UIDs and flags, the rest comes back.
func TestLaw02Law07RebuildWithLogOrManifestGarbled(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		part  string
		from  float64
		flush bool
	}{{".log", 0.5, false}, {".log", 0.1, false}, {"MANIFEST-", 0.1, true}, {"MANIFEST-", 0.1, false}, {"MANIFEST-", 0.6, true}} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			fs := newFS(t)
			o, accounts, was := written(t, fs, tt.flush)
			for _, name := range indexFiles(t, fs, tt.part) {
				garble(t, fs, "/slots/s007/index/"+name, tt.from, 64)
			}
			got := rebuildAlone(t, o)
			s := openSlot(t, o)
			m := serve(t, s, 1, 0)
			is := seenBy(t, m, accounts)
			sameNumbers(t, was, is)
			complete(t, was, is)
			if tt.part == "MANIFEST-" && got.Kept != 120 {
				t.Errorf("%d messages kept flags and UID: %+v", got.Kept, got)
			}
			if tt.part == ".log" && (got.Kept == 0) != (tt.from < 0.05) {
				t.Errorf("%+v", got)
			}
		})
	}
}

// Power fails at any sync point of a rebuild: the copy is not opened, and the next
// Rebuild ends with the same result.
func TestLaw07RebuildSurvivesPowerLoss(t *testing.T) { rebuildSurvivesPowerLoss(t, tries(16, 4)) }

func TestLongLaw07RebuildSurvivesPowerLoss(t *testing.T) {
	skipUnlessLong(t)
	rebuildSurvivesPowerLoss(t, 1<<20)
}

// rebuildSurvivesPowerLoss tries about so many of the sync points, the last one among them.
func rebuildSurvivesPowerLoss(t *testing.T, tried int) {
	t.Parallel()
	sd := seed(t)
	for _, mode := range []RebuildMode{Alone, Refill} {
		t.Run(string(mode), func(t *testing.T) {
			fs := newFS(t)
			o, accounts, was := written(t, fs, true)
			for _, name := range indexFiles(t, fs, "MANIFEST-") {
				garble(t, fs, "/slots/s007/index/"+name, 0.1, 64)
			}
			points := &syncPoints{fs: fs, rng: rand.New(rand.NewPCG(sd, 1))}
			oc := o
			oc.FS = injected(fs, points)
			if _, err := Rebuild(context.Background(), oc, RebuildOptions{Mode: mode, Epoch: 1}); err != nil {
				t.Fatal(err)
			}
			points.take()
			if len(points.clones) < 5 {
				t.Fatalf("%d sync points", len(points.clones))
			}
			t.Logf("%d sync points", len(points.clones))
			began := false
			for i, clone := range points.clones {
				oc.FS = clone
				if began = began || pending(oc); !began || points.skips(i, tried) {
					continue // before the mark is durable the old index is where it was
				}
				if pending(oc) {
					if s, err := Open(oc); err == nil {
						s.Close()
						t.Fatalf("sync point %d: opened in the middle of a rebuild", i)
					}
					if _, err := Rebuild(t.Context(), oc, RebuildOptions{Mode: mode, Epoch: 1}); err != nil {
						t.Fatalf("sync point %d: %v", i, err)
					}
				}
				s, err := Open(oc)
				if err != nil {
					t.Fatalf("sync point %d: %v", i, err)
				}
				if s.Building() != (mode == Refill) {
					t.Errorf("sync point %d: building %v", i, s.Building())
				}
				if mode == Alone {
					is := seenBy(t, serve(t, s, 1, 0), accounts)
					sameNumbers(t, was, is)
					complete(t, was, is)
					closeOnce(t, s)
				} else {
					s.Close()
				}
				if pending(oc) {
					t.Errorf("sync point %d: the mark is still there", i)
				}
				if names, err := clone.List("/slots/s007/quarantine"); err != nil || !slices.Contains(names, "index-1") && !slices.Contains(names, "index-2") {
					t.Errorf("sync point %d: quarantine has %v, %v", i, names, err)
				}
			}
			if !began {
				t.Error("no clone had the mark")
			}
		})
	}
}

func pending(o Options) bool { _, is := RebuildPending(o); return is }

// syncPoints takes crash clones before each sync and each rename: with nothing
// kept that was not synced, and with a random part of it.
type syncPoints struct {
	fs  *vfs.MemFS
	rng *rand.Rand

	mu     sync.Mutex
	clones []*vfs.MemFS
}

// skips chooses about so many of the clones, the last one always.
func (p *syncPoints) skips(i, tried int) bool {
	return i < len(p.clones)-1 && p.rng.IntN(len(p.clones)) >= tried
}

func (p *syncPoints) String() string { return "syncPoints" }

// MaybeError implements errorfs.Injector.
func (p *syncPoints) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpRename, errorfs.OpRemove, errorfs.OpRemoveAll:
		p.take()
	}
	return nil
}

func (p *syncPoints) take() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clones = append(p.clones, p.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 50}[len(p.clones)%2], RNG: p.rng}))
}
