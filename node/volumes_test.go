package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/node/admin"
	"mailnode/node/config"
	"mailnode/node/job"
	"mailnode/storage/slot"
)

// roomy says how much room each folder has.
type roomy struct {
	vfs.FS
	free map[string]uint64
}

func (r roomy) GetDiskUsage(path string) (vfs.DiskUsage, error) {
	for dir, free := range r.free {
		if strings.HasPrefix(path, dir) {
			return vfs.DiskUsage{AvailBytes: free}, nil
		}
	}
	return vfs.DiskUsage{}, nil
}

func testVolumes(t *testing.T, free map[string]uint64) (base string, make func() *volumes) {
	t.Helper()
	base = t.TempDir()
	below := map[string]uint64{}
	for name, n := range free {
		below[filepath.Join(base, name)] = n
	}
	text := fmt.Sprintf("name = \"n1\"\nhostname = \"n1.example.test\"\ndata = %q\n[[volume]]\nmeta = %q\ndata = %q\n[[volume]]\nmeta = %q\n",
		filepath.Join(base, "home"), filepath.Join(base, "ssd"), filepath.Join(base, "disk"), filepath.Join(base, "other"))
	cfg, problems := config.Parse("test", text)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return base, func() *volumes { return newVolumes(roomy{vfs.Default, below}, cfg) }
}

