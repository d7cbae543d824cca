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

	"mailnode/storage"
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

// TestLaw09HungDiskFailsTheCopy: whatever write or sync does not return, the copy
// says so and fails, callers get an answer, and Close returns.
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

// TestPauseIsNoHang: a process that was stopped for an hour looks once at an
// operation that began an hour ago; only one that stays is a hang.
func TestPauseIsNoHang(t *testing.T) {
	w := &watchdog{ops: map[*diskOp]struct{}{}}
	w.during("sync", "file", func() error {
		for range hangTicks {
			if op := w.look(); op != nil {
				t.Errorf("%+v hangs after %d looks", op, op.looks)
			}
		}
		if op := w.look(); op == nil || op.what != "sync" || op.path != "file" {
			t.Errorf("one that stays is not noticed: %+v", op)
		}
		return nil
	})
	for range 2 * hangTicks {
		if op := w.look(); op != nil {
			t.Errorf("%+v has returned", op)
		}
	}
}
