package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mailnode/storage"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// "Unknown" bounces mail and lets a client forget what it has. It is said of an
// address only when this is certain: by the master of its slot, which is proved
// to be that still, of a slot without an open loss, whose users of the last days
// may be the ones that are missing (LAWS §7.4).

// certain passes on what this node's master of a slot answered; "not found" and
// "wrong password" only when that is certain, else as a temporary error: another
// master may know the user, or his new password. It is called after the look-up:
// what is proved then was so when it was made. Both take the same time, so that
// nobody learns from it who is known.
func (n *Node) certain(ctx context.Context, m *local.Master, err error) error {
	refused := errors.Is(err, storage.ErrAuth)
	if !refused && !errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrUnavailable) {
		return err
	}
	if cause := n.currency.prove(ctx); cause != nil {
		doubt := storage.Errorf(storage.ErrUnavailable, "slot %s: another master may know better: this node can't prove that it is the master: %w", m.Slot(), cause)
		if refused {
			doubt = storage.Errorf(storage.ErrAuth, "%w", doubt) // it still counts as a try
		}
		return doubt
	}
	sl, ok := n.State().Slot(m.Slot())
	if !ok || sl.Master != n.cfg.Node.Name || sl.Epoch != m.Epoch() {
		return storage.Errorf(storage.ErrNotMaster, "slot %s: node %q is no longer its master", m.Slot(), n.cfg.Node.Name)
	}
	return n.unknownOr(err, m.Slot())
}

// unknownOr makes "not found" of an address or account a temporary error while
// the slot has an open loss, and while this node is cut off from the quorum. A
// front node asks itself too, with what it knows now: it may know of a loss that
// the master which has answered did not.
func (n *Node) unknownOr(err error, id slot.ID) error {
	if !errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrUnavailable) {
		return err
	}
	sl, ok := n.State().Slot(id)
	switch {
	case !ok || sl.OpenLoss != nil:
		return storage.Errorf(storage.ErrUnavailable, "slot %s has an open loss: who is unknown there may only be missing", id)
	case !n.raft.Quorum():
		return storage.Errorf(storage.ErrUnavailable, "slot %s: this node has no quorum: who is unknown here may be known elsewhere", id)
	}
	return err
}

// proofEvery bounds how often the leader is asked: whoever tries addresses does
// not keep Raft's disk busy.
const proofEvery = 100 * time.Millisecond

// currency proves that this node's state of Raft is not older than a call. One
// proof serves all that were waiting when it began.
type currency struct {
	turn  chan struct{} // capacity 1: held by whoever proves, and by whoever reads what follows
	began time.Duration // of the last proof, by mono
	err   error         // and what came out

	mono  func() time.Duration
	fresh func(ctx context.Context) error
}

func newCurrency(mono func() time.Duration, fresh func(ctx context.Context) error) *currency {
	return &currency{turn: make(chan struct{}, 1), began: -proofEvery, mono: mono, fresh: fresh}
}

func (c *currency) prove(ctx context.Context) error {
	arrived := c.mono()
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return fmt.Errorf("wait for a proof: %w", ctx.Err())
	}
	if c.began > arrived {
		return c.err
	}
	if wait := c.began + proofEvery - c.mono(); wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for a proof: %w", ctx.Err())
		}
	}
	// It is everybody's: it does not end with whoever began it.
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), freshWithin)
	defer cancel()
	c.began = c.mono()
	c.err = c.fresh(within)
	return c.err
}
