// Package cluster is the pure state machine that Raft replicates: members,
// slots, epochs, proposals. It says who owns a slot, and nothing about mail
// (law 10). It has no clock, no randomness, no I/O and no map order: times, ids
// and reasons are chosen by whoever proposes a command and travel inside it, so
// that every node that applies the same log holds the same bytes.
//
// Law 4 lives here: what changes the master of a slot that has one is a person's
// confirmation of an open proposal: ConfirmSlot, or BeginHandOver, which the old
// master ends by CommitHandOver.
package cluster

import (
	"slices"
	"strings"

	"mailnode/storage/slot"
)

// Limits keep the whole state under 1 MiB (law 10).
const (
	MaxMembers  = 256
	MaxReplicas = 8    // per slot, beside the master
	MaxHistory  = 1000 // ownership changes kept
	MaxClosed   = 50   // closed proposals kept
	MaxTokens   = 100  // join tokens that nobody has used yet

	MaxTokenSeconds = 30 * 24 * 3600 // longest life of a join token
	maxClosedSum    = 1000           // slots named by all closed proposals together
	maxName         = 32             // bytes of a node name
	maxText         = 120            // bytes of a text that is only shown
	recoveryStep    = 16             // what a raised generation adds to epochs and unclean counts
)

// Role says what a member does in Raft.
type Role string

// The roles. A witness votes and holds no mail; a node that holds mail never is one.
const (
	Voter    Role = "voter"
	Nonvoter Role = "nonvoter"
	Witness  Role = "witness"
)

// Member is one node or witness of the cluster.
type Member struct {
	Name     slot.NodeName `json:"n"`
	ServerID string        `json:"id"` // its name in Raft; a new one after a reinstall, since its votes are lost
	Addr     string        `json:"a"`  // peer port, host:port
	Zone     string        `json:"z,omitempty"`
	Standby  bool          `json:"sb,omitempty"` // its copies are proposed only when no other viable copy exists
	Role     Role          `json:"r"`
	Held     bool          `json:"h,omitempty"` // it holds a copy of a slot, or has held one
	Key      string        `json:"k,omitempty"` // SHA-256 of the public key with which it joined, lower-case hex

	// What the node says of itself when it starts: feature.go.
	Features slot.FeatureLevel `json:"f,omitempty"`   // absent: the first
	Release  string            `json:"rel,omitempty"` // shown only

	Behind bool `json:"bh,omitempty"` // a recovery has left it behind: State.Belongs
}

// Slot is the ownership record of one slot. Epoch 0 without a master is a slot
// that never had one. Replicas never contains the master.
type Slot struct {
	ID               slot.ID           `json:"s"`
	Epoch            slot.Epoch        `json:"e"`
	Unclean          slot.UncleanCount `json:"u,omitempty"`
	Master           slot.NodeName     `json:"m,omitempty"`
	Replicas         []slot.NodeName   `json:"r,omitempty"`
	InSync           []slot.NodeName   `json:"i,omitempty"` // sorted, of Replicas; empty while unprotected
	Protected        bool              `json:"p,omitempty"`
	Inherited        bool              `json:"in,omitempty"` // that it is protected was said by the hand-over that began the epoch, by no record of it yet
	UnprotectedSince slot.Position     `json:"us,omitempty"` // 0: the master has not reported yet
	Awaits           []slot.NodeName   `json:"aw,omitempty"` // who else was in sync when the epoch began: the master hears them before it begins to serve
	AtLeast          slot.Position     `json:"al,omitempty"` // what the master held by the plan: with less it does not begin to serve
	OpenLoss         *OpenLoss         `json:"ol,omitempty"`
	HandOver         *HandOver         `json:"h,omitempty"`
	Wished
	Version uint64 `json:"v,omitempty"` // Raft index of the last change to this slot
}

// Wished is what people want of a slot. Nodes work towards it.
type Wished struct {
	Home    slot.NodeName `json:"hm,omitempty"` // the node whose master it is when all is well: its first one
	Leaving []Leaver      `json:"lv,omitempty"` // replicas that are to be dropped, in the order in which that was said
	Move    *Move         `json:"mv,omitempty"`
	Want    *int          `json:"wr,omitempty"` // replicas that it is to have; nil: the cluster's number. Read it with Wants
}

// Holds reports whether a node keeps a copy of the slot, as master or as replica.
func (s Slot) Holds(n slot.NodeName) bool {
	return n != "" && (s.Master == n || slices.Contains(s.Replicas, n))
}

