package local

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

// earlier makes a copy whose index is of an earlier day, which nobody has opened since: the
// folder was put back, or the disk went back. all: HEAD went back with it. open: the
// copy of it was taken while the slot was served.
func earlier(t *testing.T, fs *vfs.MemFS, all, open bool) (Options, []storage.Account, shown) {
	t.Helper()
	o, accounts, _ := written(t, fs, true)
	o.PackBytesMax = 0
	const index, kept = "/slots/s007/index", "/kept"
	take := func() { copyIndex(t, fs, index, kept); copyFile(t, fs, "/slots/s007/HEAD", "/kept-HEAD") }
	take()
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	if open {
		deliver(t, m, mail(4000), accounts...)
		take()
	}
	for i := range 10 {
		deliver(t, m, mail(5000+i), accounts[i%2])
	}
	was := seenBy(t, m, accounts)
	closeOnce(t, s)
	copyIndex(t, fs, kept, index)
	if all {
		copyFile(t, fs, "/kept-HEAD", "/slots/s007/HEAD")
	}
	return o, accounts, was
}

func copyFile(t *testing.T, fs vfs.FS, from, to string) {
	t.Helper()
	if ok, err := vfs.Clone(fs, fs, from, to, vfs.CloneSync); err != nil || !ok {
		t.Fatal(ok, err)
	}
}

// An index of an earlier day is rebuilt that no Open has looked at: the copy was refused
// for something else, or a rebuild of it was cut off. HEAD knows that there was more, and
// where that is old as well the packs do: nothing is taken for expunged that is only newer.
func TestLaw02Law07RebuildOfAnEarlierIndexThatNobodyOpened(t *testing.T) {
	for _, all := range []bool{false, true} {
		for _, open := range []bool{false, true} {
			t.Run(fmt.Sprintf("all=%v open=%v", all, open), func(t *testing.T) {
				fs := newFS(t)
				o, accounts, was := earlier(t, fs, all, open)
				got := rebuildAlone(t, o)
				if len(got.Lost) == 0 {
					t.Error("it is not said")
				}
				s := openSlot(t, o)
				m := serve(t, s, 1, 0)
				is := seenBy(t, m, accounts)
				complete(t, was, is)
				sameNumbers(t, was, is)
				deliver(t, m, mail(6000), accounts...)
				sameNumbers(t, was, seenBy(t, m, accounts))
			})
		}
	}
}

// Power fails at any sync point of such a rebuild: the next one still knows how far the old
// index had come, although HEAD is gone by then, or is the new index's.
func TestLaw07RebuildOfAnEarlierIndexSurvivesPowerLoss(t *testing.T) {
	rebuildOfAnEarlierIndexSurvivesPowerLoss(t, tries(20, 6))
}

func TestLongLaw07RebuildOfAnEarlierIndexSurvivesPowerLoss(t *testing.T) {
	skipUnlessLong(t)
	rebuildOfAnEarlierIndexSurvivesPowerLoss(t, 1<<20)
}

