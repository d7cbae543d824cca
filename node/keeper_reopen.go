package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mailnode/node/monitor"
	"mailnode/storage/local"
)

// reopening is what a keeper knows of a copy whose store has stopped.
type reopening struct {
	asked chan chan error // a person asks to open the copy again; capacity 0

	// The run loop's own.
	failed  bool
	pause   time.Duration // before the copy is opened again by itself
	at      time.Duration // Clock.Mono: not before
	lastEnd time.Duration // Clock.Mono of the last failure; 0: none
}

func newReopening() reopening { return reopening{asked: make(chan chan error)} }

const (
	// reopenAfter is how long a copy that has stopped waits, at least, before it is opened
	// again by itself. It doubles with each failure, to reopenAfterMax: each takes memory
	// that only the end of the process gives back.
	reopenAfter    = 5 * time.Second
	reopenAfterMax = 10 * time.Minute
	// calmAfter is when failures before are forgotten.
	calmAfter = time.Hour
)

// failedAt notes a failure.
func (r *reopening) failedAt(now time.Duration) {
	if r.pause *= 2; r.pause == 0 || now-r.lastEnd > calmAfter {
		r.pause = reopenAfter
	}
	r.pause = min(r.pause, reopenAfterMax)
	r.lastEnd, r.at = now, now+r.pause
}

// hasFailed leaves the role of a copy whose store has stopped.
func (k *keeper) hasFailed(s *local.Slot) {
	k.reopen.failed = true
	k.reopen.failedAt(k.n.clock.Mono())
	k.role.end()
	t := monitor.Told{Detail: s.Failure().Error()}
	switch s.Cause() {
	case local.CauseRoom:
		t.Detail += ": it is opened again by itself when there is room"
	case local.CauseHang:
		t.Detail += ": it is opened again by itself when the disk answers"
	}
	k.n.conditions.Tell(true, monitor.SlotFailed, k.id.String(), t)
}

// reopenByItself opens a copy again when what stopped it has passed, and has done no
// harm: there is room again, or the disk has answered all that it was asked. What a
// failed write or sync says of a disk is for a person to judge (LAWS §4.7).
func (k *keeper) reopenByItself(ctx context.Context, s *local.Slot) {
	if k.n.clock.Mono() < k.reopen.at {
		return
	}
	passed := false
	switch s.Cause() {
	case local.CauseRoom:
		passed = s.Roomy()
	case local.CauseHang:
		what, _ := s.Hangs()
		passed = what == ""
	}
	if !passed {
		return
	}
	k.log.Info("opens its copy again: what stopped it has passed", "stopped", s.Failure())
	if err := k.reopenAsked(ctx); err != nil {
		k.log.Warn("copy not opened again", "err", err)
	}
}

// openWhenAnswered opens a copy again that was refused because its disk did not answer,
// when it has.
func (k *keeper) openWhenAnswered(ctx context.Context, refused error) {
	if k.n.clock.Mono() >= k.reopen.at && held(refused) == nil {
		k.openCopy(ctx)
	}
}

// held returns why a copy that was refused cannot be opened again yet.
func held(refused error) error {
	var r *local.Refused
	if errors.As(refused, &r) {
		return r.Held()
	}
	return nil
}

// reopenAsked opens a copy again that has stopped or was refused, as after an unclean
// stop of the process. One that is open stays so.
func (k *keeper) reopenAsked(ctx context.Context) error {
	s, refused := k.open.state()
	if s != nil && s.Failure() == nil {
		return nil
	}
	if err := k.giveUp(errors.New("its store has stopped, and is opened again")); err != nil {
		k.reopen.at = k.n.clock.Mono() + k.reopen.pause
		return err
	}
	if !k.openCopy(ctx) {
		_, refused = k.open.state()
		return refused
	}
	return nil
}

// giveUp ends the role and closes the copy, so that its files are nobody's; why is what
// is said meanwhile. One that has failed cannot always be closed: its goroutines may be
// parked in the index for ever. They are cut off from the files. An error says that
// the disk has something of it that has not returned: then all stays as it is, because
// two stores on the same files would be the end of both (laws 1 and 6).
func (k *keeper) giveUp(why error) error {
	s, refused := k.open.state()
	if err := held(refused); err != nil {
		return fmt.Errorf("the store of %s cannot be given up: %w", k.id, err)
	}
	if s == nil || s.Failure() == nil {
		if !k.role.end() {
			return errNotEnded
		}
		k.open.shut(why)
	}
	if s != nil {
		if err := s.Close(); s.Failure() == nil {
			k.n.logErr("close slot", err)
		} else if err := s.Release(); err != nil {
			return fmt.Errorf("the store of %s cannot be given up: %w", k.id, err)
		}
	}
	if !k.role.end() { // of a copy that has failed: nothing holds it up any more
		return errNotEnded
	}
	k.open.shut(why)
	k.reopen.failed = false
	k.n.conditions.Clear(monitor.SlotFailed, k.id.String())
	drain(k.index.broken)
	drain(k.index.wrong)
	return nil
}
