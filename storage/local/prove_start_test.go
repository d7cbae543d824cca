package local

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/disk"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// filled makes a copy with some mail and closes it cleanly.
func filled(t *testing.T, o Options, messages int) {
	t.Helper()
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	for i := range messages {
		deliver(t, m, mail(i), a)
	}
	closeOnce(t, s)
}

func rewrite(t *testing.T, fs vfs.FS, path string, change func([]byte) []byte) {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	if f, err = fs.Create(path, "test"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(change(b)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// damageIndex changes a record of a closed copy behind its back.
func damageIndex(t *testing.T, o Options, change func(*pebble.DB) error) {
	t.Helper()
	db, err := pebble.Open(o.FS.PathJoin(o.Dir, "index"), &pebble.Options{FS: o.FS, FormatMajorVersion: pebble.FormatWALSyncChunks})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(change(db), db.Flush(), db.Close()); err != nil {
		t.Fatal(err)
	}
}

func flipBodies(t *testing.T, o Options, most int) {
	t.Helper()
	rewrite(t, o.FS, o.FS.PathJoin(o.Dir, "packs", "00000001.pack"), func(b []byte) []byte {
		for i := 0; i < most; i++ {
			at := strings.LastIndex(string(b), fmt.Sprintf("Body of %d.", i))
			b[at] ^= 1
		}
		return b
	})
}

// refusal is a way to damage a copy, and what Open says then.
type refusal struct {
	damage func(t *testing.T, o *Options)
	check  string
	text   string
	next   string // "": any
}

// identityRefusals are about whose files these are, damageRefusals about what is
// in them.
func identityRefusals() map[string]refusal {
	slotFile := func(t *testing.T, o Options, dir string, id identity) {
		rewrite(t, o.FS, o.FS.PathJoin(dir, "SLOT"), func([]byte) []byte {
			line := fmt.Sprintf(`{"format":%d,"cluster":%q,"slot":%q,"copy":%q}`, id.Format, id.Cluster, id.Slot, id.Copy)
			return disk.Seal(line)
		})
	}
	return map[string]refusal{
		"newer format": {func(t *testing.T, o *Options) {
			slotFile(t, *o, o.Dir, identity{Format: formatVersion + 1, Cluster: "test", Slot: 7})
		}, "identity", "written by a newer release", nextRelease},
		"other cluster": {func(_ *testing.T, o *Options) { o.Cluster = "other" }, "identity", `belongs to cluster "test"`, nextDisk},
		"other slot":    {func(_ *testing.T, o *Options) { o.Slot = 8 }, "identity", "belongs to slot s007", nextDisk},
		"packs of another copy": {func(t *testing.T, o *Options) {
			slotFile(t, *o, o.FS.PathJoin(o.Dir, "packs"), identity{Format: formatVersion, Cluster: "test", Slot: 7, Copy: "1"})
		}, "identity", "two copies of the slot", nextDisk},
		"damaged SLOT that nothing proves": {func(t *testing.T, o *Options) {
			damageIndex(t, *o, func(db *pebble.DB) error { return db.Delete(localKey(keyIdentity), pebble.Sync) })
			rewrite(t, o.FS, o.FS.PathJoin(o.Dir, "SLOT"), func(b []byte) []byte { b[12] ^= 4; return b })
		}, "identity", "SLOT\" is damaged", nextDisk},
		"SLOT gone": {func(t *testing.T, o *Options) {
			if err := o.FS.Remove(o.FS.PathJoin(o.Dir, "SLOT")); err != nil {
				t.Fatal(err)
			}
		}, "identity", "is missing", nextDisk},
	}
}

func damageRefusals() map[string]refusal {
	return map[string]refusal{
		"index damaged": {func(t *testing.T, o *Options) {
			names, err := o.FS.List(o.FS.PathJoin(o.Dir, "index"))
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range names {
				if strings.HasPrefix(n, "MANIFEST") {
					rewrite(t, o.FS, o.FS.PathJoin(o.Dir, "index", n), func(b []byte) []byte { b[20] ^= 4; return b })
				}
			}
		}, "list of files", "does not match its checksums", nextDamage},
		"packs emptied": {func(t *testing.T, o *Options) {
			if err := o.FS.Remove(o.FS.PathJoin(o.Dir, "packs", "00000001.pack")); err != nil {
				t.Fatal(err)
			}
		}, "packs folder", "the index knows bodies, and there are no packs", nextDisk},
		"journal cut": {func(t *testing.T, o *Options) {
			damageIndex(t, *o, func(db *pebble.DB) error {
				return db.DeleteRange(event.JournalKey(slot.At(1, 12)), event.JournalKey(slot.At(2, 1)), pebble.Sync)
			})
		}, "newest events", "the head is", nextDamage},
		"event damaged": {func(t *testing.T, o *Options) {
			damageIndex(t, *o, func(db *pebble.DB) error {
				key := event.JournalKey(slot.At(1, 10))
				v, _, err := pebbleGet(db, key)
				if err == nil {
					v[len(v)-1] ^= 1
					err = db.Set(key, v, pebble.Sync)
				}
				return err
			})
		}, "newest events", "event 1/10", nextDamage},
		"newest bodies of other packs": {func(t *testing.T, o *Options) {
			damageIndex(t, *o, func(db *pebble.DB) error { return db.Delete(localKey(keyClean), pebble.Sync) })
			flipBodies(t, *o, 12)
		}, "newest bodies", "12 of the newest 20", ""},
	}
}

// TestLaw06SelfCheckRefuses: each check keeps a copy down for its own reason, and the
// error tells which check it was and what to type next.
func TestLaw06SelfCheckRefuses(t *testing.T) {
	all := identityRefusals()
	maps.Copy(all, damageRefusals())
	for name, c := range all {
		t.Run(name, func(t *testing.T) {
			o := options(t, newFS(t))
			filled(t, o, 20)
			c.damage(t, &o)
			s, err := Open(o)
			if err == nil {
				s.Close()
				t.Fatalf("opened, after %v", s.Checks())
			}
			var refused *Refused
			if !errors.As(err, &refused) {
				t.Fatalf("%T: %v", err, err)
			}
			last := refused.Checks[len(refused.Checks)-1]
			if last.Name != c.check || last.State != CheckFailed || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), c.check+" check") ||
				refused.Next == "" || c.next != "" && refused.Next != c.next || !strings.HasSuffix(err.Error(), refused.Next) {
				t.Errorf("%v\n%v", err, refused.Checks)
			}
		})
	}
}

// TestLaw09FewDamagedBodiesAreNamed: they do not keep a copy down.
func TestLaw09FewDamagedBodiesAreNamed(t *testing.T) {
	o := options(t, newFS(t))
	filled(t, o, 20)
	damageIndex(t, o, func(db *pebble.DB) error { return db.Delete(localKey(keyClean), pebble.Sync) })
	flipBodies(t, o, 3)
	var told []error
	o.OnDamage = func(d Damage) { told = append(told, d.Err) }
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if len(told) != 3 {
		t.Errorf("told of %v", told)
	}
	if c := find(t, s, "newest bodies"); c.State != CheckWarned || !strings.Contains(c.Text, "3 of the newest 20 are damaged") {
		t.Errorf("%v", c)
	}
	if c := find(t, s, "last stop"); !strings.Contains(c.Text, "unclean") {
		t.Errorf("%v", c)
	}
}

func find(t *testing.T, s *Slot, name string) Check {
	t.Helper()
	for _, c := range s.Checks() {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no check %q in %v", name, s.Checks())
	return Check{}
}

// TestLaw11ClockOnlyWarns: the copy serves at any time of the wall clock.
func TestLaw11ClockOnlyWarns(t *testing.T) {
	o := options(t, newFS(t))
	filled(t, o, 3)
	for wall, want := range map[time.Time]string{
		time.Now():                       "",
		time.Now().Add(-30 * time.Hour):  "and slot s007 has something of",
		time.Unix(0, 0):                  "the clock says 1970",
		time.Now().AddDate(300, 0, 0):    "the clock says 2",
		time.Now().Add(20 * time.Second): "",
	} {
		o.Clock.Wall = func() time.Time { return wall }
		s, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		state := CheckPassed
		if want != "" {
			state = CheckWarned
		}
		if c := find(t, s, "clock"); c.State != state || !strings.Contains(c.Text, want) || !strings.Contains(s.ClockDoubt(false), want) {
			t.Errorf("at %s: %v", wall, c)
		}
		if doubt := s.ClockDoubt(true); strings.Contains(doubt, "has something of") || strings.HasPrefix(want, "the clock says") != (doubt != "") {
			t.Errorf("at %s, as another node's clock says too: %q", wall, doubt)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestClockDoubtEnds: a date of the future that was recorded once is believed for as many
// messages as a start looks at; after these the present clock is.
func TestClockDoubtEnds(t *testing.T) {
	o := options(t, newFS(t))
	filled(t, o, 3)
	past := time.Now().Add(-30 * time.Hour)
	o.Clock.Wall = func() time.Time { return past }
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer closeOnce(t, s)
	m := serve(t, s, 2, 0)
	a := account(t, m, "u2@example.test")
	for i := range tailEventsMax {
		if doubt := s.ClockDoubt(false); doubt == "" {
			t.Fatalf("after %d messages there is no doubt left", i)
		}
		deliver(t, m, mail(i), a)
	}
	if doubt := s.ClockDoubt(false); doubt != "" {
		t.Errorf("after %d messages: %s", tailEventsMax, doubt)
	}
}

// fullFS tells how much room there is.
type fullFS struct {
	vfs.FS
	free map[string]uint64 // by folder
}

func (f fullFS) GetDiskUsage(path string) (vfs.DiskUsage, error) {
	for dir, free := range f.free {
		if strings.HasPrefix(path, dir) {
			return vfs.DiskUsage{AvailBytes: free}, nil
		}
	}
	return vfs.DiskUsage{AvailBytes: 1 << 40}, nil
}

// TestFullVolumeIsReadFrom: a copy is read from, whichever of its two volumes is full.
func TestFullVolumeIsReadFrom(t *testing.T) {
	for _, full := range []string{"/meta", "/bulk"} {
		mem := newFS(t)
		o := options(t, mem)
		o.Dir, o.PacksDir = "/meta/slots/s007", "/bulk/slots/s007/packs"
		filled(t, o, 3)
		free := map[string]uint64{full: disk.ReserveBytes - 1}
		o.FS = fullFS{mem, free}
		s := openSlot(t, o)
		if c := find(t, s, "disk space"); c.State != CheckWarned || !strings.Contains(c.Text, full) {
			t.Errorf("%v", c)
		}
		m := serve(t, s, 1, 0)
		list, err := m.Accounts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		err = m.Deliver(t.Context(), storage.Delivery{Body: body(t, mail(9)), Recipients: []storage.Recipient{{Account: list[0].ID}}})[0]
		if !errors.Is(err, storage.ErrDiskFull) || !strings.Contains(err.Error(), full) {
			t.Errorf("%s is full: %v", full, err)
		}
		closeOnce(t, s)
	}
}
