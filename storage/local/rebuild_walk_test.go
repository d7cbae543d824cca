package local

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// Any bytes of the index go bad: a rebuild of the only copy loses no message, gives out no
// number twice, and leaves a copy in which the checker finds nothing.
func TestLaw02Law03Law07RebuildAfterRandomDamage(t *testing.T) {
	t.Parallel()
	sd := seed(t)
	rng := rand.New(rand.NewPCG(sd, 1))
	rounds := 8
	if n, err := strconv.Atoi(os.Getenv("REBUILD_ROUNDS")); err == nil { // the long lane
		rounds = n
	}
	for round := range rounds {
		fs := newFS(t)
		o, accounts, was := written(t, fs, rng.IntN(3) > 0)
		names, err := fs.List("/slots/s007/index")
		if err != nil {
			t.Fatal(err)
		}
		var what []string
		for range 1 + rng.IntN(3) {
			name := names[rng.IntN(len(names))]
			if st, err := fs.Stat("/slots/s007/index/" + name); err != nil || st.Size() == 0 {
				continue
			}
			what = append(what, name)
			if rng.IntN(4) == 0 {
				if err := fs.Remove("/slots/s007/index/" + name); err != nil {
					t.Fatal(err)
				}
				continue
			}
			garble(t, fs, "/slots/s007/index/"+name, rng.Float64(), 1+rng.IntN(500))
		}
		got, err := Rebuild(context.Background(), o, RebuildOptions{Mode: Alone, Epoch: 1})
		if err != nil {
			t.Fatalf("round %d, %v: %v", round, what, err)
		}
		t.Logf("round %d, %v: kept %d, from packs %d, new UIDVALIDITY %d, lost %.300q", round, what, got.Kept, got.FromPacks, got.NewUIDValidity, got.Lost)
		func() {
			s, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			defer closeOnce(t, s)
			m := serve(t, s, 1, 0)
			complete(t, was, seenBy(t, m, accounts))
			for i := range 5 { // new numbers are new
				deliver(t, m, mail(5000+i), accounts...)
			}
			sameNumbers(t, was, seenBy(t, m, accounts))
		}()
		if t.Failed() {
			t.Fatalf("round %d, %v: %+v", round, what, got)
		}
	}
}

// A pack is gone, and there is no other copy: what lay in it is removed and
// recorded as missing, under its name.
func TestLaw07RebuildRecordsWhatIsMissing(t *testing.T) {
	fs := newFS(t)
	o, accounts, was := written(t, fs, false)
	if err := fs.Remove("/slots/s007/packs/00000002.pack"); err != nil {
		t.Fatal(err)
	}
	got := rebuildAlone(t, o)
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	missing, err := m.Missing(context.Background())
	if err != nil || len(missing) == 0 || int64(len(missing)) != 120-got.Kept {
		t.Fatalf("%d are missing, %d kept, %v", len(missing), got.Kept, err)
	}
	is := seenBy(t, m, accounts)
	sameNumbers(t, was, is)
	if n := len(is.bodies["u2@example.test INBOX"]); n == 0 || n >= 60 {
		t.Errorf("INBOX of u2 has %d messages", n)
	}
	for _, x := range missing {
		if x.Mailbox == "" || x.UID == 0 || x.GUID == (storage.Missing{}).GUID {
			t.Errorf("%+v", x)
		}
	}
}

// forgetting rebuilds the index of a closed copy with only those of its primary records
// that keep wants, and tears its list of files: what is left is all that a rebuild can read.
func forgetting(t *testing.T, o Options, s *Slot, keep func(key []byte) bool) {
	t.Helper()
	left := map[string][]byte{}
	for _, prefix := range salvaged() {
		keys, values := recordsOf(t, s, prefix)
		for i, k := range keys {
			if keep(k) {
				left[string(k)] = values[i]
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := o.FS.RemoveAll("/slots/s007/index"); err != nil {
		t.Fatal(err)
	}
	damageIndex(t, o, func(db *pebble.DB) error {
		for k, v := range left {
			if err := db.Set([]byte(k), v, pebble.Sync); err != nil {
				return err
			}
		}
		return nil
	})
	tearManifest(t, o.FS)
}

// putBack has a missing body turn up again, and its three messages with it.
func putBack(t *testing.T, s *Slot, m *Master, ref slot.BodyRef) {
	t.Helper()
	whole := body(t, mail(1))
	if err := s.ReplaceBody(t.Context(), ref, nil, whole, whole.Size()); err != nil {
		t.Fatal(err)
	}
	if n, err := m.TakeBack(t.Context(), ref); err != nil || n != 3 {
		t.Fatalf("took back %d, %v", n, err)
	}
}

// The notes of messages that no copy has are lost with their block. The journal still tells
// which they were: they are listed as before, and come back when the body does. One that
// came back before is not listed again.
func TestLaw07RebuildKeepsWhatIsMissing(t *testing.T) {
	for _, back := range []bool{false, true} {
		t.Run(fmt.Sprint("back=", back), func(t *testing.T) {
			_, _, s, m := mendBench(t)
			o := s.o
			_, _, ref := lostMail(t, s, m)
			if back {
				putBack(t, s, m, ref)
			}
			was, err := m.Missing(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			forgetting(t, o, s, func(k []byte) bool { return k[0] != event.PrefixMissing })
			rebuildAlone(t, o)
			s = openSlot(t, o)
			m = serve(t, s, 1, 0)
			is, err := m.Missing(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			names := func(list []storage.Missing) (out []string) {
				for _, x := range list {
					out = append(out, fmt.Sprint(x.Address, x.Mailbox, x.UID, x.GUID))
				}
				slices.Sort(out)
				return out
			}
			if !slices.Equal(names(is), names(was)) || back != (len(was) == 0) {
				t.Errorf("missing are %v, they were %v", names(is), names(was))
			}
			if !back {
				putBack(t, s, m, ref)
			}
		})
	}
}

// An account and its last message, given up long ago, are in the same lost block. The
// journal has the note of the message: the account is made again for it, under its address,
// so that the message can come back.
func TestLaw07RebuildMakesTheAccountOfAMissingMessage(t *testing.T) {
	_, _, s, m := mendBench(t)
	o := s.o
	_, b, ref := lostMail(t, s, m)
	forgetting(t, o, s, func(k []byte) bool {
		return k[0] == event.PrefixMissing || k[0] != event.PrefixJournal && !bytes.Contains(k, be.AppendUint64(nil, uint64(b.ID)))
	})
	if err := o.FS.Remove("/slots/s007/packs/00000001.pack"); err != nil { // and with it all birth notes
		t.Fatal(err)
	}
	got := rebuildAlone(t, o)
	if !slices.Contains(got.Made, b.Address) {
		t.Errorf("made are %v, want %s among them", got.Made, b.Address)
	}
	s = openSlot(t, o)
	m = serve(t, s, 1, 0)
	if _, err := m.Free(t.Context(), polite); err != nil {
		t.Fatal(err)
	}
	putBack(t, s, m, ref)
	if box, got := inbox(t, m, b); len(got) != 1 {
		t.Errorf("%s has %d messages", box.Name, len(got))
	}
}
