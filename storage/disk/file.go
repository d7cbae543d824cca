package disk

import (
	"fmt"
	"os"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// newSuffix is the end of a file's name while it is written.
const newSuffix = ".new"

// WriteFile writes a small file whole or not at all: under another name, synced,
// renamed, and its folder synced. What a crash cut off is called path.new. Nobody
// else may write the same file meanwhile.
func WriteFile(fs vfs.FS, path string, c vfs.DiskWriteCategory, content []byte) error {
	f, err := fs.Create(path+newSuffix, c)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fs.Rename(path+newSuffix, path)
	}
	if err != nil {
		return err
	}
	return SyncDir(fs, fs.PathDir(path))
}

// SyncDir makes a folder's entries durable: a synced file in a folder that was
// not synced is lost with the power (LAWS §4.5).
func SyncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// ReplaceFile is WriteFile on the real file system, for a file that only its owner
// may read: it may be a key.
func ReplaceFile(path string, content []byte) error {
	if err := WriteFile(ownersFS{vfs.Default}, path, "mailnode", content); err != nil {
		return fmt.Errorf("replace %q: %w", path, err)
	}
	return nil
}

// ownersFS makes files of mode 0600.
type ownersFS struct{ vfs.FS }

// Create implements vfs.FS.
func (o ownersFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := o.Remove(name); err != nil && !oserror.IsNotExist(err) {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	return o.OpenReadWrite(name, c)
}
