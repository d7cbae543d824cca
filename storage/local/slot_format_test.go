package local

import (
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// crashes clones what a power loss would leave, at each sync and rename.
type crashes struct {
	fs     *vfs.MemFS
	rng    *rand.Rand
	mu     sync.Mutex
	clones []*vfs.MemFS
}

func (c *crashes) String() string { return "crashes" }

// MaybeError implements errorfs.Injector.
func (c *crashes) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpRename:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.clones = append(c.clones, c.fs.CrashClone(vfs.CrashCloneCfg{}),
			c.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: c.rng}))
	}
	return nil
}

// TestPowerLossWhileACopyIsMade: any of the two folders and their SLOT files may be there:
// the copy is made when it is opened again, and never refused; on one volume and on two.
func TestPowerLossWhileACopyIsMade(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEED=%d", seed)
	for _, packs := range []string{"", "/bulk/slots/s007/packs"} {
		c := &crashes{fs: newFS(t), rng: rand.New(rand.NewPCG(seed, 1))}
		o := options(t, injected(c.fs, c))
		o.PacksDir = packs
		s, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		clones := c.clones
		c.mu.Unlock()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if len(clones) < 20 {
			t.Fatalf("%d clones: this proves nothing", len(clones))
		}
		for i, fs := range clones {
			o := o
			o.FS = fs
			s, err := Open(o)
			if err != nil {
				t.Fatalf("packs in %q, clone %d of %d: %v", packs, i, len(clones), err)
			}
			a := account(t, serve(t, s, 1, 0), "u1@example.test")
			if a.ID == 0 {
				t.Error("no account")
			}
			closeOnce(t, s)
		}
	}
}

// The SLOT file beside the packs is written again from its twin in the same
// folder; an emptied packs folder is refused all the same.
func TestLostSlotFileOfThePacksIsWrittenAgain(t *testing.T) {
	o := options(t, newFS(t))
	filled(t, o, 2)
	if err := o.FS.Remove("/slots/s007/packs/SLOT"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		closeOnce(t, openSlot(t, o))
		if _, err := o.FS.Stat("/slots/s007/packs/SLOT"); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"SLOT", "00000001.pack"} {
		if err := o.FS.Remove("/slots/s007/packs/" + name); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := Open(o); err == nil {
		s.Close()
		t.Error("opened without its packs")
	}
}

// TestLaw09UnmountedDataVolume: the index is there and the packs are not, or the
// other way round: the copy is refused, and nothing is written there.
func TestLaw09UnmountedDataVolume(t *testing.T) {
	for _, gone := range []string{"/bulk", "/meta"} {
		mem := newFS(t)
		o := options(t, mem)
		o.Dir, o.PacksDir = "/meta/slots/s007", "/bulk/slots/s007/packs"
		filled(t, o, 2)
		if err := mem.RemoveAll(gone); err != nil {
			t.Fatal(err)
		}
		s, err := Open(o)
		if err == nil {
			s.Close()
			t.Fatalf("opened without %s", gone)
		}
		if names, err := mem.List(gone); err == nil && len(names) > 0 {
			t.Errorf("%s now has %v (%v)", gone, names, err)
		}
	}
}

// A power loss while a copy is made may keep its SLOT files and not the folders
// beside them: nothing lay in these.
func TestFoldersThatAPowerLossTookAreMadeAgain(t *testing.T) {
	o := options(t, newFS(t))
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"index", "quarantine", "HEAD"} {
		if err := o.FS.RemoveAll(o.FS.PathJoin(o.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	s = openSlot(t, o)
	m := serve(t, s, 1, 0)
	deliver(t, m, mail(1), account(t, m, "u1@example.test"))
	if _, err := s.SetAside(t.Context()); err != nil {
		t.Error(err)
	}
}
