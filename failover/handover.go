package failover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

const (
	// GiveUpHandOver is how long a hand-over may take before a leader gives it up.
	GiveUpHandOver = 30 * time.Second
	// handOverWait is how long a confirmation waits for one: its end is a command too,
	// for which a leader may have to be elected first.
	handOverWait = GiveUpHandOver + changeWait
	// deadWait is how long a hand-over is tried with a master that is assumed dead.
	deadWait = 5 * time.Second
)

// handOver has a slot sealed, and waits until its master has handed it over, or that
// was given up. The command changes nothing when it is repeated. That Raft's record of
// the slot has changed since the plan is no reason to stop: what makes a hand-over right
// is proved by its master at the end.
func handOver(ctx context.Context, own Ownership, c cluster.BeginHandOver, wait time.Duration) (SlotOutcome, result) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	perhaps := false // an earlier try may have begun it, and it may be over
	for {
		r, err := own.Propose(ctx, c)
		switch cluster.OutcomeOf(err) {
		case cluster.Done, cluster.Unseen:
			return awaitHandOver(ctx, own, c, r.Index)
		case cluster.UnknownOutcome:
			perhaps = true
		case cluster.Refused:
			if so, kind := handedOver(own.State(), c, 0); kind != undecided {
				return so, kind
			}
			var newer cluster.ErrChanged
			switch changed := errors.As(err, &newer); {
			case changed && !perhaps:
				c.Version = newer.Have
				continue
			case changed:
				return noLongerTrue(c.Slot, c.To, c.Proposal), declined
			}
			return SlotOutcome{Slot: c.Slot, To: c.To, Why: err.Error()}, declined
		}
		again := time.NewTimer(repeatAfter)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return SlotOutcome{Slot: c.Slot, To: c.To, Why: fmt.Sprintf("the outcome is not known: %v; ask another node:", err)}, undecided
		}
	}
}

// awaitHandOver looks at the state until a hand-over that was begun at an index of
// Raft's log, or before, has ended.
func awaitHandOver(ctx context.Context, own Ownership, c cluster.BeginHandOver, begun uint64) (SlotOutcome, result) {
	so, kind := await(ctx, own, func(st *cluster.State) (SlotOutcome, result) { return handedOver(st, c, begun) })
	if kind == undecided {
		so = SlotOutcome{Slot: c.Slot, To: c.To, Why: "it is sealed, and the hand-over has neither ended nor been given up:"}
	}
	return so, kind
}

// handedOver reads from the state how a hand-over ended. A begun of 0 is one of which
// this node does not know that it has begun.
func handedOver(st *cluster.State, c cluster.BeginHandOver, begun uint64) (SlotOutcome, result) {
	so, kind := settled(st, cluster.ConfirmSlot{Proposal: c.Proposal, Slot: c.Slot, Epoch: c.Epoch, To: c.To})
	if kind != undecided {
		so.To = cmp.Or(so.To, c.To)
		return so, kind
	}
	sl, _ := st.Slot(c.Slot)
	if begun > 0 && sl.HandOver == nil && sl.Version >= begun {
		why := "the hand-over was given up"
		p, _ := st.Proposal(c.Proposal)
		for _, ps := range p.Slots {
			if ps.Slot == c.Slot && ps.Note != "" {
				why = ps.Note
			}
		}
		return SlotOutcome{Slot: c.Slot, To: c.To, Why: fmt.Sprintf("%s; %s serves it as before", why, sl.Master), Next: showSlot(sl)}, declined
	}
	return SlotOutcome{}, undecided
}

// CommitOf is the word of a sealed master, whose record is sl, that the target of the
// hand-over has all up to p. inSync are those of the other replicas that have it too
// and count; those that are no longer listed are left out. Where waits is false nobody
// is waited for, and the next epoch begins unprotected.
func CommitOf(sl cluster.Slot, listed []slot.NodeName, p slot.Position, inSync []slot.NodeName, waits bool) cluster.CommitHandOver {
	c := cluster.CommitHandOver{Slot: sl.ID, Epoch: sl.Epoch, Begun: sl.HandOver.Begun, Position: p}
	if waits {
		c.InSync = append(slices.DeleteFunc(slices.Clone(inSync), func(n slot.NodeName) bool { return !slices.Contains(listed, n) }), sl.Master)
	}
	return c
}

// Sealed is one hand-over under way, and since when this node has seen it.
type Sealed struct {
	Slot  slot.ID
	Begun uint64
	Since time.Duration
}

// GiveUp returns the commands of a leader about hand-overs that it has seen for too
// long, by its own monotonic clock (law 11), and what it has seen now.
func GiveUp(st *cluster.State, now time.Duration, seen []Sealed) ([]cluster.Command, []Sealed) {
	var out []cluster.Command
	var still []Sealed
	for _, sl := range st.Slots {
		h := sl.HandOver
		if h == nil {
			continue
		}
		s := Sealed{Slot: sl.ID, Begun: h.Begun, Since: now}
		for _, was := range seen {
			if was.Slot == s.Slot && was.Begun == s.Begun {
				s.Since = was.Since
			}
		}
		still = append(still, s)
		if now-s.Since >= GiveUpHandOver {
			out = append(out, cluster.AbortHandOver{Slot: sl.ID, Epoch: sl.Epoch, Begun: h.Begun,
				Why: fmt.Sprintf("%s did not hand over to %s within %s", sl.Master, h.To, GiveUpHandOver)})
		}
	}
	return out, still
}
