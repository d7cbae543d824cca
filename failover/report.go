package failover

import (
	"cmp"
	"fmt"
	"strings"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// What a node says last when it is stopped on purpose: Stopping from when it is
// told to, CleanStop once its clients are served.
const (
	Stopping  = "stopping"
	CleanStop = "clean stop"
)

// Report is what a node tells every other node each second.
type Report struct {
	Node      slot.NodeName `json:"node"`
	Boot      string        `json:"boot"` // random, one per process start
	Seq       uint64        `json:"seq"`  // +1 per report of one boot
	Slots     []CopyReport  `json:"slots,omitempty"`
	Heard     []Heard       `json:"heard,omitempty"`      // Evidence.Heard of the sender
	Trouble   string        `json:"trouble,omitempty"`    // why it serves nothing, Raft does not run on it for example
	LastWords string        `json:"last_words,omitempty"` // Stopping or CleanStop; "" while all is well
	Abstains  bool          `json:"abstains,omitempty"`   // Raft's files were lost: it takes no part in votes until it is filled again
	Asides    []AsideReport `json:"asides,omitempty"`     // that nobody has looked at
	WallUnix  int64         `json:"wall,omitempty"`       // the sender's wall clock, shown only (law 11)
	FreeBytes *int64        `json:"free,omitempty"`       // for new copies; nil: not known
	RaftReport
}

// RaftReport is what a recovery has to know of the others' Raft.
type RaftReport struct {
	LogEnd  cluster.LogEnd `json:"log_end,omitzero"`
	Applied uint64         `json:"applied,omitempty"` // State.Index
	// Recovers says that a person recovers the cluster on the sender just now.
	Recovers bool `json:"recovers,omitempty"`
	// LeftBehind is a generation that the cluster was given without the sender.
	LeftBehind slot.Generation `json:"left_behind,omitempty"`
}

// Knows orders what two nodes know of the cluster.
func (r RaftReport) Knows(o RaftReport) int {
	return cmp.Or(r.LogEnd.Compare(o.LogEnd), cmp.Compare(r.Applied, o.Applied))
}

// AsideReport is a state that a copy of the sender has set aside, and that may
// hold acknowledged mail which is in no mailbox (law 7).
type AsideReport struct {
	Slot     slot.ID `json:"slot"`
	Name     string  `json:"name"`
	Counted  bool    `json:"counted,omitempty"` // else the numbers are not known yet
	Messages int     `json:"messages,omitempty"`
	Users    int     `json:"users,omitempty"`
	Folders  int     `json:"folders,omitempty"`
	Trouble  string  `json:"trouble,omitempty"` // it could not be read, or not whole
}

// Heard says how long ago the sender of a report was reached by another node. A
// node that somebody hears is cut off from the leader, not dead.
type Heard struct {
	Node  slot.NodeName `json:"node"`
	AgoMs int64         `json:"ago_ms"`
	// Unserved are the slots that it is the master of and does not serve, by its
	// last report: whoever is cut off from it alone learns that here.
	Unserved []Unserved `json:"unserved,omitempty"`
}

// Unserved is a slot that its master does not serve.
type Unserved struct {
	Slot slot.ID `json:"slot"`
	Why  string  `json:"why,omitempty"`
}

// Role is what a node does for a slot.
type Role string

// The roles of a copy.
const (
	RoleNone    Role = "none"
	RoleMaster  Role = "master"
	RoleReplica Role = "replica"
)

// Counters are totals since the epoch began, as one copy counted them.
type Counters struct {
	Events   uint64 `json:"events"`
	Messages uint64 `json:"messages"`
	Bytes    uint64 `json:"bytes"`
}

// Health reports whether a copy may be chosen.
type Health struct {
	Viable      bool   `json:"viable,omitempty"`
	Building    bool   `json:"building,omitempty"`
	Diverged    bool   `json:"diverged,omitempty"`
	Quarantined bool   `json:"quarantined,omitempty"` // it has a dirty mailbox
	Failed      string `json:"failed,omitempty"`      // the store is poisoned or hangs: why
	// Away says why a copy had better not be the master, though it can serve: its index is
	// damaged, or its disk is slow or fails.
	Away string `json:"away,omitempty"`
	// Hangs is what the copy's disk has not answered for some seconds; it may yet.
	Hangs   string `json:"hangs,omitempty"`
	HangsMs int64  `json:"hangs_ms,omitempty"`
	NoRoom  bool   `json:"no_room,omitempty"` // its disk is full: it takes no changes
	// Opening is what a copy that is not open yet is doing; "" when it is open.
	Opening        string `json:"opening,omitempty"`
	OpeningPercent int    `json:"opening_percent,omitempty"` // of that step; -1: not known
	OpeningMs      int64  `json:"opening_ms,omitempty"`      // since it began to open
	// Filling is how far a building copy has come, in words; "" when it is not being filled.
	Filling string `json:"filling,omitempty"`
}

// OfMaster is what a replica knows of its master, by its last heartbeat.
type OfMaster struct {
	LagMs     int64         `json:"lag_ms,omitempty"`    // on the slot clock
	LagKnown  bool          `json:"lag_known,omitempty"` // else it does not hear its master, and LagMs is of before
	Head      slot.Position `json:"head,omitempty"`
	HeadCount Counters      `json:"head_count"`
}

// CopyReport is the state of one copy, as its node sees it.
type CopyReport struct {
	Slot     slot.ID       `json:"slot"`
	Role     Role          `json:"role"`
	Serving  bool          `json:"serving,omitempty"` // clients are served under Epoch now
	Waiting  string        `json:"waiting,omitempty"` // a master that does not serve: what it waits for
	Epoch    slot.Epoch    `json:"epoch"`             // the epoch that the node works under
	Position slot.Position `json:"position"`          // last durable event
	Lineage  slot.Epoch    `json:"lineage"`           // newest epoch of the copy's lineage
	InSync   bool          `json:"in_sync,omitempty"`
	Health
	Accounts *int `json:"accounts,omitempty"` // of users, in this copy; null: not counted yet
	Acknowledges
	Counters // of this copy
	OfMaster
}

// Acknowledges is on whose word a master acknowledges changes.
type Acknowledges struct {
	// Alone says that it has acknowledged what comes after AloneSince with no replica's
	// confirmation.
	Alone      bool          `json:"alone,omitempty"`
	AloneSince slot.Position `json:"alone_since,omitempty"`
	Protected  *bool         `json:"protected,omitempty"` // while it serves: whether acknowledgements wait for a replica now
	AckLocal   bool          `json:"ack_local,omitempty"` // it waits for no replica, by its settings
}

// serving reports whether a master serves clients under an epoch.
func (c CopyReport) serving(e slot.Epoch) bool {
	return c.Role == RoleMaster && c.Serving && c.Failed == "" && c.Hangs == "" && c.Epoch == e
}

// idle says why a master's copy does not serve an epoch. The text holds nothing
// that changes from try to try: a proposal's reason is a record in Raft.
func (c CopyReport) idle(e slot.Epoch) string {
	switch {
	case c.Failed != "":
		return c.Failed
	case c.Opening != "":
		return "its copy is still opening, it " + c.Opening
	case c.Hangs != "":
		return "its disk does not answer a " + c.Hangs
	case c.Role == RoleMaster && c.Epoch < e:
		return fmt.Sprintf("it works under epoch %d", c.Epoch)
	case c.Waiting != "":
		first, _, _ := strings.Cut(c.Waiting, ": ")
		return first
	case c.Role != RoleMaster:
		return "it has not taken the role"
	}
	return "it does not say why"
}

// fault says why a copy must not be chosen, "" when it is viable.
func (h Health) fault() string {
	switch {
	case h.Failed != "":
		return "has a failed store"
	case h.Opening != "":
		return "is opening"
	case h.Hangs != "":
		return "has a disk that does not answer"
	case h.Diverged:
		return "has diverged"
	case h.Building:
		return "is building"
	case h.Quarantined:
		return "has quarantined events"
	case !h.Viable:
		return "is not viable"
	}
	return ""
}
