package local

import (
	"cmp"
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
	"testing"
	"time"

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

// dumpStore returns the model's form of what clients see.
func dumpStore(t *testing.T, m *Master) string {
	t.Helper()
	ctx := context.Background()
	accounts, err := m.Accounts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(accounts, func(x, y storage.Account) int { return cmp.Compare(x.ID, y.ID) })
	var out strings.Builder
	for _, a := range accounts {
		boxes, err := m.Mailboxes(ctx, a.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range boxes {
			fmt.Fprintf(&out, "%016x %s next %d\n", uint64(a.ID), b.Name, b.UIDNext)
			ref := storage.Ref{Account: a.ID, Mailbox: b.ID}
			if err := m.Scan(ctx, ref, 1, ^storage.UID(0), func(msg storage.Message) error {
				fmt.Fprintf(&out, "  %d %.12s %s\n", msg.UID, guidOf(t, m, ref, msg.UID), flagText(msg.Flags))
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return out.String()
}

// walk runs random operations on a store and on the model at once.
type walk struct {
	t        *testing.T
	m        *Master
	rng      *rand.Rand
	accounts []storage.Account
	model    model
	n        int
}

func newWalk(t *testing.T, m *Master, rng *rand.Rand, accounts int) *walk {
	t.Helper()
	w := &walk{t: t, m: m, rng: rng, model: model{}}
	for i := range accounts {
		a := account(t, m, slot.Address(fmt.Sprintf("u%d@example.test", i)))
		w.know(a)
	}
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

// walkOp is one operation of a walk: it changes store and model alike.
type walkOp struct {
	name string
	run  func(w *walk) error
}

// walkOps are the operations that clients and operators ask for.
func walkOps() []walkOp {
	return []walkOp{
		{"deliver to one", func(w *walk) error { return w.deliver(w.account()) }},
		{"deliver to all", func(w *walk) error { return w.deliver(w.accounts...) }},
		{"append", (*walk).append},
		{"copy", func(w *walk) error { return w.copy(false) }},
		{"move", func(w *walk) error { return w.copy(true) }},
		{"store", (*walk).store},
		{"expunge", (*walk).expunge},
		{"create", (*walk).create},
		{"rename a tree", (*walk).rename},
		{"rename INBOX", (*walk).renameInbox},
		{"delete", (*walk).delete},
		{"create an account", (*walk).addAccount},
		{"passwd", (*walk).passwd},
		{"subscribe", (*walk).subscribe},
	}
}

// step runs one operation by chance.
func (w *walk) step() (what string) {
	w.t.Helper()
	ops := walkOps()
	op := ops[w.rng.IntN(len(ops))]
	if err := op.run(w); err != nil {
		w.t.Fatalf("%s: %v", op.name, err)
	}
	return op.name
}

func (w *walk) deliver(to ...storage.Account) error {
	text := w.text()
	d := storage.Delivery{Body: spooled(text), InternalDate: time.Unix(1_700_000_000, 0)}
	for _, a := range to {
		d.Recipients = append(d.Recipients, storage.Recipient{Account: a.ID, Address: a.Address})
		w.model[a.ID]["INBOX"].add(modelMessage{guid: slot.SumGUID([]byte(text))})
	}
	return errors.Join(w.m.Deliver(context.Background(), d)...)
}

func (w *walk) append() error {
	a := w.account()
	name, _ := w.mailbox(a)
	text := w.text()
	w.model[a.ID][name].add(modelMessage{slot.SumGUID([]byte(text)), `\Seen k`})
	_, err := w.m.Append(context.Background(), a.ID, storage.Append{Mailbox: name, Body: spooled(text),
		Flags: storage.Flags{System: storage.Seen, Keywords: []string{"k"}}})
	return err
}

func (w *walk) copy(move bool) (err error) {
	a := w.account()
	name, ref := w.mailbox(a)
	to, _ := w.mailbox(a)
	from, target := w.model[a.ID][name], w.model[a.ID][to]
	uids := w.uids(from)
	if move {
		_, err = w.m.Move(context.Background(), ref, uids, to)
	} else {
		_, err = w.m.Copy(context.Background(), ref, uids, to)
	}
	for _, u := range uids {
		target.add(from.messages[u])
		if move {
			delete(from.messages, u)
		}
	}
	return err
}

func (w *walk) store() error {
	a := w.account()
	name, ref := w.mailbox(a)
	b := w.model[a.ID][name]
	uids := w.uids(b)
	f := storage.Flags{System: storage.Deleted}
	for _, u := range uids {
		b.messages[u] = modelMessage{b.messages[u].guid, flagText(f)}
	}
	_, err := w.m.SetFlags(context.Background(), ref, uids, storage.FlagChange{Op: storage.FlagsReplace, Flags: f})
	return err
}

func (w *walk) expunge() error {
	a := w.account()
	name, ref := w.mailbox(a)
	maps.DeleteFunc(w.model[a.ID][name].messages, func(_ storage.UID, m modelMessage) bool { return m.flags == `\Deleted` })
	_, err := w.m.Expunge(context.Background(), ref, nil)
	return err
}

func (w *walk) create() error {
	a := w.account()
	w.n++
	top := fmt.Sprintf("t%d", w.n)
	w.model[a.ID][top], w.model[a.ID][top+"/a"] = newModelMailbox(), newModelMailbox()
	_, err := w.m.CreateMailbox(context.Background(), a.ID, top+"/a", "")
	return err
}

// top picks a mailbox that create or rename made, making one if need be.
func (w *walk) top(a storage.Account) (string, error) {
	var tops []string
	for name := range w.model[a.ID] {
		if strings.HasPrefix(name, "t") && !strings.Contains(name, "/") {
			tops = append(tops, name)
		}
	}
	if len(tops) == 0 {
		w.n++
		name := fmt.Sprintf("t%d", w.n)
		w.model[a.ID][name] = newModelMailbox()
		_, err := w.m.CreateMailbox(context.Background(), a.ID, name, "")
		return name, err
	}
	slices.Sort(tops)
	return tops[w.rng.IntN(len(tops))], nil
}

func (w *walk) delete() error {
	a := w.account()
	name, err := w.top(a)
	if err != nil {
		return err
	}
	delete(w.model[a.ID], name)
	return w.m.DeleteMailbox(context.Background(), a.ID, name)
}

func (w *walk) rename() error {
	a := w.account()
	from, err := w.top(a)
	if err != nil {
		return err
	}
	w.n++
	to := fmt.Sprintf("t%d", w.n)
	boxes := w.model[a.ID]
	for name, b := range maps.Clone(boxes) {
		if name == from || strings.HasPrefix(name, from+"/") {
			delete(boxes, name)
			boxes[to+strings.TrimPrefix(name, from)] = b
		}
	}
	return w.m.RenameMailbox(context.Background(), a.ID, from, to)
}

func (w *walk) renameInbox() error {
	a := w.account()
	w.n++
	name := fmt.Sprintf("t%d", w.n)
	from, to := w.model[a.ID]["INBOX"], newModelMailbox()
	w.model[a.ID][name] = to
	for _, u := range slices.Sorted(maps.Keys(from.messages)) {
		to.add(from.messages[u])
		delete(from.messages, u)
	}
	return w.m.RenameMailbox(context.Background(), a.ID, "INBOX", name)
}

func (w *walk) addAccount() error {
	w.n++
	a, err := w.m.CreateAccount(context.Background(), slot.Address(fmt.Sprintf("new%d@example.test", w.n)), "pw", 1<<40)
	w.know(a)
	return err
}

// know adds an account to the model.
func (w *walk) know(a storage.Account) {
	w.accounts = append(w.accounts, a)
	w.model[a.ID] = map[string]*modelMailbox{}
	for _, sp := range specialMailboxes() {
		w.model[a.ID][sp.name] = newModelMailbox()
	}
}

func (w *walk) passwd() error {
	w.n++
	return w.m.SetPassword(context.Background(), w.account().ID, fmt.Sprintf("pw%d", w.n))
}

func (w *walk) subscribe() error {
	w.n++
	return w.m.Subscribe(context.Background(), w.account().ID, fmt.Sprintf("s%d", w.n), true)
}

// seed returns the seed of a random test: SEED, else a new one.
func seed(t *testing.T) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	if err != nil {
		n = uint64(time.Now().UnixNano())
	}
	t.Logf("SEED=%d", n)
	return n
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
