package diary

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"mailnode/storage"
	"mailnode/storage/disk"
)

// hand is a clock that a test moves.
type hand struct {
	mono time.Duration
	wall time.Time
}

func newHand() *hand {
	return &hand{mono: time.Hour, wall: time.Date(2026, 3, 1, 3, 30, 0, 0, time.UTC)}
}

func (h *hand) pass(d time.Duration) { h.mono, h.wall = h.mono+d, h.wall.Add(d) }

func (h *hand) clock() storage.Clock {
	return storage.Clock{Mono: func() time.Duration { return h.mono }, Wall: func() time.Time { return h.wall }}
}

func open(t *testing.T, fs vfs.FS, h *hand) *Diary {
	t.Helper()
	d, err := Open(fs, "/data/diary", h.clock())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func texts(list []Told) (out []string) {
	for _, e := range list {
		out = append(out, e.Text)
	}
	return out
}

// What was written is there after a loss of power at any moment, in its order, and
// what was cut off is not taken for damage; numbers go on above all that were seen.
func TestDiarySurvivesPowerLoss(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	fs := vfs.NewCrashableMem()
	if err := fs.MkdirAll("/data", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := disk.SyncDir(fs, "/"); err != nil {
		t.Fatal(err)
	}
	h := newHand()
	wrote, added := 0, 0
	for round := range 40 {
		d := open(t, fs, h)
		got := texts(d.Since(1000 * time.Hour))
		if len(got) < wrote {
			t.Fatalf("round %d: %d entries, %d were written", round, len(got), wrote)
		}
		for i, text := range got[:wrote] {
			if text != fmt.Sprint(i) {
				t.Fatalf("round %d: entry %d is %q", round, i, text)
			}
		}
		for _, text := range got {
			if strings.Contains(text, "damaged") {
				t.Fatalf("round %d: %q", round, text)
			}
		}
		added = len(got)
		for range rng.IntN(5) {
			d.Add(Entry{Kind: Note, Text: fmt.Sprint(added)})
			added++
			h.pass(time.Second)
			if rng.IntN(2) == 0 {
				if err := d.Write(); err != nil {
					t.Fatal(err)
				}
				wrote = added
			}
		}
		fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
	}
	if wrote < 20 {
		t.Fatalf("only %d entries were written: this test has proved nothing", wrote)
	}
}

// A flipped bit costs its line and is said; the others are there (law 6).
func TestLaw06DamagedLineIsLeftOut(t *testing.T) {
	fs, h := vfs.NewMem(), newHand()
	d := open(t, fs, h)
	for i := range 3 {
		d.Add(Entry{Kind: Note, Text: fmt.Sprint("number ", i)})
	}
	if err := d.Write(); err != nil {
		t.Fatal(err)
	}
	f, err := fs.OpenReadWrite("/data/diary/current", "test")
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(b), "number 1")
	if _, err := f.WriteAt([]byte("x"), int64(at)); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(texts(open(t, fs, h).Since(time.Hour)), "|")
	if want := "number 0|number 2|1 damaged lines of this node's diary were left out"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Two files bound it; what is read of them is the newest, whole and in order.
func TestDiaryIsBounded(t *testing.T) {
	fs, h := vfs.NewMem(), newHand()
	d := open(t, fs, h)
	long := strings.Repeat("x", 2*TextMax)
	const many = 2000
	for range many {
		d.Add(Entry{Kind: Note, Text: long})
		if err := d.Write(); err != nil {
			t.Fatal(err)
		}
	}
	total := int64(0)
	for _, name := range []string{currentName, earlierName} {
		st, err := fs.Stat("/data/diary/" + name)
		if err != nil {
			t.Fatal(err)
		}
		total += st.Size()
	}
	got := open(t, fs, h).Since(time.Hour)
	if total > 2*fileMax+2*TextMax || len(got) < 200 || got[len(got)-1].Seq != many || len(got[0].Text) > TextMax+3 {
		t.Errorf("%d bytes, %d entries of %d, the last is %d", total, len(got), many, got[len(got)-1].Seq)
	}
	for i, e := range got[1:] {
		if e.Seq != got[i].Seq+1 {
			t.Fatalf("%d after %d", e.Seq, got[i].Seq)
		}
	}
}

// A disk that takes nothing holds up nobody, and loses nothing of what fits.
func TestDiaryOnAFullDisk(t *testing.T) {
	mem, h := vfs.NewMem(), newHand()
	full := false
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.ENOSPC
		}
		return nil
	}))
	d := open(t, fs, h)
	full = true
	for i := range 3 {
		d.Add(Entry{Kind: Note, Text: fmt.Sprint(i)})
		if err := d.Write(); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("write: %v", err)
		}
	}
	if got := texts(d.Since(time.Hour)); len(got) != 3 {
		t.Errorf("there is %q", got)
	}
	full = false
	if err := d.Write(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(texts(open(t, mem, h).Since(time.Hour)), ""); got != "012" {
		t.Errorf("after a restart there is %q", got)
	}
}

// A wall clock that jumps by a year changes neither what a report is made of nor its
// order (law 11).
func TestLaw11JumpOfTheWallClock(t *testing.T) {
	fs, h := vfs.NewMem(), newHand()
	d := open(t, fs, h)
	for i, jump := range []time.Duration{0, 365 * 24 * time.Hour, -2 * 365 * 24 * time.Hour} {
		h.wall = h.wall.Add(jump)
		d.Add(Entry{Kind: Note, Text: fmt.Sprint(i)})
		h.pass(time.Minute)
	}
	if got := strings.Join(texts(d.Since(90*time.Second)), ""); got != "2" {
		t.Errorf("of the last 90 s: %q", got)
	}
	for _, e := range d.Since(time.Hour) {
		if want := int64(60000 * (4 - e.Seq)); e.AgoMs != want {
			t.Errorf("%q was %d ms ago, want %d", e.Text, e.AgoMs, want)
		}
	}
	if err := d.Write(); err != nil {
		t.Fatal(err)
	}
	last := int64(1 << 62)
	for _, e := range open(t, fs, h).Since(3 * 365 * 24 * time.Hour) {
		if e.AgoMs > last || e.AgoMs < 0 {
			t.Errorf("after a restart %q was %d ms ago, the one before it %d", e.Text, e.AgoMs, last)
		}
		last = e.AgoMs
	}
}
