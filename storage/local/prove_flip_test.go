package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/check"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// damagedDisk is a slot's disk with mail in every kind of place, and all that
// can be read from it.
type damagedDisk struct {
	fs      *vfs.MemFS
	o       Options
	files   []string
	want    map[string]string // what -> content
	head    slot.Position
	covered slot.Position // up to here a later sync stands behind everything
	crashed bool
}

// newDamagedDisk fills a slot: packs that are full and one that is not, tables,
// a manifest with edits, a log, quarantine. A crashed one has its newest changes
// in the log alone, and never said that it stopped.
func newDamagedDisk(t *testing.T, rng *rand.Rand, crashed bool) *damagedDisk {
	t.Helper()
	h := newHarness(t, rng, 3)
	try := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	steps := func(n int) {
		for range n {
			h.w.step()
		}
	}
	steps(20)
	try(h.fillPack())
	try(h.s.guarded(h.s.db.Flush))
	steps(20)
	try(h.setAside())
	steps(10)
	try(h.s.guarded(h.s.db.Flush))
	try(h.compactIndex())
	try(h.quarantine())
	steps(20)
	try(h.s.guarded(h.s.db.Flush))
	steps(15)
	before, err := h.s.Head()
	try(err)
	try(h.w.deliver(h.w.accounts[0]))
	h.hist.follow(t, h.s)
	d := &damagedDisk{o: h.o, crashed: crashed, head: h.hist.last, covered: before.Position}
	if crashed {
		d.fs = h.fs.mem.CrashClone(vfs.CrashCloneCfg{})
		closeOnce(t, h.s)
	} else {
		closeOnce(t, h.s)
		d.fs = h.fs.mem.CrashClone(vfs.CrashCloneCfg{})
		d.covered = d.head
	}
	d.files = filesBelow(d.fs, h.o.Dir)
	got := d.read(t, d.copy())
	if got.refused != nil || len(got.errs) > 0 || len(got.found) > 0 {
		t.Fatalf("before any damage: %+v", got)
	}
	d.want = got.read
	return d
}

func filesBelow(fs *vfs.MemFS, dir string) (files []string) {
	names, _ := fs.List(dir)
	slices.Sort(names)
	for _, n := range names {
		if p := dir + "/" + n; isFolder(fs, p) {
			files = append(files, filesBelow(fs, p)...)
		} else if n != "LOCK" {
			files = append(files, p)
		}
	}
	return files
}

func (d *damagedDisk) copy() *vfs.MemFS {
	return d.fs.CrashClone(vfs.CrashCloneCfg{}) // all of it was synced
}

// reading is what was read of a disk: it was refused as a whole; or there is what could
// be read, where there was an error, and what the checker found.
type reading struct {
	refused error
	read    map[string]string
	errs    map[string]error
	found   []string
	head    slot.Position
}

// note keeps one thing that was read, or its error.
func (r *reading) note(what string, content string, err error) {
	if err != nil {
		r.errs[what] = err
		return
	}
	r.read[what] = content
}

// read opens a disk with cold caches and reads all that a client, a replica or a
// backup can get from it, and then runs the checker.
func (d *damagedDisk) read(t *testing.T, fs *vfs.MemFS) (r reading) {
	t.Helper()
	r = reading{read: map[string]string{}, errs: map[string]error{}}
	o := d.o
	o.FS, o.Resources = fs, NewResources(1<<20)
	defer o.Resources.Close()
	s, err := Open(o)
	if err != nil {
		return reading{refused: err}
	}
	defer s.Close()
	head, err := s.Head()
	r.head = head.Position
	r.note("head", head.Position.String(), err)
	r.readAsReplica(s, head)
	if err := s.Snapshot(func(x Snapshot) error {
		found, err := check.Run(x, check.Options{Bodies: true})
		for _, f := range found {
			r.found = append(r.found, f.String())
		}
		return err
	}); err != nil {
		r.found = append(r.found, err.Error())
	}
	if m, err := s.Serve(context.Background(), 1, 0, NoGate{}); err != nil {
		r.errs["serve"] = err
	} else {
		r.readAsClient(m)
	}
	return r
}

