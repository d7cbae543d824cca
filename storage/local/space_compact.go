package local

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/disk"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// Compaction frees the room of bodies that nothing needs any more: what is still needed
// of a pack is copied into a new one, encoded where that saves something, and the old
// pack is removed.
//
// A body in a pack is needed if, and only if, the 'b' record of its ref points
// to just that place. So a pack may go when (1) nobody writes it any more,
// (2) no body of it is staged and (3) no 'b' record of the durable view points into it,
// after a barrier in the committer's queue behind all that was staged before: from then
// on none ever will. A crash at any point does no harm: the copies are durable before
// the 'b' records move, and these before the old pack goes; what a crash leaves over is
// a pack that nothing points into.

// CompactOptions say what is to be compacted, and how fast.
type CompactOptions struct {
	// DeadShareMin is the share of a pack's bytes that must be dead for the rest
	// to be copied; 0: a half. What is all dead goes in any case.
	DeadShareMin float64
	// Compress also copies packs that were never compacted, for zstd's sake, once
	// they were seen CompressAfter ago on the slot clock.
	Compress      bool
	CompressAfter time.Duration
	// Spend, when not nil, is called before so many bytes are read or written, and waits
	// for the rate (law 12).
	Spend func(ctx context.Context, bytes int64) error
	// Progress, when not nil, is called with how far the copying is.
	Progress func(CompactProgress)
}

func (o CompactOptions) withDefaults() CompactOptions {
	if o.DeadShareMin == 0 {
		o.DeadShareMin = deadShareDefault
	}
	return o
}

// CompactProgress counts bytes to be copied.
type CompactProgress struct{ BytesDone, BytesAll int64 }

// CompactResult is what a compaction did, also when it ended early.
type CompactResult struct {
	Examined     int   // packs that nobody writes any more
	Removed      int   // packs
	RemovedBytes int64 // in them
	Kept         int   // packs that would have been removed, but are pinned or hold a damaged body
	Moved        int   // bodies
	WrittenBytes int64 // for these, as stored
	Damaged      int   // bodies that could not be copied; each was reported
}

const (
	deadShareDefault = 0.5
	// compactBatch bounds how many bodies' places are held in memory.
	compactBatch = 1 << 15
	// A pack under 1/16 of the full size is small: restarts leave such packs. This many
	// are copied together.
	smallPackPart   = 16
	smallPacksMin   = 8
	keyCompaction   = "compaction" // slot clock at the start of the last one
	keyPackSeen     = "pack/"      // number -> slot clock when it was first seen closed
	ctxCheckRecords = 1024
)

// CompactPacks compacts this copy's packs. It can be cut off at any time; the next one
// goes on from there. It returns ErrUnavailable while the copy is building, while another
// compaction runs, and for errors of the disk; ErrDiskFull when there is no room for the
// copies. Mail is not concerned.
func (s *Slot) CompactPacks(ctx context.Context, o CompactOptions) (CompactResult, error) {
	if !s.pins.compacting.TryLock() {
		return CompactResult{}, storage.Errorf(storage.ErrUnavailable, "compact packs of %s: a compaction is under way", s.o.Slot)
	}
	defer s.pins.compacting.Unlock()
	ctx, cancel := s.whileOpen(ctx)
	defer cancel()
	c := &compaction{s: s, o: o.withDefaults()}
	err := c.run(ctx)
	if err != nil && ctx.Err() != nil {
		err = storage.Errorf(storage.ErrUnavailable, "compact packs of %s: %w", s.o.Slot, context.Cause(ctx))
	}
	return c.result, err
}

// stopCompaction waits until no compaction runs, and lets none begin.
func (s *Slot) stopCompaction() { s.pins.compacting.Lock() }

type compaction struct {
	s      *Slot
	o      CompactOptions
	result CompactResult
	all    int64 // bytes to copy
	done   int64
}

// livePack is what is needed of a pack.
type livePack struct {
	blob.Pack
	records int
	bytes   int64
}

// moving is a body on its way.
type moving struct {
	ref  slot.BodyRef
	from blob.Location
	to   blob.Location
}

