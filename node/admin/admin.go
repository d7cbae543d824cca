// Package admin is how operators talk to a node: JSON over HTTP on a unix
// socket that only the node's own user and root may use. It has the wire types,
// the server, the client that `mailnode` uses, and what is done to the data
// folder of a node that is not running yet (init, join).
//
// The server knows no cluster: it asks the small interfaces of Backend, which
// package node implements. Fields of the JSON are only ever added.
package admin

import (
	"mailnode/node/monitor"
	"mailnode/storage/slot"
)

// DefaultSocket is where a node listens when its configuration says nothing else.
const DefaultSocket = "/run/mailnode/admin.sock"

// Exit codes of every verb (LAWS §8.2).
const (
	ExitDone    = 0
	ExitFailed  = 1
	ExitUsage   = 2
	ExitNothing = 3 // nothing to do
	ExitRefused = 4 // refused for safety, or done in part
)

// Status is a node's view of the whole cluster.
type Status struct {
	Verdict    string              `json:"verdict"`         // the server fills it in when it is ""
	First      string              `json:"first,omitempty"` // the first command to type; the server fills it in with Verdict
	Nodes      []NodeStatus        `json:"nodes"`
	Slots      []SlotStatus        `json:"slots"`
	Proposals  []Proposal          `json:"proposals"` // the open ones
	Conditions []monitor.Condition `json:"conditions"`

	Node       slot.NodeName   `json:"node"`    // who says all this
	State      string          `json:"state"`   // of that node: starting, serving, stopping
	Version    string          `json:"version"` // of that node
	Cluster    string          `json:"cluster"`
	Generation slot.Generation `json:"generation"`
	Leader     slot.NodeName   `json:"leader"` // "" while there is none
	Jobs       []Job           `json:"jobs"`
	Recorded
}

// Recorded says how far the node's Raft is, from which proposals and records come.
type Recorded struct {
	RecordSource string `json:"record_source,omitempty"` // in words
	RecordStale  bool   `json:"record_stale,omitempty"`  // no leader is known: there may be newer records elsewhere
}

// NodeStatus is one member.
type NodeStatus struct {
	Name    slot.NodeName `json:"name"`
	State   string        `json:"state"` // up, stopping, stopped (a clean stop), silent, joined (it never started), unknown (not heard yet)
	Voter   bool          `json:"voter"`
	Witness bool          `json:"witness,omitempty"`
	Standby bool          `json:"standby,omitempty"`
	Zone    string        `json:"zone,omitempty"`
	Address string        `json:"address"` // peer port
	SilentS int64         `json:"silent_s,omitempty"`

	// As the node said when it started last.
	Release  string            `json:"release,omitempty"`
	Features slot.FeatureLevel `json:"feature_level,omitempty"` // up to which it understands the others
}

// SlotStatus is one slot: what is heard of its master, and what Raft has recorded.
// They differ when a master cannot record what it does. What is not known is null.
type SlotStatus struct {
	Slot      slot.ID       `json:"slot"`
	Epoch     slot.Epoch    `json:"epoch"`
	Master    slot.NodeName `json:"master"`    // "" while there is none
	Protected *bool         `json:"protected"` // whether acknowledgements wait for a replica now
	Copies    []CopyStatus  `json:"copies"`    // the master's included

	Serving bool   `json:"serving"`           // the master serves clients under Epoch
	Waiting string `json:"waiting,omitempty"` // why it does not
	// HandOverTo is the node that is to be master next: changes wait.
	HandOverTo slot.NodeName   `json:"hand_over_to,omitempty"`
	Leaving    []slot.NodeName `json:"leaving,omitempty"` // replicas that are to be dropped
	Move       string          `json:"move,omitempty"`    // of a copy, or of the master, to another node: in words

	ProtectedSource   string `json:"protected_source,omitempty"` // who says so, and how long ago
	RecordedProtected bool   `json:"recorded_protected"`         // as Raft has it
	RecordSource      string `json:"record_source,omitempty"`    // how far this node's Raft is
}

// IsProtected says that the slot is known to be protected.
func (s SlotStatus) IsProtected() bool { return s.Protected != nil && *s.Protected }

