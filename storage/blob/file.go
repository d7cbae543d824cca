package blob

import "github.com/cockroachdb/pebble/v2/vfs"

// WriteFile writes a small file whole or not at all: under another name, synced,
// renamed, and its folder synced. What a crash cut off is called path.new.
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
