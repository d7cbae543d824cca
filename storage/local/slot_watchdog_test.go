package local

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// hang is a disk that does not answer operations of some kinds below a folder,
// while it is armed, until release is closed.
type hang struct {
	folder  string
	kinds   []errorfs.OpKind
	armed   atomic.Bool
	release chan struct{}
}

func (h *hang) String() string { return "hang" }

// MaybeError implements errorfs.Injector.
func (h *hang) MaybeError(op errorfs.Op) error {
	if h.armed.Load() && strings.Contains(op.Path, h.folder) && slices.Contains(h.kinds, op.Kind) {
		<-h.release
	}
	return nil
}

// TestLaw09HungDiskFailsTheCopy: any write or sync does not return: the copy reports it
// and fails, callers get an answer, and Close returns.
func TestLaw09HungDiskFailsTheCopy(t *testing.T) {
	syncs := []errorfs.OpKind{errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo}
	for name, h := range map[string]*hang{
		"sync of packs":   {folder: "packs", kinds: syncs},
		"write to packs":  {folder: "packs", kinds: []errorfs.OpKind{errorfs.OpFileWriteAt}},
		"next pack":       {folder: "packs", kinds: []errorfs.OpKind{errorfs.OpCreate}},
		"sync of index":   {folder: "index", kinds: syncs},
		"write of index":  {folder: "index", kinds: []errorfs.OpKind{errorfs.OpFileWrite}},
		"rename of packs": {folder: "packs", kinds: []errorfs.OpKind{errorfs.OpRename}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h.release = make(chan struct{})
			defer close(h.release)
			o := options(t, injected(newFS(t), h))
			o.HangAfter, o.PackBytesMax = 200*time.Millisecond, 1<<10
			s, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			m := serve(t, s, 1, 0)
			a := account(t, m, "u1@example.test")
			deliver(t, m, mail(1), a)
			h.armed.Store(true)
			within(t, "deliver", func() {
				for {
					d := storage.Delivery{Body: body(t, mail(2)+strings.Repeat("x", 600)), Recipients: []storage.Recipient{{Account: a.ID}}}
					if err = m.Deliver(context.Background(), d)[0]; err != nil {
						return
					}
				}
			})
			if !errors.Is(err, storage.ErrUnavailable) || !strings.Contains(err.Error(), "does not answer") || !strings.Contains(err.Error(), h.folder) {
				t.Errorf("deliver: %v", err)
			}
			<-s.Failed()
			within(t, "close", func() { s.Close() })
		})
	}
}

// TestLaw09HungDiskWhileOpening: the copy is refused, and says why.
func TestLaw09HungDiskWhileOpening(t *testing.T) {
	for _, folder := range []string{"SLOT", "MANIFEST", "index/marker"} {
		t.Run(folder, func(t *testing.T) {
			t.Parallel()
			h := &hang{folder: folder, kinds: []errorfs.OpKind{errorfs.OpCreate, errorfs.OpFileSync, errorfs.OpFileWrite}, release: make(chan struct{})}
			defer close(h.release)
			h.armed.Store(true)
			o := options(t, injected(newFS(t), h))
			o.HangAfter = 200 * time.Millisecond
			within(t, "open", func() {
				_, err := Open(o)
				var refused *Refused
				if !errors.As(err, &refused) || !strings.Contains(err.Error(), "does not answer") || refused.Next == "" {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

// TestLaw09HungReadFailsTheCopy: a read that does not return fails the copy as a write
// does; the head is known before and after.
func TestLaw09HungReadFailsTheCopy(t *testing.T) {
	t.Parallel()
	h := &hang{folder: "packs", kinds: []errorfs.OpKind{errorfs.OpFileRead, errorfs.OpFileReadAt}, release: make(chan struct{})}
	defer close(h.release)
	o := options(t, injected(newFS(t), h))
	o.HangAfter = 400 * time.Millisecond
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	deliver(t, m, mail(1), a)
	before, err := s.Head()
	if err != nil || before.Position != slot.At(1, 3) || before.Births != 1 || before.Lineage.Last() != 1 {
		t.Fatalf("head %+v, %v", before, err)
	}
	h.armed.Store(true)
	var ref slot.BodyRef
	if err := s.read(func(v *view) error {
		return each(v, event.SpanOf([]byte{event.PrefixBody}), func(key, _ []byte) error { ref = event.BodyOf(key); return nil })
	}); err != nil {
		t.Fatal(err)
	}
	go s.ProveBody(ref)
	within(t, "the read is said to hang", func() {
		for hangs := ""; !strings.Contains(hangs, "read of") && s.Failure() == nil; {
			hangs, _ = s.Hangs() // on a busy machine first the file's opening, which only takes its time
		}
	})
	within(t, "head", func() {
		if after, err := s.Head(); err != nil || !cmp.Equal(before, after) {
			t.Errorf("head %+v, %v while a read hangs; it was %+v", after, err, before)
		}
	})
	<-s.Failed()
	if !strings.Contains(s.Failure().Error(), "read of") {
		t.Error(s.Failure())
	}
	within(t, "close", func() { s.Close() })
}

// TestHeadInMemoryEqualsTheRecords: after every kind of group the head that is kept in
// memory is that of the records, also after the copy was opened again.
func TestHeadInMemoryEqualsTheRecords(t *testing.T) {
	t.Parallel()
	o := options(t, newFS(t))
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	same := func(when string) {
		t.Helper()
		var want event.Head
		if err := s.read(func(v *view) (err error) { want, err = headOf(v); return err }); err != nil {
			t.Fatal(err)
		}
		want.Building = s.Building()
		if got, err := s.Head(); err != nil || !cmp.Equal(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", when, got, err, want)
		}
	}
	same("new")
	m := serve(t, s, 1, 0)
	same("served")
	a := account(t, m, "u1@example.test")
	deliver(t, m, mail(1), a)
	same("delivered")
	if err := s.TrimJournal(context.Background(), slot.At(1, 2)); err != nil {
		t.Fatal(err)
	}
	same("trimmed")
	m.Stop()
	serve(t, s, 3, 1)
	same("another epoch")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(o); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	same("opened again")
	if err := s.BeginImport(context.Background()); err != nil {
		t.Fatal(err)
	}
	same("emptied")
}
