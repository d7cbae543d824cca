package local

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"

	"mailnode/storage"
	"mailnode/storage/event"
)

// longer is how many times longer than usual random walks are: ROUNDS, else 1.
func longer() int {
	n, err := strconv.Atoi(os.Getenv("ROUNDS"))
	if err != nil {
		return 1
	}
	return max(1, n)
}

func steppedOptions(t *testing.T, fs vfs.FS, clock *handClock) Options {
	t.Helper()
	o := options(t, fs)
	o.Clock.Mono = clock.mono
	o.Undelete = removalWindow
	return o
}

// state returns every record that copies at one position have in common.
func state(t *testing.T, s *Slot) map[string]string {
	t.Helper()
	out := map[string]string{}
	if err := s.ReadState(func(r event.Record) error {
		out[string(r.Key)] = string(r.Value)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// Removals, restorations and freeing in any order, with time passing: the store
// does what the model does, and a replica that takes the events has the same
// records; the checker proves both at the end (laws 7 and 8).
func TestLaw07Law08RemovalsOnMasterAndReplica(t *testing.T) {
	sd := seed(t)
	rng := rand.New(rand.NewPCG(sd, 5))
	clock := &handClock{now: time.Hour}
	w, s := newRemovals(t, steppedOptions(t, newFS(t), clock), clock, rng)
	replica := openSlot(t, steppedOptions(t, newFS(t), clock))
	follow := func() {
		t.Helper()
		h, err := replica.Head()
		if err != nil {
			t.Fatal(err)
		}
		evs := journalOf(t, s, h.Position)
		giveBodies(t, s, replica, evs)
		for len(evs) > 0 {
			n := min(len(evs), 1+rng.IntN(8))
			if done, err := applyAll(t.Context(), replica, evs[:n]); err != nil || done != n {
				t.Fatalf("%d of %d events applied: %v", done, n, err)
			}
			evs = evs[n:]
		}
	}
	ops := map[string]int{}
	proved := func() bool {
		return ops["free"] > 0 && w.restored.Messages > 0 && len(w.restored.Mailboxes) > 0 && ops["erase account"]+ops["undelete account"] > 0
	}
	for began := time.Now(); ops["all"] < 800*longer() && (ops["all"] < 100 || !proved() || time.Since(began) < time.Duration(longer())*2*time.Second); ops["all"]++ {
		what := ""
		switch a := w.living(); {
		case rng.IntN(15) == 0:
			what = "free"
			follow() // a replica that is further behind than the window would fetch the state
			w.free()
			w.compare(what)
			w.refill()
		case rng.IntN(6) == 0 && a != nil:
			what = "restore"
			w.apply(w.planRestore(a))
		default:
			what = w.step()
		}
		ops[what]++
		w.compare(what)
		if rng.IntN(4) == 0 {
			follow()
		}
		if rng.IntN(20) == 0 {
			follow()
			same(t, s, replica)
			if diff := cmp.Diff(state(t, s), state(t, replica)); diff != "" {
				t.Fatalf("after %s master and replica differ:\n%q", what, diff)
			}
			for who, c := range map[string]*Slot{"master": s, "replica": replica} {
				if bodies, refs := countKeys(t, c, event.PrefixBody), countKeys(t, c, event.PrefixRefs); bodies != refs {
					t.Fatalf("after %s the %s keeps %d bodies, %d are named", what, who, bodies, refs)
				}
			}
		}
	}
	follow()
	if diff := cmp.Diff(state(t, s), state(t, replica)); diff != "" {
		t.Fatalf("master and replica differ:\n%q", diff)
	}
	if !proved() {
		t.Errorf("this proves nothing: %v, restored %+v", ops, w.restored)
	}
	t.Logf("%v; %d messages and %d mailboxes restored", ops, w.restored.Messages, len(w.restored.Mailboxes))
}

// reopened is a copy after a crash, served at the same moment of the slot clock.
func (w *removals) reopened(o Options, fs vfs.FS) (*Slot, *Master) {
	w.t.Helper()
	clock := &handClock{now: w.clock.mono()}
	o.FS = fs
	o.Clock.Mono = clock.mono
	s := openSlot(w.t, o)
	m := serve(w.t, s, 1, 0)
	if err := s.read(func(v *view) error {
		if now := m.clockNow(v); now < w.now() {
			clock.add(time.Duration(w.now()-now) * time.Millisecond)
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	return s, m
}

// partOf reports whether each message of a is in b, as it is there.
func partOf(a, b map[storage.UID]modelMessage) bool {
	for u, m := range a {
		if b[u] != m {
			return false
		}
	}
	return true
}

// between proves that a store cut off on the way from before to after is at one
// of them, or has some of the steps; kept is what comes back with its mailbox.
func between(t *testing.T, before, got, after map[storage.MailboxID]seenBox, kept map[storage.MailboxID]map[storage.UID]modelMessage) {
	t.Helper()
	for id, b := range after {
		g, there := got[id]
		was, old := before[id]
		switch {
		case !there && old:
			t.Fatalf("mailbox %q is gone", b.Name)
		case there && (!partOf(was.messages, g.messages) || !partOf(kept[id], g.messages) || !partOf(g.messages, b.messages)):
			t.Fatalf("mailbox %q is neither before nor after nor between", b.Name)
		}
	}
}

// Power fails in the middle of a Restore: each message was restored once or not
// at all, and a second Restore completes the first (laws 1, 2 and 7).
func TestLaw01Law02Law07RestoreSurvivesPowerLoss(t *testing.T) {
	t.Parallel()
	sd := seed(t)
	rng := rand.New(rand.NewPCG(sd, 6))
	fs := newFS(t)
	crash := &crashAt{fs: fs, rng: rand.New(rand.NewPCG(sd, 7))}
	clock := &handClock{now: time.Hour}
	o := steppedOptions(t, injected(fs, crash), clock)
	w, _ := newRemovals(t, o, clock, rng)
	rounds, partial, cut := 0, 0, 0
	for began := time.Now(); cut == 0 && rounds < 200 || rounds < 25*longer() && (rounds < tries(10, 3) || time.Since(began) < time.Duration(longer())*1500*time.Millisecond); rounds++ {
		for range 15 {
			w.compare(w.step())
		}
		a := w.living()
		if a == nil {
			continue
		}
		before := seen(t, w.m, a.ID)
		plan := w.planRestore(a)
		if len(plan.all) == 0 {
			continue
		}
		kept := map[storage.MailboxID]map[storage.UID]modelMessage{}
		for _, b := range plan.boxes {
			kept[b.id] = maps.Clone(b.messages) // comes back with the mailbox
		}
		crash.arm(1+rng.IntN(12), []int{0, 50, 100}[rng.IntN(3)])
		w.apply(plan)
		whole := crash.clone == nil
		clone := crash.take()
		w.compare("restore")
		after := seen(t, w.m, a.ID)
		func() {
			s, m := w.reopened(o, clone)
			defer closeOnce(t, s)
			got := seen(t, m, a.ID)
			if whole && dumpSeen(got) != dumpSeen(after) {
				t.Fatalf("acknowledged, and after the crash it is\n%s\nnot\n%s", dumpSeen(got), dumpSeen(after))
			}
			between(t, before, got, after, kept)
			if dumpSeen(got) != dumpSeen(after) {
				cut++
				if dumpSeen(got) != dumpSeen(before) {
					partial++
				}
			}
			if _, err := m.Restore(context.Background(), a.ID, plan.r); err != nil {
				t.Fatalf("a second restore: %v", err)
			}
			got = seen(t, m, a.ID)
			for id, b := range after {
				_, old := before[id]
				if g := got[id]; (old || kept[id] != nil) && (g.UIDNext != b.UIDNext || !maps.Equal(g.messages, b.messages)) {
					t.Fatalf("after the second restore mailbox %q is\n%s\nnot\n%s", b.Name, boxText(id, g.Name, g.UIDNext, g.messages), boxText(id, b.Name, b.UIDNext, b.messages))
				}
			}
			if len(got) != len(after) {
				t.Fatalf("after the second restore there are %d mailboxes, want %d", len(got), len(after))
			}
		}()
	}
	if cut == 0 {
		t.Errorf("none of %d was cut off: this proves nothing", rounds)
	}
	t.Logf("%d rounds, %d cut off, %d of them between two steps", rounds, cut, partial)
}

// Power fails in the middle of Free: no client sees a difference, what can be
// brought back still can, and freeing again ends where it would have ended.
func TestLaw01Law07FreeSurvivesPowerLoss(t *testing.T) {
	t.Parallel()
	sd := seed(t)
	rng := rand.New(rand.NewPCG(sd, 8))
	fs := newFS(t)
	crash := &crashAt{fs: fs, rng: rand.New(rand.NewPCG(sd, 9))}
	clock := &handClock{now: time.Hour}
	o := steppedOptions(t, injected(fs, crash), clock)
	w, s := newRemovals(t, o, clock, rng)
	counts := func(s *Slot) map[string]int {
		out := map[string]int{}
		for _, p := range append(event.StatePrefixes(), event.PrefixBody) {
			out[string(p)] = countKeys(t, s, p)
		}
		return out
	}
	rounds, cut := 0, 0
	for began := time.Now(); cut == 0 && rounds < 200 || rounds < 25*longer() && (rounds < tries(10, 3) || time.Since(began) < time.Duration(longer())*1500*time.Millisecond); rounds++ {
		for range 25 {
			w.compare(w.step())
		}
		clock.add(time.Duration(rng.Int64N(int64(4 * 24 * time.Hour))))
		crash.arm(1+rng.IntN(40), []int{0, 50, 100}[rng.IntN(3)])
		w.free()
		clone := crash.take()
		w.compare("free")
		func() {
			sc, m := w.reopened(o, clone)
			defer closeOnce(t, sc)
			main := w.m
			w.m = m
			defer func() { w.m = main }()
			for _, a := range w.accounts {
				if !a.deleted && dumpSeen(seen(t, m, a.ID)) != a.dump() {
					t.Fatalf("after the crash %s has\n%s\nthe model\n%s", a.Address, dumpSeen(seen(t, m, a.ID)), a.dump())
				}
			}
			want := counts(s)
			if !maps.Equal(counts(sc), want) {
				cut++
			}
			free(t, m)
			free(t, m)
			w.compare("free again")
			if diff := cmp.Diff(want, counts(sc)); diff != "" {
				t.Fatalf("free again ends elsewhere: %s", diff)
			}
		}()
		w.refill()
	}
	if cut == 0 {
		t.Errorf("none of %d was cut off: this proves nothing", rounds)
	}
	t.Logf("%d rounds, %d cut off", rounds, cut)
}

// A deleted mailbox with more messages than one event may free goes in several.
func TestFreeLargeMailbox(t *testing.T) {
	clock, s, m := undeleteBench(t)
	ctx := t.Context()
	a := account(t, m, "a@example.test")
	deliver(t, m, mail(1), a)
	box, _ := inbox(t, m, a)
	ref := storage.Ref{Account: a.ID, Mailbox: box.ID}
	if _, err := m.CreateMailbox(ctx, a.ID, "big", ""); err != nil {
		t.Fatal(err)
	}
	const n = storage.MaxTxnRecords + 5
	if _, err := m.Copy(ctx, ref, []storage.UID{1}, "big"); err != nil {
		t.Fatal(err)
	}
	big, err := m.Mailbox(ctx, a.ID, "big")
	if err != nil {
		t.Fatal(err)
	}
	for have := 1; have < n; have *= 2 { // it doubles
		var uids []storage.UID
		for u := range min(have, n-have) {
			uids = append(uids, storage.UID(u+1))
		}
		if _, err := m.Copy(ctx, storage.Ref{Account: a.ID, Mailbox: big.ID}, uids, "big"); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.DeleteMailbox(ctx, a.ID, "big"); err != nil {
		t.Fatal(err)
	}
	clock.add(8 * 24 * time.Hour)
	if f := free(t, m); f.Messages != n || f.Mailboxes != 1 {
		t.Errorf("freed %+v, want %d messages and their mailbox", f, n)
	}
	if left := countKeys(t, s, event.PrefixMessage); left != 1 {
		t.Errorf("%d messages are left, want the one in INBOX", left)
	}
}

// A mailbox whose name is taken, and leaves no room for " (2)", comes back under a
// name that clients can use.
func TestRestoreMailboxWithLongName(t *testing.T) {
	_, _, m := undeleteBench(t)
	ctx := t.Context()
	a := account(t, m, "a@example.test")
	name := strings.Repeat("ä", storage.MaxMailboxNameBytes/2)
	for _, step := range []func() error{
		func() error { _, err := m.CreateMailbox(ctx, a.ID, name, ""); return err },
		func() error { return m.DeleteMailbox(ctx, a.ID, name) },
		func() error { _, err := m.CreateMailbox(ctx, a.ID, name, ""); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	got, err := m.Restore(ctx, a.ID, storage.Restore{})
	if err != nil || len(got.Mailboxes) != 1 || !strings.HasSuffix(got.Mailboxes[0], "ä (2)") {
		t.Fatalf("restored %q, %v", got.Mailboxes, err)
	}
	if _, err := m.Mailbox(ctx, a.ID, got.Mailboxes[0]); err != nil {
		t.Errorf("find it under its new name: %v", err)
	}
}

// Once the freeing of an account has begun it cannot be brought back in part.
func TestLaw07NoHalfAccountComesBack(t *testing.T) {
	clock, _, m := undeleteBench(t)
	ctx := t.Context()
	a := account(t, m, "a@example.test")
	deliver(t, m, mail(1), a)
	if err := m.DeleteAccount(ctx, a.ID); err != nil {
		t.Fatal(err)
	}
	clock.add(8 * 24 * time.Hour)
	if _, err := m.UndeleteAccount(ctx, a.Address); err != nil {
		t.Fatalf("undelete after the window, before anything was freed: %v", err)
	}
	if _, got := inbox(t, m, a); len(got) != 1 {
		t.Errorf("it came back with %d messages, want 1", len(got))
	}
	if err := m.DeleteAccount(ctx, a.ID); err != nil {
		t.Fatal(err)
	}
	clock.add(8 * 24 * time.Hour)
	free(t, m) // the first step takes the mailboxes, a later one the account
	if _, err := m.UndeleteAccount(ctx, a.Address); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("undelete of an account whose mail is gone: %v, want that there is none", err)
	}
	if left, err := m.DeletedAccounts(ctx); err != nil || len(left) != 0 {
		t.Errorf("deleted accounts: %+v, %v; want none", left, err)
	}
}

// crashAt takes a crash clone of a file system before the n-th write from now.
type crashAt struct {
	fs  *vfs.MemFS
	rng *rand.Rand // CrashClone's own

	mu      sync.Mutex
	left    int
	percent int
	clone   *vfs.MemFS
}

func (c *crashAt) arm(n, percent int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left, c.percent, c.clone = n, percent, nil
}

func (c *crashAt) take() *vfs.MemFS {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.clone == nil {
		c.clone = c.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: c.percent, RNG: c.rng})
	}
	c.left = 0
	return c.clone
}

func (c *crashAt) String() string { return "crashAt" }

// MaybeError implements errorfs.Injector.
func (c *crashAt) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left--; c.left == 0 {
		c.clone = c.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: c.percent, RNG: c.rng})
	}
	return nil
}
