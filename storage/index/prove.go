package index

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage/disk"
)

// Pebble takes damage at the end of its two kinds of log for the end that a
// crash left, and goes on without what lay behind: in the write-ahead log for
// up to 32 KiB (its look-ahead begins at the next block), in the MANIFEST for
// all of it. That would be acknowledged mail gone in silence (laws 6 and 7), so
// two proofs stand before it:
//
//   - a log is damaged when a chunk behind the first bad one says that the bad
//     place had been synced (proveLog);
//   - a MANIFEST is in doubt when its end is torn, when the oldest log that it
//     needs is not there, or when there are more: that log is removed only after
//     a newer edit is durable (Prove). Then the records must prove each other,
//     which is the business of whoever knows them.

// Prove looks at the index's logs before Pebble does. doubt says that what it
// finds is what a crash may leave, but damage of the MANIFEST as well: then all
// records must be proved against each other.
func Prove(fs vfs.FS, dir string, step func(percent int)) (doubt bool, err error) {
	names, err := fs.List(dir)
	if err != nil {
		return false, err
	}
	manifest, err := manifestIn(fs, dir)
	if err != nil {
		return false, fmt.Errorf("%w: find the list of files: %w", ErrDamaged, err)
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

// settle makes what is read of a log next what the disk has. After a failed sync the
// system still shows, from its memory, bytes that the disk never got, and counts them as
// written (LAWS §4.7): a start that believed them would build on what the next power cut
// takes away. What is not written yet is written first, or that fails here.
func settle(f vfs.File, path string) error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %q before it is read: %w", path, err)
	}
	disk.Uncache(f)
	return nil
}

// oldestLog reads from a MANIFEST the number of the oldest log that is needed:
// the first fields of a version edit are tag and number, LevelDB's since 2011.
// torn says that it ends in something else than its last edit.
func oldestLog(fs vfs.FS, path string) (oldest uint64, torn bool, err error) {
	f, err := fs.Open(path)
	if err != nil {
		return 0, false, fmt.Errorf("%w: open %q: %w", ErrDamaged, path, err)
	}
	defer f.Close()
	if err := settle(f, path); err != nil {
		return 0, false, err
	}
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

// proveLog reads a log to its first bad chunk, and looks behind it for one that
// says that the bad place was durable once.
func proveLog(fs vfs.FS, path string, log uint32) error {
	f, err := fs.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := settle(f, path); err != nil {
		return err
	}
	block := make([]byte, blockBytes)
	bad := int64(-1)
	for start := int64(0); ; start += blockBytes {
		n, err := io.ReadFull(f, block)
		for at := 0; at+logHeaderBytes <= n; {
			size, synced := logChunkAt(block[at:n], log)
			switch {
			case bad >= 0 && size > 0 && synced > uint64(bad):
				return fmt.Errorf("%w: %q at byte %d, which had been synced", ErrDamaged, path, bad)
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
