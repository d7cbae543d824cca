package local

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/check"
	"mailnode/storage/disk"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// Two proofs stand behind Pebble, beside those before it (storage/index): the records
// prove each other when the list of files is in doubt (proveRecords), and the HEAD file
// says how far the index was at the last start or clean stop, so that an index which
// was cut short, or begun again with nothing in it, is refused (proveHead).
//
// What remains ambiguous (LAWS §4.1) is the last group before a crash, and a log that
// ends with a chunk after a crash. A starting master asks its replicas.

// proveRecords runs the checker on the index, without bodies. An older MANIFEST leads
// to records that are whole and do not belong together: the copy is refused. A record
// that cannot be read, and quota use that is wrong, are reported and keep no copy down:
// a damaged record concerns only itself (law 9), and quota use never blocks mail.
func (s *Slot) proveRecords() (string, error) {
	return "they prove each other, as must be after such a stop", s.Snapshot(func(x Snapshot) error {
		found, err := check.Run(x, check.Options{Progress: func(part, parts int) { s.o.step("proves its records", 100*part/parts) }})
		if err != nil || len(found) == 0 {
			return err
		}
		unread := slices.ContainsFunc(found, func(f check.Finding) bool { return f.Law == 6 })
		if unread || !slices.ContainsFunc(found, func(f check.Finding) bool { return !f.Quota }) {
			s.tell(Damage{Index: true, Err: storage.Errorf(storage.ErrCorrupt, "%d findings in the index, such as: %s", len(found), found[0])})
			return nil
		}
		return storage.Errorf(storage.ErrCorrupt, "the index is damaged (%d findings): %s; put the disk right, or remove %q to have it fetched from a replica",
			len(found), found[0], s.o.Dir)
	})
}

func (s *Slot) headFile() string { return s.o.FS.PathJoin(s.o.Dir, "HEAD") }

// witness reads the HEAD file. A damaged one proves nothing and is rewritten: the copy
// is as good without it.
func (s *Slot) witness() (p slot.Position, found bool, err error) {
	line, found, err := disk.ReadSealed(s.o.FS, s.headFile())
	if !found || err != nil && err != disk.ErrSeal {
		return 0, false, err
	}
	n, bad := strconv.ParseUint(line, 10, 64)
	if err == disk.ErrSeal || bad != nil {
		s.damaged(Damage{Err: fmt.Errorf("%q is damaged: it is rewritten", s.headFile())})
		return 0, false, nil
	}
	return slot.Position(n), true, nil
}

// writeWitness writes how far the index is.
func (s *Slot) writeWitness(p slot.Position) error {
	return disk.WriteSealed(s.o.FS, s.headFile(), "mailnode-slot", strconv.FormatUint(uint64(p), 10))
}

// proveHead compares the index with the HEAD file, and rewrites the file.
func (s *Slot) proveHead() (string, error) {
	was, found, err := s.witness()
	if err != nil {
		return "", err
	}
	h, err := s.Head()
	if err != nil || h.Building {
		return "the copy is being built", err
	}
	if h.Position < was {
		return "", storage.Errorf(storage.ErrCorrupt, "the index ends at %s, it had reached %s: its log or MANIFEST was cut short; "+
			"put the disk right, or remove %q to have it fetched from a replica", h.Position, was, s.o.Dir)
	}
	if h.Position > was || !found {
		if err := s.writeWitness(h.Position); err != nil {
			s.log.Warn("head not written down", "err", err)
		}
	}
	return fmt.Sprintf("%s, once it was at %s", h.Position, was), nil
}

// forgetWitness removes the HEAD file, before an index is filled that may end earlier.
func forgetWitness(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil || !slices.Contains(names, "HEAD") {
		return err
	}
	if err := fs.Remove(fs.PathJoin(dir, "HEAD")); err != nil {
		return err
	}
	return disk.SyncDir(fs, dir)
}

// Snapshot is a copy's durable state at one moment, for storage/check.
type Snapshot struct {
	s *Slot
	v *view
}

// Snapshot calls fn with the durable state; the packs that it points into stay until fn
// returns.
func (s *Slot) Snapshot(fn func(Snapshot) error) error {
	defer s.PinPacks()()
	return s.read(func(v *view) error { return fn(Snapshot{s, v}) })
}

// Get reads one record.
func (x Snapshot) Get(key []byte) ([]byte, bool, error) { return x.v.Get(key) }

// Each calls fn for the records of a span in key order.
func (x Snapshot) Each(sp event.Span, fn func(key, value []byte) error) error {
	return each(x.v, sp, fn)
}

// ProveBody reads a body whole and proves its checksum, and that of its note.
func (x Snapshot) ProveBody(ref slot.BodyRef) error {
	loc, err := x.s.locate(x.v, ref)
	if err != nil {
		return err
	}
	return x.s.at(ref, loc, func(loc blob.Location) error {
		b, err := x.s.packs.Open(ref, loc)
		if err != nil {
			return err
		}
		if err := b.Close(); err != nil {
			return err
		}
		_, err = x.s.packs.Note(ref, loc) // replicas and a rebuild need it
		return err
	})
}
