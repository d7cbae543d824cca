package local

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/disk"
	"mailnode/storage/event"
	"mailnode/storage/index"
)

// What Open does, in the order in which it runs.

// found is what Open found.
type found struct {
	owner ownership
	doubt bool // the records must prove each other
	dirty bool // the last stop was unclean; read, and ended, by Serve
	wall  wallSeen
}

// Open opens or makes a copy, after the checks of prove_start.go. Its error is *Refused,
// and tells which of them failed; or it is about a Rebuild that was cut off, which has to
// end first.
func Open(o Options) (*Slot, error) {
	if _, pending := RebuildPending(o); pending {
		return nil, storage.Errorf(storage.ErrUnavailable, "open slot %s: the rebuild of its index was cut off: mailnode slot reindex %s", o.Slot, o.Slot)
	}
	return open(withPresets(o))
}

// open opens a copy whose index is not being rebuilt.
func open(o Options) (*Slot, error) {
	s := newSlot(o)
	s.dog = disk.StartWatchdog(s.o.HangAfter, s.fail)
	s.o.FS = s.dog.FS(o.FS, s.space.each()...)
	done := make(chan error, 1)
	s.unlessHung(func() { done <- s.open() })
	var err error
	select {
	case err = <-done:
	default: // what hangs may do so for ever, and keeps until then the files that it has opened
		text := s.Failure().Error()
		err = &Refused{Slot: o.Slot, Checks: []Check{{"disk", CheckFailed, text}}, Next: nextHangs, Err: s.Failure()}
	}
	if err != nil {
		s.dog.Close()
		hangs := s.dog.Cut(releaseWithin)
		if refused := (*Refused)(nil); hangs != nil && errors.As(err, &refused) {
			refused.dog = s.dog
		}
		return nil, err
	}
	return s, nil
}

func (s *Slot) open() error {
	if err := s.check.run("identity", s.openFolder); err != nil {
		return err
	}
	if err := s.checkSpace(); err != nil {
		return err
	}
	if err := s.check.run("list of files", s.indexThere); err != nil {
		return err
	}
	if err := s.check.run("index", s.openIndex); err != nil {
		return err
	}
	if err := s.check.run("packs folder", s.openPacks); err != nil {
		s.guarded(s.db.Close)
		return err
	}
	if err := s.start(); err != nil {
		s.packs.Close()
		s.endViews()
		s.guarded(s.db.Close)
		return err
	}
	return nil
}

// checkSpace warns: a copy on a full disk is read from, and takes mail again as
// soon as there is room. Only one whose index cannot even be opened waits for it.
func (s *Slot) checkSpace() error {
	if _, err := s.space.hold(disk.Change, 0); err != nil {
		return s.check.refuse("disk space", err)
	}
	text, doubt := "", ""
	for _, sp := range s.space.each() {
		free, err := sp.Free()
		if err != nil { // a file system that cannot say (tests) has no limit
			continue
		}
		if free < disk.ReserveBytes {
			doubt = fmt.Sprintf("%d MiB free in %q, new mail is put off below %d MiB: free space", free>>20, sp, disk.ReserveBytes>>20)
		}
		if text != "" {
			text += ", "
		}
		text += fmt.Sprintf("%d MiB free in %q", free>>20, sp)
	}
	s.check.note("disk space", text, doubt)
	return nil
}

// indexThere refuses an index whose list of files is damaged, and packs without an
// index: there was one when the first pack was begun, and an empty one in its place
// would be a slot without mail.
func (s *Slot) indexThere() (string, error) {
	fs, dir := s.o.FS, s.o.indexDir()
	there, err := index.Exists(fs, dir)
	if err != nil {
		return "", err
	}
	if there {
		if err := index.ProveManifest(fs, dir); err != nil {
			return "", storage.Errorf(storage.ErrCorrupt, "%w: mailnode slot reindex %s --from-packs", err, s.o.Slot)
		}
		return "matches its checksums", nil
	}
	packs, err := fs.List(s.o.PacksDir)
	if err != nil && !oserror.IsNotExist(err) {
		return "", err
	}
	if slices.ContainsFunc(packs, func(n string) bool { return strings.HasSuffix(n, ".pack") }) {
		return "", storage.Errorf(storage.ErrCorrupt, "the index is missing beside the packs: %w: mailnode slot reindex %s --from-packs", index.ErrDamaged, s.o.Slot)
	}
	return "a new copy", nil
}

// openIndex opens the index, when its logs have been proved.
func (s *Slot) openIndex() (string, error) {
	dir := s.o.indexDir()
	_, witnessed, err := s.witness()
	if err != nil {
		return "", err
	}
	if s.found.doubt, err = index.Prove(s.o.FS, dir, func(percent int) { s.o.step("proves its logs", percent) }); errors.Is(err, index.ErrDamaged) {
		return "", storage.Errorf(storage.ErrCorrupt, "open index: %w", err)
	} else if err != nil {
		return "", fmt.Errorf("open index: %w", err)
	}
	s.o.step("replays its logs", -1)
	if err := s.db.Open(s.o.FS, dir, witnessed); err != nil { // an index that has lost its marker is not a new one
		kind := storage.ErrCorrupt
		if diskFull(err) {
			kind = storage.ErrDiskFull
		}
		return "", storage.Errorf(kind, "open index: %w", err)
	}
	return fmt.Sprintf("opened, format %s", s.db.FormatMajorVersion()), nil
}

