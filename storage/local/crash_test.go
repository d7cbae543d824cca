package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// The model of a slot: what clients were told, and nothing else.
type (
	modelMessage struct {
		guid  slot.GUID
		flags string
	}
	modelMailbox struct {
		next     storage.UID
		messages map[storage.UID]modelMessage
	}
	model map[storage.AccountID]map[string]*modelMailbox
)

func (b *modelMailbox) add(m modelMessage) storage.UID {
	uid := b.next
	b.next++
	b.messages[uid] = m
	return uid
}

func newModelMailbox() *modelMailbox {
	return &modelMailbox{next: 1, messages: map[storage.UID]modelMessage{}}
}

func (md model) dump() string {
	var out strings.Builder
	for _, a := range slices.Sorted(maps.Keys(md)) {
		for _, name := range slices.Sorted(maps.Keys(md[a])) {
			b := md[a][name]
			fmt.Fprintf(&out, "%016x %s next %d\n", uint64(a), name, b.next)
			for _, uid := range slices.Sorted(maps.Keys(b.messages)) {
				fmt.Fprintf(&out, "  %d %.12s %s\n", uid, b.messages[uid].guid, b.messages[uid].flags)
			}
		}
	}
	return out.String()
}

func flagText(f storage.Flags) string {
	names := f.Names()
	sort.Strings(names)
	return strings.Join(names, " ")
}