func (c *compaction) run(ctx context.Context) error {
	packs, err := c.settledPacks(ctx)
	if err != nil {
		return err
	}
	picked, err := c.pick(ctx, packs)
	if err != nil {
		return err
	}
	for len(picked) > 0 {
		n, records := 0, 0
		for n == 0 || n < len(picked) && records+picked[n].records <= compactBatch {
			records += picked[n].records
			n++
		}
		if err := c.rewrite(ctx, picked[:n]); err != nil {
			return err
		}
		picked = picked[n:]
	}
	return nil
}

// allowed reports whether bodies can be told from dead ones now: not while a state
// transfer fills the index, and not when the index has lost everything, since a rebuild
// will need what the packs hold.
func (c *compaction) allowed(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.s.building.Load() {
		return storage.Errorf(storage.ErrUnavailable, "compact packs of %s: this copy is being built", c.s.o.Slot)
	}
	return c.s.read(func(v *view) error {
		if at, _, err := v.head(); err != nil || at == 0 {
			return cmp.Or(err, storage.Errorf(storage.ErrUnavailable, "compact packs of %s: the index is empty", c.s.o.Slot))
		}
		return nil
	})
}

// settledPacks returns the closed packs without a staged body, with what 'b' records
// point to in them, and makes sure that no other record ever will.
func (c *compaction) settledPacks(ctx context.Context) ([]*livePack, error) {
	s := c.s
	if err := c.allowed(ctx); err != nil {
		return nil, err
	}
	closed, err := s.packs.ClosedPacks()
	if err != nil {
		return nil, storage.Errorf(storage.ErrUnavailable, "compact packs of %s: %w", s.o.Slot, err)
	}
	c.result.Examined = len(closed)
	s.forgetForeign(closed)
	unsettled := s.unsettled() // after ClosedPacks: no Put into these can begin any more
	// A change may be in the queue, or in a batch, whose caller gave up and took
	// its body off the stage. The barrier comes behind it.
	if err := s.do(ctx, func(t *txn) error {
		return t.b.Set(localKey(keyCompaction), be.AppendUint64(nil, t.clock), nil)
	}); err != nil {
		return nil, err
	}
	var out []*livePack
	by := map[uint32]*livePack{}
	for _, p := range closed {
		if !unsettled(p.Number) {
			by[p.Number] = &livePack{Pack: p}
			out = append(out, by[p.Number])
		}
	}
	err = c.eachBody(ctx, func(_ slot.BodyRef, loc blob.Location) {
		if p := by[loc.Pack]; p != nil {
			p.records++
			p.bytes += loc.RecordBytes()
		}
	})
	return out, err
}

// eachBody calls fn for every body of the durable view.
func (c *compaction) eachBody(ctx context.Context, fn func(slot.BodyRef, blob.Location)) error {
	n := 0
	return c.s.read(func(v *view) error {
		return each(v, event.SpanOf([]byte{event.PrefixBody}), func(key, value []byte) error {
			if n++; n%ctxCheckRecords == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			loc, err := decodeLocation(value)
			if err != nil || len(key) != 1+len(slot.GUID{})+8 {
				// A record that cannot be read may point anywhere: no pack may go.
				return storage.Errorf(storage.ErrCorrupt, "compact packs: the place of body %x cannot be read: %v", key[1:], err)
			}
			ref := slot.BodyRef{ID: slot.BodyID(be.Uint64(key[1+len(slot.GUID{}):]))}
			copy(ref.GUID[:], key[1:])
			fn(ref, loc)
			return nil
		})
	})
}

// CompactionDue reports whether CompactPacks would remove or copy anything now.
func (s *Slot) CompactionDue(ctx context.Context, o CompactOptions) (bool, error) {
	if !s.pins.compacting.TryLock() {
		return false, nil // one is under way
	}
	defer s.pins.compacting.Unlock()
	c := &compaction{s: s, o: o.withDefaults()}
	packs, err := c.settledPacks(ctx)
	if err != nil {
		return false, err
	}
	dead, picked, err := c.choose(ctx, packs)
	return len(dead)+len(picked) > 0, err
}

