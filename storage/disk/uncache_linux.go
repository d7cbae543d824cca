package disk

import (
	"golang.org/x/sys/unix"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Uncache asks the kernel to forget what it holds of a file in memory, so that the
// next read comes from the disk: a page that was read, or written, long ago says
// nothing about what the disk returns now. Pages that are not written yet stay.
func Uncache(f vfs.File) {
	if fd := f.Fd(); fd != vfs.InvalidFd {
		unix.Fadvise(int(fd), 0, 0, unix.FADV_DONTNEED) // advice: an error changes nothing
	}
}
