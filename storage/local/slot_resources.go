package local

import (
	"runtime"
	"time"

	"mailnode/storage/blob"
	"mailnode/storage/disk"
	"mailnode/storage/index"
)

// Resources are the node-wide budgets that copies share: those of their indexes, open
// files of packs, listings, the disks.
type Resources struct {
	index    *index.Shared
	packs    *blob.Handles
	large    largeTurns
	proofs   chan struct{} // filled by whoever proves a piece of a large body for a client; first come, first served
	listings *listingCache // of opened mailboxes: a quarter of cacheBytes more
	// Disks are where the copies lie. The node names the folders of its volumes before
	// the first Open.
	Disks disk.Disks
	// OnSync, when set before the first Open, is called with how long each group's
	// syncs took (packs and index).
	OnSync func(time.Duration)
	// OnAck, when set before the first Open, is called with how long each change that
	// was durable here waited for its acknowledgement to be allowed (law 1).
	OnAck func(time.Duration)
	// OnClosure, when set before the first Open, is called with how long each change kept
	// the others of its slot from being run (LAWS §4.3).
	OnClosure func(time.Duration)
}

// packFilesMax is how many packs stay open between two reads.
const packFilesMax = 512

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
	return &Resources{index: index.NewShared(cacheBytes), packs: blob.NewHandles(packFilesMax), listings: newListingCache(cacheBytes / 4),
		large: newLargeTurns(), proofs: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
}

// Expect notes how many copies will be open, before they are opened: the size of their
// memtables is fixed when they are.
func (r *Resources) Expect(copies int) { r.index.Expect(copies) }

// Close releases the caches, after all copies are closed.
func (r *Resources) Close() {
	r.listings.close()
	r.index.Close()
}