// OpenLoss marks a slot that was promoted without a safe plan and whose old copy
// is neither rescued nor dismissed (LAWS §7.4: unknown users get 451).
type OpenLoss struct {
	Node  slot.NodeName   `json:"n"`            // the old master
	Since slot.Epoch      `json:"e"`            // the first epoch without its tail
	Also  []slot.NodeName `json:"l,omitempty"`  // old masters of later losses, before this one was resolved
	Empty bool            `json:"em,omitempty"` // the slot was started empty
}

// ProposalState tells where a proposal stands.
type ProposalState string

// The states of a proposal. Only an open one can be confirmed.
const (
	Open       ProposalState = "open"
	Confirmed  ProposalState = "confirmed" // every slot is done
	Rejected   ProposalState = "rejected"
	Withdrawn  ProposalState = "withdrawn"
	Superseded ProposalState = "superseded" // its epochs are no longer true
)

// Proposal is a recorded wish to change masters. It does nothing by itself.
type Proposal struct {
	ID        string         `json:"id"`          // "p3"
	Node      slot.NodeName  `json:"n,omitempty"` // the node it is about; "" when it is about single slots
	Dead      bool           `json:"d,omitempty"` // a person takes Node for dead: a hand-over is tried, and not waited for
	Reason    string         `json:"r,omitempty"`
	State     ProposalState  `json:"st"`
	OpenedBy  string         `json:"by,omitempty"`
	ClosedBy  string         `json:"cb,omitempty"`
	Closed    string         `json:"cw,omitempty"` // why it was closed
	SinceWall string         `json:"w,omitempty"`  // shown only (law 11)
	Slots     []ProposedSlot `json:"s"`
}

// Left counts the slots that are not done.
func (p Proposal) Left() int {
	n := 0
	for _, ps := range p.Slots {
		if !ps.Done {
			n++
		}
	}
	return n
}

// ProposedSlot is one slot of a proposal. What stands below Done is evidence for
// the operator, refreshed by the leader and dropped when the proposal closes.
type ProposedSlot struct {
	Slot     slot.ID         `json:"s"`
	Epoch    slot.Epoch      `json:"e"` // the epoch that the change would end
	From     slot.NodeName   `json:"f"`
	To       slot.NodeName   `json:"t,omitempty"`  // "" while there is no viable copy
	Empty    bool            `json:"em,omitempty"` // To starts the slot with nothing: no copy of it is left
	Done     bool            `json:"d,omitempty"`
	Position slot.Position   `json:"p,omitempty"` // last event that the target is known to hold
	Note     string          `json:"x,omitempty"` // why other copies are not viable
	Others   []slot.NodeName `json:"o,omitempty"` // other viable copies
}

// ChangeKind tells the entries of the history apart.
type ChangeKind string

// The kinds of history entries.
const (
	ChangeAssigned   ChangeKind = "assigned"
	ChangeConfirmed  ChangeKind = "confirmed"
	ChangeResolved   ChangeKind = "resolved"   // an open loss was closed; From is the old master
	ChangeGeneration ChangeKind = "generation" // about every slot, Slot says nothing
	ChangeFeatures   ChangeKind = "features"   // about the cluster, Slot says nothing
)

// Change is one entry of the history of ownership.
type Change struct {
	Kind         ChangeKind    `json:"k"`
	Slot         slot.ID       `json:"s"`
	Epoch        slot.Epoch    `json:"e,omitempty"` // the epoch that began
	From         slot.NodeName `json:"f,omitempty"`
	To           slot.NodeName `json:"t,omitempty"`
	Proposal     string        `json:"p,omitempty"`
	By           string        `json:"by,omitempty"`
	Why          string        `json:"x,omitempty"`
	WallTime     string        `json:"w,omitempty"` // shown only (law 11)
	Unclean      bool          `json:"u,omitempty"`
	AcceptedLoss bool          `json:"al,omitempty"`
}

// Token is an outstanding join token: its ID, what it proves, for whom, and for
// how long. Its time runs by AgeTokens alone.
type Token struct {
	ID    string        `json:"id"`
	Hash  string        `json:"h"` // SHA-256 of the secret, lower-case hex
	Node  slot.NodeName `json:"n"`
	LeftS int64         `json:"l"` // seconds, above 0
}

