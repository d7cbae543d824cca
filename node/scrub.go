package node

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"mailnode/node/job"
	"mailnode/node/monitor"
	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

const (
	scrubDelay     = time.Minute // after the start, which has enough to read
	scrubRateLeast = 1 << 20     // bytes a second
	scrubPause     = time.Minute // before the next look at whether a round is due
)

// scrubState is where the background scrub is: kept in a file, so that a restart
// does not begin again. Time is what this node has spent in the round, counted
// while it ran (law 11).
type scrubState struct {
	Slot   slot.ID `json:"slot"`
	Pack   uint32  `json:"pack"`
	SpentS int64   `json:"spent_s"`
	Idle   bool    `json:"idle,omitempty"` // all has been read in this round
}

func (n *Node) scrubFile() string { return filepath.Join(n.cfg.Node.Data, "scrub.json") }

// scrubs reads all copies of this node in turn, all the time, so slowly that a
// round takes about nine tenths of scrub_every.
func (n *Node) scrubs(ctx context.Context) {
	r := &scrubRound{n: n}
	if b, err := os.ReadFile(n.scrubFile()); err == nil {
		n.logErr("read "+n.scrubFile(), json.Unmarshal(b, &r.st))
	}
	if !pause(ctx, n.scrubDelay) {
		return
	}
	r.before, r.since = time.Duration(r.st.SpentS)*time.Second, n.clock.Mono()
	for ctx.Err() == nil {
		if !r.st.Idle {
			r.run(ctx)
		}
		for r.spent() < n.cfg.ScrubEvery && pause(ctx, min(scrubPause, n.cfg.ScrubEvery)) {
			r.again(ctx)
			r.save()
		}
		if ctx.Err() == nil {
			r.st, r.before, r.since = scrubState{}, 0, n.clock.Mono()
			r.save()
		}
	}
}

// scrubRound is one time through all copies.
type scrubRound struct {
	n      *Node
	st     scrubState
	before time.Duration // of the round, spent before since
	since  time.Duration // Clock.Mono
	rate   int64         // bytes a second

	skipped []*keeper // could not be read when their turn came
}

func (r *scrubRound) spent() time.Duration { return r.before + r.n.clock.Mono() - r.since }

func (r *scrubRound) save() {
	r.st.SpentS = int64(r.spent() / time.Second)
	b, err := json.Marshal(r.st)
	if err == nil {
		err = disk.ReplaceFile(r.n.scrubFile(), b)
	}
	r.n.logErr("remember where the scrub is", err)
}

// run scrubs the copies from where the round stands.
func (r *scrubRound) run(ctx context.Context) {
	keepers := r.n.copies.all()
	slices.SortFunc(keepers, func(a, b *keeper) int { return int(a.id) - int(b.id) })
	var weight atomic.Int64
	for _, k := range keepers {
		if s := r.n.copies.slot(k.id); s != nil {
			r.n.logErr("weigh slot", k.unlessFailed(ctx, func(context.Context) error {
				n, err := s.Weight()
				weight.Add(n)
				return err
			}))
		}
	}
	r.rate, r.skipped = max(scrubRateLeast, int64(float64(weight.Load())/(0.9*r.n.cfg.ScrubEvery.Seconds()))), nil
	for _, k := range keepers {
		if k.id < r.st.Slot || ctx.Err() != nil {
			continue
		}
		if k.id > r.st.Slot {
			r.st.Slot, r.st.Pack = k.id, 0
		}
		if !r.one(ctx, k) {
			r.skipped = append(r.skipped, k)
		}
	}
	if ctx.Err() == nil {
		r.st = scrubState{Idle: true}
		r.save()
	}
}

// again looks at copies that could not be read when their turn came.
func (r *scrubRound) again(ctx context.Context) {
	if !r.st.Idle {
		return
	}
	r.skipped = slices.DeleteFunc(r.skipped, func(k *keeper) bool {
		r.st.Pack = 0
		return ctx.Err() == nil && r.one(ctx, k)
	})
}

// one scrubs one copy, as a job that operators see and may stop; false when the
// copy is not open, or being built.
func (r *scrubRound) one(ctx context.Context, k *keeper) bool {
	if s := r.n.copies.slot(k.id); s == nil || s.Building() || s.Failure() != nil {
		return false
	}
	r.save()
	j := r.n.jobs.Start(job.Spec{Kind: job.Scrub, Slot: k.id.String(), What: "in the background", RateBytesPerSec: r.rate, Alone: true},
		k.bounded(func(ctx context.Context, p *job.Progress) error {
			a := &audit{k: k, p: p, ctx: ctx, repair: true}
			err := a.run(r.st.Pack, func(pack uint32) {
				if ctx.Err() != nil {
					return // left behind when the copy failed
				}
				r.st.Pack = pack
				r.save()
			})
			if a.found > 0 {
				k.log.Warn("scrub has found damage", "findings", a.found, "left", a.left)
			}
			return err
		}))
	select {
	case <-j.Over():
	case <-ctx.Done():
		<-j.Over() // it was told to end as well, and uses the state
	}
	return true
}

// compareAgainEvery is how often copies that were found to differ are compared
// again: a scrub comes back only after days, and they are healed within minutes.
const compareAgainEvery = time.Minute

// comparesAgain compares copies that differed until they no longer do.
func (n *Node) comparesAgain(ctx context.Context) {
	every(ctx, compareAgainEvery, func() {
		for _, k := range n.copies.all() {
			if n.conditions.Holds(monitor.CopyDigestDiffers, k.id.String()) {
				n.compareAgain(ctx, k)
			}
		}
	})
}

// compareAgain is one comparison, as a job; a copy that cannot be read now has its
// turn a minute later.
func (n *Node) compareAgain(ctx context.Context, k *keeper) {
	s := n.copies.slot(k.id)
	if s == nil || s.Building() || s.Failure() != nil {
		return
	}
	j := n.jobs.Start(job.Spec{Kind: job.Scrub, Slot: k.id.String(), What: "compares copies that differed", Alone: true},
		k.bounded(func(ctx context.Context, p *job.Progress) error {
			a := &audit{k: k, s: s, p: p, ctx: ctx, repair: true, indexOK: true}
			return a.compareAll()
		}))
	select {
	case <-j.Over():
	case <-ctx.Done():
		<-j.Over()
	}
}