// readAsReplica reads what another node is sent.
func (r *reading) readAsReplica(s *Slot, head event.Head) {
	after := head.KeptAfter
	for after < head.Position {
		raws, last, err := s.JournalAfter(after, 1)
		if err != nil || len(raws) == 0 {
			r.errs["journal"] = fmt.Errorf("after %s: %w", after, errors.Join(err, errors.New("cut short")))
			break
		}
		r.note("event "+last.String(), string(raws[0]), nil)
		after = last
	}
	var state strings.Builder
	var refs []slot.BodyRef
	err := s.ReadState(func(rec event.Record) error {
		fmt.Fprintf(&state, "%x=%x\n", rec.Key, rec.Value)
		m := &event.MessageRecord{}
		if rec.Key[0] == event.PrefixMessage && unmarshal(rec.Value, m) == nil {
			refs = append(refs, m.Body())
		}
		return nil
	})
	r.note("state", state.String(), err)
	for _, ref := range refs {
		b, note, err := s.Body(ref)
		text := ""
		if err == nil {
			text, err = textOf(b)
		}
		r.note("body "+ref.String(), string(note)+text, err)
	}
}

func textOf(b storage.BodyReader) (string, error) {
	defer b.Close()
	text := make([]byte, b.Size())
	if n, err := b.ReadAt(text, 0); n < len(text) {
		return "", err
	}
	return string(text), nil
}

// readAsClient reads what IMAP shows.
func (r *reading) readAsClient(m *Master) {
	ctx := context.Background()
	accounts, err := m.Accounts(ctx)
	names := ""
	for _, a := range accounts {
		names += fmt.Sprintf("%+v\n", a)
		boxes, err := m.Mailboxes(ctx, a.ID)
		list := ""
		if err != nil {
			boxes = nil
		}
		for _, b := range boxes {
			list += fmt.Sprintf("%+v\n", b)
			r.readMailbox(m, a, b)
		}
		r.note("LIST "+string(a.Address), list, err)
		var names []storage.NameEntry
		err = m.Names(ctx, a.ID, "", "", func(n storage.NameEntry) error { names = append(names, n); return nil })
		if err != nil {
			names = nil
		}
		r.note("names "+string(a.Address), fmt.Sprint(names), err)
	}
	r.note("accounts", names, err)
}

func (r *reading) readMailbox(m *Master, a storage.Account, b storage.Mailbox) {
	ctx, ref := context.Background(), storage.Ref{Account: a.ID, Mailbox: b.ID}
	where := string(a.Address) + " " + b.Name
	var uids []storage.UID
	flags := ""
	err := m.Scan(ctx, ref, 1, ^storage.UID(0), func(msg storage.Message) error {
		uids = append(uids, msg.UID)
		flags += fmt.Sprintf("%+v\n", msg)
		return nil
	})
	r.note("FETCH FLAGS "+where, flags, err)
	ch, err := m.Changes(ctx, ref, 1)
	ch.Head = 0
	ch.UIDs = nil // there when somebody has listed the mailbox lately
	r.note("CHANGEDSINCE "+where, fmt.Sprintf("%+v", ch), err)
	for _, u := range uids {
		at := fmt.Sprintf("%s uid %d", where, u)
		sum, err := m.Summary(ctx, ref, u)
		r.note("ENVELOPE "+at, string(sum), err)
		body, err := m.OpenBody(ctx, ref, u)
		text := ""
		if err == nil {
			text, err = textOf(body)
		}
		r.note("BODY "+at, text, err)
	}
}

// damage is one way to spoil a file.
func damages() map[string]func(rng *rand.Rand, b []byte) []byte {
	return map[string]func(rng *rand.Rand, b []byte) []byte{
		"bit": func(rng *rand.Rand, b []byte) []byte {
			if len(b) > 0 {
				b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
			}
			return b
		},
		"block of zeros": func(rng *rand.Rand, b []byte) []byte {
			at := rng.IntN(len(b)/4096+1) * 4096
			clear(b[min(at, len(b)):min(at+4096, len(b))])
			return b
		},
		"cut": func(rng *rand.Rand, b []byte) []byte { return b[:rng.IntN(len(b)+1)] },
	}
}

const fileNumbers = `[0-9]{6,}|-[0-9]+`