// dumpStore gives the model's form of what clients see, and beside it every
// number that they were shown.
func dumpStore(t *testing.T, m *Master, accounts []storage.Account) (text, numbers string, highest storage.ModSeq) {
	t.Helper()
	ctx := context.Background()
	var out, nums strings.Builder
	for _, a := range accounts {
		boxes, err := m.Mailboxes(ctx, a.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range boxes {
			fmt.Fprintf(&out, "%016x %s next %d\n", uint64(a.ID), b.Name, b.UIDNext)
			fmt.Fprintf(&nums, "%016x %d %d\n", uint64(b.ID), b.UIDValidity, b.HighestModSeq)
			highest = max(highest, b.HighestModSeq)
			ref := storage.Ref{Account: a.ID, Mailbox: b.ID}
			if err := m.Scan(ctx, ref, 1, ^storage.UID(0), func(msg storage.Message) error {
				fmt.Fprintf(&out, "  %d %.12s %s\n", msg.UID, guidOf(t, m, ref, msg.UID), flagText(msg.Flags))
				fmt.Fprintf(&nums, "  %d %d\n", msg.UID, msg.ModSeq)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return out.String(), nums.String(), highest
}

func guidOf(t *testing.T, m *Master, ref storage.Ref, uid storage.UID) slot.GUID {
	t.Helper()
	return bodyOf(t, m, ref, uid).GUID
}

func bodyOf(t *testing.T, m *Master, ref storage.Ref, uid storage.UID) slot.BodyRef {
	t.Helper()
	var b slot.BodyRef
	if err := m.s.read(func(v *view) error {
		rec, err := loadMessage(v, ref, uid)
		if err == nil {
			b = rec.Body()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return b
}

// walk runs random operations on a store and on the model at once.
type walk struct {
	t        *testing.T
	m        *Master
	rng      *rand.Rand
	accounts []storage.Account // sorted by ID
	model    model
	password string // of the first account
	n        int
}

func newWalk(t *testing.T, m *Master, rng *rand.Rand, accounts int) *walk {
	t.Helper()
	w := &walk{t: t, m: m, rng: rng, model: model{}, password: "pw"}
	for i := range accounts {
		a := account(t, m, slot.Address(fmt.Sprintf("u%d@example.test", i)))
		w.accounts = append(w.accounts, a)
		w.model[a.ID] = map[string]*modelMailbox{}
		for _, sp := range specialMailboxes() {
			w.model[a.ID][sp.name] = newModelMailbox()
		}
	}
	slices.SortFunc(w.accounts, func(x, y storage.Account) int {
		return strings.Compare(fmt.Sprintf("%016x", uint64(x.ID)), fmt.Sprintf("%016x", uint64(y.ID)))
	})
	return w
}

func (w *walk) text() string { w.n++; return mail(w.n) + strings.Repeat("x", w.rng.IntN(3000)) }

func (w *walk) account() storage.Account { return w.accounts[w.rng.IntN(min(3, len(w.accounts)))] }

// mailbox picks one, with its reference.
func (w *walk) mailbox(a storage.Account) (name string, ref storage.Ref) {
	w.t.Helper()
	names := slices.Sorted(maps.Keys(w.model[a.ID]))
	name = names[w.rng.IntN(len(names))]
	if w.rng.IntN(2) == 0 {
		name = "INBOX"
	}
	b, err := w.m.Mailbox(context.Background(), a.ID, name)
	if err != nil {
		w.t.Fatal(err)
	}
	return name, storage.Ref{Account: a.ID, Mailbox: b.ID}
}

func (w *walk) uids(b *modelMailbox) []storage.UID {
	var out []storage.UID
	for _, u := range slices.Sorted(maps.Keys(b.messages)) {
		if w.rng.IntN(3) == 0 {
			out = append(out, u)
		}
	}
	return out
}

// step runs one operation. The model changes with it: all of it or nothing.
func (w *walk) step() (what string) {
	w.t.Helper()
	ctx := context.Background()
	a := w.account()
	boxes := w.model[a.ID]
	var err error
	switch w.rng.IntN(11) {
	case 0, 1:
		text, to := w.text(), w.accounts[:1+w.rng.IntN(2)*(len(w.accounts)-1)]
		what = fmt.Sprintf("deliver to %d", len(to))
		deliver(w.t, w.m, text, to...)
		for _, r := range to {
			w.model[r.ID]["INBOX"].add(modelMessage{guid: slot.SumGUID([]byte(text))})
		}
	case 2:
		what = "append"
		name, _ := w.mailbox(a)
		text := w.text()
		_, err = w.m.Append(ctx, a.ID, storage.Append{Mailbox: name, Body: spooled(text), Flags: storage.Flags{System: storage.Seen, Keywords: []string{"k"}}})
		boxes[name].add(modelMessage{slot.SumGUID([]byte(text)), `\Seen k`})
	case 3, 4:
		name, ref := w.mailbox(a)
		to, _ := w.mailbox(a)
		uids := w.uids(boxes[name])
		move := w.rng.IntN(2) == 0
		what = fmt.Sprintf("copy or move (%v) %d messages", move, len(uids))
		if move {
			_, err = w.m.Move(ctx, ref, uids, to)
		} else {
			_, err = w.m.Copy(ctx, ref, uids, to)
		}
		for _, u := range uids {
			boxes[to].add(boxes[name].messages[u])
			if move {
				delete(boxes[name].messages, u)
			}
		}
	case 5, 6:
		what = "store"
		name, ref := w.mailbox(a)
		uids := w.uids(boxes[name])
		f := storage.Flags{System: storage.Deleted}
		_, err = w.m.SetFlags(ctx, ref, uids, storage.FlagChange{Op: storage.FlagsReplace, Flags: f})
		for _, u := range uids {
			boxes[name].messages[u] = modelMessage{boxes[name].messages[u].guid, flagText(f)}
		}
	case 7:
		what = "expunge"
		name, ref := w.mailbox(a)
		_, err = w.m.Expunge(ctx, ref, nil)
		maps.DeleteFunc(boxes[name].messages, func(_ storage.UID, m modelMessage) bool { return m.flags == `\Deleted` })
	case 8:
		w.n++
		name := fmt.Sprintf("t%d/a", w.n)
		what = "create " + name
		_, err = w.m.CreateMailbox(ctx, a.ID, name, "")
		boxes[name], boxes[strings.TrimSuffix(name, "/a")] = newModelMailbox(), newModelMailbox()
	case 9:
		what, err = w.nameStep(ctx, a, boxes)
	case 10:
		w.n++
		what = "passwd"
		w.password = fmt.Sprintf("pw%d", w.n)
		err = w.m.SetPassword(ctx, w.accounts[0].ID, w.password)
	}
	if err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
	return what
}

// nameStep renames a tree, or deletes a mailbox.
func (w *walk) nameStep(ctx context.Context, a storage.Account, boxes map[string]*modelMailbox) (what string, err error) {
	var tops []string
	for name := range boxes {
		if strings.HasPrefix(name, "t") && !strings.Contains(name, "/") {
			tops = append(tops, name)
		}
	}
	if len(tops) == 0 {
		return "nothing", nil
	}
	slices.Sort(tops)
	from := tops[w.rng.IntN(len(tops))]
	if w.rng.IntN(3) == 0 {
		delete(boxes, from)
		return "delete " + from, w.m.DeleteMailbox(ctx, a.ID, from)
	}
	w.n++
	to := fmt.Sprintf("t%d", w.n)
	for name, b := range maps.Clone(boxes) {
		if name == from || strings.HasPrefix(name, from+"/") {
			delete(boxes, name)
			boxes[to+strings.TrimPrefix(name, from)] = b
		}
	}
	return "rename " + from, w.m.RenameMailbox(ctx, a.ID, from, to)
}

// seed gives the seed of a random test: SEED, else a new one.
func seed(t *testing.T) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	if err != nil {
		n = uint64(time.Now().UnixNano())
	}
	t.Logf("SEED=%d", n)
	return n
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

// Power fails at a random write of random operations. What opens afterwards is
// the state before the operation or after it, exactly: everything acknowledged,
// nothing half done (law 1), and no number is given out again (laws 2 and 3).
func TestLaw01Law02Law03EveryOperationSurvivesPowerLoss(t *testing.T) {
	sd := seed(t)
	rng := rand.New(rand.NewPCG(sd, 1))
	fs := newFS(t)
	crash := &crashAt{fs: fs, rng: rand.New(rand.NewPCG(sd, 2))}
	o := options(t, errorfs.Wrap(fs, crash))
	o.PackBytesMax = 64 << 10
	s := openSlot(t, o)
	w := newWalk(t, serve(t, s, 1, 0), rng, 50)
	passwords := []string{w.password, w.password}
	cut, rounds := 0, 0
	for began := time.Now(); rounds < 40 && (rounds < 10 || time.Since(began) < 6*time.Second); rounds++ {
		before, beforeNumbers, _ := dumpStore(t, w.m, w.accounts)
		passwords[0] = w.password
		crash.arm(1+rng.IntN(6), []int{0, 50, 100}[rng.IntN(3)])
		what := w.step()
		clone := crash.take()
		after, afterNumbers, highest := dumpStore(t, w.m, w.accounts)
		if want := w.model.dump(); after != want {
			t.Fatalf("%s: the store has\n%s\nthe model\n%s", what, after, want)
		}
		passwords[1] = w.password
		func() {
			oc := o
			oc.FS = clone
			sc := openSlot(t, oc)
			defer closeOnce(t, sc)
			m := serve(t, sc, 1, 0)
			got, numbers, _ := dumpStore(t, m, w.accounts)
			switch {
			case got == after && numbers == afterNumbers:
			case got == before && numbers == beforeNumbers:
				cut++
			default:
				t.Fatalf("%s, cut off: neither the state before nor after:\n%s", what, got)
			}
			proveClone(t, m, w.accounts[0], got, highest, passwords)
		}()
		if t.Failed() {
			t.Fatalf("after %s", what)
		}
	}
	if cut == 0 {
		t.Errorf("none of %d operations was cut off: this proves nothing", rounds)
	}
}

// proveClone proves that new numbers are new; closing runs the checker.
func proveClone(t *testing.T, m *Master, a storage.Account, was string, highest storage.ModSeq, passwords []string) {
	t.Helper()
	ctx := context.Background()
	if err := m.Authenticate(ctx, a.ID, passwords[0]); errors.Is(err, storage.ErrAuth) {
		err = m.Authenticate(ctx, a.ID, passwords[1])
		if err != nil {
			t.Fatalf("neither the old nor the new password: %v", err)
		}
	}
	box, err := m.Mailbox(ctx, a.ID, "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	deliver(t, m, "new\r\n\r\n", a)
	now, err := m.Mailbox(ctx, a.ID, "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	if now.UIDNext != box.UIDNext+1 || now.HighestModSeq <= highest || strings.Contains(was, fmt.Sprintf("%016x INBOX next %d\n", uint64(a.ID), now.UIDNext)) {
		t.Fatalf("after the crash the mailbox was %+v, then %+v; MODSEQ %d was shown before", box, now, highest)
	}
}
