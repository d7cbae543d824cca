package index

import (
	"runtime"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// Shared is what the indexes of a node share: blocks and memtables, open files,
// compactions.
//
// Pebble takes a memtable's size out of the block cache when it makes the memtable
// (Cache.Reserve), even if nothing is left for blocks, as with many indexes and memtables
// of a fixed size. So memtables get half of the cache at most, divided by the number of
// indexes.
type Shared struct {
	cache       *pebble.Cache
	files       *pebble.FileCache
	compactions *compactions
	cacheBytes  int64
	indexes     atomic.Int64
}

const (
	filesOpenMax      = 4096    // tables of all indexes
	memTableBytesMax  = 8 << 20 // more makes no commit faster
	memTableBytesMin  = 1 << 20
	memTablesPerIndex = 2 // one that is filled, one that is flushed or kept for the next
)

// NewShared makes the budgets; cacheBytes are for blocks and memtables.
func NewShared(cacheBytes int64) *Shared {
	return &Shared{cache: pebble.NewCache(cacheBytes), files: pebble.NewFileCache(4, filesOpenMax), cacheBytes: cacheBytes,
		compactions: newCompactions(compactionsMax(runtime.GOMAXPROCS(0)))}
}

// compactionsMax is how many compactions run at once on so many cores: half of the cores
// are left for those who wait for an answer.
func compactionsMax(cores int) int { return max(2, cores/2) }

// Expect notes how many indexes will be open, before they are opened: the size of their
// memtables is fixed when they are.
func (s *Shared) Expect(indexes int) { s.indexes.Store(int64(indexes)) }

// memTableBytes is the size of one index's memtable.
func (s *Shared) memTableBytes() uint64 {
	share := s.cacheBytes / 2 / memTablesPerIndex / max(1, s.indexes.Load())
	return uint64(min(max(share, memTableBytesMin), memTableBytesMax))
}

// Close releases the caches, after all indexes are closed.
func (s *Shared) Close() {
	s.files.Unref()
	s.cache.Unref()
}
