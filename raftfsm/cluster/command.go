package cluster

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"mailnode/storage/slot"
)

// Command is one change of the state. The set is closed: see kinds in codec.go.
type Command interface {
	// kind is the command's name on disk; it never changes.
	kind() string
	// apply checks everything first and then changes s, or returns a refusal.
	apply(s *State, index uint64) (Result, error)
}

// Result is what a command that was not refused did.
type Result struct {
	Index    uint64     // Raft index of the command
	Proposal string     // OpenProposal: the ID it was given
	Epoch    slot.Epoch // slot commands: the slot's epoch afterwards
}

// Init makes the cluster. DefaultReplicas counts copies beside the master.
type Init struct {
	ClusterID       string `json:"cluster"`
	SlotCount       int    `json:"slots"`
	DefaultReplicas int    `json:"replicas"`
	PlaceAt         int    `json:"place_at,omitempty"`
	First           Member `json:"first"`
}

// AddMember adds a node or witness. With Token it uses that join token up in the
// same step, if Hash is the token's; the same key with the same token is answered
// the same again, so that a join of unknown outcome can be repeated. Only members
// propose, and they propose a joiner with its token.
type AddMember struct {
	Member Member `json:"member"`
	Token  string `json:"token,omitempty"`
	Hash   string `json:"hash,omitempty"`
}

// UpdateMember changes what is given; an empty or nil field stays as it is.
type UpdateMember struct {
	Name     slot.NodeName `json:"name"`
	ServerID string        `json:"id,omitempty"`
	Addr     string        `json:"addr,omitempty"`
	Role     Role          `json:"role,omitempty"`
	Zone     *string       `json:"zone,omitempty"`
	Standby  *bool         `json:"standby,omitempty"`

	Features slot.FeatureLevel `json:"features,omitempty"`
	Release  string            `json:"release,omitempty"`
}

// RemoveMember removes a member that no slot needs (State.Needs): copies beside which
// others are in sync are dropped with it.
type RemoveMember struct {
	Name     slot.NodeName `json:"name"`
	By       string        `json:"by,omitempty"`
	WallTime string        `json:"wall,omitempty"`
}

// AssignSlot gives a slot its first master. A slot that has one never gets
// another this way (law 4). It starts unprotected.
type AssignSlot struct {
	Slot     slot.ID         `json:"slot"`
	Epoch    slot.Epoch      `json:"epoch"`
	Master   slot.NodeName   `json:"master"`
	Replicas []slot.NodeName `json:"replicas,omitempty"`
	By       string          `json:"by,omitempty"`
	WallTime string          `json:"wall,omitempty"`
}

// AddReplica lists one more replica, which then fills its copy. Version is that of the
// slot record on which it was decided, so that one that is delayed does not add again
// what was dropped since; 0, in clusters of the first feature level, is any.
type AddReplica struct {
	Slot    slot.ID       `json:"slot"`
	Epoch   slot.Epoch    `json:"epoch"`
	Version uint64        `json:"version,omitempty"`
	Node    slot.NodeName `json:"node"`
}

// SetUnprotected records that the master goes on alone since a position (law 1).
// Said twice in one epoch, the earlier position stands. Version is that of the
// slot record that the master decided on: a command that is delayed, or lost and
// sent again, never undoes a newer one.
type SetUnprotected struct {
	Slot    slot.ID       `json:"slot"`
	Epoch   slot.Epoch    `json:"epoch"`
	Version uint64        `json:"version"`
	Since   slot.Position `json:"since"`
}

// SetProtected records for which replicas acknowledgements wait (law 1): at any
// time one of them holds every acknowledged event. Version is as in SetUnprotected.
type SetProtected struct {
	Slot    slot.ID         `json:"slot"`
	Epoch   slot.Epoch      `json:"epoch"`
	Version uint64          `json:"version"`
	InSync  []slot.NodeName `json:"in_sync"`
}

// OpenProposal records a wish to change masters. State and Done of what it
// carries are ignored, the ID is given out by Apply.
type OpenProposal struct {
	Node      slot.NodeName  `json:"node,omitempty"`
	Dead      bool           `json:"dead,omitempty"`
	Reason    string         `json:"reason,omitempty"`
	By        string         `json:"by,omitempty"`
	SinceWall string         `json:"wall,omitempty"`
	Slots     []ProposedSlot `json:"slots"`
}

// UpdateProposal refreshes target and evidence of slots that are not done. Slots
// that it does not name stay as they are; none are added.
type UpdateProposal struct {
	Proposal string         `json:"proposal"`
	Reason   string         `json:"reason,omitempty"` // "" keeps it
	Slots    []ProposedSlot `json:"slots"`
}

// WithdrawProposal closes a proposal whose cause went away.
type WithdrawProposal struct {
	Proposal string `json:"proposal"`
	Why      string `json:"why,omitempty"`
}

// RejectProposal closes a proposal that an operator does not want.
type RejectProposal struct {
	Proposal string `json:"proposal"`
	By       string `json:"by,omitempty"`
	Why      string `json:"why,omitempty"`
}

// ConfirmSlot changes the master of one slot of an open proposal, without the old
// master (law 4). Version is that of the slot record that the plan was
// made from: when it has changed since, the plan is no longer true. Position is
// what the target held by the plan. AcceptLoss marks the slot with an open loss;
// only with it may To be the master itself, which then begins an epoch without
// what it has lost, or waits for; and only with it may Seen be above Epoch.
//
// Seen is the highest epoch of the slot that any node has seen. When it is above
// Epoch, Raft has forgotten changes of masters: the new epoch is above all that
// were ever begun, so that each has had one master (law 4).
type ConfirmSlot struct {
	Proposal   string        `json:"proposal"`
	Slot       slot.ID       `json:"slot"`
	Epoch      slot.Epoch    `json:"epoch"`
	Seen       slot.Epoch    `json:"seen,omitempty"`
	Version    uint64        `json:"version"`
	To         slot.NodeName `json:"to"`
	Position   slot.Position `json:"position,omitempty"`
	Unclean    bool          `json:"unclean,omitempty"`
	AcceptLoss bool          `json:"accept_loss,omitempty"`
	Empty      bool          `json:"empty,omitempty"` // as in the proposal: empty.go
	By         string        `json:"by,omitempty"`
	Why        string        `json:"why,omitempty"`
	WallTime   string        `json:"wall,omitempty"`
}

// Begins is the epoch that the change begins.
func (c ConfirmSlot) Begins() slot.Epoch { return max(c.Epoch, c.Seen) + 1 }

// ResolveLoss closes a slot's open loss: rescued, or dismissed by a person. With
// Node it closes that old master's part only.
type ResolveLoss struct {
	Slot     slot.ID       `json:"slot"`
	Epoch    slot.Epoch    `json:"epoch"`
	Node     slot.NodeName `json:"node,omitempty"`
	By       string        `json:"by,omitempty"`
	Why      string        `json:"why,omitempty"`
	WallTime string        `json:"wall,omitempty"`
}

// AddToken stores a join token; it replaces an earlier one for the same node.
type AddToken struct {
	Token Token `json:"token"`
}

// AgeTokens takes what a leader measured on its monotonic clock from the life of
// every token, and forgets those that have expired (law 11).
type AgeTokens struct {
	Seconds int64 `json:"seconds"`
}

// shown prepares a text that only people read: short (law 10), valid UTF-8, and
// without control characters, since it is printed on terminals.
func shown(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) <= maxText {
		return s
	}
	end := maxText - len("…")
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}
