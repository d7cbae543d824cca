package repl

import (
	"context"
	"errors"
	"sync"
	"time"

	"mailnode/storage/repl/ack"
)

const tickEvery = 100 * time.Millisecond

// Run tells the decision of time and of what Raft has, and does what it asks for,
// until ctx ends.
func (f *Feed) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	marks := make(chan ack.Action, 16) // written one after the other, in the order in which they were decided
	wg.Go(func() {
		for {
			select {
			case a := <-marks:
				f.mark(ctx, a)
			case <-ctx.Done():
				return
			}
		}
	})
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for {
		for _, a := range f.take() {
			switch a := a.(type) {
			case ack.Propose:
				wg.Go(func() { f.record(ctx, a) })
				continue
			case ack.Drop:
				wg.Go(func() { f.drop(ctx, a) })
				continue
			}
			select {
			case marks <- a:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-f.work:
		case <-t.C:
			f.tick()
		}
	}
}

func (f *Feed) take() []ack.Action {
	f.mu.Lock()
	defer f.mu.Unlock()
	todo := f.todo
	f.todo = nil
	return todo
}

func (f *Feed) tick() {
	f.learn()
	head, err := f.o.Slot.Head()
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.o.Clock.Mono()
	f.observe(head.Position, now)
	f.step(ack.Tick{At: now, Head: head.Position})
}

// learn looks at what Raft has. A record of a lower epoch is what this node has
// not applied yet.
func (f *Feed) learn() {
	r := f.o.Recorder.Recorded(f.o.Slot.ID())
	if r.Epoch > f.o.Epoch {
		f.fenced("this node's Raft")
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Epoch == f.o.Epoch && r.Record.Version > f.st.Recorded().Version {
		f.log.Info("protection recorded", "protected", r.Record.Protected, "in_sync", r.Record.InSync, "since", r.Record.Since)
		f.step(ack.Recorded{At: f.o.Clock.Mono(), Record: r.Record, Listed: r.Listed, Leaving: r.Leaving})
	}
}

// record proposes a record and tells how that ended.
func (f *Feed) record(ctx context.Context, p ack.Propose) {
	rctx, cancel := context.WithTimeout(ctx, ack.RecordWithin)
	outcome, err := f.o.Recorder.Record(rctx, f.o.Slot.ID(), f.o.Epoch, p.Record)
	cancel()
	if errors.Is(err, ErrEpochOver) {
		f.fenced("the answer to a record")
		return
	}
	if err != nil {
		f.log.Warn("protection not recorded", "protected", p.Record.Protected, "in_sync", p.Record.InSync, "because", p.Why, "err", err)
	}
	f.learn()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.step(ack.Proposed{At: f.o.Clock.Mono(), Record: p.Record, Outcome: outcome})
}

// drop has Raft drop a replica and tells that this has ended.
func (f *Feed) drop(ctx context.Context, d ack.Drop) {
	f.log.Info("the replica is dropped: no record counts it any more", "replica", d.Node)
	rctx, cancel := context.WithTimeout(ctx, ack.RecordWithin)
	err := f.o.Recorder.Drop(rctx, f.o.Slot.ID(), f.o.Epoch, d)
	cancel()
	if err != nil {
		f.log.Info("replica not dropped yet", "replica", d.Node, "err", err)
	}
	f.learn()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.step(ack.Dropped{At: f.o.Clock.Mono(), Node: d.Node})
}

// mark writes the copy's mark "alone", or takes it away.
func (f *Feed) mark(ctx context.Context, a ack.Action) {
	m, set := a.(ack.MarkAlone)
	if !set {
		if err := f.o.Slot.ClearAlone(ctx); err != nil {
			f.log.Warn("clear the mark of what was acknowledged alone", "err", err)
		}
		return
	}
	err := f.o.Slot.MarkAlone(ctx, m.Since)
	if err == nil {
		f.log.Warn("changes are acknowledged with no replica's confirmation from here on", "since", m.Since)
	} else {
		f.log.Error("mark what is acknowledged alone", "err", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.step(ack.Marked{At: f.o.Clock.Mono(), Since: m.Since, Failed: err != nil})
}
