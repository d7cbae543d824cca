package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"mailnode/node/admin"
	"mailnode/node/config"
	"mailnode/storage/slot"
)

// failAt fails the file operation that changes something after so many.
type failAt struct{ left int }

// MaybeError implements errorfs.Injector.
func (f *failAt) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
		return nil
	}
	if f.left--; f.left == -1 {
		return errors.New("the node stops here")
	}
	return nil
}

// String implements errorfs.Injector.
func (f *failAt) String() string { return "stops at an operation" }

// A copy whose removal is cut off anywhere is, after the next start, there as a whole or
// not at all; index and packs lie on two disks. What is begun there again is a new copy, and
// the rest of the old one goes.
func TestLaw07RemovalIsWholeAtEachStop(t *testing.T) {
	ctx, id := context.Background(), slot.ID(7)
	spend := func(context.Context, int64) error { return nil }
	for n := range 20 {
		base := t.TempDir()
		vol := config.Volume{Meta: filepath.Join(base, "meta"), Data: filepath.Join(base, "data")}
		cfg := config.Config{Volumes: []config.Volume{vol}}
		cfg.Node.Data = filepath.Join(base, "home")
		if err := os.MkdirAll(cfg.Node.Data, 0o700); err != nil {
			t.Fatal(err)
		}
		v := newVolumes(vfs.Default, cfg)
		p, err := v.find(id)
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{filepath.Join(slotDir(vol, id), "index"), packsDir(vol, id)} {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "file"), []byte("mail"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := v.remember(id, p); err != nil {
			t.Fatal(err)
		}
		fail := &failAt{left: n}
		v = newVolumes(errorfs.Wrap(vfs.Default, fail), cfg)
		err = v.retire(id)
		if err == nil {
			err = v.sweep(ctx, id, spend)
		}
		v = newVolumes(vfs.Default, cfg) // it starts again
		if err := v.finishRetires(); err != nil {
			t.Fatal(err)
		}
		at, unknown := v.lies(id, v.all())
		_, held, _ := v.remembered(id)
		index, _ := v.fs.List(slotDir(vol, id))
		packs, _ := v.fs.List(packsDir(vol, id))
		if len(unknown) > 0 || held != (len(at) == 1) || (len(index) > 0) != held || (len(packs) > 0) != held {
			t.Fatalf("stopped at operation %d (%v): held %t, lies on %v, index %v, packs %v", n, err, held, at, index, packs)
		}
		for _, id := range v.retired() {
			if err := v.sweep(ctx, id, spend); err != nil {
				t.Fatal(err)
			}
		}
		if err == nil {
			if p, err := v.find(id); err != nil || p.held || held || len(v.retired()) != 0 || fail.left < 0 {
				t.Errorf("at the end: %+v, %v, held %t, left %v", p, err, held, v.retired())
			}
			if n < 4 {
				t.Errorf("only %d operations were cut off", n)
			}
			return
		}
	}
	t.Error("it never came to its end")
}

// The job that removes a dropped copy may be stopped while the copy is being closed: the
// keeper, which stands still for it, hears that the copy stays, and goes on.
func TestLaw07StoppedRemovalKeepsTheCopy(t *testing.T) {
	k := &keeper{dropped: droppedCopy{removing: make(chan *removal)}}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- k.takeAway(ctx) }()
	w := <-k.dropped.removing
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the job: %v", err)
	}
	select {
	case gone := <-w.gone:
		if gone {
			t.Error("the copy is taken for removed")
		}
	default:
		t.Error("the keeper is told nothing, and waits for ever")
	}
}

// What is left of a dropped copy, because its removal met an error or was stopped, goes
// without a restart.
func TestLaw12RemovalIsBegunAgain(t *testing.T) {
	t.Parallel()
	s := newSiteWith(t, &site{t: t, upkeepEvery: 50 * time.Millisecond}, 1, 0, 1, "")
	left := filepath.Join(s.nodes[0].cfg.Node.Data, "slots", "s007"+droppedInfix+"1")
	was := filepath.Join(s.nodes[0].cfg.Node.Data, "dropped-copy")
	if err := os.MkdirAll(filepath.Join(was, "index"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(was, "index", "file"), []byte("mail"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(was, left); err != nil {
		t.Fatal(err)
	}
	s.eventually("its files are gone", func(admin.Status) bool {
		_, err := os.Stat(left)
		return errors.Is(err, os.ErrNotExist)
	})
}
