package local

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/check"
	"mailnode/storage/slot"
)

// newFS makes a crashable file system with a durable folder for one slot.
func newFS(t *testing.T) *vfs.MemFS {
	t.Helper()
	return vfs.NewCrashableMem()
}

func options(t *testing.T, fs vfs.FS) Options {
	t.Helper()
	r := NewResources(8 << 20)
	t.Cleanup(r.Close)
	return Options{FS: fs, Dir: "/slots/s007", Cluster: "test", Slot: 7, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Clock: storage.SystemClock(), Resources: r, Passwords: NewPasswords(2)}
}

func openSlot(t *testing.T, o Options) *Slot {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeOnce(t, s) })
	return s
}

// closeOnce proves the laws on what the slot holds, and closes it.
func closeOnce(t *testing.T, s *Slot) {
	t.Helper()
	select {
	case <-s.com.quit:
		return
	default:
	}
	if s.Failure() == nil && !s.Building() {
		if err := s.Snapshot(func(x Snapshot) error {
			found, err := check.Run(x, check.Options{Bodies: true})
			for _, f := range found {
				t.Errorf("check: %s", f)
			}
			return err
		}); err != nil {
			t.Errorf("check: %v", err)
		}
	}
	if most := s.com.work.most.Load(); most > closureKeysMax {
		t.Errorf("a closure touched %d keys, at most %d may be (LAWS §4.3)", most, closureKeysMax)
	}
	s.Close()
}

