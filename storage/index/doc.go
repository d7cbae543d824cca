// Package index is about the files of one Pebble: what a copy's records lie in. It
// knows how Pebble writes, and nothing of what its keys and values mean.
//
//	open.go         an index: its settings, whoever has it, what is told of it
//	shared.go       what the indexes of a node share
//	guard.go        its file system: errors that Pebble must not see
//	damage.go       what an error of Pebble means
//	compactions.go  how many run at once, over all indexes of a node
//	prove.go        logs, before Pebble reads them; manifest.go: the list of files
//	tables.go       tables, from the disk
//	salvage.go      what can still be read of a damaged index
//
// A newer Pebble is to be compared with these: where they rest on the form of its
// files (chunk.go) or on names that it gives to them (guard.go), it does not promise it.
package index
