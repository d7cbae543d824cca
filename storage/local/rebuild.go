package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/disk"
	"mailnode/storage/index"
	"mailnode/storage/slot"
)

// RebuildMode is where the new index comes from.
type RebuildMode string

const (
	// Refill: from the master. The copy is building until the state transfer has
	// ended; bodies that its packs have are not fetched.
	Refill RebuildMode = "refill"
	// Alone: from what can still be read of the old index, and from the packs. For a
	// slot that has no other copy.
	Alone RebuildMode = "alone"
)

// RebuildOptions say how an index is rebuilt.
type RebuildOptions struct {
	Mode RebuildMode
	// Epoch and Unclean are those that Raft has recorded for the slot; numbers that
	// were given out in them are not given out again (laws 2 and 3).
	Epoch   slot.Epoch
	Unclean slot.UncleanCount
	// PacksLost: the disk of the packs is lost for good, and an empty one is in its place.
	// Refill takes that for so many missing bodies, which the master has.
	PacksLost bool
	RecountOptions
}

// Rebuilt is what a Rebuild did. Nothing is dropped in silence: Lost names it.
type Rebuilt struct {
	Mode           RebuildMode
	Old            string // in quarantine/, "" when there was no index
	Bodies         int64  // found in the packs
	Kept           int64  // live messages that kept UID, flags and dates
	FromPacks      int64  // messages given back by their birth notes, under new UIDs
	NewUIDValidity int    // mailboxes that could not be proved complete
	Lost           []string
	LostMore       int // lines that are not in Lost
	Made           []slot.Address
}

// lostLinesMax is how many lines Rebuilt.Lost has.
const lostLinesMax = 10_000

// mark is the REINDEX file: what is being done, until it is done. It has the form
// of the SLOT file.
type mark struct {
	Mode    RebuildMode       `json:"mode"`
	Step    string            `json:"step"` // "move": the old index is where it was; "build": it is out of the way
	Old     string            `json:"old"`  // what it is called in quarantine/
	Epoch   slot.Epoch        `json:"epoch"`
	Unclean slot.UncleanCount `json:"unclean"`
	// Head is what the HEAD file said of the old index, Promised what that had promised
	// (Slot.Promise): both outlive it.
	Head     slot.Position `json:"head"`
	Promised slot.Epoch    `json:"promised"`
}

const (
	markName  = "REINDEX"
	stepMove  = "move"
	stepBuild = "build"
)

// Rebuild rebuilds the index of a copy that is not open. The old one goes to
// quarantine/. A crash at any point is survived: Open refuses the copy until another
// Rebuild has begun with the index that was set aside, and has ended. The caller sees
// to it that mode Alone is chosen only when there is nothing better, and that only so
// many run at once as law 12 allows.
func Rebuild(ctx context.Context, o Options, ro RebuildOptions) (Rebuilt, error) {
	rb := &rebuild{ctx: ctx, o: withPresets(o), ro: ro}
	rb.fs, rb.dir = o.FS, o.Dir
	rb.out.Mode = ro.Mode
	err := rb.begin()
	if err == nil {
		err = rb.run()
	}
	if err != nil {
		return rb.out, fmt.Errorf("rebuild index of %s: %w", o.Slot, err)
	}
	return rb.out, nil
}

// RebuildPending reports whether a Rebuild was cut off, and its mode; "" when the
// mark of it is damaged. Until a Rebuild has ended there is no index to open.
func RebuildPending(o Options) (RebuildMode, bool) {
	m, found, err := (&rebuild{o: o, fs: o.FS, dir: o.Dir}).readMark()
	return m.Mode, found || err != nil
}

type rebuild struct {
	ctx  context.Context
	o    Options
	ro   RebuildOptions
	fs   vfs.FS
	dir  string
	mark mark
	out  Rebuilt
}

