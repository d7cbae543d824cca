package blob

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/klauspost/compress/zstd"

	"mailnode/storage/slot"
)

func noise(n int) []byte {
	rng := rand.New(rand.NewPCG(3, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func text(n int) []byte {
	return []byte(strings.Repeat("Dear all, the meeting is moved to Thursday.\r\n", n/45+1)[:n])
}

func rewriter(t *testing.T, s *Store) *Rewriter {
	t.Helper()
	r, err := s.NewRewriter()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func read(t *testing.T, s *Store, ref slot.BodyRef, loc Location) []byte {
	t.Helper()
	b, err := s.Open(ref, loc)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if b.Size() != loc.Size {
		t.Fatalf("the body has %d bytes, its place says %d", b.Size(), loc.Size)
	}
	out, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// What is copied is what was there: body, note, ref. Text shrinks; noise, tiny
// and large bodies stay as they are; an encoded one is copied as it is.
func TestLaw06RewrittenBodiesAreTheSame(t *testing.T) {
	s := open(t, newFS(t), 8<<20)
	defer s.Close()
	cases := []struct {
		name string
		body []byte
		zstd bool
	}{
		{"empty", nil, false},
		{"tiny", []byte("x"), false},
		{"noise", noise(100_000), false},
		{"text", text(100_000), true},
		{"text of the largest size", text(EncodedBytesMax), true},
		{"large text", text(EncodedBytesMax + 1), false},
		{"larger than a pack", text(9 << 20), false},
	}
	var refs []slot.BodyRef
	var locs []Location
	for i, c := range cases {
		ref, loc := put(t, s, c.body, slot.BodyID(i))
		refs, locs = append(refs, ref), append(locs, loc)
	}
	lastPut := s.NewestPack()
	for round := range 2 {
		r := rewriter(t, s)
		for i, c := range cases {
			to, err := r.Copy(refs[i], locs[i])
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			if (to.Encoding == zstdBody) != c.zstd || to.Size != int64(len(c.body)) || to.Pack == locs[i].Pack {
				t.Errorf("%s: from %+v to %+v", c.name, locs[i], to)
			}
			if c.zstd && to.RecordBytes() > locs[i].RecordBytes() {
				t.Errorf("%s: it grew to %+v", c.name, to)
			}
			was, err1 := s.Note(refs[i], locs[i])
			now, err2 := s.Note(refs[i], to)
			if err1 != nil || err2 != nil || !bytes.Equal(was, now) {
				t.Errorf("%s: note %q, %v; %q, %v", c.name, was, err1, now, err2)
			}
			if got := read(t, s, refs[i], to); !bytes.Equal(got, c.body) {
				t.Errorf("%s, round %d: the body differs", c.name, round)
			}
			locs[i] = to
		}
		if err := r.Sync(); err != nil {
			t.Fatal(err)
		}
		r.Close()
	}
	found := map[slot.BodyRef]Location{}
	packs, err := s.Packs()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range packs {
		if err := s.Scan(n, func(f Found) error { found[f.Ref] = f.Location; return nil }, func(at, n int64) { t.Errorf("gap of %d bytes at %d", n, at) }); err != nil {
			t.Fatal(err)
		}
		if is, err := s.Rewritten(n); err != nil || is != (n > lastPut) {
			t.Errorf("pack %d: rewritten %v, %v", n, is, err)
		}
	}
	for i := range refs {
		if found[refs[i]] != locs[i] {
			t.Errorf("%s: scan found it at %+v, it was put to %+v", cases[i].name, found[refs[i]], locs[i])
		}
	}
}

// A flipped bit in an encoded body, its head or its note is noticed, and what it
// names stays unread; nothing reads past it in surprise.
func TestLaw06FlippedBitInEncodedBodyIsNoticed(t *testing.T) {
	fs := newFS(t)
	s := open(t, fs, 0)
	body := text(3000)
	ref, from := put(t, s, body, 1)
	r := rewriter(t, s)
	loc, err := r.Copy(ref, from)
	if err != nil || loc.Encoding != zstdBody {
		t.Fatal(loc, err)
	}
	if err := r.Sync(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	s.Close()
	f, err := fs.OpenReadWrite(s.path(loc.Pack), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at := loc.Offset - loc.headBytes(); at < loc.Offset+loc.Stored; at++ {
		for bit := range 8 {
			b := make([]byte, 1)
			flip := func() {
				if _, err := f.ReadAt(b, at); err != nil {
					t.Fatal(err)
				}
				b[0] ^= 1 << bit
				if _, err := f.WriteAt(b, at); err != nil {
					t.Fatal(err)
				}
			}
			flip()
			s := open(t, fs, 0)
			opened, openErr := s.Open(ref, loc)
			_, noteErr := s.Note(ref, loc)
			_, copyErr := rewriter(t, s).Copy(ref, loc)
			seen := 0
			if err := s.Scan(loc.Pack, func(Found) error { seen++; return nil }, nil); err != nil {
				t.Fatal(err)
			}
			inBody := at >= loc.Offset
			if openErr == nil && inBody {
				// zstd has bits that change nothing: then the body must be right.
				if got, err := io.ReadAll(opened.SectionReader); err != nil || !bytes.Equal(got, body) {
					t.Fatalf("offset %d bit %d: a wrong body was opened", at, bit)
				}
			} else if inBody && !errors.Is(openErr, ErrDamaged) {
				t.Fatalf("offset %d bit %d: %v", at, bit, openErr)
			}
			if !inBody && (!errors.Is(noteErr, ErrDamaged) || !errors.Is(copyErr, ErrDamaged) || seen != 0) {
				t.Fatalf("offset %d bit %d: note: %v; copy: %v; scan found %d", at, bit, noteErr, copyErr, seen)
			}
			s.Close()
			flip()
		}
	}
}

// A body that says it is small and decodes to a lot is refused before the lot
// exists; so is a place that asks for more than any encoded body has.
func TestLaw06BombIsRefused(t *testing.T) {
	s := open(t, newFS(t), 0)
	defer s.Close()
	bomb := make([]byte, 64<<20)
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := enc.EncodeAll(bomb, nil)
	ref := slot.BodyRef{GUID: slot.SumGUID(bomb), ID: 1}
	for _, size := range []int64{int64(len(packed)), 100_000, EncodedBytesMax, int64(len(bomb)), -1} {
		r := rewriter(t, s)
		loc := Location{Size: size, Encoding: zstdBody, Stored: int64(len(packed))}
		if err := r.place(&loc); err != nil {
			t.Fatal(err)
		}
		if err := r.write(append(appendEncoded(nil, ref, loc, nil), packed...), loc.Offset-loc.headBytes(), &loc); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := s.Open(ref, loc); !errors.Is(err, ErrDamaged) {
			t.Errorf("%d bytes: %v", size, err)
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 2*EncodedBytesMax {
			t.Errorf("%d bytes: %d were allocated to find out", size, n)
		}
		r.Close()
	}
	for _, loc := range []Location{{Pack: 1, Offset: 64, Size: 10, Encoding: 7, Stored: 5}, {Pack: 1, Offset: 1, Size: 1 << 62}, {Pack: 1, Offset: -5, Size: 3, NoteBytes: 1 << 31}} {
		if _, err := s.Open(ref, loc); !errors.Is(err, ErrDamaged) {
			t.Errorf("%+v: %v", loc, err)
		}
		if _, err := s.Note(ref, loc); !errors.Is(err, ErrDamaged) {
			t.Errorf("note of %+v: %v", loc, err)
		}
	}
}

// Readers of many packs share few handles; a pack that is removed while it is
// read stays readable until the reader is done; afterwards nothing is open.
func TestHandlesAreBoundedAndShared(t *testing.T) {
	fs := newFS(t)
	hs := NewHandles(4)
	stores := map[int]*Store{}
	for i := range 2 {
		dir := fmt.Sprintf("/packs/%d", i)
		if err := fs.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		s, err := Open(Options{FS: fs, Dir: dir, Cluster: "test", Slot: slot.ID(i), PackBytesMax: 1000, Handles: hs})
		if err != nil {
			t.Fatal(err)
		}
		stores[i] = s
	}
	type kept struct {
		s    *Store
		ref  slot.BodyRef
		loc  Location
		body []byte
	}
	var all []kept
	for i := range 60 {
		body := noise(500 + i)
		s := stores[i%2]
		ref, loc := put(t, s, body, slot.BodyID(i))
		all = append(all, kept{s, ref, loc, body})
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 9))
			for range 500 {
				k := all[rng.IntN(len(all))]
				b, err := k.s.Open(k.ref, k.loc)
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, k.body) {
					t.Errorf("body %s: %v", k.ref, err)
				}
				b.Close()
				b.Close() // must not give it back twice
			}
		})
	}
	wg.Wait()
	if n := hs.Open(); n > 4 {
		t.Errorf("%d packs are open, 4 were allowed", n)
	}
	k := all[10]
	b, err := k.s.Open(k.ref, k.loc)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.s.Remove(k.loc.Pack); err != nil {
		t.Fatal(err)
	}
	if _, err := k.s.Open(k.ref, k.loc); !errors.Is(err, ErrGone) {
		t.Errorf("a body of a removed pack: %v", err)
	}
	for _, s := range stores {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, k.body) {
		t.Errorf("the removed pack cannot be read to the end: %v", err)
	}
	b.Close()
	if n := hs.Open(); n != 0 {
		t.Errorf("%d packs are open after all Stores were closed", n)
	}
	if _, err := all[0].s.Open(all[0].ref, all[0].loc); err == nil || errors.Is(err, ErrDamaged) {
		t.Errorf("after Close: %v", err)
	}
}

// The same on the real file system: an unlinked pack is read through its handle.
func TestRemovedPackStaysReadableOnDisk(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Options{FS: vfs.Default, Dir: dir, Cluster: "test", Slot: 7})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ref, loc := put(t, s, noise(5000), 1)
	b, err := s.Open(ref, loc)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := s.Remove(loc.Pack); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, noise(5000)) {
		t.Fatalf("read after removal: %v", err)
	}
}
