package index

import (
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Options returns the settings of an index. What indexes share, and who is told of
// what happens, its owner adds.
func Options(fs vfs.FS, logger pebble.Logger) *pebble.Options {
	o := &pebble.Options{
		FS:                          fs,
		Logger:                      logger,
		FormatMajorVersion:          pebble.FormatWALSyncChunks, // law 6: see LAWS §4.1
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
	}
	o.Levels[0].BlockSizeThreshold = blockThreshold // of the levels below too
	return o
}

// blockThreshold is how full, in percent, a block of a table must be to be ended before
// an entry that would make it larger than it is to be. By Pebble's preset of 90 a large
// event of the journal may share its block with small ones, and whoever looks for what
// lies before them has all of it read and unpacked: 20 ms for one that made 100,000
// mailboxes.
const blockThreshold = 1

// ReadOnly returns the settings for an index that is there and must not change.
func ReadOnly(fs vfs.FS, logger pebble.Logger) *pebble.Options {
	o := Options(fs, logger)
	o.ReadOnly, o.ErrorIfNotExists = true, true
	return o
}
