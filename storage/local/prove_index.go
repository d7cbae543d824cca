package local

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/check"
	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

// Pebble takes damage at the end of its two kinds of log for the end that a
// crash left, and goes on without what lay behind: in the write-ahead log for
// up to 32 KiB (its look-ahead begins at the next block), in the MANIFEST for
// all of it. That would be acknowledged mail gone in silence (laws 6 and 7), so
// three proofs stand before it and behind it:
//
//   - a log is damaged when a chunk behind the first bad one says that the bad
//     place had been synced (proveLog);
//   - a MANIFEST is in doubt when its end is torn, when the oldest log that it
//     needs is not there, or when there are more: that log is removed only after
//     a newer edit is durable (proveIndex). Then the records must prove each
//     other (proveRecords);
//   - the HEAD file says how far the index was at the last start or clean stop,
//     so that an index which was cut short or began anew is refused (proveHead).
//
// What remains is LAWS §4.1's: the last group before a crash is ambiguous, and a
// log cut at a chunk's end after a crash. A starting master asks its replicas.

// proveIndex looks at the index's logs before Pebble does. doubt says that what
// it finds is what a crash may leave, but damage of the MANIFEST as well: then
// Open proves all records against each other (proveRecords).
func proveIndex(fs vfs.FS, dir string, step func(percent int)) (doubt bool, err error) {
	names, err := fs.List(dir)
	if err != nil {
		return false, err
	}
	manifest, err := manifestIn(fs, dir)
	if err != nil {
		return false, storage.Errorf(storage.ErrCorrupt, "find the list of files: %w", err)
	}
	if manifest == "" {
		return false, nil // no index yet
	}
	oldest, torn, err := oldestLog(fs, manifest)
	if err != nil {
		return false, err
	}
	// The first recovery names a log that it never makes, so a log that is not
	// there proves nothing: until the flush that start asks for.
	lost := oldest > 0 && !slices.Contains(names, fmt.Sprintf("%06d.log", oldest))
	logs := 0
	for i, n := range names {
		step(100 * i / len(names))
		number, is := strings.CutSuffix(n, ".log")
		if log, err := strconv.ParseUint(number, 10, 32); is && err == nil && log >= oldest {
			if err := proveLog(fs, fs.PathJoin(dir, n), uint32(log)); err != nil {
				return false, err
			}
			logs++
		}
	}
	// An older MANIFEST would have Pebble replay logs that it keeps for reuse.
	return torn || lost || logs > 1, nil
}

// proveRecords runs the checker, without bodies, on what the index came to. What
// an older MANIFEST gives is whole records that do not belong together: the copy
// is refused. A record that cannot be read is told, and stays its own trouble
// (law 9); so is quota use, which never blocks mail.
func (s *Slot) proveRecords() (string, error) {
	return "they prove each other, as must be after such a stop", s.Inspect(func(x Snapshot) error {
		found, err := check.Run(x, check.Options{Progress: func(part, parts int) { s.step("proves its records", 100*part/parts) }})
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

// oldestLog reads from a MANIFEST the number of the oldest log that is needed:
// the first fields of a version edit are tag and number, LevelDB's since 2011.
// torn says that it ends in something else than its last edit.
func oldestLog(fs vfs.FS, path string) (oldest uint64, torn bool, err error) {
	f, err := fs.Open(path)
	if err != nil {
		return 0, false, storage.Errorf(storage.ErrCorrupt, "open %q: %w", path, err)
	}
	defer f.Close()
	const tagComparer, tagLog, tagPrevLog, tagNextFile = 1, 2, 9, 3
	for edits := record.NewReader(f, 0); ; {
		r, err := edits.Next()
		if err != nil {
			return oldest, err != io.EOF, nil // the end, or what Pebble takes for it
		}
		edit, err := io.ReadAll(r)
		if err != nil {
			return oldest, true, nil
		}
		for len(edit) > 0 {
			tag, n := binary.Uvarint(edit)
			v, m := binary.Uvarint(edit[max(n, 0):])
			if n <= 0 || m <= 0 || tag != tagComparer && tag != tagLog && tag != tagPrevLog && tag != tagNextFile {
				break
			}
			edit = edit[n+m:]
			switch tag {
			case tagComparer:
				edit = edit[min(v, uint64(len(edit))):]
			case tagLog:
				oldest = v
			}
		}
	}
}

// The form of a log of FormatWALSyncChunks: blocks of 32 KiB, in them chunks of
// CRC-32C (masked) 4, length 2, kind 1, log number 4, offset that was synced
// when the chunk was written 8, payload; little-endian. No chunk crosses a block.
const (
	logBlockBytes  = 32 << 10
	logHeaderBytes = 19
	logKindFirst   = 9
	logKindLast    = 12
)

// logChunk reads a chunk at the start of b; size is 0 when there is none.
func logChunk(b []byte, log uint32) (size int, synced uint64) {
	if len(b) < logHeaderBytes || b[6] < logKindFirst || b[6] > logKindLast || binary.LittleEndian.Uint32(b[7:]) != log {
		return 0, 0
	}
	size = logHeaderBytes + int(binary.LittleEndian.Uint16(b[4:]))
	if size > len(b) {
		return 0, 0
	}
	if !chunkProves(b[:size]) {
		return 0, 0
	}
	return size, binary.LittleEndian.Uint64(b[11:])
}

// proveLog reads a log to its first bad chunk, and looks behind it for one that
// says that the bad place was durable once.
func proveLog(fs vfs.FS, path string, log uint32) error {
	f, err := fs.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, logBlockBytes)
	bad := int64(-1)
	for start := int64(0); ; start += logBlockBytes {
		n, err := io.ReadFull(f, block)
		for at := 0; at+logHeaderBytes <= n; {
			size, synced := logChunk(block[at:n], log)
			switch {
			case bad >= 0 && size > 0 && synced > uint64(bad):
				return storage.Errorf(storage.ErrCorrupt, "%q is damaged at %d: that place was synced", path, bad)
			case bad < 0 && size == 0:
				bad = start + int64(at)
			}
			if at += size; size == 0 {
				at++
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %q: %w", path, err)
		}
	}
}

func (s *Slot) headFile() string { return s.o.FS.PathJoin(s.o.Dir, "HEAD") }

// witness reads the HEAD file. One that is damaged witnesses nothing: it is
// written anew, and the copy is as good without it.
func (s *Slot) witness() (p slot.Position, found bool, err error) {
	line, found, err := disk.ReadSealed(s.o.FS, s.headFile())
	if !found || err != nil && err != disk.ErrSeal {
		return 0, false, err
	}
	n, bad := strconv.ParseUint(line, 10, 64)
	if err == disk.ErrSeal || bad != nil {
		s.damaged(Damage{Err: fmt.Errorf("%q is damaged: it is written anew", s.headFile())})
		return 0, false, nil
	}
	return slot.Position(n), true, nil
}

// writeWitness writes how far the index is.
func (s *Slot) writeWitness(p slot.Position) error {
	return disk.WriteSealed(s.o.FS, s.headFile(), "mailnode-slot", strconv.FormatUint(uint64(p), 10))
}

// proveHead compares the index with the HEAD file, and writes that anew.
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

// forgetWitness is for whoever begins the index anew.
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