func rebuildOfAnEarlierIndexSurvivesPowerLoss(t *testing.T, tried int) {
	t.Parallel()
	sd := seed(t)
	fs := newFS(t)
	o, accounts, was := earlier(t, fs, false, false)
	points := &syncPoints{fs: fs, rng: rand.New(rand.NewPCG(sd, 1))}
	oc := o
	oc.FS = injected(fs, points)
	if _, err := Rebuild(t.Context(), oc, RebuildOptions{Mode: Alone, Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	points.take()
	proved, began := 0, false
	for i, clone := range points.clones {
		oc.FS = clone
		if began = began || pending(oc); !began || points.skips(i, tried) {
			continue
		}
		if pending(oc) {
			if _, err := Rebuild(t.Context(), oc, RebuildOptions{Mode: Alone, Epoch: 1}); err != nil {
				t.Fatalf("sync point %d: %v", i, err)
			}
		}
		s, err := Open(oc)
		if err != nil {
			t.Fatalf("sync point %d: %v", i, err)
		}
		is := seenBy(t, serve(t, s, 1, 0), accounts)
		complete(t, was, is)
		sameNumbers(t, was, is)
		closeOnce(t, s)
		if proved++; t.Failed() {
			t.Fatalf("sync point %d", i)
		}
	}
	t.Logf("%d of %d points were proved", proved, len(points.clones))
	if proved == 0 {
		t.Error("no point was proved")
	}
}

// A rebuild that was cut off when its own index was open already leaves that one's HEAD,
// which is far past the old index: what was sound stays so.
func TestRebuildThatWasCutOffKeepsWhatIsSound(t *testing.T) {
	fs := newFS(t)
	o, accounts, was := written(t, fs, true)
	cutOffLate(t, o)
	rebuildAlone(t, o)
	s := openSlot(t, o)
	is := seenBy(t, serve(t, s, 1, 0), accounts)
	if fmt.Sprint(was.bodies) != fmt.Sprint(is.bodies) || fmt.Sprint(was.valid) != fmt.Sprint(is.valid) {
		t.Errorf("clients see %v, they saw %v", is, was)
	}
}

// cutOffEarly cuts a rebuild off before it has written records.
func cutOffEarly(t *testing.T, o Options) {
	t.Helper()
	cut := errors.New("the power failed")
	if _, err := Rebuild(t.Context(), o, RebuildOptions{Mode: Alone, Epoch: 1, RecountOptions: RecountOptions{
		Spend: func(context.Context, int64) error { return cut }}}); !errors.Is(err, cut) {
		t.Fatalf("it was not cut off: %v", err)
	}
}

// cutOffLate cuts a rebuild off in its recount, when HEAD is the new index's.
func cutOffLate(t *testing.T, o Options) {
	t.Helper()
	cut := errors.New("the power failed")
	was, _, err := disk.ReadSealed(o.FS, "/slots/s007/HEAD")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Rebuild(t.Context(), o, RebuildOptions{Mode: Alone, Epoch: 1, RecountOptions: RecountOptions{
		Spend: func(context.Context, int64) error {
			is, found, err := disk.ReadSealed(o.FS, "/slots/s007/HEAD")
			if err == nil && found && is != was {
				err = cut
			}
			return err
		}}})
	if !errors.Is(err, cut) {
		t.Fatalf("it was not cut off: %v", err)
	}
}

// The mark of a rebuild is damaged after it was cut off: the index that was half made is not
// taken for one in which everything else has been expunged.
func TestLaw07RebuildWithItsMarkDamaged(t *testing.T) {
	for name, cutOff := range map[string]func(*testing.T, Options){"early": cutOffEarly, "late": cutOffLate} {
		t.Run(name, func(t *testing.T) {
			fs := newFS(t)
			o, accounts, was := written(t, fs, true)
			s := openSlot(t, o)
			if err := s.Promise(t.Context(), 7); err != nil {
				t.Fatal(err)
			}
			closeOnce(t, s)
			cutOff(t, o)
			garble(t, fs, "/slots/s007/REINDEX", 0.5, 10)
			rebuildAlone(t, o)
			s = openSlot(t, o)
			is := seenBy(t, serve(t, s, 1, 0), accounts)
			complete(t, was, is)
			sameNumbers(t, was, is)
			if e, err := s.Promised(); e != 7 || err != nil {
				t.Errorf("it keeps to epoch %d, %v", e, err)
			}
		})
	}
}

// A copy that was being filled when its master was lost is rebuilt alone: what had not come
// yet was not expunged.
func TestLaw07RebuildOfAnIndexThatWasBeingFilled(t *testing.T) {
	fs := newFS(t)
	o, accounts, was := written(t, fs, true)
	s := openSlot(t, o)
	if err := s.BeginImport(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	rebuildAlone(t, o)
	s = openSlot(t, o)
	is := seenBy(t, serve(t, s, 1, 0), accounts)
	complete(t, was, is)
	sameNumbers(t, was, is)
}

// The process died with a delivery in flight. The message comes back, into a mailbox
// with a new UIDVALIDITY, since an earlier index looks just the same; nothing else changes,
// and what an operator has erased does not come back.
func TestLaw07RebuildWithABodyInFlight(t *testing.T) {
	fs := newFS(t)
	o, accounts, _ := written(t, fs, true)
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	gone := account(t, m, "gone@example.test")
	deliver(t, m, mail(4000), accounts[0])
	deliver(t, m, mail(4001), gone)
	if err := m.DeleteAccount(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	if err := m.EraseAccount(t.Context(), gone.Address); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Free(t.Context(), polite); err != nil {
		t.Fatal(err)
	}
	was := seenBy(t, m, accounts)
	box, _ := inbox(t, m, accounts[1])
	flying := body(t, mail(4002))
	ref := slot.BodyRef{GUID: flying.GUID(), ID: 4002}
	note := &blob.BirthNote{Births: []*blob.Birth{{Account: uint64(accounts[1].ID), Address: string(accounts[1].Address), Mailbox: uint64(box.ID), MailboxName: box.Name}}}
	if _, err := s.packs.Put(ref, note, flying, flying.Size()); err != nil {
		t.Fatal(err)
	}
	if err := s.packs.Sync(); err != nil {
		t.Fatal(err)
	}
	o.FS = fs.CrashClone(vfs.CrashCloneCfg{})
	closeOnce(t, s)

	got := rebuildAlone(t, o)
	s = openSlot(t, o)
	m = serve(t, s, 1, 0)
	is := seenBy(t, m, accounts)
	complete(t, was, is)
	sameNumbers(t, was, is)
	inboxOf := string(accounts[1].Address) + " INBOX"
	if n := len(is.bodies[inboxOf]); n != len(was.bodies[inboxOf])+1 || got.FromPacks != 1 {
		t.Errorf("%d messages came back; INBOX has %d, it had %d", got.FromPacks, n, len(was.bodies[inboxOf]))
	}
	for k, v := range was.valid {
		if kept := is.valid[k] == v; kept == (k == inboxOf) {
			t.Errorf("%s has kept its UIDVALIDITY: %v", k, kept)
		}
	}
	if _, err := m.Address(t.Context(), gone.Address); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("the erased account: %v", err)
	}
}

// promised rebuilds and returns what the copy then keeps to.
func promised(t *testing.T, o Options, mode RebuildMode, e slot.Epoch) slot.Epoch {
	t.Helper()
	if _, err := Rebuild(t.Context(), o, RebuildOptions{Mode: mode, Epoch: e}); err != nil {
		t.Fatal(err)
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, err := s.Promised()
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// A copy that promised a new master to acknowledge nothing to the old one keeps that when
// its index is rebuilt, cut off or not. When the promise cannot be read it keeps to the
// epoch that Raft has.
func TestLaw01RebuildKeepsThePromise(t *testing.T) {
	for _, mode := range []RebuildMode{Refill, Alone} {
		for _, damage := range []string{"none", "MANIFEST", "cut off", "lost"} {
			t.Run(fmt.Sprint(mode, " ", damage), func(t *testing.T) {
				fs := newFS(t)
				o, _, _ := written(t, fs, true)
				s := openSlot(t, o)
				if err := s.Promise(t.Context(), 7); err != nil {
					t.Fatal(err)
				}
				closeOnce(t, s)
				want := slot.Epoch(7)
				switch damage {
				case "MANIFEST":
					tearManifest(t, fs)
				case "cut off":
					cutOffLate(t, o)
					if err := fs.RemoveAll("/slots/s007/quarantine/index-1"); err != nil {
						t.Fatal(err)
					}
				case "lost":
					damageIndex(t, o, func(db *pebble.DB) error { return db.Delete(localKey(keyPromised), pebble.Sync) })
					want = 3
				}
				if got := promised(t, o, mode, 3); got != want {
					t.Errorf("it keeps to epoch %d, want %d", got, want)
				}
			})
		}
	}
}
