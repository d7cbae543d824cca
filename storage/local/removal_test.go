package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// The model of removals: what is there, what was removed, and when.
type (
	removedMessage struct {
		modelMessage
		at              uint64 // slot clock, ms
		moved, restored bool
	}
	removalMailbox struct {
		modelMailbox
		id      storage.MailboxID
		name    string
		gone    map[storage.UID]removedMessage
		deleted bool
		at      uint64
	}
	removalAccount struct {
		storage.Account
		boxes   map[storage.MailboxID]*removalMailbox
		deleted bool
		at      uint64
	}
)

// removals runs random deliveries, removals and restorations on a store and on
// the model at once, on a clock that only the walk moves.
type removals struct {
	t        *testing.T
	m        *Master
	clock    *handClock
	began    time.Duration
	rng      *rand.Rand
	accounts []*removalAccount // those that hold an address
	n        int
	restored storage.Restored // in all
}

const removalWindow = 7 * 24 * time.Hour

func (w *removals) now() uint64 { return uint64((w.clock.mono() - w.began) / time.Millisecond) }

func (w *removals) fatal(what string, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
}

// adopt takes mailboxes into the model that the store made by itself.
func (w *removals) adopt(a *removalAccount, made func(storage.Mailbox) bool) {
	w.t.Helper()
	boxes, err := w.m.Mailboxes(context.Background(), a.ID)
	w.fatal("list mailboxes", err)
	for _, b := range boxes {
		if a.boxes[b.ID] == nil && made(b) {
			a.boxes[b.ID] = &removalMailbox{modelMailbox: *newModelMailbox(), id: b.ID, name: b.Name, gone: map[storage.UID]removedMessage{}}
		}
	}
}

func (w *removals) create(addr slot.Address) *removalAccount {
	w.t.Helper()
	a := &removalAccount{Account: account(w.t, w.m, addr), boxes: map[storage.MailboxID]*removalMailbox{}}
	w.adopt(a, func(storage.Mailbox) bool { return true })
	return a
}

// refill makes accounts again that were freed.
func (w *removals) refill() {
	w.t.Helper()
	for i := range 3 {
		addr := slot.Address(fmt.Sprintf("u%d@example.test", i))
		if !slices.ContainsFunc(w.accounts, func(a *removalAccount) bool { return a.Address == addr }) {
			w.accounts = append(w.accounts, w.create(addr))
		}
	}
	slices.SortFunc(w.accounts, func(x, y *removalAccount) int { return strings.Compare(string(x.Address), string(y.Address)) })
}

// newRemovals opens a slot, serves it, and starts the walk with three accounts.
func newRemovals(t *testing.T, o Options, clock *handClock, rng *rand.Rand) (*removals, *Slot) {
	t.Helper()
	s := openSlot(t, o)
	w := &removals{t: t, m: serve(t, s, 1, 0), clock: clock, began: clock.mono(), rng: rng}
	w.refill()
	return w, s
}

