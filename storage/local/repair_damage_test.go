package local

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/check"
	"mailnode/storage/event"
)

// spoil writes a record that no event led to, as bad memory does: the checksum on the
// disk fits.
func spoil(t *testing.T, s *Slot, key []byte, change func(value []byte) []byte) {
	t.Helper()
	if err := s.do(context.Background(), func(x *txn) error {
		v, found, err := x.Get(key)
		if err != nil || !found {
			t.Fatalf("record %q: %v, %v", key, found, err)
		}
		return x.b.Set(key, change(v), nil)
	}); err != nil {
		t.Fatal(err)
	}
}

func findings(t *testing.T, s *Slot) (found []string) {
	t.Helper()
	if err := s.Snapshot(func(x Snapshot) error {
		all, err := check.Run(x, check.Options{})
		for _, f := range all {
			found = append(found, f.String())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// A message's record that is not what the events made it: the digests say so, and
// the checker names the mailbox. A copy that fetches the state does not take it.
func TestLaw06Law08SpoiltRecordIsNotTaken(t *testing.T) {
	h := newReplicaHarness(t, rand.New(rand.NewPCG(1, 1)))
	s := h.w.m.s
	for range 30 {
		h.w.step()
	}
	var key []byte
	if err := s.ReadState(func(r event.Record) error {
		if r.Key[0] == event.PrefixMessage {
			key = append([]byte(nil), r.Key...)
		}
		return nil
	}); err != nil || key == nil {
		t.Fatal(key, err)
	}
	var before []byte
	spoil(t, s, key, func(v []byte) []byte {
		before = append([]byte(nil), v...)
		m := &event.MessageRecord{}
		if err := unmarshal(v, m); err != nil {
			t.Fatal(err)
		}
		m.SavedUnix ^= 1
		return event.Marshal(m)
	})
	if err := s.read(proveDigests); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("proveDigests: %v", err)
	}
	if found := findings(t, s); len(found) == 0 || !strings.Contains(found[0], "@example.test ") {
		t.Errorf("the checker finds %q", found)
	}
	if err := h.replica.fetchInto(h.s); !errors.Is(err, storage.ErrCorrupt) || !h.s.Building() {
		t.Errorf("the copy took it: %v, building %v", err, h.s.Building())
	}
	spoil(t, s, key, func([]byte) []byte { return before })
	if err := h.replica.fetchInto(h.s); err != nil {
		t.Errorf("the record is right again: %v", err)
	}
}

// An event whose bytes have changed is not sent to anyone; those before it are.
func TestLaw06SpoiltEventIsNotSent(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	for i := range 5 {
		deliver(t, m, mail(i), a)
	}
	evs := journalOf(t, s, 0)
	key := event.JournalKey(posOf(evs[3]))
	flip := func(v []byte) []byte {
		v = append([]byte(nil), v...)
		v[len(v)/2] ^= 4
		return v
	}
	spoil(t, s, key, flip)
	if _, _, err := s.JournalAfter(posOf(evs[2]), 1<<20); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("after the third: %v, want corrupt", err)
	}
	if raws, _, err := s.JournalAfter(0, 1); err != nil || len(raws) != 1 {
		t.Errorf("the first: %d, %v", len(raws), err)
	}
	if found := findings(t, s); len(found) == 0 || !strings.Contains(found[0], posOf(evs[3]).String()) {
		t.Errorf("the checker finds %q", found)
	}
	spoil(t, s, key, flip)
}

// A damaged block of the index is an error of its reader, reported with the file's name:
// nobody hangs, the copy goes on with all else, and takes mail.
func TestLaw09DamagedBlockIsTheReadersOwn(t *testing.T) {
	h := newHarness(t, rand.New(rand.NewPCG(1, 1)), 3)
	for range 120 {
		h.w.step()
	}
	if err := h.compactIndex(); err != nil {
		t.Fatal(err)
	}
	closeOnce(t, h.s)
	d := &damagedDisk{fs: h.fs.mem.CrashClone(vfs.CrashCloneCfg{}), o: h.o}
	want := d.read(t, d.fs)
	all := vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))}
	d.fs = d.fs.CrashClone(all) // without the tables that the first open removed
	type place struct {
		table string
		at    int
	}
	var places []place // in all tables: one may be obsolete, of another Open needs each block
	for _, f := range filesBelow(d.fs, h.o.Dir+"/index") {
		for at := 1000; strings.HasSuffix(f, ".sst") && at < len(contentOf(d.fs, f)); at += 1777 {
			places = append(places, place{f, at})
		}
	}
	met, delivered := 0, 0
	for i := len(places) - 1; i >= 0 && met < 5; i-- {
		table, at := places[i].table, places[i].at
		fs := d.copy()
		b := contentOf(fs, table)
		b[at] ^= 1
		overwrite(t, fs, table, b)
		o := d.o
		o.FS, o.Resources = fs, NewResources(1<<10)
		t.Cleanup(o.Resources.Close)
		told := make(chan error, 1000)
		o.OnDamage = func(d Damage) {
			select {
			case told <- d.Err:
			default:
			}
		}
		s, err := Open(o)
		if err != nil {
			continue // the block is one that Open needs
		}
		within(t, "reading around damage", func() {
			hit, n := readAround(t, s, want)
			if delivered += n; hit {
				met++
			}
		})
		if len(told) == 1000 {
			t.Error("the same damage is reported without end")
		}
		for len(told) > 0 {
			if err := <-told; !strings.Contains(err.Error(), ".sst") {
				t.Errorf("it is not said where: %v", err)
			}
		}
		within(t, "Close", func() { s.Close() })
	}
	if met == 0 || delivered == 0 {
		t.Errorf("damage was met %d times, %d messages were delivered beside it", met, delivered)
	}
}