// State is everything that Raft knows. The zero State is a cluster that was not
// initialised. Readers treat it as immutable; only Apply and Restore make new ones.
type State struct {
	Format          int               `json:"format"`
	Index           uint64            `json:"index"` // Raft index of the last command that changed anything
	ClusterID       string            `json:"cluster"`
	Generation      slot.Generation   `json:"generation"`
	FeatureLevel    slot.FeatureLevel `json:"features,omitempty"` // absent: the first; read it with Features
	SlotCount       int               `json:"slot_count"`
	DefaultReplicas int               `json:"replicas"`           // copies beside the master
	PlaceAt         int               `json:"place_at,omitempty"` // slots get their first masters when so many members have started
	Members         []Member          `json:"members"`            // by name
	Slots           []Slot            `json:"slots"`              // Slots[i].ID is i
	Proposals       []Proposal        `json:"proposals"`          // oldest first: the open ones and the last closed ones
	NextProposal    uint64            `json:"next_proposal"`
	History         []Change          `json:"history"` // oldest first
	Tokens          []Token           `json:"tokens"`  // by ID
	Left
}

// Left is what the cluster went on without.
type Left struct {
	Former      []Former `json:"former,omitempty"`      // oldest first: installations that have left
	RecoveredAt LogEnd   `json:"recovered_at,omitzero"` // RaiseGeneration.End of the last recovery
}

// New returns the state of a cluster before Init.
func New() *State { return &State{Format: snapshotFormat, NextProposal: 1} }

// Clone returns a state that Apply may change without a reader of s noticing. The
// slices inside members, slots and proposals are shared: Apply replaces them and
// never writes into them.
func (s *State) Clone() *State {
	c := *s
	c.Members = slices.Clone(s.Members)
	c.Slots = slices.Clone(s.Slots)
	c.Proposals = slices.Clone(s.Proposals)
	c.History = slices.Clone(s.History)
	c.Tokens = slices.Clone(s.Tokens)
	c.Former = slices.Clone(s.Former)
	return &c
}

// Member finds a member by name.
func (s *State) Member(n slot.NodeName) (Member, bool) {
	i, ok := s.memberAt(n)
	if !ok {
		return Member{}, false
	}
	return s.Members[i], true
}

// MemberByServerID finds a member by its name in Raft.
func (s *State) MemberByServerID(id string) (Member, bool) {
	i := slices.IndexFunc(s.Members, func(m Member) bool { return m.ServerID == id })
	if i < 0 {
		return Member{}, false
	}
	return s.Members[i], true
}

// Slot finds a slot.
func (s *State) Slot(id slot.ID) (Slot, bool) {
	if int(id) >= len(s.Slots) {
		return Slot{}, false
	}
	return s.Slots[id], true
}

// Proposal finds a proposal, open or closed.
func (s *State) Proposal(id string) (Proposal, bool) {
	i := s.proposalAt(id)
	if i < 0 {
		return Proposal{}, false
	}
	return s.Proposals[i], true
}

// OpenProposals returns the open proposals, oldest first.
func (s *State) OpenProposals() []Proposal {
	var open []Proposal
	for _, p := range s.Proposals {
		if p.State == Open {
			open = append(open, p)
		}
	}
	return open
}

// OpenProposalOf returns the open proposal that a slot is in and is not done.
func (s *State) OpenProposalOf(id slot.ID) (Proposal, bool) {
	for _, p := range s.Proposals {
		if p.State == Open && slices.ContainsFunc(p.Slots, func(ps ProposedSlot) bool { return ps.Slot == id && !ps.Done }) {
			return p, true
		}
	}
	return Proposal{}, false
}

// Apply executes the command of one log entry. An error is a refusal: the same
// on every node, of one of this package's error types, and the state is as before.
func (s *State) Apply(index uint64, c Command) (Result, error) { return s.applyAt(index, c, featureOf) }

func (s *State) applyAt(index uint64, c Command, of levels) (Result, error) {
	if _, first := c.(Init); !first && s.ClusterID == "" {
		return Result{}, ErrInvalid{What: "cluster", Why: "it is not initialised: mailnode cluster init"}
	}
	if err := s.permit(c, of); err != nil {
		return Result{}, err
	}
	res, err := c.apply(s, index)
	if err != nil {
		return Result{}, err
	}
	s.Index = index
	res.Index = index
	return res, nil
}

func (s *State) memberAt(n slot.NodeName) (int, bool) {
	return slices.BinarySearchFunc(s.Members, n, func(m Member, n slot.NodeName) int {
		return strings.Compare(string(m.Name), string(n))
	})
}

func (s *State) proposalAt(id string) int {
	return slices.IndexFunc(s.Proposals, func(p Proposal) bool { return p.ID == id })
}

// record adds a history entry and drops the oldest beyond the limit.
func (s *State) record(c Change) {
	s.History = append(s.History, c)
	if over := len(s.History) - MaxHistory; over > 0 {
		s.History = slices.Clone(s.History[over:])
	}
}