// CopyStatus is one node's copy of a slot, as its node last said. What is not
// known is null: the lag of a copy whose node is silent, or that does not hear its
// master, is not.
type CopyStatus struct {
	Node     slot.NodeName  `json:"node"`
	Viable   bool           `json:"viable"`
	Position *slot.Position `json:"position"`
	LagS     *float64       `json:"lag_s"`
	State    string         `json:"state,omitempty"`   // master, following, building, diverged, failed, stopped, silent, unknown
	HeardS   *float64       `json:"heard_s"`           // how long ago its node said all this
	Filling  string         `json:"filling,omitempty"` // of a building copy: how far it has come
	Waiting  string         `json:"waiting,omitempty"` // of a dropped copy: why it is still there

	// In `slot show` only: the lines of the check when the copy was opened, and the
	// digest of all its live records, in hex, at a position; "" is not known.
	SelfCheck []string      `json:"self_check,omitempty"`
	Digest    string        `json:"digest,omitempty"`
	DigestAt  slot.Position `json:"digest_at,omitempty"`
}

// Proposal is a recorded wish to change masters.
type Proposal struct {
	ID     string         `json:"id"`
	Node   slot.NodeName  `json:"node"`
	State  string         `json:"state"`
	SinceS int64          `json:"since_s"`
	Slots  []ProposedSlot `json:"slots"`
	Reason string         `json:"reason,omitempty"`
}

// ProposedSlot is one slot of a proposal. What nobody who answers knows is null.
type ProposedSlot struct {
	Slot         slot.ID       `json:"slot"`
	From         slot.NodeName `json:"from"`
	To           slot.NodeName `json:"to"`
	Safe         bool          `json:"safe"`
	LagS         *float64      `json:"lag_s"`          // by the master's last heartbeat; null: not known
	EventsAtRisk *uint64       `json:"events_at_risk"` // null: not known
	Users        *int          `json:"users"`          // null: not known
	Done         bool          `json:"done,omitempty"`
	Why          string        `json:"why,omitempty"`     // why it is not safe
	Opening      bool          `json:"opening,omitempty"` // not safe because To still opens its copy: in a moment it is
}

// Plan is a proposal with the text that a person reads before confirming it.
type Plan struct {
	Proposal
	Text string `json:"text"`
}

// ConfirmRequest confirms a proposal. By is filled in by the server.
type ConfirmRequest struct {
	ID         string    `json:"id"`              // "" takes the only open one
	Slots      []slot.ID `json:"slots,omitempty"` // nothing: all of the proposal's
	AcceptLoss bool      `json:"accept_loss,omitempty"`
	By         string    `json:"-"`
}

// ProposeRequest wishes for a change of masters that live: all slots off Node, which
// is taken for dead with Dead; Slot to To; or with Home the slots of Node, or all, to
// the nodes whose they were at first. With Empty Slot starts with nothing on To.
type ProposeRequest struct {
	Node slot.NodeName `json:"node,omitempty"`
	Dead bool          `json:"dead,omitempty"`
	Slot *slot.ID      `json:"slot,omitempty"`
	To   slot.NodeName `json:"to,omitempty"`
	Home bool          `json:"home,omitempty"`
	By   string        `json:"-"`

	Empty bool `json:"empty,omitempty"`
}

// Proposed is the open proposal that has what was wished for. Exit is the verb's exit
// code: 3 when there is nothing to do.
type Proposed struct {
	ID   string   `json:"id,omitempty"`
	Also []string `json:"also,omitempty"` // open proposals that have the rest of the slots
	Exit int      `json:"exit"`
	Text string   `json:"text"`
	// Slots are those of the proposal that were wished for; nil: all that are left of it.
	Slots []slot.ID `json:"slots,omitempty"`
}

// RejectRequest closes a proposal without doing anything.
type RejectRequest struct {
	ID  string `json:"id"`
	Why string `json:"why,omitempty"`
	By  string `json:"-"`
}

// Outcome is what became of a confirm. Exit is the verb's exit code.
type Outcome struct {
	Exit       int       `json:"exit"`
	Text       string    `json:"text"`
	Done       []slot.ID `json:"done"`
	Refused    []slot.ID `json:"refused"`
	NotServing []slot.ID `json:"not_serving"`
}

// Proposals is the answer of `failover list`.
type Proposals struct {
	Proposals []Proposal `json:"proposals"`
	Recorded
}

