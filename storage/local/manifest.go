package local

import (
	"encoding/binary"
	"io"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/event"
)

// manifestState is how the list of an index's files is read.
type manifestState int

const (
	manifestSound   manifestState = iota
	manifestTorn                  // its end is cut off or damaged: nobody can tell which
	manifestDamaged               // sound records lie behind one that is not
)

// checkManifest proves the list of files itself. Pebble takes its first unsound
// record for its end: it would open an older state and remove the tables that are
// not in it (law 7).
func checkManifest(fs vfs.FS, dir string) (manifestState, error) {
	path, err := manifestIn(fs, dir)
	if err != nil || path == "" {
		return manifestSound, err
	}
	f, err := fs.Open(path)
	if err != nil {
		return manifestDamaged, err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return manifestDamaged, err
	}
	return readManifest(b), nil
}

const manifestHeaderBytes = 7 // CRC, length, kind

// readManifest walks the chunks, which never cross a block.
func readManifest(b []byte) manifestState {
	state := manifestSound
	for at := 0; at < len(b); {
		block := b[at:min(len(b), at-at%logBlockBytes+logBlockBytes)]
		if len(block) < manifestHeaderBytes || allZero(block) {
			at += len(block)
			continue
		}
		n := manifestHeaderBytes + int(binary.LittleEndian.Uint16(block[4:]))
		switch {
		case n <= len(block) && chunkProves(block[:n]):
			if state == manifestTorn {
				return manifestDamaged
			}
		case n > len(block):
			state, n = manifestTorn, len(block)
		default:
			state = manifestTorn
		}
		at += n
	}
	return state
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// chunkProves checks a chunk's CRC-32C, in the masked form of LevelDB's logs.
func chunkProves(chunk []byte) bool {
	const maskDelta = 0xa282ead8
	c := event.Checksum(chunk[6:])
	return (c>>15|c<<17)+maskDelta == binary.LittleEndian.Uint32(chunk)
}

// manifestRefuses is the error of a copy whose list of files is damaged.
func (s *Slot) manifestRefuses(dir string) error {
	state, err := checkManifest(s.o.FS, dir)
	switch {
	case err != nil:
		return storage.Errorf(storage.ErrCorrupt, "read the index's list of files: %w: %w", errFileDamaged, err)
	case state == manifestDamaged:
		return storage.Errorf(storage.ErrCorrupt, "the index's list of files does not match its checksums: %w: mailnode slot reindex %s --from-packs", errFileDamaged, s.o.Slot)
	}
	return nil
}

// manifestIn gives the list of files that is in force, "" when there is no index.
func manifestIn(fs vfs.FS, dir string) (path string, err error) {
	desc, err := pebble.Peek(dir, fs)
	if oserror.IsNotExist(err) {
		return "", nil
	}
	if err != nil || !desc.Exists {
		return "", err
	}
	return desc.ManifestFilename, nil
}
