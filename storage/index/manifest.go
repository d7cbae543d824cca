package index

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// manifestState is how the list of an index's files is read.
type manifestState int

const (
	manifestSound   manifestState = iota
	manifestTorn                  // its end is cut off or damaged: nobody can tell which
	manifestDamaged               // sound records lie behind one that is not
)

// Exists reports whether there is an index in dir: its list of files.
func Exists(fs vfs.FS, dir string) (bool, error) {
	names, err := fs.List(dir)
	if err != nil && !oserror.IsNotExist(err) {
		return false, err
	}
	return slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "MANIFEST-") }), nil
}

// NotOpen takes the lock of an index for a moment: its error says that this process or
// another has it open.
func NotOpen(fs vfs.FS, dir string) error {
	if names, err := fs.List(dir); err != nil || len(names) == 0 {
		return nil
	}
	lock, err := fs.Lock(fs.PathJoin(dir, "LOCK"))
	if err != nil {
		return fmt.Errorf("the index is open: %w", err)
	}
	return lock.Close()
}

// ProveManifest refuses a list of files that is damaged. One whose end is torn
// passes: a crash leaves that.
func ProveManifest(fs vfs.FS, dir string) error {
	switch state, err := checkManifest(fs, dir); {
	case err != nil:
		return fmt.Errorf("read the index's list of files: %w: %w", ErrDamaged, err)
	case state == manifestDamaged:
		return fmt.Errorf("the index's list of files does not match its checksums: %w", ErrDamaged)
	}
	return nil
}

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

// readManifest walks the chunks, which never cross a block.
func readManifest(b []byte) manifestState {
	state := manifestSound
	for at := 0; at < len(b); {
		block := b[at:min(len(b), at-at%blockBytes+blockBytes)]
		if len(block) < manifestHeaderBytes || allZero(block) {
			at += len(block)
			continue
		}
		n, ok := chunkAt(block, manifestHeaderBytes)
		switch {
		case ok:
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

// manifestIn returns the list of files that is in force, "" when there is no index.
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
