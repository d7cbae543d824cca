// Package index is about the files of one Pebble: what a copy's records lie in. It
// knows how Pebble writes, and nothing of what its keys and values mean.
package index
