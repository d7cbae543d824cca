package cluster

import (
	"errors"
	"fmt"
)

// Outcome says what became of a command, as far as the error of whoever proposed
// it tells. The list is closed, and each caller of Propose in package node,
// package failover and storage/repl decides by it, never by an error's text:
//
//	outcome         was it done?            what the caller does
//	Done            yes, and State has it   goes on
//	Unseen          yes, State lacks it     goes on; before it reads State it waits
//	Refused         no, and never as it is  looks at State: the command was made from
//	                                        another state, or by mistake. An epoch that
//	                                        is over (ErrStale) ends the master (law 1)
//	NotDone         no                      may repeat it; there is no leader, it has no
//	                                        quorum, or nothing was sent
//	Halted          no                      the same, but not before this node was repaired
//	UnknownOutcome  nobody knows yet        looks at State and repeats it: each command
//	                                        names what it expects, so it works once
type Outcome int

// The outcomes of a command.
const (
	Done Outcome = iota
	Unseen
	Refused
	NotDone
	Halted
	UnknownOutcome
)

// ErrUnknownOutcome says that a command may or may not be committed, now or
// later. The caller reads the state again; every command names the epoch that it
// expects, so repeating one is safe.
var ErrUnknownOutcome = errors.New("the outcome is not known")

// ErrNotDone says that a command was not committed and never will be by this
// call: there was nobody to take it, or it was never sent.
type ErrNotDone struct{ Cause error }

func (e ErrNotDone) Error() string { return fmt.Sprintf("nothing was done: %v", e.Cause) }

// Unwrap returns the cause.
func (e ErrNotDone) Unwrap() error { return e.Cause }

// Outcome implements the interface that OutcomeOf looks for.
func (ErrNotDone) Outcome() Outcome { return NotDone }

// ErrUnseen says that a command is committed, and that the state of the node that
// proposed it does not have it yet.
type ErrUnseen struct {
	Index uint64 // Raft index of the command
	Cause error
}

func (e ErrUnseen) Error() string {
	return fmt.Sprintf("it is done (raft index %d), but not seen on this node yet: %v", e.Index, e.Cause)
}

// Unwrap returns the cause.
func (e ErrUnseen) Unwrap() error { return e.Cause }

// Outcome implements the interface that OutcomeOf looks for.
func (ErrUnseen) Outcome() Outcome { return Unseen }

// OutcomeOf sorts an error of Propose. What has no kind is an unknown outcome:
// to take it for "nothing was done" could lose a change, and to take it for a
// refusal could end a master for nothing.
func OutcomeOf(err error) Outcome {
	var sorted interface {
		error
		Outcome() Outcome
	}
	switch {
	case err == nil:
		return Done
	case errors.Is(err, ErrUnknownOutcome): // also when it says why, with an error of another kind
		return UnknownOutcome
	case errors.As(err, &sorted):
		return sorted.Outcome()
	}
	return UnknownOutcome
}

// Outcome says that the state machine refused.
func (ErrStale) Outcome() Outcome { return Refused }

// Outcome says that the state machine refused.
func (ErrChanged) Outcome() Outcome { return Refused }

// Outcome says that the state machine refused.
func (ErrNotFound) Outcome() Outcome { return Refused }

// Outcome says that the state machine refused.
func (ErrExists) Outcome() Outcome { return Refused }

// Outcome says that the state machine refused.
func (ErrInvalid) Outcome() Outcome { return Refused }

// Outcome says that the state machine refused.
func (ErrClosed) Outcome() Outcome { return Refused }