// verdict judges a reading of a damaged disk: "" is a breach of law 6 or 7.
func (d *damagedDisk) verdict(file string, r reading) (kind string, breach error) {
	if r.refused != nil {
		if base := path.Base(file); !strings.Contains(r.refused.Error(), base) && !strings.Contains(r.refused.Error(), "index") {
			return "", fmt.Errorf("Open names neither the file nor its kind: %v", r.refused)
		}
		return "refused", nil
	}
	same := true
	for _, what := range slices.Sorted(maps.Keys(d.want)) {
		got, ok := r.read[what]
		switch {
		case ok && got == d.want[what]:
		case ok && (r.head == d.head || strings.HasPrefix(strings.ToLower(what), "body") || strings.HasPrefix(what, "event")):
			return "", fmt.Errorf("%s: a wrong byte was served", what)
		default:
			same = false
		}
	}
	for what, err := range r.errs {
		if !errors.Is(err, storage.ErrCorrupt) && !errors.Is(err, storage.ErrUnavailable) {
			return "", fmt.Errorf("%s: an error of no kind: %v", what, err)
		}
	}
	switch {
	case same && len(r.errs) == 0 && len(r.found) == 0:
		return "no effect", nil
	case len(r.found) > 0 && strings.HasSuffix(file, ".pack") && !namesMessage(r.found):
		return "", fmt.Errorf("the checker names no message: %v", r.found)
	case len(r.found) > 0:
		return "reported", nil
	case r.head < d.head && r.head >= d.covered && strings.HasSuffix(file, ".log"):
		return "the last group is lost (LAWS §4.1)", nil
	case r.head < d.head && d.crashed && strings.HasSuffix(file, ".log"):
		return "lost the end of the log", nil
	}
	return "", fmt.Errorf("the head is %s, it was %s, errors %v, and the checker finds nothing", r.head, d.head, r.errs)
}

// namesMessage reports whether a finding has account, mailbox, UID, body and file.
func namesMessage(found []string) bool {
	return slices.ContainsFunc(found, func(f string) bool {
		return regexp.MustCompile(`^\S+@example\.test \S+ uid \d+: its body: .*\.pack`).MatchString(f)
	})
}

// Any bit of any file is flipped, any block zeroed, any file cut short or removed: the
// copy refuses to open, or the checker finds what is wrong, or it makes no difference. No
// wrong byte is ever read (law 6), and no mail goes in silence (law 7).
func TestLaw06EveryFlippedBitIsMet(t *testing.T) {
	t.Parallel()
	outcomes := map[string]int{}
	runSeeds(t, 2, func(t *testing.T, rng *rand.Rand, until time.Time) (proved int) {
		d := newDamagedDisk(t, rng, rng.IntN(2) == 0)
		ways := damages()
		kinds := slices.Sorted(maps.Keys(ways))
		for ; proved < tries(20, 5) || proved < 300 && time.Now().Before(until); proved++ {
			fs := d.copy()
			file := d.files[rng.IntN(len(d.files))]
			way := "delete"
			if n := rng.IntN(len(kinds) + 4); n < len(kinds)+3 {
				way = kinds[min(n, len(kinds)-1)]
				if n >= len(kinds) {
					way = "bit"
				}
				overwrite(t, fs, file, ways[way](rng, contentOf(fs, file)))
			} else if err := fs.Remove(file); err != nil {
				t.Fatal(err)
			}
			var kind string
			var breach error
			within(t, way+" of "+file, func() { kind, breach = d.verdict(file, d.read(t, fs)) })
			if breach != nil {
				t.Errorf("crashed %v, %s of %s: %v", d.crashed, way, file, breach)
			}
			name := regexp.MustCompile(fileNumbers).ReplaceAllString(strings.TrimPrefix(file, d.o.Dir), "N")
			outcomes[fmt.Sprintf("%-40s %-15s %s", name, way, kind)]++
		}
		return proved
	})
	for _, k := range slices.Sorted(maps.Keys(outcomes)) {
		t.Logf("%5d %s", outcomes[k], k)
	}
}

func overwrite(t *testing.T, fs *vfs.MemFS, file string, content []byte) {
	t.Helper()
	f, err := fs.Create(file, "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	f.Close()
}
