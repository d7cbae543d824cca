package storage

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

// A message is kept in pages of memory. One that is larger than spoolSmallBytes
// goes to a file, unless all pages beyond that of all Spools of the SpoolDir
// take no more than LargeBytesMax together.
const (
	spoolPageBytes       = 32 << 10
	spoolSmallBytes      = 512 << 10
	defaultLargeBytesMax = 64 << 20
)

type spoolPage = [spoolPageBytes]byte

// SpoolDir makes Spools. The files it makes are never needed after a restart:
// whoever opens the folder empties it.
type SpoolDir struct {
	FS  vfs.FS
	Dir string // exists
	// LargeBytesMax is how much of large messages is kept in memory, all
	// together; 0: 64 MiB, negative: nothing, they go to files.
	LargeBytesMax int64
	// Space is the disk that has the folder; nil: it has no limit.
	Space  *disk.Space
	budget spoolBudget
	next   atomic.Uint64
	large  atomic.Int64 // bytes of pages beyond spoolSmallBytes
	pages  sync.Pool    // of *spoolPage: fresh memory costs as much as copying a message into it
}

// New starts an empty Spool that counts for nobody: for what another node hands
// over. Nothing is written to disk until it is large.
func (d *SpoolDir) New() *Spool { return &Spool{dir: d, sum: sha256.New()} }

func (d *SpoolDir) page() *spoolPage {
	if p, ok := d.pages.Get().(*spoolPage); ok {
		return p
	}
	return new(spoolPage)
}

// Spool takes a message of unknown size from the network: write it, then use
// it as a Body. It must be closed. It is not for concurrent use while written.
type Spool struct {
	dir   *SpoolDir
	sum   hash.Hash
	size  int64
	pages []*spoolPage // none once there is a file
	large int64        // bytes of pages that dir.large counts
	file  vfs.File
	path  string
	err   error // the first failed write: final, since what reached the disk is not known
	// scratch is what is handed to vfs, whose Write may change its argument.
	scratch *spoolPage
	// announced is what the message's sender has announced; nil: it counts for nobody.
	announced *announced
}

var _ Body = (*Spool)(nil)

// Write adds bytes. An error is the disk's, and every later Write returns it too:
// a message with a hole must never be taken for one.
func (s *Spool) Write(p []byte) (int, error) {
	if s.err == nil {
		if s.err = s.write(p); disk.NoRoom(s.err) {
			s.err = Errorf(ErrDiskFull, "%w", s.err)
		}
	}
	if s.err != nil {
		return 0, s.err
	}
	return len(p), nil
}

func (s *Spool) write(p []byte) error {
	if s.announced != nil {
		if err := s.announced.atLeast(s.size + int64(len(p))); err != nil {
			return err
		}
	}
	for rest := p; len(rest) > 0; {
		n, err := s.writeSome(rest)
		if err != nil {
			return err
		}
		s.size += int64(n)
		rest = rest[n:]
	}
	s.sum.Write(p)
	return nil
}

// writeSome writes what fits into one page.
func (s *Spool) writeSome(p []byte) (int, error) {
	if s.file == nil && s.size == int64(len(s.pages))*spoolPageBytes {
		if s.size < spoolSmallBytes || s.mayGrow() {
			s.pages = append(s.pages, s.dir.page())
		} else if err := s.toFile(); err != nil {
			return 0, err
		}
	}
	if s.file == nil {
		return copy(s.pages[len(s.pages)-1][s.size%spoolPageBytes:], p), nil
	}
	n := copy(s.scratch[:], p)
	if _, err := s.file.Write(s.scratch[:n]); err != nil {
		return 0, fmt.Errorf("write spool %q: %w", s.path, err)
	}
	s.wrote(int64(n))
	return n, nil
}

func (s *Spool) wrote(bytes int64) {
	if s.announced != nil {
		s.announced.wrote(bytes)
	}
}

// mayGrow takes one more page beyond spoolSmallBytes from the SpoolDir's budget.
func (s *Spool) mayGrow() bool {
	limit := s.dir.LargeBytesMax
	if limit == 0 {
		limit = defaultLargeBytesMax
	}
	if s.dir.large.Add(spoolPageBytes) > limit {
		s.dir.large.Add(-spoolPageBytes)
		return false
	}
	s.large += spoolPageBytes
	return true
}

func (s *Spool) toFile() error {
	path := s.dir.FS.PathJoin(s.dir.Dir, fmt.Sprintf("spool-%d", s.dir.next.Add(1)))
	f, err := s.dir.FS.Create(path, "mailnode-spool")
	if err != nil {
		return fmt.Errorf("create spool %q: %w", path, err)
	}
	s.file, s.path, s.scratch = f, path, s.dir.page()
	for _, page := range s.pages { // all full
		if _, err := f.Write(page[:]); err != nil {
			return fmt.Errorf("write spool %q: %w", path, err)
		}
		s.wrote(spoolPageBytes)
	}
	s.freePages()
	return nil
}

func (s *Spool) freePages() {
	for _, page := range s.pages {
		s.dir.pages.Put(page)
	}
	s.dir.large.Add(-s.large)
	s.pages, s.large = nil, 0
}

// Size returns the bytes written so far.
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
	n := 0
	for n < len(p) && off < s.size && len(s.pages) > 0 {
		page := s.pages[off/spoolPageBytes]
		end := min(s.size-off+off%spoolPageBytes, spoolPageBytes)
		k := copy(p[n:], page[off%spoolPageBytes:end])
		n, off = n+k, off+int64(k)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Close frees the memory and removes the file.
func (s *Spool) Close() error {
	if s.announced != nil {
		defer s.announced.end() // its file is gone then
		s.announced = nil
	}
	s.freePages()
	if s.scratch != nil {
		s.dir.pages.Put(s.scratch)
		s.scratch = nil
	}
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
