package repl

import (
	"context"
	"slices"
	"time"

	"mailnode/storage/slot"
)

// Run notices time passing until ctx ends: it declares the slot unprotected when
// nothing moves, and protected again when a replica has been at the head.
func (f *Feed) Run(ctx context.Context) {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			f.tick(ctx)
		}
	}
}

func (f *Feed) tick(ctx context.Context) {
	head, err := f.o.Slot.Head()
	if err != nil {
		return
	}
	now := f.o.Clock.Mono()
	f.mu.Lock()
	f.observe(head.Position, now)
	stalled := f.waits && f.waiting > 0 && f.stalled(now)
	ready := f.candidates(now)
	unsure, again := f.unsure, f.unsure && now >= f.tryAfter
	f.mu.Unlock()
	switch {
	case !f.o.WaitForReplica:
	case stalled:
		f.goAlone(ctx)
	case again:
		f.recordProtected(ctx)
	case unsure:
	case len(ready) > 0 && !f.isProtected():
		f.protect(ctx, ready)
	case f.isProtected():
		f.adjust(ctx, ready, now)
	case f.o.Recorder.RecordedProtected(f.o.Slot.ID(), f.o.Epoch):
		// A record whose outcome was not known came true after all. It is not
		// true: acknowledgements do not wait.
		f.goAlone(ctx)
	}
}

func (f *Feed) isProtected() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.protected
}

// observe remembers where the head was, and who is at it.
func (f *Feed) observe(head slot.Position, now time.Duration) {
	if n := len(f.heads); n == 0 || f.heads[n-1].position != head {
		f.heads = append(f.heads, headAt{head, now})
	}
	// Entries that every replica has passed, and all but the last 4,000, go.
	least := head
	for _, r := range f.replicas {
		least = min(least, r.acked)
	}
	drop := 0
	for drop < len(f.heads)-1 && (f.heads[drop].position <= least || len(f.heads)-drop > 4000) {
		drop++
	}
	f.heads = slices.Delete(f.heads, 0, drop)
	for _, r := range f.replicas {
		at := r.connected && r.viable && f.lag(r) < behindAfter
		if at && !r.atHead {
			r.atHeadFrom = now
		}
		r.atHead = at
	}
}

// stalled says whether no replica that counts has moved for AckTimeout while
// changes wait.
func (f *Feed) stalled(now time.Duration) bool {
	last := f.waitSince
	for _, n := range f.inSync {
		if r := f.replicas[n]; r != nil && r.viable && r.connected {
			last = max(last, r.progress)
		}
	}
	return now-last >= f.o.AckTimeout
}

// candidates lists replicas that have been at the head for ProtectAfter.
func (f *Feed) candidates(now time.Duration) []slot.NodeName {
	var out []slot.NodeName
	for _, r := range f.replicas {
		if r.atHead && now-r.atHeadFrom >= f.o.ProtectAfter {
			out = append(out, r.name)
		}
	}
	slices.Sort(out)
	return out
}

// goAlone records that the slot is unprotected, then lets waiting changes be
// acknowledged; without a quorum it goes on too (law 1).
func (f *Feed) goAlone(ctx context.Context) {
	f.mu.Lock()
	since := max(f.acked(), f.released)
	was := f.protected || f.unsure
	f.mu.Unlock()
	if was || f.o.Recorder.RecordedProtected(f.o.Slot.ID(), f.o.Epoch) {
		rctx, cancel := context.WithTimeout(ctx, recordWithin)
		err := f.o.Recorder.SetUnprotected(rctx, f.o.Slot.ID(), f.o.Epoch, since)
		cancel()
		f.log.Warn("slot unprotected: no replica moves", "since", since, "record_err", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waits, f.protected, f.unsure, f.inSync = false, false, false, nil
	for _, r := range f.replicas {
		r.atHead = false
	}
	f.changed()
}

// protect makes changes wait for the candidates first, and records them as
// in-sync only when they hold everything acknowledged before.
func (f *Feed) protect(ctx context.Context, names []slot.NodeName) {
	f.mu.Lock()
	f.inSync, f.waits = names, true
	f.waitSince = f.o.Clock.Mono()
	goal := f.released
	f.mu.Unlock()
	if f.reach(ctx, goal, names) {
		f.recordProtected(ctx)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waits, f.inSync = false, nil
	f.changed()
}

// recordProtected records the in-sync replicas, for which changes wait already.
// While it is not known whether Raft has the record, they go on waiting: a plan
// that rests on it would else lose what was acknowledged meanwhile (law 1).
func (f *Feed) recordProtected(ctx context.Context) {
	f.mu.Lock()
	names := slices.Clone(f.inSync)
	f.mu.Unlock()
	rctx, cancel := context.WithTimeout(ctx, recordWithin)
	err := f.o.Recorder.SetProtected(rctx, f.o.Slot.ID(), f.o.Epoch, names)
	cancel()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.protected, f.unsure = err == nil, err != nil; f.unsure {
		f.tryAfter = f.o.Clock.Mono() + recordAgain
		f.log.Debug("not known whether the slot is recorded as protected", "in_sync", names, "err", err)
	} else {
		f.log.Info("slot protected", "in_sync", names)
	}
	f.changed()
}

// reach waits until each of names has made p durable, at most AckTimeout.
func (f *Feed) reach(ctx context.Context, p slot.Position, names []slot.NodeName) bool {
	timeout := time.NewTimer(f.o.AckTimeout)
	defer timeout.Stop()
	for {
		f.mu.Lock()
		there := f.closed == nil
		for _, n := range names {
			r := f.replicas[n]
			there = there && r != nil && r.viable && r.acked >= p
		}
		moved := f.moved
		f.mu.Unlock()
		if there {
			return true
		}
		select {
		case <-moved:
		case <-timeout.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// adjust adds replicas that have caught up to the in-sync set, and takes out
// those that are gone while another holds everything acknowledged.
func (f *Feed) adjust(ctx context.Context, ready []slot.NodeName, now time.Duration) {
	f.mu.Lock()
	var keep []slot.NodeName
	for _, n := range f.inSync {
		r := f.replicas[n]
		if r != nil && r.viable && (r.atHead || now-r.progress < evictAfter) {
			keep = append(keep, n)
		}
	}
	// A replica that goes takes what only it has with it: another that stays must
	// hold everything acknowledged, and from now on only those that stay count,
	// whatever becomes of the record.
	base := f.inSync
	if slices.ContainsFunc(keep, func(n slot.NodeName) bool { return f.replicas[n].acked >= f.released }) {
		base = keep
	}
	want := slices.Clone(base)
	for _, n := range ready {
		if !slices.Contains(want, n) {
			want = append(want, n)
		}
	}
	slices.Sort(want)
	same := slices.Equal(want, f.inSync) || len(base) == 0
	if !same {
		f.inSync = base
	}
	f.mu.Unlock()
	if same {
		return
	}
	rctx, cancel := context.WithTimeout(ctx, recordWithin)
	err := f.o.Recorder.SetInSync(rctx, f.o.Slot.ID(), f.o.Epoch, want)
	cancel()
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.inSync = want
		f.log.Info("in-sync replicas changed", "in_sync", want)
	} else {
		f.log.Debug("in-sync change not recorded", "in_sync", want, "err", err)
	}
	f.changed()
}
