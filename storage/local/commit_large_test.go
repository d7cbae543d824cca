package local

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// fillInbox puts n messages into an account's INBOX, few bodies copied many times, and
// returns their UIDs.
func fillInbox(t *testing.T, m *Master, a storage.Account, n int) (storage.Ref, []storage.UID) {
	t.Helper()
	ctx := context.Background()
	box, err := m.Mailbox(ctx, a.ID, "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	ref := storage.Ref{Account: a.ID, Mailbox: box.ID}
	for i := range 20 {
		deliver(t, m, mail(i), a)
	}
	for {
		var uids []storage.UID
		if err := m.Scan(ctx, ref, 1, ^storage.UID(0), func(msg storage.Message) error { uids = append(uids, msg.UID); return nil }); err != nil {
			t.Fatal(err)
		}
		if len(uids) >= n {
			return ref, uids
		}
		if _, err := m.Copy(ctx, ref, uids[:min(len(uids), n-len(uids))], "INBOX"); err != nil {
			t.Fatal(err)
		}
	}
}

// tree makes a mailbox with n below it.
func tree(t *testing.T, m *Master, a storage.Account, n int) {
	t.Helper()
	for i := range n {
		if _, err := m.CreateMailbox(context.Background(), a.ID, fmt.Sprintf("top/%d", i), ""); err != nil {
			t.Fatal(err)
		}
	}
}

// The changes that are too much for one closure, beside those of another user. That no
// closure touches more than it may is checked when the slot is closed.
func TestLaw01Law08LargeChangesHoldNobodyUp(t *testing.T) {
	const n = 600
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	ctx := context.Background()
	a, b := account(t, m, "u1@example.test"), account(t, m, "u2@example.test")
	ref, uids := fillInbox(t, m, a, n)
	tree(t, m, a, n)
	deliver(t, m, mail(1), a, b) // a body that both accounts have
	other, err := m.Mailbox(ctx, b.ID, "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	for _, large := range []struct {
		name string
		run  func() error
	}{
		{"copy", func() error { _, err := m.Copy(ctx, ref, uids, "Archive"); return err }},
		{"rename a tree", func() error { return m.RenameMailbox(ctx, a.ID, "top", "new/top") }},
		{"rename INBOX", func() error { return m.RenameMailbox(ctx, a.ID, "INBOX", "old/inbox") }},
		{"expunge", func() error {
			from := refOf(t, m, a, "Archive")
			all := make([]storage.UID, n)
			for i := range all {
				all[i] = storage.UID(i + 1)
			}
			if _, err := m.SetFlags(ctx, from, all, storage.FlagChange{Flags: storage.Flags{System: storage.Deleted}}); err != nil {
				return err
			}
			_, err := m.Expunge(ctx, from, all)
			return err
		}},
		{"restore", func() error { _, err := m.Restore(ctx, a.ID, storage.Restore{}); return err }},
	} {
		done := started(large.run)
		beside := 0
		for ended := false; !ended; beside++ {
			c := storage.FlagChange{}
			if beside%2 == 0 {
				c.Flags.System = storage.Flagged
			}
			if _, err := m.SetFlags(ctx, storage.Ref{Account: b.ID, Mailbox: other.ID}, []storage.UID{1}, c); err != nil {
				t.Fatal(err)
			}
			// It changes the count of references of the body that they share.
			if _, err := m.Copy(ctx, storage.Ref{Account: b.ID, Mailbox: other.ID}, []storage.UID{1}, "Archive"); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-done:
				if err != nil {
					t.Fatalf("%s: %v", large.name, err)
				}
				ended = true
			default:
			}
		}
		t.Logf("%s: %d changes of another user beside it", large.name, beside)
	}
	if s.com.work.most.Load() < smallMax {
		t.Error("no closure had anything to do: nothing was proved")
	}
	for name, want := range map[string]uint32{"INBOX": 0, "old/inbox": n + 1, "Archive": n, "new/top/0": 0} {
		if box, err := m.Mailbox(ctx, a.ID, name); err != nil || box.Messages != want {
			t.Errorf("%s has %d messages, %v; want %d", name, box.Messages, err, want)
		}
	}
}

