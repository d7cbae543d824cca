package cluster

import (
	"errors"
	"fmt"

	"mailnode/storage/slot"
)

// Refusals of Apply. Their texts are read by operators.

// ErrStale refuses a command that was made for another epoch.
type ErrStale struct {
	What       string // for instance "epoch of slot s007"
	Want, Have uint64 // what the command expected, and what is true
}

func (e ErrStale) Error() string {
	return fmt.Sprintf("%s: the command was made for %d, it is %d now; look again and repeat", e.What, e.Want, e.Have)
}

// ErrChanged refuses a command that was decided on an older record of a slot, in
// the same epoch: whoever decided looks again, and nothing was done.
type ErrChanged struct {
	Slot       slot.ID
	Want, Have uint64 // versions of the slot record
}

func (e ErrChanged) Error() string {
	return fmt.Sprintf("the record of slot %s has changed since it was read (version %d, it is %d now); look again and repeat", e.Slot, e.Want, e.Have)
}

// ErrNotFound refuses a command about something that does not exist.
type ErrNotFound struct{ Kind, Name string }

func (e ErrNotFound) Error() string { return fmt.Sprintf("find %s %q: there is none", e.Kind, e.Name) }

// ErrExists refuses to create what is there already.
type ErrExists struct{ Kind, Name, Why string }

func (e ErrExists) Error() string {
	if e.Why == "" {
		return fmt.Sprintf("create %s %q: it exists already", e.Kind, e.Name)
	}
	return fmt.Sprintf("create %s %q: %s", e.Kind, e.Name, e.Why)
}

// ErrInvalid refuses a command that makes no sense, or would break a law.
type ErrInvalid struct{ What, Why string }

func (e ErrInvalid) Error() string { return e.What + ": " + e.Why }

// ErrClosed refuses to act on a proposal that is no longer open.
type ErrClosed struct {
	Proposal string
	State    ProposalState
	Why      string
}

func (e ErrClosed) Error() string {
	if e.Why == "" {
		return fmt.Sprintf("proposal %q is no longer open: it was %s", e.Proposal, e.State)
	}
	return fmt.Sprintf("proposal %q is no longer open: it was %s (%s)", e.Proposal, e.State, e.Why)
}

// Errors of Decode and DecodeSnapshot.
var (
	// ErrCorrupt: the bytes are not what was written (law 6).
	ErrCorrupt = errors.New("checksum does not match")
	// ErrNewer: the bytes are whole, but this release does not understand them;
	// to go on would make this node's state differ from the others'.
	ErrNewer = errors.New("written by a newer release")
)