// dump returns what clients see of an account in the model.
func (a *removalAccount) dump() string {
	var lines []string
	for _, b := range a.boxes {
		if !b.deleted {
			lines = append(lines, boxText(b.id, b.name, b.next, b.messages))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func boxText(id storage.MailboxID, name string, next storage.UID, messages map[storage.UID]modelMessage) string {
	out := fmt.Sprintf("%016x %s next %d\n", uint64(id), name, next)
	for _, uid := range slices.Sorted(maps.Keys(messages)) {
		out += fmt.Sprintf("  %d %.12s %s\n", uid, messages[uid].guid, messages[uid].flags)
	}
	return out
}

// seenBox is a mailbox as a store shows it.
type seenBox struct {
	storage.Mailbox
	messages map[storage.UID]modelMessage
}

func seen(t *testing.T, m *Master, id storage.AccountID) map[storage.MailboxID]seenBox {
	t.Helper()
	boxes, err := m.Mailboxes(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	out := map[storage.MailboxID]seenBox{}
	for _, b := range boxes {
		s := seenBox{b, map[storage.UID]modelMessage{}}
		ref := storage.Ref{Account: id, Mailbox: b.ID}
		if err := m.Scan(context.Background(), ref, 1, ^storage.UID(0), func(msg storage.Message) error {
			s.messages[msg.UID] = modelMessage{guidOf(t, m, ref, msg.UID), flagText(msg.Flags)}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		out[b.ID] = s
	}
	return out
}

func dumpSeen(boxes map[storage.MailboxID]seenBox) string {
	var lines []string
	for _, b := range boxes {
		lines = append(lines, boxText(b.ID, b.Name, b.UIDNext, b.messages))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// compare holds the store to the model.
func (w *removals) compare(what string) {
	w.t.Helper()
	var deleted []string
	for _, a := range w.accounts {
		if a.deleted {
			deleted = append(deleted, string(a.Address))
			if _, err := w.m.Address(context.Background(), a.Address); !errors.Is(err, storage.ErrNotFound) {
				w.t.Fatalf("%s: deleted %s is known: %v", what, a.Address, err)
			}
			continue
		}
		if got, want := dumpSeen(seen(w.t, w.m, a.ID)), a.dump(); got != want {
			w.t.Fatalf("%s: %s has\n%s\nthe model\n%s", what, a.Address, got, want)
		}
	}
	list, err := w.m.DeletedAccounts(context.Background())
	w.fatal("list deleted accounts", err)
	var got []string
	for _, d := range list {
		got = append(got, string(d.Address))
	}
	slices.Sort(deleted)
	if !slices.Equal(got, deleted) {
		w.t.Fatalf("%s: deleted accounts are %q, want %q", what, got, deleted)
	}
}

// living picks an account that is not deleted; nil: there is none.
func (w *removals) living() *removalAccount {
	var list []*removalAccount
	for _, a := range w.accounts {
		if !a.deleted {
			list = append(list, a)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list[w.rng.IntN(len(list))]
}

// box picks a living mailbox, mostly INBOX.
func (w *removals) box(a *removalAccount) *removalMailbox {
	var list []*removalMailbox
	for _, b := range a.boxes {
		if b.name == "INBOX" && w.rng.IntN(2) == 0 {
			return b
		}
		if !b.deleted {
			list = append(list, b)
		}
	}
	slices.SortFunc(list, func(x, y *removalMailbox) int { return strings.Compare(x.name, y.name) })
	return list[w.rng.IntN(len(list))]
}

func (w *removals) some(b *removalMailbox) []storage.UID {
	var out []storage.UID
	for _, u := range slices.Sorted(maps.Keys(b.messages)) {
		if w.rng.IntN(2) == 0 {
			out = append(out, u)
		}
	}
	return out
}

// step runs one operation that is not Restore or Free.
func (w *removals) step() (what string) {
	w.t.Helper()
	a := w.living()
	pick := w.rng.IntN(12)
	if a == nil {
		pick = 11
	}
	switch pick {
	case 0, 1, 2:
		w.deliver()
		return "deliver"
	case 3, 4, 5:
		return w.expunge(a, w.box(a))
	case 6:
		return w.move(a, w.box(a), w.box(a))
	case 7:
		w.n++
		_, err := w.m.CreateMailbox(context.Background(), a.ID, fmt.Sprintf("t%d/a", w.rng.IntN(4)), "")
		if !errors.Is(err, storage.ErrExists) {
			w.fatal("create mailbox", err)
		}
		w.adopt(a, func(storage.Mailbox) bool { return true })
		return "create mailbox"
	case 8, 9:
		b := w.box(a)
		if b.name == "INBOX" {
			return "nothing"
		}
		w.fatal("delete mailbox", w.m.DeleteMailbox(context.Background(), a.ID, b.name))
		b.deleted, b.at = true, w.now()
		return "delete mailbox"
	case 10:
		w.clock.add(time.Duration(w.rng.Int64N(int64(2 * 24 * time.Hour))))
		return "time passes"
	}
	return w.account()
}

func (w *removals) deliver() {
	w.t.Helper()
	w.n++
	text := mail(w.n)
	var to []storage.Account
	for _, a := range w.accounts {
		if !a.deleted {
			to = append(to, a.Account)
			for _, b := range a.boxes {
				if b.name == "INBOX" {
					b.add(modelMessage{guid: slot.SumGUID([]byte(text))})
				}
			}
		}
	}
	deliver(w.t, w.m, text, to...)
}

func (w *removals) expunge(a *removalAccount, b *removalMailbox) string {
	w.t.Helper()
	ref, uids := storage.Ref{Account: a.ID, Mailbox: b.id}, w.some(b)
	_, err := w.m.SetFlags(context.Background(), ref, uids, storage.FlagChange{Op: storage.FlagsReplace,
		Flags: storage.Flags{System: storage.Deleted | storage.Flagged, Keywords: []string{"k"}}})
	w.fatal("store", err)
	if _, err := w.m.Expunge(context.Background(), ref, uids); err != nil {
		w.t.Fatal(err)
	}
	for _, u := range uids {
		b.gone[u] = removedMessage{modelMessage: modelMessage{b.messages[u].guid, `\Flagged k`}, at: w.now()}
		delete(b.messages, u)
	}
	return "expunge"
}

func (w *removals) move(a *removalAccount, from, to *removalMailbox) string {
	w.t.Helper()
	uids := w.some(from)
	_, err := w.m.Move(context.Background(), storage.Ref{Account: a.ID, Mailbox: from.id}, uids, to.name)
	w.fatal("move", err)
	for _, u := range uids {
		to.add(from.messages[u])
		from.gone[u] = removedMessage{modelMessage: from.messages[u], at: w.now(), moved: true}
		delete(from.messages, u)
	}
	return "move"
}

// account deletes, brings back or erases an account.
func (w *removals) account() string {
	w.t.Helper()
	i := w.rng.IntN(len(w.accounts))
	a := w.accounts[i]
	switch {
	case !a.deleted:
		w.fatal("delete account", w.m.DeleteAccount(context.Background(), a.ID))
		a.deleted, a.at = true, w.now()
		return "delete account"
	case w.rng.IntN(4) > 0:
		_, err := w.m.UndeleteAccount(context.Background(), a.Address)
		w.fatal("undelete account", err)
		a.deleted = false
		return "undelete account"
	}
	w.fatal("erase account", w.m.EraseAccount(context.Background(), a.Address))
	w.accounts[i] = w.create(a.Address)
	return "erase account"
}

// restorePlan is a Restore with what it must do, by the model.
type restorePlan struct {
	a     *removalAccount
	r     storage.Restore
	boxes []*removalMailbox // deleted ones that come back
	all   []*removalMailbox // those whose messages come back
	since uint64
}

func (w *removals) planRestore(a *removalAccount) restorePlan {
	p := restorePlan{a: a}
	if w.rng.IntN(2) == 0 {
		p.r.Since = time.Duration(1 + w.rng.Int64N(int64(3*24*time.Hour)))
		if ms := uint64(p.r.Since / time.Millisecond); w.now() > ms {
			p.since = w.now() - ms
		}
	}
	if w.rng.IntN(3) == 0 {
		var names []string
		for _, b := range a.boxes {
			names = append(names, b.name)
		}
		slices.Sort(names)
		p.r.Mailbox = names[w.rng.IntN(len(names))]
	}
	for _, b := range a.boxes {
		if p.r.Mailbox != "" && b.name != p.r.Mailbox {
			continue
		}
		if b.deleted && b.at >= p.since {
			p.boxes = append(p.boxes, b)
		}
		if !b.deleted || b.at >= p.since {
			p.all = append(p.all, b)
		}
	}
	return p
}

// apply runs the Restore on the store and on the model.
func (w *removals) apply(p restorePlan) {
	w.t.Helper()
	got, err := w.m.Restore(context.Background(), p.a.ID, p.r)
	if len(p.all) == 0 && p.r.Mailbox != "" {
		if !errors.Is(err, storage.ErrNotFound) {
			w.t.Fatalf("restore of %q, which is not there: %v", p.r.Mailbox, err)
		}
		return
	}
	w.fatal("restore", err)
	want := storage.Restored{}
	for _, b := range p.all {
		for _, u := range slices.Sorted(maps.Keys(b.gone)) {
			if x := b.gone[u]; !x.moved && !x.restored && x.at >= p.since {
				b.add(x.modelMessage)
				x.restored = true
				b.gone[u] = x
				want.Messages++
			}
		}
	}
	if got.Messages != want.Messages || got.Gone != 0 || len(got.Mailboxes) != len(p.boxes) {
		w.t.Fatalf("restore %+v: got %+v, want %d messages and %d mailboxes", p.r, got, want.Messages, len(p.boxes))
	}
	w.restored.Messages += got.Messages
	w.restored.Mailboxes = append(w.restored.Mailboxes, got.Mailboxes...)
	for _, b := range p.boxes {
		now, err := w.m.MailboxByID(context.Background(), storage.Ref{Account: p.a.ID, Mailbox: b.id})
		w.fatal("find restored mailbox "+b.name, err)
		if now.Name != b.name && !strings.HasPrefix(now.Name, b.name+" (") || !slices.Contains(got.Mailboxes, now.Name) {
			w.t.Fatalf("mailbox %q came back as %q, told were %q", b.name, now.Name, got.Mailboxes)
		}
		b.name, b.deleted = now.Name, false
	}
	w.adopt(p.a, func(made storage.Mailbox) bool {
		above := slices.ContainsFunc(p.boxes, func(b *removalMailbox) bool { return strings.HasPrefix(b.name, made.Name+"/") })
		if !above {
			w.t.Errorf("restore made mailbox %q", made.Name)
		}
		return above
	})
}

// free runs Free twice, because an account goes in the second, and in the model.
func (w *removals) free() {
	w.t.Helper()
	free(w.t, w.m)
	free(w.t, w.m)
	window := uint64(removalWindow / time.Millisecond)
	if w.now() < window {
		return
	}
	cutoff := w.now() - window
	w.accounts = slices.DeleteFunc(w.accounts, func(a *removalAccount) bool { return a.deleted && a.at <= cutoff })
	for _, a := range w.accounts {
		for id, b := range a.boxes {
			if b.deleted && b.at <= cutoff {
				delete(a.boxes, id)
			} else if !b.deleted {
				maps.DeleteFunc(b.gone, func(_ storage.UID, x removedMessage) bool { return x.at <= cutoff })
			}
		}
	}
	boxes, gone, messages := 0, 0, 0
	for _, a := range w.accounts {
		for _, b := range a.boxes {
			boxes, gone, messages = boxes+1, gone+len(b.gone), messages+len(b.messages)
		}
	}
	got := []int{countKeys(w.t, w.m.s, event.PrefixAccount), countKeys(w.t, w.m.s, event.PrefixMailbox), countKeys(w.t, w.m.s, event.PrefixExpunged), countKeys(w.t, w.m.s, event.PrefixMessage)}
	if want := []int{len(w.accounts), boxes, gone, messages}; !slices.Equal(got, want) {
		w.t.Fatalf("after freeing %v accounts, mailboxes, tombstones and messages are kept, want %v", got, want)
	}
}
