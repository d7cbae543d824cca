package local

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// damageMet collects the damage that OnDamage is called with.
type damageMet struct {
	fs  *vfs.MemFS // the copy's disk
	mu  sync.Mutex
	all []Damage
}

func (m *damageMet) note(d Damage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = append(m.all, d)
}

func (m *damageMet) take() []Damage {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := m.all
	m.all = nil
	return out
}

// mendBench is a master whose damage is collected.
func mendBench(t *testing.T) (*handClock, *damageMet, *Slot, *Master) {
	t.Helper()
	fs := newFS(t)
	o := options(t, fs)
	clock, seen := &handClock{now: time.Hour}, &damageMet{fs: fs}
	o.Clock.Mono = clock.mono
	o.OnDamage = seen.note
	s := openSlot(t, o)
	return clock, seen, s, serve(t, s, 1, 0)
}

// bodyAt returns the body of a message.
func bodyAt(t *testing.T, s *Slot, ref storage.Ref, uid storage.UID) slot.BodyRef {
	t.Helper()
	var out slot.BodyRef
	if err := s.read(func(v *view) error {
		rec, err := loadMessage(v, ref, uid)
		if err == nil {
			out = rec.Body()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// flipBit flips one bit of a file behind the store's back.
func flipBit(t *testing.T, fs vfs.FS, path string, offset int64) {
	t.Helper()
	f, err := fs.OpenReadWrite(path, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
}

// spoilBody damages a stored body.
func spoilBody(t *testing.T, s *Slot, ref slot.BodyRef) {
	t.Helper()
	if err := s.packs.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := s.read(func(v *view) error {
		loc, err := s.locate(v, ref)
		if err == nil {
			flipBit(t, s.o.FS, s.o.FS.PathJoin(s.o.Dir, "packs", packName(loc.Pack)), loc.Offset+loc.Size/2)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// A damaged body is reported by name and never served; after it was replaced by a copy
// that is proved it is whole again, also after a power loss.
func TestLaw06Law07DamagedBodyIsReplaced(t *testing.T) {
	_, seen, s, m := mendBench(t)
	a := account(t, m, "a@example.test")
	deliver(t, m, mail(1), a)
	box, _ := inbox(t, m, a)
	r := storage.Ref{Account: a.ID, Mailbox: box.ID}
	ref := bodyAt(t, s, r, 1)
	_, note, err := s.Body(ref)
	if err != nil {
		t.Fatal(err)
	}
	spoilBody(t, s, ref)
	if _, err := m.OpenBody(t.Context(), r, 1); !errors.Is(err, storage.ErrCorrupt) {
		t.Fatalf("open a damaged body: %v", err)
	}
	if got := seen.take(); len(got) != 1 || got[0].Body != ref || got[0].Index || got[0].Slot != 7 {
		t.Fatalf("told of %+v", got)
	}
	whole := body(t, mail(1))
	if err := s.ReplaceBody(t.Context(), ref, note, whole, whole.Size()); err != nil {
		t.Fatal(err)
	}
	if _, got := inbox(t, m, a); got[1] != mail(1) {
		t.Errorf("after the repair: %q", got[1])
	}
	if _, got, err := s.Body(ref); err != nil || string(got) != string(note) {
		t.Errorf("birth note %q, %v; want %q", got, err, note)
	}
	if len(seen.take()) != 0 {
		t.Error("damage after the repair")
	}
	o := s.o
	o.PacksDir = "" // beside the index
	checkClone(t, o, seen.fs.CrashClone(vfs.CrashCloneCfg{}), a, map[storage.UID]string{1: mail(1)})
	other := slot.BodyRef{GUID: whole.GUID(), ID: 12345}
	if err := s.ReplaceBody(t.Context(), other, note, whole, whole.Size()); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("replace a body that nothing names: %v", err)
	}
}

// lostMail is one body in two inboxes and a folder, given up.
func lostMail(t *testing.T, s *Slot, m *Master) (a, b storage.Account, ref slot.BodyRef) {
	t.Helper()
	a, b = account(t, m, "a@example.test"), account(t, m, "b@example.test")
	deliver(t, m, mail(0), a)
	deliver(t, m, mail(1), a, b)
	box, _ := inbox(t, m, a)
	r := storage.Ref{Account: a.ID, Mailbox: box.ID}
	if _, err := m.SetFlags(t.Context(), r, []storage.UID{2}, storage.FlagChange{Op: storage.FlagsAdd, Flags: storage.Flags{System: storage.Flagged, Keywords: []string{"k"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.CreateMailbox(t.Context(), a.ID, "deep/folder", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Copy(t.Context(), r, []storage.UID{2}, "deep/folder"); err != nil {
		t.Fatal(err)
	}
	ref = bodyAt(t, s, r, 2)
	if got, err := m.GiveUp(t.Context(), []slot.BodyRef{ref}); err != nil || len(got) != 0 {
		t.Fatalf("a whole body was given up: %v, %v", got, err)
	}
	spoilBody(t, s, ref)
	got, err := m.GiveUp(t.Context(), []slot.BodyRef{ref})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, x := range got {
		names = append(names, string(x.Address)+" "+x.Mailbox)
		if x.GUID != ref.GUID || x.Size != int64(len(mail(1))) || x.InternalDate.Unix() != 1_700_000_000 {
			t.Errorf("missing: %+v", x)
		}
	}
	slices.Sort(names)
	if want := []string{"a@example.test INBOX", "a@example.test deep/folder", "b@example.test INBOX"}; !slices.Equal(names, want) {
		t.Fatalf("given up: %v, want %v", names, want)
	}
	listed, err := m.Missing(t.Context())
	if err != nil || len(listed) != 3 {
		t.Fatalf("listed as missing: %v, %v", listed, err)
	}
	return a, b, ref
}

// A message whose body no copy has leaves the mailbox and is listed; undelete does not
// bring back a blank message. When its body returns each message comes back once, under
// a new UID, with flags and date, also where its folder is gone.
func TestLaw02Law07MissingMessageComesBack(t *testing.T) {
	_, _, s, m := mendBench(t)
	a, b, ref := lostMail(t, s, m)
	before, got := inbox(t, m, a)
	if want := map[storage.UID]string{1: mail(0)}; !maps.Equal(got, want) {
		t.Fatalf("inbox after giving up: %v", got)
	}
	if got, err := m.Restore(t.Context(), a.ID, storage.Restore{}); err != nil || got.Messages != 0 || got.Gone != 2 {
		t.Fatalf("undelete: %+v, %v; nothing can come back", got, err)
	}
	if err := m.DeleteMailbox(t.Context(), a.ID, "deep/folder"); err != nil {
		t.Fatal(err)
	}
	whole := body(t, mail(1))
	if n, err := m.TakeBack(t.Context(), ref); err == nil {
		t.Fatalf("took back %d without a body", n)
	}
	if err := s.ReplaceBody(t.Context(), ref, nil, whole, whole.Size()); err != nil {
		t.Fatal(err)
	}
	if n, err := m.TakeBack(t.Context(), ref); err != nil || n != 3 {
		t.Fatalf("took back %d, %v", n, err)
	}
	if _, got := inbox(t, m, a); !maps.Equal(got, map[storage.UID]string{1: mail(0), before.UIDNext: mail(1)}) {
		t.Errorf("inbox: %v", got)
	}
	if _, got := inbox(t, m, b); !maps.Equal(got, map[storage.UID]string{2: mail(1)}) {
		t.Errorf("inbox of the other: %v", got)
	}
	if err := m.Scan(t.Context(), storage.Ref{Account: a.ID, Mailbox: before.ID}, 2, 9, func(msg storage.Message) error {
		if !msg.Flags.Has(storage.Flagged) || !slices.Equal(msg.Flags.Keywords, []string{"k"}) || msg.InternalDate.Unix() != 1_700_000_000 {
			t.Errorf("came back as %+v", msg)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if box, err := m.Mailbox(t.Context(), a.ID, "deep/folder"); err != nil || box.Messages != 1 {
		t.Errorf("folder: %+v, %v", box, err)
	}
	if listed, err := m.Missing(t.Context()); err != nil || len(listed) != 0 {
		t.Errorf("still listed: %v, %v", listed, err)
	}
	if n, err := m.TakeBack(t.Context(), ref); err != nil || n != 0 {
		t.Errorf("took back %d again, %v", n, err)
	}
	if got, err := m.Restore(t.Context(), b.ID, storage.Restore{}); err != nil || got.Messages != 0 {
		t.Errorf("undelete doubled a message: %+v, %v", got, err)
	}
}

// A copy that was away keeps its body of a missing message over the undelete
// window, so that it can give it back; once nothing names it, it is dropped.
func TestLaw07ReturningCopyKeepsMissingBody(t *testing.T) {
	clock, _, s, m := mendBench(t)
	o := options(t, newFS(t))
	away := openSlot(t, o)
	catchUp := func() {
		t.Helper()
		h, err := away.Head()
		if err != nil {
			t.Fatal(err)
		}
		evs := journalOf(t, s, h.Position)
		giveBodies(t, s, away, evs)
		if n, err := applyAll(context.Background(), away, evs); err != nil || n != len(evs) {
			t.Fatalf("applied %d of %d: %v", n, len(evs), err)
		}
		same(t, s, away)
	}
	a, _, ref := func() (storage.Account, storage.Account, slot.BodyRef) {
		a := account(t, m, "x@example.test")
		deliver(t, m, mail(7), a)
		catchUp()
		box, _ := inbox(t, m, a)
		ref := bodyAt(t, s, storage.Ref{Account: a.ID, Mailbox: box.ID}, 1)
		spoilBody(t, s, ref)
		if got, err := m.GiveUp(t.Context(), []slot.BodyRef{ref}); err != nil || len(got) != 1 {
			t.Fatalf("gave up %v, %v", got, err)
		}
		return a, a, ref
	}()
	catchUp()
	clock.add(30 * 24 * time.Hour)
	deliver(t, m, mail(8), a) // the tombstone's event may leave the journal
	catchUp()
	if f := free(t, m); f.Messages != 1 {
		t.Fatalf("freed %+v", f)
	}
	catchUp()
	if err := away.ProveBody(ref); err != nil {
		t.Fatalf("the returning copy no longer has the body: %v", err)
	}
	if un, err := s.BodyUnneeded(ref); err != nil || !un {
		t.Errorf("needed: %v, %v", un, err)
	}
	b, note, err := away.Body(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ReplaceBody(t.Context(), ref, note, b, b.Size()); err != nil {
		t.Fatal(err)
	}
	if n, err := m.TakeBack(t.Context(), ref); err != nil || n != 1 {
		t.Fatalf("took back %d, %v", n, err)
	}
	catchUp()
	box, got := inbox(t, m, a)
	if want := map[storage.UID]string{2: mail(8), 3: mail(7)}; !maps.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
	expungeAll(t, m, storage.Ref{Account: a.ID, Mailbox: box.ID})
	clock.add(30 * 24 * time.Hour)
	free(t, m)
	if n := countKeys(t, s, event.PrefixRefs); n != 0 {
		t.Errorf("%d bodies are still named", n)
	}
}

// Damage of the index that a read meets is an error of that read, and is reported once;
// the copy goes on with the rest (law 9).
func TestLaw06Law09IndexDamageIsReportedOnce(t *testing.T) {
	_, seen, s, m := mendBench(t)
	a := account(t, m, "a@example.test")
	for i := range 200 {
		deliver(t, m, mail(i), a)
	}
	box, _ := inbox(t, m, a)
	if err := errors.Join(s.db.Flush(), s.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false)); err != nil {
		t.Fatal(err)
	}
	tables := tablesOf(t, s)
	closeOnce(t, s)
	for _, path := range tables {
		flipBit(t, s.o.FS, path, 2000)
	}
	o := s.o
	o.Resources = NewResources(8 << 20)
	defer o.Resources.Close()
	again, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	var failed int
	for range 3 {
		err := again.read(func(v *view) error {
			return each(v, event.SpanOf(nil), func(_, _ []byte) error { return nil })
		})
		if errors.Is(err, storage.ErrCorrupt) {
			failed++
		}
	}
	if got := seen.take(); failed != 3 || len(got) != 1 || !got[0].Index {
		t.Errorf("%d of 3 reads of mailbox %d met damage, told of %+v", failed, box.ID, got)
	}
	if err := again.Failure(); err != nil {
		t.Errorf("the copy has stopped: %v", err)
	}
}

// A message that is back needs its body, although another one that was given up
// with it is still missing, because its account is deleted.
func TestLaw07BodyThatIsBackIsNeeded(t *testing.T) {
	_, _, s, m := mendBench(t)
	_, b, ref := lostMail(t, s, m)
	if unneeded, err := s.BodyUnneeded(ref); err != nil || !unneeded {
		t.Fatalf("given up: unneeded %v, %v", unneeded, err)
	}
	if err := m.DeleteAccount(t.Context(), b.ID); err != nil {
		t.Fatal(err)
	}
	whole := body(t, mail(1))
	if err := s.ReplaceBody(t.Context(), ref, nil, whole, whole.Size()); err != nil {
		t.Fatal(err)
	}
	if n, err := m.TakeBack(t.Context(), ref); err != nil || n != 2 {
		t.Fatalf("took back %d, %v", n, err)
	}
	if unneeded, err := s.BodyUnneeded(ref); err != nil || unneeded {
		t.Errorf("unneeded %v, %v", unneeded, err)
	}
	spoilBody(t, s, ref)
	if got, err := m.GiveUp(t.Context(), []slot.BodyRef{ref}); err != nil || len(got) != 2 {
		t.Errorf("given up again: %v, %v", got, err)
	}
}
