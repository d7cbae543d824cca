package local

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"mailnode/storage"
	"mailnode/storage/event"
)

const (
	// listingIdle is how long a listing is kept that nobody asks for.
	listingIdle = 2 * time.Minute
	// listingShare is the part of the budget that one listing may take; what is
	// larger is read from the records each time.
	listingShare = 2
	// directScanMax is how wide a range of UIDs may be for which no listing is made: a
	// client that asks for a few messages does not wait for all.
	directScanMax = 1024
)

// listingCache keeps the listings of all slots of a node within one budget.
type listingCache struct {
	bytesMax int64

	mu      sync.Mutex
	shelves map[shelfKey]*shelf
	bytes   int64 // of all listings
	sweeper *time.Timer
	closed  bool
}

type shelfKey struct {
	s   *Slot
	ref storage.Ref
}

// shelf is a mailbox's place in the cache.
type shelf struct {
	key     shelfKey
	turn    chan struct{} // capacity 1: filled by the caller that builds, others wait
	current atomic.Pointer[listing]
	used    atomic.Int64 // the slot's Clock.Mono when it was last asked for
	bytes   int64        // counted in listingCache.bytes; guarded by its mu
	gone    bool         // no longer in the cache; guarded by its mu
}

func newListingCache(bytesMax int64) *listingCache {
	return &listingCache{bytesMax: bytesMax, shelves: map[shelfKey]*shelf{}}
}

// shelf finds a mailbox's shelf; nil when there is none and create is false.
func (c *listingCache) shelf(k shelfKey, create bool) *shelf {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.shelves[k]
	if h == nil && create && !c.closed {
		h = &shelf{key: k, turn: make(chan struct{}, 1)}
		c.shelves[k] = h
		c.wakeLater()
	}
	if h != nil {
		h.used.Store(int64(k.s.o.Clock.Mono()))
	}
	return h
}

// put shows a listing to all, unless the slot's whole state was replaced meanwhile: then
// the older listing goes too, since a part of the new one may lie in its arrays. Others
// go when there is no room.
func (c *listingCache) put(h *shelf, l *listing) {
	bytes := l.bytes()
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.gone {
		return
	}
	if l.generation != h.key.s.generation.Load() {
		c.remove(h)
		return
	}
	c.bytes += bytes - h.bytes
	h.bytes = bytes
	h.current.Store(l)
	if c.bytes <= c.bytesMax {
		return
	}
	// Those that were unused for longest go, down to nine tenths of the budget, so that
	// this is not done again for each message that comes in.
	all := make([]*shelf, 0, len(c.shelves))
	for _, o := range c.shelves {
		if o != h {
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b *shelf) int { return cmp.Compare(a.used.Load(), b.used.Load()) })
	for _, o := range all {
		if c.bytes <= c.bytesMax/10*9 {
			return
		}
		c.remove(o)
	}
	if c.bytes > c.bytesMax {
		c.remove(h)
	}
}

// remove forgets a shelf; the caller holds mu.
func (c *listingCache) remove(h *shelf) {
	delete(c.shelves, h.key)
	c.bytes -= h.bytes
	h.bytes, h.gone = 0, true
	h.current.Store(nil)
}

// clear takes a shelf's listing away.
func (c *listingCache) clear(h *shelf) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes -= h.bytes
	h.bytes = 0
	h.current.Store(nil)
}

// forget forgets a mailbox's listing.
func (c *listingCache) forget(s *Slot, ref storage.Ref) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.shelves[shelfKey{s, ref}]; h != nil {
		c.remove(h)
	}
}

// drop forgets all listings of a slot.
func (c *listingCache) drop(s *Slot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, h := range c.shelves {
		if k.s == s {
			c.remove(h)
		}
	}
}

// sweep forgets listings that nobody has asked for.
func (c *listingCache) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, h := range c.shelves {
		if k.s.o.Clock.Mono()-time.Duration(h.used.Load()) >= listingIdle {
			c.remove(h)
		}
	}
	c.sweeper = nil
	if len(c.shelves) > 0 {
		c.wakeLater()
	}
}

// wakeLater has sweep run later; without listings there is no timer. mu is held.
func (c *listingCache) wakeLater() {
	if c.sweeper == nil && !c.closed {
		c.sweeper = time.AfterFunc(listingIdle/4, c.sweep)
	}
}

func (c *listingCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.sweeper != nil {
		c.sweeper.Stop()
	}
	clear(c.shelves)
	c.bytes = 0
}

// listing returns a mailbox's listing at the state of v or, unless exact, a later
// durable one. Nil means that there is none: build was false and none is at
// hand, or the mailbox is too large for one. One caller builds, others wait.
func (m *Master) listing(ctx context.Context, v *view, box *event.MailboxRecord, build, exact bool) (*listing, error) {
	var st event.MailboxStats
	if _, err := event.Load(v, event.StatsKey(box.Ref()), &st); err != nil {
		return nil, err
	}
	cache := m.s.o.Resources.listings
	h := cache.shelf(shelfKey{m.s, box.Ref()}, build)
	if h == nil {
		return nil, nil
	}
	usable := func(l *listing) bool { return l.fits(v, &st) || !exact && l.newer(v) }
	if l := h.current.Load(); usable(l) {
		return l, nil
	}
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return nil, storage.Errorf(storage.ErrUnavailable, "slot %s: %w", m.s.o.Slot, ctx.Err())
	}
	old := h.current.Load()
	if usable(old) {
		return old, nil
	}
	if old != nil && (old.generation > v.generation || old.newer(v)) {
		return nil, nil // what v shows is past
	}
	l, err := (*listing)(nil), errListing
	if old != nil {
		if l, err = old.catchUp(v, box.Ref(), box, &st); err != nil {
			cache.clear(h) // half of a newer one lies in its arrays
		}
	}
	if err == errListing && build {
		l, err = buildListing(v, box.Ref(), &st, cache.bytesMax/listingShare)
	}
	if err == errListing {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	cache.put(h, l)
	return l, nil
}