// indexOwner returns what the index asks of the copy, and reports to it.
func (s *Slot) indexOwner() index.Owner {
	return index.Owner{Log: s.log, Latch: s.latch, Fail: s.fail, Roomy: s.roomy, LeaveRoom: s.leaveRoom,
		Damaged: s.tableDamaged, Retried: s.indexRetries, Stalls: s.writesStall, GoesOn: s.writesGoOn}
}

func (s *Slot) openPacks() (text string, err error) {
	o := s.o
	if s.packs, err = blob.Open(blob.Options{FS: o.FS, Dir: o.PacksDir, Cluster: o.Cluster, Slot: o.Slot, PackBytesMax: o.PackBytesMax, Handles: o.Resources.packs}); err != nil {
		return "", storage.Errorf(storage.ErrCorrupt, "open packs: %w", err)
	}
	numbers, err := s.packs.Packs()
	if err == nil && len(numbers) == 0 {
		err = s.noBodies()
	}
	if err != nil {
		s.packs.Close()
	}
	return fmt.Sprintf("%d packs in %q", len(numbers), o.PacksDir), err
}

// noBodies refuses an index that knows bodies beside a folder without packs: it
// is a disk that is not mounted, or an emptied one, never a new slot.
func (s *Slot) noBodies() error {
	it, err := newIter(s.db, event.SpanOf([]byte{event.PrefixBody}))
	if err != nil {
		return err
	}
	defer it.Close()
	if it.First() {
		return storage.Errorf(storage.ErrCorrupt, "the index knows bodies, and there are no packs in %q: is the volume mounted?", s.o.PacksDir)
	}
	if err := it.Error(); err != nil {
		return readError(err)
	}
	return nil
}

// start checks what the index says of the copy, and starts the committer.
func (s *Slot) start() error {
	_, building, err := s.get(localKey(keyBuilding))
	if err != nil {
		return s.check.refuse("index", err)
	}
	s.building.Store(building)
	var newest tail
	s.install(s.newView())
	if err := s.check.run("last stop", s.lastStop); err != nil {
		return err
	}
	if err := s.check.run("newest events", func() (string, error) { return s.proveTail(&newest) }); err != nil {
		return err
	}
	if err := s.knowHead(); err != nil {
		return err
	}
	if err := s.check.run("head", s.proveHead); err != nil {
		return err
	}
	if s.found.doubt && !building && !s.o.uncounted {
		if err := s.check.run("records", s.proveRecords); err != nil {
			return err
		}
	}
	if err := s.proveNewest(&newest); err != nil {
		return err
	}
	s.found.wall = wallSeen{newestUnix: newest.wall, births: s.known.Births}
	s.check.note("clock", "not before what is recorded", s.ClockDoubt(false))
	return s.check.run("committer", s.begin)
}

// lastStop reads whether the last stop was a clean one.
func (s *Slot) lastStop() (string, error) {
	clean, wasClosed, err := s.get(localKey(keyClean))
	if err != nil {
		return "", err
	}
	_, hasHead, err := s.get(event.HeadKey())
	if err != nil {
		return "", err
	}
	s.found.dirty = hasHead && !(wasClosed && len(clean) > 0)
	switch {
	case s.found.dirty:
		return "unclean: a master jumps over the positions that it may have shown (law 3)", nil
	case !hasHead:
		return "never opened before", nil
	}
	return "clean", nil
}

// knowHead reads the head, once: from here on it is kept in memory.
func (s *Slot) knowHead() error {
	v := s.acquire()
	defer v.release()
	h, err := headOf(v)
	if err != nil {
		return s.check.refuse("head", err)
	}
	s.known, v.known = h, h
	return nil
}

// begin marks the copy as open, on disk too, and starts the committer.
func (s *Slot) begin() (string, error) {
	b := s.db.NewBatch()
	defer b.Close()
	if err := b.Delete(localKey(keyClean), nil); err != nil {
		return "", err
	}
	_, hasHead, err := s.get(event.HeadKey())
	if err != nil {
		return "", err
	}
	refill := s.o.Refill && !hasHead
	if refill {
		if err := b.Set(localKey(keyBuilding), []byte{1}, nil); err != nil {
			return "", err
		}
	}
	if err := b.Set(localKey(keyPacks), be.AppendUint32(nil, s.packs.NewestPack()), nil); err != nil {
		return "", err
	}
	if err := s.noteOwner(b); err != nil {
		return "", err
	}
	if err := s.guarded(func() error { return s.db.Apply(b, pebble.Sync) }); err != nil {
		return "", err
	}
	if err := s.mendOwner(); err != nil {
		return "", err
	}
	s.building.Store(s.building.Load() || refill)
	s.install(s.newView())
	if err := s.db.Settle(); err != nil {
		return "", err
	}
	return "changes are taken", s.com.start(s)
}
