package storage

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage/slot"
)

// spoolMemoryBytes is how much of a message is kept in memory; a larger one
// goes to a file.
const spoolMemoryBytes = 512 << 10

// SpoolDir makes Spools. The files it makes are never needed after a restart:
// whoever opens the folder empties it.
type SpoolDir struct {
	FS   vfs.FS
	Dir  string // exists
	next atomic.Uint64
}

// New starts an empty Spool. Nothing is written to disk until it is large.
func (d *SpoolDir) New() *Spool { return &Spool{dir: d, sum: sha256.New()} }

// Spool takes a message of unknown size from the network: write it, then use
// it as a Body. It must be closed. It is not for concurrent use while written.
type Spool struct {
	dir  *SpoolDir
	sum  hash.Hash
	size int64
	mem  []byte
	file vfs.File
	path string
	err  error // the first failed write: final, since what reached the disk is not known
	// scratch is what is handed to vfs, whose Write may change its argument.
	scratch []byte
}

var _ Body = (*Spool)(nil)

// Write adds bytes. An error is the disk's, and every later Write gives it too:
// a message with a hole must never be taken for one.
func (s *Spool) Write(p []byte) (int, error) {
	if s.err == nil {
		s.err = s.write(p)
	}
	if s.err != nil {
		return 0, s.err
	}
	return len(p), nil
}

func (s *Spool) write(p []byte) error {
	if s.file == nil && s.size+int64(len(p)) > spoolMemoryBytes {
		if err := s.toFile(); err != nil {
			return err
		}
	}
	if s.file == nil {
		s.mem = append(s.mem, p...)
	} else {
		for rest := p; len(rest) > 0; {
			n := copy(s.scratch, rest)
			if _, err := s.file.Write(s.scratch[:n]); err != nil {
				return fmt.Errorf("write spool %q: %w", s.path, err)
			}
			rest = rest[n:]
		}
	}
	s.sum.Write(p)
	s.size += int64(len(p))
	return nil
}

func (s *Spool) toFile() error {
	path := s.dir.FS.PathJoin(s.dir.Dir, fmt.Sprintf("spool-%d", s.dir.next.Add(1)))
	f, err := s.dir.FS.Create(path, "mailnode-spool")
	if err != nil {
		return fmt.Errorf("create spool %q: %w", path, err)
	}
	s.file, s.path = f, path
	if _, err := f.Write(s.mem); err != nil {
		return fmt.Errorf("write spool %q: %w", path, err)
	}
	s.mem, s.scratch = nil, make([]byte, 64<<10)
	return nil
}

// Size gives the bytes written so far.
func (s *Spool) Size() int64 { return s.size }

// GUID hashes what has been written so far.
func (s *Spool) GUID() slot.GUID {
	var g slot.GUID
	s.sum.Sum(g[:0])
	return g
}

// ReadAt implements io.ReaderAt.
func (s *Spool) ReadAt(p []byte, off int64) (int, error) {
	if s.file != nil {
		return s.file.ReadAt(p, off)
	}
	if off >= int64(len(s.mem)) {
		return 0, io.EOF
	}
	n := copy(p, s.mem[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Close frees the memory and removes the file.
func (s *Spool) Close() error {
	s.mem, s.scratch = nil, nil
	if s.file == nil {
		return nil
	}
	s.file.Close()
	s.file = nil
	if err := s.dir.FS.Remove(s.path); err != nil {
		return fmt.Errorf("remove spool %q: %w", s.path, err)
	}
	return nil
}