// A replica applies a large event beside its committer, too, and the copies agree.
func TestLaw08LargeEventOnAReplica(t *testing.T) {
	ctx := context.Background()
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	ref, uids := fillInbox(t, m, a, 600)
	tree(t, m, a, 600)
	if _, err := m.Copy(ctx, ref, uids, "Archive"); err != nil {
		t.Fatal(err)
	}
	for _, to := range [][2]string{{"top", "x"}, {"INBOX", "y"}} {
		if err := m.RenameMailbox(ctx, a.ID, to[0], to[1]); err != nil {
			t.Fatal(err)
		}
	}
	o := options(t, newFS(t))
	o.sizes.applied = 500
	r := openSlot(t, o)
	copyBodies(t, s, r)
	evs, large := journalOf(t, s, 0), 0
	for _, ev := range evs {
		if records(ev) > o.sizes.applied {
			large++
		}
	}
	if large != 3 {
		t.Fatalf("%d large events, want 3: COPY and two RENAMEs", large)
	}
	if _, err := applyAll(ctx, r, evs); err != nil {
		t.Fatal(err)
	}
	want, err := stateOf(s)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := stateOf(r); err != nil || got != want {
		t.Errorf("the replica's state is %v, %v; the master's %v", got, err, want)
	}
}

// A large event that names the slot's record changes what the copy knows of its own
// history.
func TestLaw08LargeEventOfTheSlot(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	serve(t, s, 1, 0).Stop()
	serve(t, s, 2, 0)
	o := options(t, newFS(t))
	o.sizes.applied = -1
	r := openSlot(t, o)
	if _, err := applyAll(t.Context(), r, journalOf(t, s, 0)); err != nil {
		t.Fatal(err)
	}
	want, err := s.Head()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Head(); err != nil || got.Position != want.Position || got.Lineage.Last() != 2 {
		t.Errorf("the replica is at %s of epoch %d, %v; the master at %s of epoch 2", got.Position, got.Lineage.Last(), err, want.Position)
	}
}

// copyBodies stages all bodies of one copy on another.
func copyBodies(t *testing.T, from, to *Slot) {
	t.Helper()
	seen := map[slot.BodyRef]bool{}
	for _, ev := range journalOf(t, from, 0) {
		for _, ref := range ev.Bodies() {
			if seen[ref] {
				continue
			}
			seen[ref] = true
			body, note, err := from.Body(ref)
			if err != nil {
				t.Fatal(err)
			}
			if err := to.StageBody(ref, note, body, body.Size()); err != nil {
				t.Fatal(err)
			}
			body.Close()
		}
	}
}

// A large change is prepared again when another writes records that it rests on, and is
// given up when that goes on.
func TestLargeChangeIsPreparedAgain(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	ctx := context.Background()
	a := account(t, m, "u1@example.test")
	for _, times := range []int{1, largeTries} {
		tries := 0
		err := m.large(ctx, 1, a.ID, func(t *txn) error {
			if tries++; tries <= times {
				// As a Recount does, which waits in no lane.
				if err := s.do(ctx, func(t *txn) error { return t.b.Set(event.UsageKey(a.ID), nil, nil) }); err != nil {
					return err
				}
			}
			rec, err := loadAccount(t, a.ID)
			if err != nil {
				return err
			}
			rec.QuotaBytes++
			return m.emit(t, accountChange(rec))
		})
		if times == 1 && (err != nil || tries != 2) {
			t.Errorf("overtaken once: %v after %d tries", err, tries)
		}
		if times == largeTries && (!errors.Is(err, storage.ErrUnavailable) || tries != largeTries) {
			t.Errorf("overtaken each time: %v after %d tries", err, tries)
		}
	}
	if got, err := m.Account(ctx, a.ID); err != nil || got.QuotaBytes != 1 {
		t.Errorf("quota %d, %v: want 1, from the one that entered", got.QuotaBytes, err)
	}
}