func serve(t *testing.T, s *Slot, e slot.Epoch, x slot.UncleanCount) *Master {
	t.Helper()
	m, err := s.Serve(context.Background(), e, x, NoGate{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func body(t *testing.T, text string) *storage.Spool {
	t.Helper()
	sp := (&storage.SpoolDir{FS: vfs.NewMem(), Dir: "/"}).New()
	if _, err := io.WriteString(sp, text); err != nil {
		t.Fatal(err)
	}
	return sp
}

func mail(i int) string {
	return fmt.Sprintf("From: a@example.test\r\nSubject: number %d\r\nMessage-ID: <%d@example.test>\r\n\r\nBody of %d.\r\n", i, i, i)
}

func account(t *testing.T, m *Master, addr slot.Address) storage.Account {
	t.Helper()
	a, err := m.CreateAccount(context.Background(), addr, "pw", 0)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func deliver(t *testing.T, m *Master, text string, to ...storage.Account) {
	t.Helper()
	d := storage.Delivery{Body: body(t, text), InternalDate: time.Unix(1_700_000_000, 0)}
	for _, a := range to {
		d.Recipients = append(d.Recipients, storage.Recipient{Account: a.ID, Address: a.Address})
	}
	for _, err := range m.Deliver(context.Background(), d) {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// inbox reads all of an INBOX: UID -> body.
func inbox(t *testing.T, m *Master, a storage.Account) (storage.Mailbox, map[storage.UID]string) {
	t.Helper()
	ctx := context.Background()
	box, err := m.Mailbox(ctx, a.ID, "inbox")
	if err != nil {
		t.Fatal(err)
	}
	ref := storage.Ref{Account: a.ID, Mailbox: box.ID}
	out := map[storage.UID]string{}
	if err := m.Scan(ctx, ref, 1, ^storage.UID(0), func(msg storage.Message) error {
		r, err := m.OpenBody(ctx, ref, msg.UID)
		if err != nil {
			return err
		}
		defer r.Close()
		b := make([]byte, r.Size())
		if _, err := r.ReadAt(b, 0); err != nil && err != io.EOF {
			return err
		}
		out[msg.UID] = string(b)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return box, out
}

func TestDeliverAndRead(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a, b := account(t, m, "u1@example.test"), account(t, m, "u2@example.test")
	for i := range 20 {
		deliver(t, m, mail(i), a, b)
	}
	for _, who := range []storage.Account{a, b} {
		box, got := inbox(t, m, who)
		if len(got) != 20 || box.Messages != 20 || box.UIDNext != 21 || box.Unseen != 20 {
			t.Fatalf("%s: %d messages, mailbox %+v", who.Address, len(got), box)
		}
		for i := range 20 {
			if got[storage.UID(i+1)] != mail(i) {
				t.Errorf("%s UID %d: %q", who.Address, i+1, got[storage.UID(i+1)])
			}
		}
	}
}

// For a delivery cut off by a power loss at any moment: what was acknowledged is
// there under its UID, the rest is there whole or not at all, and no UID or
// MODSEQ that was shown is ever given out for something else.
func TestLaw01Law02Law03DeliverSurvivesPowerLoss(t *testing.T) {
	fs := newFS(t)
	o := options(t, fs)
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	acked := map[storage.UID]string{}
	for round := range 30 {
		stop := make(chan struct{})
		inFlight := make(chan struct{})
		go func() { // deliveries that the crash may cut anywhere
			defer close(inFlight)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					d := storage.Delivery{Body: spooled(mail(1000*round + 500 + i)), Recipients: []storage.Recipient{{Account: a.ID}}}
					m.Deliver(context.Background(), d)
				}
			}
		}()
		deliver(t, m, mail(1000*round), a)
		// Everything durable now was acknowledged or in flight; all that was
		// acknowledged before this line must be in the clone.
		_, before := inbox(t, m, a)
		clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 50, 100}[round%3], RNG: rng})
		close(stop)
		<-inFlight
		for u, text := range before {
			acked[u] = text
		}
		checkClone(t, o, clone, a, acked)
		// The loop goes on in the old store: it is a different future, so what
		// comes after the clone was taken does not count for the next round.
		acked = map[storage.UID]string{}
	}
}

func spooled(text string) *storage.Spool {
	sp := (&storage.SpoolDir{FS: vfs.NewMem(), Dir: "/"}).New()
	io.WriteString(sp, text)
	return sp
}

func checkClone(t *testing.T, o Options, clone *vfs.MemFS, a storage.Account, acked map[storage.UID]string) {
	t.Helper()
	o.FS = clone
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	box, got := inbox(t, m, a)
	for u, text := range acked {
		if got[u] != text {
			t.Fatalf("UID %d: got %q, acknowledged as %q", u, got[u], text)
		}
	}
	head, err := s.Head()
	if err != nil {
		t.Fatal(err)
	}
	if head.Position.N() < uncleanJump {
		t.Fatalf("position %s after an unclean stop: no jump", head.Position)
	}
	deliver(t, m, "new\r\n", a)
	after, now := inbox(t, m, a)
	if now[box.UIDNext] != "new\r\n" || after.HighestModSeq <= box.HighestModSeq {
		t.Fatalf("after the crash: %+v, then %+v", box, after)
	}
	if _, sum, err := s.Digest(); err != nil || sum.Hi == 0 {
		t.Fatalf("digest %s, %v", sum, err)
	}
	if err := s.read(proveDigests); err != nil {
		t.Fatal(err)
	}
	closeOnce(t, s)
}

func TestFlagsExpungeCopyMove(t *testing.T) {
	ctx := context.Background()
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	for i := range 5 {
		deliver(t, m, mail(i), a)
	}
	box, _ := inbox(t, m, a)
	ref := storage.Ref{Account: a.ID, Mailbox: box.ID}
	msgs, err := m.SetFlags(ctx, ref, []storage.UID{1, 3, 99}, storage.FlagChange{Op: storage.FlagsAdd, Flags: storage.Flags{System: storage.Deleted}})
	if err != nil || len(msgs) != 2 || !msgs[1].Flags.Has(storage.Deleted) {
		t.Fatalf("SetFlags: %+v, %v", msgs, err)
	}
	gone, err := m.Expunge(ctx, ref, nil)
	if err != nil || fmt.Sprint(gone) != "[1 3]" {
		t.Fatalf("Expunge: %v, %v", gone, err)
	}
	copied, err := m.Copy(ctx, ref, []storage.UID{2, 4}, "Archive")
	if err != nil || fmt.Sprint(copied.To) != "[1 2]" {
		t.Fatalf("Copy: %+v, %v", copied, err)
	}
	moved, err := m.Move(ctx, ref, []storage.UID{5}, "Trash")
	if err != nil || fmt.Sprint(moved.From, moved.To) != "[5] [1]" {
		t.Fatalf("Move: %+v, %v", moved, err)
	}
	ch, err := m.Changes(ctx, ref, box.HighestModSeq)
	if err != nil || fmt.Sprint(ch.Expunged) != "[1 3 5]" || len(ch.Changed) != 0 {
		t.Fatalf("Changes: %+v, %v", ch, err)
	}
	if _, err := m.Copy(ctx, ref, []storage.UID{2}, "Nowhere"); err == nil {
		t.Fatal("copy to a mailbox that does not exist")
	}
	if err := s.read(proveDigests); err != nil {
		t.Fatal(err)
	}
}

func TestRenameTreeAndInbox(t *testing.T) {
	ctx := context.Background()
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	deliver(t, m, mail(1), a)
	if _, err := m.CreateMailbox(ctx, a.ID, "a/b/c", ""); err != nil {
		t.Fatal(err)
	}
	if err := m.RenameMailbox(ctx, a.ID, "a", "x/y"); err != nil {
		t.Fatal(err)
	}
	if err := m.RenameMailbox(ctx, a.ID, "INBOX", "old"); err != nil {
		t.Fatal(err)
	}
	boxes, err := m.Mailboxes(ctx, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	var names bytes.Buffer
	for _, b := range boxes {
		fmt.Fprintf(&names, "%s:%d ", b.Name, b.Messages)
	}
	if got, want := names.String(), "Archive:0 Drafts:0 INBOX:0 Junk:0 Sent:0 Trash:0 old:1 x:0 x/y:0 x/y/b:0 x/y/b/c:0 "; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if err := m.RenameMailbox(ctx, a.ID, "x", "x/z"); err == nil {
		t.Error("a mailbox was renamed into itself")
	}
	if err := m.DeleteMailbox(ctx, a.ID, "INBOX"); err == nil {
		t.Error("INBOX was deleted")
	}
}