// begin proves that the folder is this slot's and notes what is to be done.
func (rb *rebuild) begin() error {
	if rb.ro.Mode != Refill && rb.ro.Mode != Alone {
		return storage.Errorf(storage.ErrInvalid, "mode %q", rb.ro.Mode)
	}
	if err := rb.identify(); err != nil {
		return err
	}
	if err := rb.notOpen(); err != nil {
		return err
	}
	old, found, err := rb.readMark()
	if err == nil && found {
		rb.mark = old // one that was cut off: its old index is the one that counts
	} else {
		rb.mark = mark{Step: stepMove}
		if rb.mark.Old, err = rb.freeName(); err != nil {
			return err
		}
	}
	if rb.ro.Mode == Alone && rb.mark.Step == stepMove && asideHead(rb.mark.Old) != 0 {
		if rb.mark.Old, err = rb.freeName(); err != nil { // it is the mail of this copy, not beside it
			return err
		}
	}
	rb.mark.Mode = rb.ro.Mode
	rb.mark.Epoch, rb.mark.Unclean = max(rb.ro.Epoch, rb.mark.Epoch), max(rb.ro.Unclean, rb.mark.Unclean)
	if err := rb.know(); err != nil {
		return err
	}
	return rb.writeMark()
}

func (rb *rebuild) run() error {
	if rb.mark.Step == stepMove {
		if err := rb.move(); err != nil {
			return err
		}
		rb.mark.Step = stepBuild
		if err := rb.writeMark(); err != nil {
			return err
		}
	}
	rb.ro.Epoch, rb.ro.Unclean = rb.mark.Epoch, rb.mark.Unclean
	// What lies at index/ now was made by an attempt that was cut off. It is not the old
	// index, and is worth nothing.
	if err := rb.fs.RemoveAll(rb.index()); err != nil {
		return err
	}
	// The new index may end before the old one did, and HEAD would have Open refuse it.
	if err := forgetWitness(rb.fs, rb.dir); err != nil {
		return err
	}
	if err := rb.fs.MkdirAll(rb.index(), 0o700); err != nil {
		return err
	}
	if err := rb.fill(); err != nil {
		return err
	}
	if rb.ro.Mode == Alone {
		if err := rb.recount(); err != nil {
			return err
		}
		if err := rb.report(); err != nil {
			return err
		}
	}
	if err := rb.fs.Remove(rb.fs.PathJoin(rb.dir, markName)); err != nil {
		return err
	}
	rb.o.Logger.Warn("index rebuilt", "slot", rb.o.Slot, "mode", rb.ro.Mode, "bodies", rb.out.Bodies, "kept", rb.out.Kept,
		"from_packs", rb.out.FromPacks, "new_uidvalidity", rb.out.NewUIDValidity, "lost", len(rb.out.Lost)+rb.out.LostMore)
	return disk.SyncDir(rb.fs, rb.dir)
}

func (rb *rebuild) index() string { return rb.fs.PathJoin(rb.dir, "index") }
func (rb *rebuild) quarantine(name string) string {
	return rb.fs.PathJoin(rb.dir, "quarantine", name)
}

// identify proves whose folders they are: by the SLOT files or, where one is damaged
// or lost, by the other or by the packs. It writes the one that was.
func (rb *rebuild) identify() error {
	s := newSlot(rb.o)
	own, packs := rb.fs.PathJoin(rb.dir, "SLOT"), rb.fs.PathJoin(rb.o.PacksDir, "SLOT")
	id, found, err := s.readIdentity(own)
	if err != nil && !errors.Is(err, storage.ErrCorrupt) {
		return err // it is another slot's
	}
	packsID, packsFound, perr := s.readIdentity(packs)
	if perr != nil && !errors.Is(perr, storage.ErrCorrupt) {
		return perr
	}
	found, packsFound = found && err == nil, packsFound && perr == nil
	switch {
	case found && packsFound:
		_, err := s.openFolder() // are they of one copy?
		return err
	case packsFound: // the folder may be lost with its disk
		if err := rb.fs.MkdirAll(rb.dir, 0o700); err != nil {
			return err
		}
		return s.writeIdentity(own, packsID.Copy)
	case len(rb.o.folders()) == 1 && found:
		return s.writeIdentity(packs, id.Copy)
	case found && rb.ro.PacksLost && rb.ro.Mode == Refill:
		if err := rb.fs.MkdirAll(rb.o.PacksDir, 0o700); err != nil {
			return err
		}
		return s.writeIdentity(packs, id.Copy)
	}
	if err := rb.provedByPacks(); err != nil {
		return err
	}
	if !found {
		id.Copy = fmt.Sprintf("%016x", randomID())
	}
	if err := s.writeIdentity(packs, id.Copy); err != nil {
		return err
	}
	return s.writeIdentity(own, id.Copy)
}

