package blob

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage/slot"
)

func open(t *testing.T, fs vfs.FS, packBytesMax int64) *Store {
	t.Helper()
	s, err := Open(Options{FS: fs, Dir: "/packs", Cluster: "test", Slot: 7, PackBytesMax: packBytesMax})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *Store, body []byte, id slot.BodyID) (slot.BodyRef, Location) {
	t.Helper()
	ref := slot.BodyRef{GUID: slot.SumGUID(body), ID: id}
	note := &BirthNote{Births: []*Birth{{Account: 5, Address: "u1@example.test", Mailbox: 9, MailboxName: "INBOX"}}}
	loc, err := s.Put(ref, note, bytes.NewReader(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	return ref, loc
}

func newFS(t *testing.T) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewCrashableMem()
	for _, d := range []string{"/packs"} {
		if err := fs.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	root, err := fs.OpenDir("/")
	if err != nil {
		t.Fatal(err)
	}
	if err := root.Sync(); err != nil {
		t.Fatal(err)
	}
	return fs
}

// Bodies that were synced are there after a power loss, each under its own
// location, in as many packs as it took; Scan finds each once.
func TestLaw01SyncedBodiesSurvivePowerLoss(t *testing.T) {
	fs := newFS(t)
	s := open(t, fs, 64<<10)
	type kept struct {
		ref  slot.BodyRef
		loc  Location
		body []byte
	}
	var all []kept
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 200 {
		body := make([]byte, rng.IntN(4000))
		for j := range body {
			body[j] = byte(rng.Uint32())
		}
		ref, loc := put(t, s, body, slot.BodyID(i))
		all = append(all, kept{ref, loc, body})
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	put(t, s, []byte("never synced"), 999)
	for _, percent := range []int{0, 50, 100} {
		crashed := open(t, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}), 64<<10)
		for _, k := range all {
			b, err := crashed.Open(k.ref, k.loc)
			if err != nil {
				t.Fatalf("%d%% of unsynced data kept: %v", percent, err)
			}
			if got, _ := io.ReadAll(b); !bytes.Equal(got, k.body) {
				t.Fatalf("body %s differs", k.ref)
			}
		}
		found := map[slot.BodyID]int{}
		packs, err := crashed.Packs()
		if err != nil || len(packs) < 3 {
			t.Fatalf("packs %v, %v: want several", packs, err)
		}
		for _, n := range packs {
			if err := crashed.Scan(n, func(f Found) error { found[f.Ref.ID]++; return nil }, nil); err != nil {
				t.Fatal(err)
			}
		}
		for i := range all {
			if found[slot.BodyID(i)] != 1 {
				t.Fatalf("%d%%: scan found body %d %d times", percent, i, found[slot.BodyID(i)])
			}
		}
		crashed.Close()
	}
	s.Close()
}

// A flipped bit anywhere in a record is noticed: in the body by Open, in header
// and note by Scan, which goes on with the next record.
func TestLaw06FlippedBitIsNoticed(t *testing.T) {
	fs := newFS(t)
	s := open(t, fs, 0)
	first, firstLoc := put(t, s, []byte("From: a\r\n\r\nfirst\r\n"), 1)
	second, _ := put(t, s, []byte("From: b\r\n\r\nsecond\r\n"), 2)
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	s.Close()
	f, err := fs.OpenReadWrite("/packs/00000001.pack", "test")
	if err != nil {
		t.Fatal(err)
	}
	flip := func(at int64) {
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 4
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	for at := int64(preambleBytes); at < firstLoc.Offset+firstLoc.Size; at++ {
		flip(at)
		s = open(t, fs, 0)
		_, openErr := s.Open(first, firstLoc)
		var seen []slot.BodyRef
		if err := s.Scan(1, func(f Found) error { seen = append(seen, f.Ref); return nil }, nil); err != nil {
			t.Fatal(err)
		}
		if inBody := at >= firstLoc.Offset; inBody != errors.Is(openErr, ErrDamaged) {
			t.Fatalf("offset %d: Open says %v", at, openErr)
		} else if !inBody && (len(seen) != 1 || seen[0] != second) {
			t.Fatalf("offset %d: Scan found %v, want only the second", at, seen)
		}
		s.Close()
		flip(at)
	}
	flip(3)
	s = open(t, fs, 0)
	defer s.Close()
	if _, err := s.Open(first, firstLoc); !errors.Is(err, ErrDamaged) {
		t.Fatalf("damaged preamble: %v", err)
	}
}

// A pack whose preamble is damaged takes neither the Store nor its other packs
// down, and Open does not read them all.
func TestLaw09DamagedPackIsAlone(t *testing.T) {
	fs := newFS(t)
	var refs []slot.BodyRef
	var locs []Location
	for i := range 20 {
		s := open(t, fs, 0) // each begins a pack
		ref, loc := put(t, s, []byte{byte(i)}, slot.BodyID(i))
		refs, locs = append(refs, ref), append(locs, loc)
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
	for _, n := range []string{"/packs/00000007.pack", "/packs/00000020.pack"} {
		f, err := fs.OpenReadWrite(n, "test")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{0xff}, 20); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	s := open(t, fs, 0)
	defer s.Close()
	if n := s.o.Handles.Open(); n > 2 {
		t.Errorf("after Open %d packs are open", n)
	}
	for i, ref := range refs {
		b, err := s.Open(ref, locs[i])
		if bad := i == 6 || i == 19; bad != errors.Is(err, ErrDamaged) || !bad && err != nil {
			t.Errorf("body %d: %v", i, err)
		}
		if err == nil {
			b.Close()
		}
	}
}

func TestForeignPackIsRefused(t *testing.T) {
	fs := newFS(t)
	s := open(t, fs, 0)
	put(t, s, []byte("x"), 1)
	s.Close()
	if _, err := Open(Options{FS: fs, Dir: "/packs", Cluster: "test", Slot: 8}); err == nil {
		t.Fatal("a pack of slot s007 was opened as s008's")
	}
}
