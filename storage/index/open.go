package index

import (
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Options returns the settings of an index. What indexes share, and who is told of
// what happens, its owner adds.
func Options(fs vfs.FS, logger pebble.Logger) *pebble.Options {
	return &pebble.Options{
		FS:                          fs,
		Logger:                      logger,
		FormatMajorVersion:          pebble.FormatWALSyncChunks, // law 6: see LAWS §4.1
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
	}
}

// ReadOnly returns the settings for an index that is there and must not change.
func ReadOnly(fs vfs.FS, logger pebble.Logger) *pebble.Options {
	o := Options(fs, logger)
	o.ReadOnly, o.ErrorIfNotExists = true, true
	return o
}