// provedByPacks looks for a pack whose preamble names cluster and slot.
func (rb *rebuild) provedByPacks() error {
	packs, err := blob.Open(blob.Options{FS: rb.fs, Dir: rb.o.PacksDir, Cluster: rb.o.Cluster, Slot: rb.o.Slot})
	if err != nil {
		return err
	}
	defer packs.Close()
	numbers, err := packs.Packs()
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if err := packs.Scan(n, func(blob.Found) error { return io.EOF }, nil); err == nil || errors.Is(err, io.EOF) {
			return nil
		}
	}
	return storage.Errorf(storage.ErrCorrupt, "there is no SLOT file and no pack that proves whose %q is: is the volume mounted? Else move it away, and the copy is filled from another", rb.dir)
}

// notOpen refuses an index that this process or another has open.
func (rb *rebuild) notOpen() error {
	if err := index.NotOpen(rb.fs, rb.index()); err != nil {
		return storage.Errorf(storage.ErrUnavailable, "%w", err)
	}
	return nil
}

func (rb *rebuild) freeName() (string, error) {
	if err := rb.fs.MkdirAll(rb.quarantine(""), 0o700); err != nil {
		return "", err
	}
	names, err := rb.fs.List(rb.quarantine(""))
	if err != nil {
		return "", err
	}
	taken := map[string]bool{}
	for _, n := range names {
		taken[strings.TrimSuffix(n, reasonSuffix)] = true // also when there was no index to keep: names count the losses
	}
	for n := 1; ; n++ {
		if name := fmt.Sprintf("index-%d", n); !taken[name] {
			return name, nil
		}
	}
}

// move sets the old index aside. Its new place is durable before the old is given
// up.
func (rb *rebuild) move() error {
	names, err := rb.fs.List(rb.index())
	if err != nil && !oserror.IsNotExist(err) {
		return err
	}
	if len(names) > 0 {
		if err := rb.noteAside(); err != nil {
			return err
		}
		if _, err := rb.fs.Stat(rb.quarantine(rb.mark.Old)); err == nil {
			// A file system that kept both names: the one in the way is another.
			if rb.mark.Old, err = rb.freeName(); err != nil {
				return err
			}
		}
		if err := rb.fs.Rename(rb.index(), rb.quarantine(rb.mark.Old)); err != nil {
			return err
		}
	}
	if err := disk.SyncDir(rb.fs, rb.quarantine("")); err != nil {
		return err
	}
	return disk.SyncDir(rb.fs, rb.dir)
}

