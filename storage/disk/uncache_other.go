//go:build !linux

package disk

import "github.com/cockroachdb/pebble/v2/vfs"

// Uncache does nothing here: this system has no such advice.
func Uncache(vfs.File) {}