// pick removes the packs that are all dead and chooses those to copy, those with the
// largest dead share first: on a full disk they free the most room for the least.
func (c *compaction) pick(ctx context.Context, packs []*livePack) ([]*livePack, error) {
	dead, picked, err := c.choose(ctx, packs)
	if err != nil {
		return nil, err
	}
	for _, p := range dead {
		if err := c.remove(ctx, p); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(picked, func(a, b *livePack) int { return cmp.Compare(b.deadShare(), a.deadShare()) })
	for _, p := range picked {
		c.all += p.bytes
	}
	return picked, nil
}

// choose finds the packs that are all dead, and those that are to be copied.
func (c *compaction) choose(ctx context.Context, packs []*livePack) (dead, picked []*livePack, err error) {
	old, err := c.oldPacks(ctx, packs)
	if err != nil {
		return nil, nil, err
	}
	c.s.pins.mu.Lock()
	pinned, err := c.s.pinnedUpTo()
	c.s.pins.mu.Unlock()
	if err != nil {
		return nil, nil, storage.Errorf(storage.ErrUnavailable, "compact packs of %s: %w", c.s.o.Slot, err)
	}
	var small []*livePack
	for _, p := range packs {
		wanted := c.o.DeadShareMin <= p.deadShare()
		switch {
		case p.records == 0:
			dead = append(dead, p)
		case wanted && p.Number <= pinned: // copying it would only take more room
			c.result.Kept++
		case p.Number <= pinned:
		case wanted || old[p.Number]:
			picked = append(picked, p)
		case p.Bytes < c.s.packs.PackBytesMax()/smallPackPart:
			small = append(small, p)
		}
	}
	if len(small) >= smallPacksMin {
		picked = append(picked, small...)
	}
	return dead, picked, nil
}

func (p *livePack) deadShare() float64 {
	if p.Bytes == 0 {
		return 1
	}
	return 1 - float64(p.bytes)/float64(p.Bytes)
}

// oldPacks returns the packs that are old enough for zstd and were never compacted. A
// pack's age runs from the first compaction that saw it closed.
func (c *compaction) oldPacks(ctx context.Context, packs []*livePack) (map[uint32]bool, error) {
	old := map[uint32]bool{}
	if !c.o.Compress {
		return old, nil
	}
	seen := map[uint32]uint64{}
	var now uint64
	if err := c.s.read(func(v *view) (err error) {
		if _, now, err = v.head(); err != nil {
			return err
		}
		return each(v, event.SpanOf(localKey(keyPackSeen)), func(key, value []byte) error {
			if len(key) == len(keyPackSeen)+5 && len(value) == 8 {
				seen[be.Uint32(key[len(keyPackSeen)+1:])] = be.Uint64(value)
			}
			return nil
		})
	}); err != nil {
		return nil, err
	}
	var fresh []uint32
	for _, p := range packs {
		at, known := seen[p.Number]
		delete(seen, p.Number)
		if p.records == 0 {
			continue
		}
		if rewritten, err := c.s.packs.Rewritten(p.Number); err != nil || rewritten {
			continue // damage is found by reading the bodies, not here
		}
		if !known {
			at, fresh = now, append(fresh, p.Number)
		}
		old[p.Number] = time.Duration(now-min(at, now))*time.Millisecond >= c.o.CompressAfter
	}
	for part := range slices.Chunk(fresh, storage.MaxTxnRecords) {
		if err := c.s.do(ctx, func(t *txn) error {
			for _, n := range part {
				if err := t.b.Set(packSeenKey(n), be.AppendUint64(nil, now), nil); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return old, nil
}

func packSeenKey(n uint32) []byte { return be.AppendUint32(localKey(keyPackSeen), n) }

// rewrite moves what is needed out of some packs, and removes them.
func (c *compaction) rewrite(ctx context.Context, packs []*livePack) error {
	in := map[uint32][]moving{}
	for _, p := range packs {
		in[p.Number] = nil
	}
	if err := c.eachBody(ctx, func(ref slot.BodyRef, loc blob.Location) {
		if list, ok := in[loc.Pack]; ok {
			in[loc.Pack] = append(list, moving{ref: ref, from: loc})
		}
	}); err != nil {
		return err
	}
	rw, err := c.s.packs.NewRewriter()
	if err != nil {
		return storage.Errorf(storage.ErrUnavailable, "compact packs of %s: %w", c.s.o.Slot, err)
	}
	defer rw.Close()
	for _, p := range packs {
		list := in[p.Number]
		slices.SortFunc(list, func(a, b moving) int { return cmp.Compare(a.from.Offset, b.from.Offset) })
		for part := range slices.Chunk(list, storage.MaxTxnRecords) {
			if err := c.move(ctx, rw, part); err != nil {
				return err
			}
		}
	}
	return c.removeEmpty(ctx, packs)
}

// move copies bodies and then lets their 'b' records follow.
func (c *compaction) move(ctx context.Context, rw *blob.Rewriter, list []moving) error {
	s := c.s
	if err := c.allowed(ctx); err != nil {
		return err
	}
	copied := make([]moving, 0, len(list))
	var written int64
	for _, m := range list {
		room, err := s.space.hold(disk.Grow, m.from.RecordBytes())
		if err != nil {
			return err
		}
		room.release() // the whole of it is written at once
		if err := c.spend(ctx, m.from.RecordBytes()); err != nil {
			return err
		}
		to, err := rw.Copy(m.ref, m.from)
		switch {
		case err == nil:
		case errors.Is(err, blob.ErrDamaged):
			if err := c.reportDamaged(m, err); err != nil {
				return err
			}
			continue
		default:
			return writeError(err)
		}
		m.to = to
		copied = append(copied, m)
		written += to.RecordBytes()
		if err := c.spend(ctx, to.RecordBytes()); err != nil {
			return err
		}
		if c.done += m.from.RecordBytes(); c.o.Progress != nil {
			c.o.Progress(CompactProgress{BytesDone: c.done, BytesAll: max(c.all, c.done)})
		}
	}
	// Durable before any record points to them, and outside the committer: no
	// delivery waits for this sync.
	if err := rw.Sync(); err != nil {
		return writeError(err)
	}
	moved := 0
	if err := s.do(ctx, func(t *txn) (err error) {
		moved, err = t.relocate(copied)
		return err
	}); err != nil {
		return err
	}
	c.result.Moved += moved
	c.result.WrittenBytes += written
	return nil
}

// relocate points the 'b' records of bodies to their new places. It leaves alone a body
// that was freed, or got another place, while it was copied.
func (t *txn) relocate(list []moving) (moved int, err error) {
	here := list[:0:0]
	for _, m := range list {
		value, have, err := t.Get(event.BodyKey(m.ref))
		if err != nil {
			return 0, err
		}
		if have && bytes.Equal(value, encodeLocation(m.from)) {
			here = append(here, m)
		}
	}
	for _, m := range here {
		if err := t.b.Set(event.BodyKey(m.ref), encodeLocation(m.to), nil); err != nil {
			return 0, err
		}
	}
	return len(here), nil
}

// reportDamaged reports a body that could not be copied. Its pack stays: a
// person may still make something of it.
func (c *compaction) reportDamaged(m moving, damage error) error {
	return c.s.read(func(v *view) error {
		loc, err := c.s.locate(v, m.ref)
		if errors.Is(err, storage.ErrNotFound) || err == nil && loc != m.from {
			return nil // freed or repaired meanwhile
		}
		if err != nil {
			return err
		}
		c.result.Damaged++
		c.s.damaged(Damage{Body: m.ref, Err: damage})
		return nil
	})
}

func (c *compaction) spend(ctx context.Context, bytes int64) error {
	if c.o.Spend == nil {
		return ctx.Err()
	}
	return c.o.Spend(ctx, bytes)
}

// removeEmpty removes the packs that no 'b' record points into any more.
func (c *compaction) removeEmpty(ctx context.Context, packs []*livePack) error {
	left := map[uint32]int{}
	if err := c.eachBody(ctx, func(_ slot.BodyRef, loc blob.Location) { left[loc.Pack]++ }); err != nil {
		return err
	}
	for _, p := range packs {
		if left[p.Number] > 0 {
			c.result.Kept++
		} else if err := c.remove(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (c *compaction) remove(ctx context.Context, p *livePack) error {
	if err := c.allowed(ctx); err != nil {
		return err
	}
	removed, err := c.s.removePack(p.Number)
	if err != nil {
		return err
	}
	if !removed {
		c.result.Kept++
		return nil
	}
	c.result.Removed++
	c.result.RemovedBytes += p.Bytes
	return c.s.do(ctx, func(t *txn) error { return t.b.Delete(packSeenKey(p.Number), nil) })
}