// fill makes an empty index and puts into it what its mode has.
func (rb *rebuild) fill() (err error) {
	s := newSlot(rb.o)
	if _, err := s.openIndex(); err != nil {
		return err
	}
	defer func() {
		if cerr := s.guarded(s.db.Close); err == nil {
			err = cerr
		}
	}()
	if _, err = s.openPacks(); err != nil {
		return err
	}
	defer s.packs.Close()
	if _, err := rb.fs.Stat(rb.quarantine(rb.mark.Old)); err == nil {
		rb.out.Old = rb.mark.Old
	}
	out := newSink(s)
	defer out.close()
	if err := rb.promise(out); err != nil {
		return err
	}
	if rb.ro.Mode == Refill {
		if err := rb.places(s, out, nil); err != nil {
			return err
		}
		if err := out.Set(localKey(keyBuilding), []byte{1}); err != nil {
			return err
		}
		if err := out.Delete(localKey(keyRebuilding)); err != nil {
			return err
		}
		return out.flush(pebble.Sync)
	}
	if err := (&regain{rb: rb, s: s, to: out}).run(); err != nil {
		return err
	}
	// The old index's mark is not taken over: nothing here may count as confirmed.
	if err := out.Set(localKey(keyAlone), be.AppendUint64(nil, 0)); err != nil {
		return err
	}
	return out.flush(pebble.Sync)
}

// recount computes the derived records, by the code that mends them.
func (rb *rebuild) recount() error {
	o := rb.o
	o.uncounted = true
	s, err := open(o)
	if err != nil {
		return err
	}
	ro := rb.ro.RecountOptions
	ro.Found = nil // every derived record is missing: no finding
	if _, err = s.Recount(rb.ctx, Scope{}, ro); err == nil {
		err = s.do(rb.ctx, func(t *txn) error { return t.b.Delete(localKey(keyRebuilding), nil) })
	}
	if cerr := s.Close(); err == nil {
		err = cerr
	}
	return err
}

// lost notes something that could not be brought back.
func (rb *rebuild) lost(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if rb.ro.Found != nil {
		rb.ro.Found(line)
	}
	if len(rb.out.Lost) == lostLinesMax {
		rb.out.LostMore++
		return
	}
	rb.out.Lost = append(rb.out.Lost, line)
}

func (rb *rebuild) spend(n int64) error {
	if err := rb.ctx.Err(); err != nil {
		return err
	}
	if rb.ro.Spend == nil {
		return nil
	}
	return rb.ro.Spend(rb.ctx, n)
}

// reasonSuffix ends the name of a report.
const reasonSuffix = ".reason"

// report writes a file beside the old index that tells a person what was done.
func (rb *rebuild) report() error {
	var b strings.Builder
	o := rb.out
	fmt.Fprintf(&b, "index of %s rebuilt\n%d bodies in the packs\n%d messages kept UID and flags\n%d messages came back from the packs under new UIDs\n%d mailboxes have a new UIDVALIDITY\n",
		rb.o.Slot, o.Bodies, o.Kept, o.FromPacks, o.NewUIDValidity)
	for _, a := range o.Made {
		fmt.Fprintf(&b, "account %s was made again: it has no password: mailnode user passwd %s\n", a, a)
	}
	for _, l := range o.Lost {
		b.WriteString("lost: " + l + "\n")
	}
	if o.LostMore > 0 {
		fmt.Fprintf(&b, "lost: %d more\n", o.LostMore)
	}
	name := rb.mark.Old
	if asideHead(name) != 0 { // set aside by a Refill that was cut off: a report has a name of its own
		var err error
		if name, err = rb.freeName(); err != nil {
			return err
		}
	}
	return disk.WriteFile(rb.fs, rb.quarantine(name+reasonSuffix), "mailnode-slot", []byte(b.String()))
}

func (rb *rebuild) writeMark() error {
	line, err := json.Marshal(rb.mark)
	if err != nil {
		return err
	}
	return disk.WriteSealed(rb.fs, rb.fs.PathJoin(rb.dir, markName), "mailnode-slot", string(line))
}

func (rb *rebuild) readMark() (m mark, found bool, err error) {
	path := rb.fs.PathJoin(rb.dir, markName)
	line, found, err := disk.ReadSealed(rb.fs, path)
	if !found {
		return m, false, err
	}
	if err == disk.ErrSeal || err == nil && json.Unmarshal([]byte(line), &m) != nil {
		return m, false, storage.Errorf(storage.ErrCorrupt, "%q is damaged: mailnode slot reindex %s --from-packs", path, rb.o.Slot)
	}
	return m, true, nil
}
