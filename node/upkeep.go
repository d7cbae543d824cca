package node

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"mailnode/storage"
	"mailnode/storage/slot"
)

const (
	// upkeepEvery is how often each copy is looked after. What is freed may be as
	// much later than its window says.
	upkeepEvery = time.Hour
	// upkeepFirst is when it begins after a start: what a start does is urgent.
	upkeepFirst = 5 * time.Minute
)

// upkeep looks after this node's copies, one after another and spread over the
// period, until ctx ends. Nothing remembers how far it got: each step finds again
// what is to be done, and goes on where an earlier one was cut off.
func (n *Node) upkeep(ctx context.Context) {
	wait := min(upkeepFirst, n.upkeepEvery)
	var last *slot.ID
	for pause(ctx, wait) {
		k, copies := n.copies.after(last)
		wait = n.upkeepEvery / time.Duration(max(1, copies))
		if k == nil {
			continue
		}
		last = &k.id
		if err := k.unlessFailed(ctx, k.upkeep); err != nil && ctx.Err() == nil && !errors.Is(err, storage.ErrNotMaster) {
			k.log.Warn("upkeep of a copy", "err", err)
		}
	}
}

// after returns the keeper of the next slot in turn (nil: there is none), and how
// many there are.
func (c *copies) after(last *slot.ID) (*keeper, int) {
	all := c.all()
	if len(all) == 0 {
		return nil, 0
	}
	slices.SortFunc(all, func(a, b *keeper) int { return cmp.Compare(a.id, b.id) })
	at := 0
	if last != nil {
		at = slices.IndexFunc(all, func(k *keeper) bool { return k.id > *last })
	}
	return all[max(0, at)], len(all)
}