// readAround reads all of a damaged copy, and delivers; hit reports whether anything
// could not be read.
func readAround(t *testing.T, s *Slot, want reading) (hit bool, delivered int) {
	t.Helper()
	m, err := s.Serve(context.Background(), 1, 0, NoGate{})
	if err != nil {
		t.Fatal(err)
	}
	got := reading{read: map[string]string{}, errs: map[string]error{}}
	got.readAsClient(m)
	if head, err := s.Head(); err == nil {
		got.readAsReplica(s, head)
	}
	delete(got.read, "state") // has Serve's jump, if it made one
	for what, err := range got.errs {
		if !errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("%s: %v, want corrupt", what, err)
		}
	}
	for what, text := range got.read {
		if text != want.read[what] {
			t.Errorf("%s: it is not what it was", what)
		}
	}
	if err := s.Failure(); err != nil {
		t.Errorf("one damaged block has stopped the slot: %v", err)
	}
	accounts, err := m.Accounts(context.Background())
	if err != nil {
		return true, 0
	}
	for _, a := range accounts {
		dl := storage.Delivery{Body: spooled(mail(1)), Recipients: []storage.Recipient{{Account: a.ID}}}
		if m.Deliver(context.Background(), dl)[0] == nil {
			delivered++
		}
	}
	return len(got.errs) > 0, delivered
}

// A block of the index goes bad while the copy serves: its readers get an error, the node
// is told that the index is lost, and the store goes on.
func TestLaw06Law09BadBlockIsReportedAndStopsNothing(t *testing.T) {
	fs := newFS(t)
	o, accounts, _ := written(t, fs, true)
	told := make(chan error, 100)
	o.OnDamage = func(d Damage) {
		select {
		case told <- d.Err:
		default:
		}
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m := serve(t, s, 1, 0)
	deliver(t, m, mail(1999), accounts[1]) // what a delivery reads is in memory now
	for _, name := range indexFiles(t, fs, ".sst") {
		// Dense enough to hit what a recount reads: a large event of the journal has a block
		// of its own, which it does not.
		for part := 0.02; part < 0.9; part += 0.04 {
			garble(t, fs, "/slots/s007/index/"+name, part, 200)
		}
	}
	_, err = s.Recount(context.Background(), Scope{}, RecountOptions{})
	if !errors.Is(err, storage.ErrCorrupt) {
		t.Fatalf("a damaged index was read: %v", err)
	}
	select {
	case err := <-told:
		if !IndexLost(err) {
			t.Errorf("told of %v, which does not say that the index is lost", err)
		}
	default:
		t.Error("nobody was told")
	}
	if err := s.Failure(); err != nil {
		t.Errorf("one bad block has stopped the store: %v", err)
	}
	deliver(t, m, mail(2000), accounts[1])
}

// Pebble takes the first unsound record of its list of files for the end; the
// copy is refused instead.
func TestLaw07DamagedManifestRefusesTheCopy(t *testing.T) {
	fs := newFS(t)
	o, _, _ := written(t, fs, true)
	path := "/slots/s007/index/" + indexFiles(t, fs, "MANIFEST-")[0]
	garble(t, fs, path, 0.3, 1)
	if _, err := Open(o); !IndexLost(err) {
		t.Errorf("opened with a damaged list of files: %v", err)
	}
}