// User is an account as operators see it; never its password.
type User struct {
	Address    slot.Address `json:"address"`
	Slot       slot.ID      `json:"slot"`
	QuotaBytes int64        `json:"quota_bytes"` // 0: no limit
	UsedBytes  int64        `json:"used_bytes"`
	Disabled   bool         `json:"disabled,omitempty"`

	Master   slot.NodeName `json:"master,omitempty"`   // of the slot
	Messages int64         `json:"messages,omitempty"` // where it was asked for one user

	UndeleteS   int64 `json:"undelete_s,omitempty"` // how long removed mail can be brought back, where it was asked for one user
	Deleted     bool  `json:"deleted,omitempty"`
	DeletedAgoS int64 `json:"deleted_ago_s,omitempty"`
	LeftS       int64 `json:"left_s,omitempty"` // until it is erased
}

// Users is the answer of `user list`. Unknown names the slots that could not be
// asked: their users are missing from the list.
type Users struct {
	Users   []User          `json:"users"`
	Unknown []slot.ID       `json:"unknown,omitempty"`
	Silent  []slot.NodeName `json:"silent,omitempty"` // masters that were waited for in vain
}

// AddUser makes an account. By is filled in by the server.
type AddUser struct {
	Address    slot.Address `json:"address"`
	Password   string       `json:"password"`
	QuotaBytes int64        `json:"quota_bytes,omitempty"`
	By         string       `json:"-"`
}

// SetPassword changes a password. By is filled in by the server.
type SetPassword struct {
	Address  slot.Address `json:"address"`
	Password string       `json:"password"`
	By       string       `json:"-"`
}

// Slots is the answer of `slot list`.
type Slots struct {
	Slots []SlotStatus `json:"slots"`
}

// SlotDetail is the answer of `slot show`.
type SlotDetail struct {
	SlotStatus
	Replicas         []slot.NodeName `json:"replicas"`
	Dropped          []CopyStatus    `json:"dropped,omitempty"` // copies that were, and whose files are still there
	InSync           []slot.NodeName `json:"in_sync"`
	Unclean          int             `json:"unclean"`
	UnprotectedSince slot.Position   `json:"unprotected_since,omitempty"`
	OpenLoss         string          `json:"open_loss,omitempty"` // in words
	Users            int             `json:"users"`
	UsersKnown       bool            `json:"users_known"`
	History          []SlotChange    `json:"history"` // oldest first

	Proposal   string              `json:"proposal,omitempty"` // the open one that this slot is in
	Conditions []monitor.Condition `json:"conditions"`         // about this slot, as the node that was asked has them
}

// DismissLoss closes a slot's open loss without a rescue: a person says that what
// the old copy had alone is not coming back. By is filled in by the server.
type DismissLoss struct {
	Slot slot.ID `json:"slot"`
	Why  string  `json:"why,omitempty"`
	By   string  `json:"-"`
}

// SlotChange is one change of a slot's master.
type SlotChange struct {
	Epoch   slot.Epoch    `json:"epoch"`
	From    slot.NodeName `json:"from,omitempty"`
	To      slot.NodeName `json:"to"`
	By      string        `json:"by,omitempty"`
	Why     string        `json:"why,omitempty"`
	When    string        `json:"when,omitempty"` // wall clock, shown only
	Unclean bool          `json:"unclean,omitempty"`
}

// Members is the answer of `cluster members`.
type Members struct {
	Cluster    string          `json:"cluster"`
	Generation slot.Generation `json:"generation"`
	Leader     slot.NodeName   `json:"leader"`
	Members    []NodeStatus    `json:"members"`

	FeatureLevel  slot.FeatureLevel `json:"feature_level"`  // of the cluster
	KnownFeatures slot.FeatureLevel `json:"known_features"` // the highest that the answering node's release has
}

// TokenRequest asks for a join token for a node. By is filled in by the server.
type TokenRequest struct {
	Node     slot.NodeName `json:"node"`
	ExpiresS int64         `json:"expires_s,omitempty"` // 0: the default
	Replace  bool          `json:"replace,omitempty"`   // another machine is to take the place of the member of that name
	By       string        `json:"-"`
}

// Token is a join token: whoever has it can join as that node, once.
type Token struct {
	Node     slot.NodeName `json:"node"`
	Token    string        `json:"token"`
	ExpiresS int64         `json:"expires_s"` // for how long it can be used, in seconds in which the cluster has a leader
}

// Version is the answer of GET /v1/version.
type Version struct {
	Node       slot.NodeName `json:"node"`
	Version    string        `json:"version"`
	Leaderless bool          `json:"leaderless,omitempty"` // the node knows no Raft leader with a quorum
}
