package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"mailnode/node/monitor"
	"mailnode/storage"
	"mailnode/storage/disk"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// opening is a keeper's copy: open, refused, or on its way.
type opening struct {
	mu      sync.Mutex // guards all below; taken inside roleState.mu where both are held
	copy    *local.Slot
	refused error // why the copy could not be opened
	openProgress
}

// openProgress is what a copy that is not open yet is doing.
type openProgress struct {
	step    string        // "" when it is open, or refused
	percent int           // -1: not known
	since   time.Duration // Clock.Mono
}

// state returns the copy, nil while it is not open, and why it could not be opened.
func (o *opening) state() (*local.Slot, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.copy, o.refused
}

// at notes a step of the opening.
func (o *opening) at(now time.Duration, step string, percent int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.step == "" {
		o.since = now
	}
	o.step, o.percent = step, percent
}

// over ends the opening with a copy, or with why there is none, and returns why
// there was none before.
func (o *opening) over(s *local.Slot, refused error) (before error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	before = o.refused
	o.copy, o.refused, o.openProgress = s, refused, openProgress{}
	return before
}

// shut takes the copy away, for whoever closes it. why, when not nil, is what is
// said meanwhile.
func (o *opening) shut(why error) *local.Slot {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.copy
	o.copy = nil
	if why != nil {
		o.refused = why
	}
	return s
}

// openingStep implements local.Options.OnStep.
func (k *keeper) openingStep(step string, percent int) { k.open.at(k.n.clock.Mono(), step, percent) }

// roomAgainAfter is when a copy that found no room is opened again.
const roomAgainAfter = 3 * time.Second

// openWhenRoom tries again to open a copy that was refused for want of room.
func (k *keeper) openWhenRoom(ctx context.Context) {
	select {
	case <-time.After(roomAgainAfter):
		k.openCopy(ctx)
	case ask := <-k.reopen.asked:
		ask <- k.reopenAsked(ctx)
	case w := <-k.index.parking:
		k.park(ctx, w)
	case w := <-k.dropped.removing:
		k.letGo(ctx, w)
	case <-ctx.Done():
	}
}

func (k *keeper) openCopy(ctx context.Context) bool {
	k.openingStep("looks for its files", -1)
	s, err := k.openFiles(ctx)
	if ctx.Err() != nil && s == nil {
		return false
	}
	k.n.setCondition(monitor.SlotRefused, k.id.String(), err)
	if err == nil {
		k.n.asides.look(k.id, s) // what was set aside before this start
	}
	before := k.open.over(s, err)
	if err != nil {
		if errors.Is(err, disk.ErrHangs) {
			k.reopen.failedAt(k.n.clock.Mono())
		}
		if again := errors.Is(before, storage.ErrDiskFull) && errors.Is(err, storage.ErrDiskFull); !again {
			k.log.Error("slot refused", "err", err)
		}
		return false
	}
	k.n.wg.Go(func() { // reads all accounts: the copy serves meanwhile
		if err := s.CountUsers(ctx); err != nil && ctx.Err() == nil {
			k.log.Info("users not counted", "err", err)
		}
	})
	k.index.cause = nil
	k.tellIndexDamage(nil)
	k.n.conditions.Put(len(s.OwnerMended()) > 0, monitor.SlotFileMended, k.id.String(), strings.Join(s.OwnerMended(), ", "))
	k.tellRebuilt()
	return true
}

func (k *keeper) openFiles(ctx context.Context) (*local.Slot, error) {
	n := k.n
	p, err := n.volumes.find(k.id)
	if err != nil {
		return nil, err
	}
	k.openingStep("waits for its turn", -1)
	opened, err := n.volumes.opening(ctx, p)
	if err != nil {
		return nil, err
	}
	defer opened()
	k.options = k.optionsAt(p)
	// A rebuild that was cut off goes on as a job, with others of its kind.
	mode, pending := local.RebuildPending(k.options)
	if k.index.pending = mode; pending {
		return nil, fmt.Errorf("open slot %s: the rebuild of its index was cut off, and goes on", k.id)
	}
	if k.index.packsLost, err = n.volumes.half(k.id, p); err != nil {
		return nil, err
	}
	s, err := local.Open(k.options)
	if err != nil {
		return nil, err
	}
	if err := n.volumes.remember(k.id, p); err != nil {
		n.logErr("close slot", s.Close())
		return nil, fmt.Errorf("remember slot %s: %w", k.id, err)
	}
	return s, nil
}

// optionsAt are those of the copy at a place.
func (k *keeper) optionsAt(p place) local.Options {
	n := k.n
	undelete := n.cfg.Replication.Undelete
	if undelete == 0 {
		undelete = -1 // none; 0 would be the default
	}
	return local.Options{
		FS: n.fs, Dir: slotDir(p.volume, k.id), PacksDir: packsDir(p.volume, k.id), Cluster: n.id.ClusterID(), Slot: k.id,
		Logger: n.log, Clock: n.clock, Resources: n.resources, Passwords: n.passwords, OnDamage: k.damageMet, OnStep: k.openingStep,
		Limits: local.Limits{JournalEventsMax: int(n.cfg.JournalMax), Undelete: undelete, HangAfter: n.hangAfter}, Refill: p.held,
		Features: func() slot.FeatureLevel { return n.State().Features() },
	}
}