// An account can have as many mailboxes as the limit says, and all of them can be
// renamed at once; no command makes more, RENAME with the levels above the new name
// neither.
func TestAsManyMailboxesAsTheLimitSays(t *testing.T) {
	if raceDetector {
		t.Skip("100,000 mailboxes take minutes under the race detector")
	}
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	ctx := t.Context()
	a := account(t, m, "u1@example.test")
	tree(t, m, a, 1)
	there, err := m.Mailboxes(ctx, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	more := storage.MaxMailboxes - len(there)
	if err := m.large(ctx, more, a.ID, func(t *txn) error {
		rec, err := loadAccount(t, a.ID)
		if err != nil {
			return err
		}
		var changes []*event.Change
		for i := range more {
			b, err := m.newMailbox(t, rec, fmt.Sprintf("top/more %d", i), "")
			if err != nil {
				return err
			}
			changes = append(changes, mailboxChange(b))
		}
		return m.emit(t, append(changes, accountChange(rec))...)
	}); err != nil {
		t.Fatal(err)
	}
	if err := m.RenameMailbox(ctx, a.ID, "top", "all"); err != nil {
		t.Errorf("rename %d mailboxes: %v", more+2, err)
	}
	if _, err := m.Mailbox(ctx, a.ID, fmt.Sprintf("all/more %d", more-1)); err != nil {
		t.Error(err)
	}
	for what, run := range map[string]func() error{
		"CREATE":                func() error { _, err := m.CreateMailbox(ctx, a.ID, "x", ""); return err },
		"RENAME to a new level": func() error { return m.RenameMailbox(ctx, a.ID, "Junk", "x/y") },
		"RENAME INBOX":          func() error { return m.RenameMailbox(ctx, a.ID, "INBOX", "x") },
	} {
		if err := run(); !errors.Is(err, storage.ErrLimit) {
			t.Errorf("%s with %d mailboxes: %v", what, storage.MaxMailboxes, err)
		}
	}
	if err := m.RenameMailbox(ctx, a.ID, "Junk", "Spam"); err != nil {
		t.Errorf("RENAME that makes nothing: %v", err)
	}
}

// What a large change would need more memory for than it may have is not even loaded.
func TestLaw09LargeChangeIsRefusedBeforeItIsLoaded(t *testing.T) {
	const n = 400
	o := options(t, newFS(t))
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	ref, uids := fillInbox(t, m, a, n)
	s.o.sizes = sizes{eventBytes: 8 << 10}.withPresets()
	for what, run := range map[string]func() error{
		"COPY":         func() error { _, err := m.Copy(t.Context(), ref, uids, "INBOX"); return err },
		"RENAME INBOX": func() error { return m.RenameMailbox(t.Context(), a.ID, "INBOX", "old") },
	} {
		before := s.Worked()
		if err := run(); !errors.Is(err, storage.ErrLimit) {
			t.Errorf("%s of %d messages: %v", what, n, err)
		}
		if keys := s.Worked() - before; keys > n+n/2 { // RENAME lists all their UIDs; to load one takes two more
			t.Errorf("%s: %d keys were read to refuse %d messages", what, keys, n)
		}
	}
}

// A panic in a large change is an error of its caller alone, and holds nobody up.
func TestLaw09PanicInALargeChange(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	if err := m.large(t.Context(), 1, a.ID, func(*txn) error { panic("a bug") }); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("a panic while it is prepared: %v", err)
	}
	deliver(t, m, mail(1), a)
	tree(t, m, a, smallMax)
	if err := m.RenameMailbox(t.Context(), a.ID, "top", "new"); err != nil {
		t.Error(err)
	}
}

// A large change that takes the last reference of a body takes its place too. When
// another change has named the body since, the large one is prepared again.
func TestLaw07LastReferenceIsNotDecidedLate(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	key := event.RefsKey(slot.BodyRef{ID: 1})
	d := &draft{refs: map[string]refCount{string(key): {was: 1, now: 0}}}
	h := &hold{refs: map[string]struct{}{string(key): {}}}
	err := s.do(t.Context(), func(t *txn) error {
		if err := t.b.Set(key, binary.AppendUvarint(nil, 2), nil); err != nil {
			return err
		}
		_, err := d.late(t, h)
		return err
	})
	if !errors.Is(err, errOvertaken) {
		t.Errorf("a body of which the last reference was to go, and one came: %v", err)
	}
}

