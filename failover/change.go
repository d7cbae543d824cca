package failover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// repeatAfter is how long a command with an unknown outcome may take to show up
// in the state before it is proposed again.
const repeatAfter = 300 * time.Millisecond

// result says how one slot's change ended.
type result int

const (
	undecided result = iota // nobody can say
	changed
	declined
)

// change changes the master of one slot. A command whose outcome is unknown is
// looked up and repeated: it names the epoch that it ends, so it works once. One
// that was not done is repeated too: there may be a leader in a moment.
func change(ctx context.Context, own Ownership, c cluster.ConfirmSlot) (SlotOutcome, result) {
	ctx, cancel := context.WithTimeout(ctx, changeWait)
	defer cancel()
	open := false // an earlier try may have been committed, or will be
	for {
		_, err := own.Propose(ctx, c)
		wait := repeatAfter
		switch cluster.OutcomeOf(err) {
		case cluster.Done, cluster.Unseen:
			return SlotOutcome{Slot: c.Slot, To: c.To, Epoch: c.Begins()}, changed
		case cluster.Refused:
			if so, kind := settled(own.State(), c); kind != undecided {
				return so, kind
			}
			var newer cluster.ErrChanged
			if errors.As(err, &newer) {
				return noLongerTrue(c.Slot, c.To, c.Proposal), declined
			}
			if !superseded(err) {
				return SlotOutcome{Slot: c.Slot, Why: err.Error()}, declined
			}
			wait = changeWait // it is decided; this node only has not applied it yet
		case cluster.UnknownOutcome:
			open = true
		}
		soon, cancel := context.WithTimeout(ctx, wait)
		so, kind := await(soon, own, func(st *cluster.State) (SlotOutcome, result) { return settled(st, c) })
		cancel()
		if kind != undecided {
			return so, kind
		}
		switch {
		case ctx.Err() == nil:
		case open || superseded(err):
			return SlotOutcome{Slot: c.Slot, To: c.To, Why: fmt.Sprintf("the outcome is not known: %v; ask another node:", err)}, undecided
		default:
			return SlotOutcome{Slot: c.Slot, Why: err.Error()}, declined // nothing was done
		}
	}
}

// noLongerTrue is the answer about a slot whose record is not that of the plan.
func noLongerTrue(id slot.ID, to slot.NodeName, proposal string) SlotOutcome {
	return SlotOutcome{Slot: id, To: to, Why: "the plan is no longer true: what is recorded of the slot has changed since it was made",
		Next: "mailnode failover show " + proposal}
}

// await looks at the state until read can say how a change ended, or ctx ends.
func await(ctx context.Context, own Ownership, read func(*cluster.State) (SlotOutcome, result)) (SlotOutcome, result) {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		if so, kind := read(own.State()); kind != undecided {
			return so, kind
		}
		select {
		case <-ctx.Done():
			return SlotOutcome{}, undecided
		case <-poll.C:
		}
	}
}

// settled reads from the state what became of a command. When another operator
// gave the slot to the same node, what this one wanted is done.
func settled(st *cluster.State, c cluster.ConfirmSlot) (SlotOutcome, result) {
	sl, ok := st.Slot(c.Slot)
	p, known := st.Proposal(c.Proposal)
	switch {
	case ok && sl.Epoch == c.Begins() && sl.Master == c.To:
		return SlotOutcome{Slot: c.Slot, To: c.To, Epoch: sl.Epoch}, changed
	case ok && sl.Epoch > c.Epoch:
		return wentElsewhere(sl), declined
	case known && p.State != cluster.Open:
		return SlotOutcome{Slot: c.Slot, Why: cluster.ErrClosed{Proposal: p.ID, State: p.State, Why: p.Closed}.Error()}, declined
	}
	return SlotOutcome{}, undecided
}

// wentElsewhere is the answer about a slot that somebody gave to another node.
func wentElsewhere(sl cluster.Slot) SlotOutcome {
	return SlotOutcome{Slot: sl.ID, To: sl.Master, Epoch: sl.Epoch,
		Why: fmt.Sprintf("it went to %s meanwhile, with epoch %d", sl.Master, sl.Epoch), Next: showSlot(sl)}
}

// superseded reports whether an error means that somebody else's change came first.
func superseded(err error) bool {
	var stale cluster.ErrStale
	var closed cluster.ErrClosed
	return errors.As(err, &stale) || errors.As(err, &closed)
}
