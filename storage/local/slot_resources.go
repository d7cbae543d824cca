package local

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage/blob"
	"mailnode/storage/disk"
	"mailnode/storage/index"
)

// Resources are the node-wide budgets that copies share: blocks and memtables,
// open files of indexes and packs, compactions.
//
// Pebble takes a memtable's size out of the block cache when it makes it
// (Cache.Reserve), whatever is left for blocks; with many slots of fixed
// memtables nothing would be. So they get half of the cache at most, divided by
// the number of copies.
type Resources struct {
	cache       *pebble.Cache
	files       *pebble.FileCache
	compactions *index.Compactions
	cacheBytes  int64
	copies      atomic.Int64
	packs       *blob.Handles
	large       largeTurns
	listings    *listingCache // of opened mailboxes: a quarter of cacheBytes more
	proofs      chan struct{} // filled by whoever proves a piece of a large body for a client; first come, first served
	// Disks are where the copies lie; who knows of volumes names their folders
	// before the first Open.
	Disks disk.Disks
	// OnSync, when set before the first Open, is told how long each group's
	// syncs took (packs and index).
	OnSync func(time.Duration)
	// OnAck, when set before the first Open, is told how long each change that was
	// durable here waited for its acknowledgement to be allowed (law 1).
	OnAck func(time.Duration)
	// OnClosure, when set before the first Open, is told how long each change kept
	// the others of its slot from being run (LAWS §4.3).
	OnClosure func(time.Duration)
}

const (
	filesOpenMax     = 4096    // tables of all indexes
	packFilesMax     = 512     // packs that stay open between two reads
	memTableBytesMax = 8 << 20 // more makes no commit faster
	memTableBytesMin = 1 << 20
	memTablesPerCopy = 2 // one that is filled, one that is flushed or kept for the next
)

func (r *Resources) observeSync(took time.Duration) {
	if r.OnSync != nil {
		r.OnSync(took)
	}
}

func (r *Resources) observeClosure(took time.Duration) {
	if r.OnClosure != nil {
		r.OnClosure(took)
	}
}

// NewResources makes the budgets; cacheBytes are for blocks and memtables, a
// quarter more is for listings.
func NewResources(cacheBytes int64) *Resources {
	return &Resources{cache: pebble.NewCache(cacheBytes), cacheBytes: cacheBytes, files: pebble.NewFileCache(4, filesOpenMax), packs: blob.NewHandles(packFilesMax),
		compactions: index.NewCompactions(compactionsMax(runtime.GOMAXPROCS(0))), listings: newListingCache(cacheBytes / 4),
		large: newLargeTurns(), proofs: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
}

// compactionsMax is how many compactions run at once on so many cores: half of
// them are for those who wait for an answer.
func compactionsMax(cores int) int { return max(2, cores/2) }

// Expect says how many copies will be open, before they are opened: the size of
// their memtables is fixed then.
func (r *Resources) Expect(copies int) { r.copies.Store(int64(copies)) }

// memTableBytes is the size of one copy's memtable.
func (r *Resources) memTableBytes() uint64 {
	share := r.cacheBytes / 2 / memTablesPerCopy / max(1, r.copies.Load())
	return uint64(min(max(share, memTableBytesMin), memTableBytesMax))
}

// Close gives the caches back, after all copies are closed.
func (r *Resources) Close() {
	r.listings.close()
	r.files.Unref()
	r.cache.Unref()
}