// The lanes are served in turn, and the accounts of a large change wait in order.
func TestLanesAreFair(t *testing.T) {
	var l lanes
	l.init()
	for range 1000 {
		l.put(&op{accounts: []storage.AccountID{1}})
	}
	late := &op{accounts: []storage.AccountID{2}}
	l.put(late)
	if got := l.take(2); len(got) != 2 || got[1] != late {
		t.Fatal("one account's thousand changes went before another's only one")
	}
	first, both := l.take(1), &op{accounts: []storage.AccountID{1, 3}}
	l.giveBack(first)
	l.put(both)
	l.begin(&hold{accounts: []storage.AccountID{1}})
	l.put(&op{accounts: []storage.AccountID{3}})
	if got := l.take(5000); len(got) != 1 || got[0].lane() != 3 {
		t.Fatalf("%d changes went while their account was held", len(got))
	}
	l.end()
	if got := l.take(5000); len(got) != 1000 || got[0] != first[0] || !slices.Contains(got, both) {
		t.Fatalf("%d changes after the hold, in another order", len(got))
	}
}

// A copy is closed at the moment at which a large change ends: the changes that waited
// for it are answered, by one of the two.
func TestLanesAreClosedWhileAHoldEnds(t *testing.T) {
	for range 10_000 {
		var l lanes
		l.init()
		l.begin(&hold{accounts: []storage.AccountID{1}})
		l.put(&op{accounts: []storage.AccountID{1}})
		if got := l.take(1); len(got) != 0 {
			t.Fatal("a held change was taken")
		}
		ended := make(chan struct{})
		go func() { defer close(ended); l.end() }()
		for l.holding() != nil { // close comes as soon as the hold has ended
		}
		left := l.close()
		<-ended
		if len(left) != 1 || l.waiting() != 0 {
			t.Fatalf("close returns %d changes, %d are left behind", len(left), l.waiting())
		}
	}
}

// CREATE, RENAME INBOX, DELETE and deliveries race for one name: each answers what
// its own commit did. So as many mailboxes were made as are there and were deleted,
// and no message is lost or doubled.
func TestLaw07CreateAndRenameInboxRace(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	ctx := context.Background()
	a := account(t, m, "u1@example.test")
	fillInbox(t, m, a, smallMax+50) // the first RENAME is a large change
	var made, deleted, delivered atomic.Int64
	delivered.Store(smallMax + 50)
	ops := []struct {
		run   func() error
		ok    *atomic.Int64
		kinds []error
	}{
		{func() error { _, err := m.CreateMailbox(ctx, a.ID, "x", ""); return err }, &made, []error{storage.ErrExists}},
		{func() error { return m.RenameMailbox(ctx, a.ID, "INBOX", "x") }, &made, []error{storage.ErrExists}},
		{func() error { return m.DeleteMailbox(ctx, a.ID, "x") }, &deleted, []error{storage.ErrNotFound}},
		{func() error {
			return m.Deliver(ctx, storage.Delivery{Body: spooled(mail(1)), Recipients: []storage.Recipient{{Account: a.ID, Address: a.Address}}})[0]
		}, &delivered, nil},
	}
	var running sync.WaitGroup
	for i := range 4 {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		running.Go(func() {
			for range 100 {
				op := ops[rng.IntN(len(ops))]
				err := op.run()
				if err == nil {
					op.ok.Add(1)
				} else if !slices.ContainsFunc(op.kinds, func(k error) bool { return errors.Is(err, k) }) {
					t.Errorf("seed %d: %v", seed, err)
				}
			}
		})
	}
	running.Wait()
	boxes, live := map[string]uint32{}, int64(0)
	all, err := m.Mailboxes(ctx, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range all {
		boxes[b.Name] = b.Messages
	}
	if _, there := boxes["x"]; there {
		live = 1
	}
	if made.Load() != deleted.Load()+live || made.Load() == 0 || deleted.Load() == 0 {
		t.Errorf("seed %d: %d made, %d deleted, %d there", seed, made.Load(), deleted.Load(), live)
	}
	// What was deleted comes back by undelete: all that ever arrived is there, once.
	if _, err := m.Restore(ctx, a.ID, storage.Restore{}); err != nil {
		t.Fatal(err)
	}
	if all, err = m.Mailboxes(ctx, a.ID); err != nil {
		t.Fatal(err)
	}
	sum := int64(0)
	for _, b := range all {
		sum += int64(b.Messages)
	}
	if sum != delivered.Load() {
		t.Errorf("seed %d: %d messages are there, %d arrived", seed, sum, delivered.Load())
	}
}
