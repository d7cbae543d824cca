// Package failover turns evidence into proposals, proposals into plans that a
// person can read, and a person's confirmation into changes of master, slot by
// slot (LAWS §6). A machine decides nothing about ownership: Decide only
// writes down what a leader noticed, Confirm is the one way from there to a
// ConfirmSlot command (law 4).
//
// Time comes in as a monotonic duration since some fixed moment of this process;
// wall-clock values are shown and never compared (law 11). The small interfaces
// below are implemented by package node.
package failover

import (
	"context"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// Exit codes of the failover verbs (LAWS §8.2).
const (
	ExitDone    = 0
	ExitFailed  = 1 // a confirmed slot does not serve, or an outcome stayed unknown
	ExitUsage   = 2 // several proposals and none named, or no such one
	ExitNothing = 3 // no open proposal
	ExitRefused = 4 // refused for safety, or done in part
)

// Asker asks a node for the present state of its copies, past everything that
// was reported earlier, and for what it has heard of others': positions, lineages
// and viability must be read after the call began, and be what is durable there. A
// node that does not answer is an error. Ask returns when ctx ends.
type Asker interface {
	Ask(ctx context.Context, node slot.NodeName, q []Question) (Answer, error)
}

// Question is about one slot. Whoever is asked under an epoch acknowledges nothing
// to a lower one from then on, also after a restart: the asker counts on having
// heard all that was acknowledged (law 1).
type Question struct {
	Slot  slot.ID    `json:"slot"`
	Epoch slot.Epoch `json:"epoch"` // as the asker's state has it
	// Digest asks for the copy's digest as well, for which its index is read.
	Digest bool `json:"digest,omitempty"`
	// Dropped asks a master whether it holds all of a copy that was dropped.
	Dropped *DroppedCopy `json:"dropped,omitempty"`
}

// DroppedCopy is what a copy holds that Raft no longer lists.
type DroppedCopy struct {
	Position slot.Position `json:"position"`
	Lineage  slot.Lineage  `json:"lineage"`
}

// Answer is what a node says: its own copies, those that it has, and what it last
// heard of every copy of the slots that it was asked about.
type Answer struct {
	Copies []CopyAnswer `json:"copies"`
	Seen   []Sighting   `json:"seen"`
}

// CopyAnswer is the present state of one copy, and the users that it knows.
type CopyAnswer struct {
	CopyReport
	UsersKnown bool     `json:"users_known"`
	Users      int      `json:"users"`
	UserNames  []string `json:"user_names,omitempty"` // the first few
	SelfCheck  []string `json:"self_check,omitempty"` // lines of the check when the copy was opened
	// Digest is that of all live records at DigestAt, in hex (law 8); "" when it was
	// not asked for, or not read in time.
	Digest   string        `json:"digest,omitempty"`
	DigestAt slot.Position `json:"digest_at,omitempty"`
	// Covers says whether this master holds all of the copy that Question.Dropped is
	// about; nil: that is not known, for the reason in CoversNot.
	Covers    *bool  `json:"covers,omitempty"`
	CoversNot string `json:"covers_not,omitempty"`
}

// Sighting is what one node last heard of a copy.
type Sighting struct {
	CopyReport
	Node    slot.NodeName `json:"node"`    // whose copy
	By      slot.NodeName `json:"by"`      // who heard it
	AgoMs   int64         `json:"ago_ms"`  // how long ago
	Highest slot.Position `json:"highest"` // the highest position that it has reported in the lineage's newest epoch
}

// Ownership is Raft's state as this node has applied it, and the way to the
// leader wherever it is. What an error of Propose means is said by
// cluster.OutcomeOf; after a refusal State is the one that refused, or newer, if
// that came in time. Fresh returns when State is at least as new as the call, as a
// leader with a quorum says.
type Ownership interface {
	State() *cluster.State
	Fresh(ctx context.Context) error
	Propose(ctx context.Context, c cluster.Command) (cluster.Result, error)
}

// Serving reports whether a node serves clients for a slot under an epoch, or a
// later one, at this moment.
type Serving interface {
	Serving(ctx context.Context, node slot.NodeName, id slot.ID, epoch slot.Epoch) (bool, error)
}
