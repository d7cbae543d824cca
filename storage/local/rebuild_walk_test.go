package local

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"mailnode/storage"
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