// lay puts a slot where it was placed, as local.Open and the keeper do.
func lay(t *testing.T, v *volumes, id slot.ID, p place) {
	t.Helper()
	for _, dir := range []string{slotDir(p.volume, id), packsDir(p.volume, id)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "SLOT"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.remember(id, p); err != nil {
		t.Fatal(err)
	}
}

// TestNewSlotsGoWhereMostIsFree: both parts count, and so do the slots that are
// on a volume already; an old slot stays where it lies.
func TestNewSlotsGoWhereMostIsFree(t *testing.T) {
	free := map[string]uint64{"ssd": 400 << 30, "disk": 900 << 30, "other": 100 << 30}
	base, start := testVolumes(t, free)
	v := start()
	on := map[string]int{}
	where := map[slot.ID]string{}
	for id := range slot.ID(10) {
		p, err := v.find(id)
		if err != nil {
			t.Fatal(err)
		}
		lay(t, v, id, p)
		where[id] = p.volume.String()
		on[strings.ReplaceAll(p.volume.String(), base+"/", "")]++
	}
	if on["ssd + disk"] != 8 || on["other"] != 2 {
		t.Errorf("slots by volume: %v, want 8 and 2, as 400 GiB are to 100", on)
	}
	v = start()
	v.fs = roomy{vfs.Default, map[string]uint64{base + "/other": 1 << 50}}
	for id := range slot.ID(10) {
		if p, err := v.find(id); err != nil || p.volume.String() != where[id] || !p.held {
			t.Errorf("%s: %+v, %v; it lies on %s", id, p, err, where[id])
		}
	}
}

// TestOpenedAgainIsOneSlot: a copy that is opened again and again, because its disk was
// full or its store had stopped, does not make its volume look fuller to new slots.
func TestOpenedAgainIsOneSlot(t *testing.T) {
	_, start := testVolumes(t, map[string]uint64{"ssd": 400 << 30, "disk": 400 << 30, "other": 100 << 30})
	v := start()
	p, err := v.find(0)
	if err != nil {
		t.Fatal(err)
	}
	lay(t, v, 0, p)
	for range 10 {
		if again, err := v.find(0); err != nil || again.volume != p.volume {
			t.Fatalf("%+v, %v; it lies on %s", again, err, p.volume)
		}
	}
	if next, err := v.find(1); err != nil || next.volume != p.volume {
		t.Errorf("the next slot goes to %+v, %v, not beside one slot on %s", next, err, p.volume)
	}
}

// TestLaw07VolumesAreNotBegunAgain: a slot that was on a volume is refused while
// that is not there, or is there twice; it is never begun again elsewhere.
func TestLaw07VolumesAreNotBegunAgain(t *testing.T) {
	const id = slot.ID(3)
	free := map[string]uint64{"ssd": 4 << 30, "disk": 4 << 30, "other": 1 << 30}
	for name, c := range map[string]struct {
		do   func(t *testing.T, base string, v *volumes)
		want string // in the refusal; "": found
	}{
		"nothing":        {func(*testing.T, string, *volumes) {}, ""},
		"unmounted":      {func(t *testing.T, base string, _ *volumes) { unmount(t, base, "ssd", "disk") }, "which is not there: mount it"},
		"meta unmounted": {func(t *testing.T, base string, _ *volumes) { unmount(t, base, "ssd") }, ""}, // Open refuses: packs without an index
		"replaced": {func(t *testing.T, base string, _ *volumes) {
			unmount(t, base, "ssd", "disk")
			for _, d := range []string{"ssd", "disk"} {
				if err := os.WriteFile(filepath.Join(base, d, volumeMark), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}, ""},
		"twice": {func(t *testing.T, base string, v *volumes) {
			lay(t, v, id, place{volume: config.Volume{Meta: base + "/other", Data: base + "/other"}})
		}, "lies on more than one volume"},
		"not configured": {func(_ *testing.T, _ string, v *volumes) { v.list = v.list[1:] }, "not in the configuration"},
		"in the data folder, from before there were volumes": {func(t *testing.T, base string, v *volumes) {
			unmount(t, base, "ssd", "disk")
			lay(t, v, id, place{volume: config.Volume{Meta: base + "/home", Data: base + "/home"}})
			if err := os.WriteFile(v.marker(id), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			base, start := testVolumes(t, free)
			v := start()
			p, err := v.find(id)
			if err != nil {
				t.Fatal(err)
			}
			lay(t, v, id, p)
			v = start()
			c.do(t, base, v)
			p, err = v.find(id)
			switch {
			case c.want == "" && (err != nil || !p.held):
				t.Errorf("%+v, %v", p, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%+v, %v; want %q", p, err, c.want)
			}
			if strings.Contains(name, "unmounted") {
				if p, err := v.find(id + 1); err != nil || !strings.HasSuffix(p.volume.Meta, "/other") {
					t.Errorf("a new slot: %+v, %v: want it on the volume that is there", p, err)
				}
			}
		})
	}
}

// stuckDisk never says what is in its folders.
type stuckDisk struct {
	vfs.FS
	folder  string
	release chan struct{}
}

func (s stuckDisk) List(dir string) ([]string, error) {
	if strings.HasPrefix(dir, s.folder) {
		<-s.release
	}
	return s.FS.List(dir)
}

// markless never reports whether a volume was used.
type markless struct{ stuckDisk }

func (s markless) Stat(name string) (vfs.FileInfo, error) {
	if strings.HasPrefix(name, s.folder) {
		<-s.release
	}
	return s.FS.Stat(name)
}

func (s markless) List(dir string) ([]string, error) { return s.FS.List(dir) }

// TestLaw09VolumeThatHangsWhenASlotIsPlaced: the new slot gets a place elsewhere,
// and meanwhile others are found.
func TestLaw09VolumeThatHangsWhenASlotIsPlaced(t *testing.T) {
	t.Parallel()
	base, start := testVolumes(t, map[string]uint64{"ssd": 4 << 30, "disk": 4 << 30, "other": 3 << 30})
	v := start()
	stuck := markless{stuckDisk{v.fs, base + "/ssd", make(chan struct{})}}
	defer func() {
		close(stuck.release)
		for _, m := range v.preparing { // it goes on where it hung
			m.Lock()
		}
	}()
	v.fs = stuck
	found := make(chan string, 2)
	for id := range slot.ID(2) {
		go func() {
			p, err := v.find(id)
			found <- fmt.Sprintf("%s %v", p.volume.Meta, err)
		}()
	}
	for range 2 {
		if got := <-found; got != base+"/other <nil>" {
			t.Errorf("placed: %s", got)
		}
	}
}

// TestLaw09HungVolumeHoldsUpItsSlotsOnly: the others are found.
func TestLaw09HungVolumeHoldsUpItsSlotsOnly(t *testing.T) {
	t.Parallel()
	base, start := testVolumes(t, map[string]uint64{"ssd": 4 << 30, "disk": 4 << 30, "other": 3 << 30})
	v := start()
	var ids [2]place
	for id := range slot.ID(2) {
		p, err := v.find(id)
		if err != nil {
			t.Fatal(err)
		}
		lay(t, v, id, p)
		ids[id] = p
	}
	if ids[0].volume == ids[1].volume {
		t.Fatalf("both slots are on %s", ids[0].volume)
	}
	v = start()
	stuck := stuckDisk{v.fs, base + "/ssd", make(chan struct{})}
	defer close(stuck.release)
	v.fs = stuck
	if _, err := v.find(0); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("the slot of the hung disk: %v", err)
	}
	if p, err := v.find(1); err != nil || p.volume != ids[1].volume {
		t.Errorf("the slot of the other: %+v, %v", p, err)
	}
}

// unmount leaves empty folders, as a mount point is without its disk.
func unmount(t *testing.T, base string, dirs ...string) {
	t.Helper()
	for _, d := range dirs {
		if err := os.RemoveAll(filepath.Join(base, d)); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(base, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLaw09FailingVolumeConcernsItsSlots: the disk of one volume fails, the slots
// on the other go on.
func TestLaw09FailingVolumeConcernsItsSlots(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	s := newSiteWith(t, &site{t: t}, 1, 0, 6, fmt.Sprintf("[[volume]]\nmeta = %q\n[[volume]]\nmeta = %q\ndata = %q\n",
		filepath.Join(base, "good"), filepath.Join(base, "ssd"), filepath.Join(base, "bad")))
	n := s.nodes[0]
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	users := map[slot.ID]string{}
	for i := 0; len(users) < 6; i++ {
		u := fmt.Sprintf("u%d@example.test", i)
		if home := addr(t, u).Home(6); users[home] == "" {
			users[home] = u
			if _, err := n.admin.AddUser(ctx, admin.AddUser{Address: addr(t, u), Password: "pw"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	var good, bad []slot.ID
	for id := range slot.ID(6) {
		if at := n.node.copies.keeper(id).options.Dir; strings.HasPrefix(at, base+"/good/") {
			good = append(good, id)
		} else if strings.HasPrefix(at, base+"/ssd/") {
			bad = append(bad, id)
		} else {
			t.Errorf("%s lies in %s", id, at)
		}
	}
	if len(good) != 3 || len(bad) != 3 {
		t.Fatalf("on the volumes: %v and %v", good, bad)
	}
	part := base + "/bad/"
	n.broken.Store(&part)
	for _, id := range bad {
		if err := s.deliver(n, users[id], "Subject: x\r\n\r\nhello\r\n"); err == nil || !strings.HasPrefix(err.Error(), "451") {
			t.Errorf("%s on the failing disk: %v, want 451", id, err)
		}
	}
	s.eventually("the slots of the failing disk have stopped, and only they", func(st admin.Status) bool {
		var stopped []slot.ID
		for _, c := range st.Conditions {
			if id, err := slot.ParseID(c.About); err == nil && c.Name == "slot-failed" {
				stopped = append(stopped, id)
			}
		}
		slices.Sort(stopped)
		return slices.Equal(stopped, bad)
	})
	for _, id := range good {
		if err := s.deliver(n, users[id], "Subject: x\r\n\r\nhello\r\n"); err != nil {
			t.Errorf("%s on the healthy disk: %v", id, err)
		}
	}
	d, err := n.admin.Slot(ctx, good[0].String())
	if err != nil || len(d.Copies) != 1 || !slices.ContainsFunc(d.Copies[0].SelfCheck, func(l string) bool { return strings.HasPrefix(l, "ok: identity: ") }) {
		t.Errorf("slot show: %+v, %v", d.Copies, err)
	}
	n.broken.Store(nil)
}

// TestJobsOfANode: status and the job verbs see what a node runs.
func TestJobsOfANode(t *testing.T) {
	t.Parallel()
	n := newSite(t, 1, 0, 1).nodes[0]
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	j := n.node.jobs.Start(job.Spec{Kind: job.Scrub, Slot: "s000"}, func(ctx context.Context, p *job.Progress) error {
		p.Finding("found")
		<-ctx.Done()
		return ctx.Err()
	})
	st, err := n.admin.Status(ctx)
	if err != nil || len(st.Jobs) != 1 || st.Jobs[0].ID != j.ID() {
		t.Errorf("status has the jobs %+v, %v", st.Jobs, err)
	}
	if _, err := n.admin.StopJob(ctx, j.ID()); err != nil {
		t.Error(err)
	}
	<-j.Over()
	if d, err := n.admin.Job(ctx, j.ID(), 0); err != nil || d.State != job.Stopped || len(d.Lines) != 1 {
		t.Errorf("%+v, %v", d, err)
	}
}
