package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mailnode/figures"
	"mailnode/node/job"
	"mailnode/storage/repl"
	"mailnode/storage/slot"
)

// fillsMax is how many copies of a node are filled at once.
const fillsMax = 2

// filledFrom runs the state transfers of a copy as jobs: few at once, at a bounded rate,
// with progress (law 12). What a restart or a new master cuts off begins again; bodies that
// are here are not fetched again.
func (k *keeper) filledFrom(master slot.NodeName) func(context.Context, func(context.Context, repl.FillProgress) error) error {
	return func(ctx context.Context, transfer func(context.Context, repl.FillProgress) error) error {
		j := k.n.jobs.Start(job.Spec{Kind: job.Resync, Slot: k.id.String(), What: "fill from " + string(master), RateBytesPerSec: k.n.cfg.FillBytesPerSec},
			func(jctx context.Context, p *job.Progress) error {
				ctx, cancel := context.WithCancel(ctx)
				defer cancel()
				defer context.AfterFunc(jctx, cancel)()
				return transfer(ctx, p)
			})
		k.filling.Store(j)
		select {
		case <-j.Over():
		case <-ctx.Done():
			j.Stop()
			<-j.Over()
			return ctx.Err()
		}
		if err := j.Err(); err != nil {
			return err
		}
		if j.Status().State != job.Done {
			return fmt.Errorf("fill copy of %s: %w", k.id, errFillStopped)
		}
		return nil
	}
}

// fillText says how far the fill of a copy has come, "" when none is under way.
func (k *keeper) fillText() string {
	j := k.filling.Load()
	if j == nil {
		return ""
	}
	switch s := j.Status(); {
	case s.State == job.Queued:
		return "waits for its turn"
	case s.State != job.Running:
		return ""
	case s.BytesTotal == 0:
		return figures.Size(s.BytesDone) + " of its records"
	case s.EtaS < 0:
		return fmt.Sprintf("%d %% of %s", int(100*s.Done), figures.Size(s.BytesTotal))
	default:
		return fmt.Sprintf("%d %% of %s, about %s left", int(100*s.Done), figures.Size(s.BytesTotal), figures.Age(time.Duration(s.EtaS)*time.Second))
	}
}

// errFillStopped says that a fill did not come to its end, though nothing went wrong.
var errFillStopped = errors.New("it was stopped; it begins again")
