package admin

import (
	"context"
	"fmt"
	"strings"

	"mailnode/figures"
	"mailnode/node/job"
	"mailnode/node/monitor"
	"mailnode/storage/slot"
)

// Backend is what a server asks. Any of its parts may refuse with an *Error
// (for its exit code and next command), a kind of package storage, or a refusal
// of raftfsm/cluster; see reply.go. The context of a change is not cancelled
// when the client hangs up (law 12), only at its deadline.
type Backend struct {
	Health     Health
	Failovers  Failovers
	Users      UserBook
	Slots      SlotBook
	Cluster    Cluster
	Jobs       *job.Registry
	Mending    Mending
	Reindexing Reindexing
	Rescuing   Rescuing
	Serving    Serving
	Moving     Moving
	Copying    Copying
	Recovering Recovering
	Incidents  Incidents
	Alone      ServingAlone
}

// Health says how things are.
type Health interface {
	// Status answers also while the node is starting or has no quorum, from
	// what it knows; it must take under a second.
	Status(ctx context.Context) (Status, error)
}

// Failovers lists proposals and does what a person decides about them.
type Failovers interface {
	// Proposals returns the open ones, and the last closed ones after them when
	// all is set.
	Proposals(ctx context.Context, all bool) ([]Proposal, error)
	// Plan asks the living nodes again and returns what would be done.
	Plan(ctx context.Context, id string) (Plan, error)
	// Propose opens a proposal, or returns the open one that has it already.
	Propose(ctx context.Context, r ProposeRequest) (Proposed, error)
	// Confirm returns when every confirmed slot serves, or its time is over.
	Confirm(ctx context.Context, r ConfirmRequest) (Outcome, error)
	Reject(ctx context.Context, r RejectRequest) error
}

// Recorder is a Failovers that says how far its Raft is.
type Recorder interface {
	Recorded() Recorded
}

// UserBook knows the users of all slots; it asks their masters.
type UserBook interface {
	Add(ctx context.Context, r AddUser) (User, error)
	SetPassword(ctx context.Context, r SetPassword) error
	List(ctx context.Context) (Users, error)
	// Show also shows a deleted account that can be brought back.
	Show(ctx context.Context, a slot.Address) (User, error)
	SetQuota(ctx context.Context, r SetQuota) error
	SetDisabled(ctx context.Context, r SetDisabled) error
	Delete(ctx context.Context, r NamedUser) error
	// Deleted lists the accounts that Undelete can bring back.
	Deleted(ctx context.Context) (Users, error)
	Undelete(ctx context.Context, r UndeleteUser) (Undeleted, error)
	// Erase takes deleted accounts only.
	Erase(ctx context.Context, r NamedUser) error
}

// SlotBook knows the slots.
type SlotBook interface {
	List(ctx context.Context) ([]SlotStatus, error)
	Show(ctx context.Context, id slot.ID) (SlotDetail, error)
	// Dismiss closes an open loss; a slot without one is refused.
	Dismiss(ctx context.Context, r DismissLoss) error
}

// Cluster knows the members, and lets in new ones.
type Cluster interface {
	Members(ctx context.Context) (Members, error)
	// Token makes a token and records its hash in Raft; it replaces an earlier
	// one for the same node. The name of a member is refused, unless its place is to be
	// taken, and of one that lives in any case.
	Token(ctx context.Context, r TokenRequest) (Token, error)
	// Remove takes a member off the list, for good; nothing is done while slots need it.
	Remove(ctx context.Context, r RemoveRequest) (Removed, error)
	// Place returns slots without a master their first one, without waiting for more nodes.
	Place(ctx context.Context, r PlaceRequest) (Placed, error)
	// Upgrade raises the feature level when every member has said that it knows it.
	Upgrade(ctx context.Context, r UpgradeRequest) error
}

// namedMax is how many problems Status.Verdict names.
const namedMax = 4

// Verdict says in one line how a cluster is, naming so many problems at most.
func Verdict(s Status, named int) string {
	all := problems(s)
	if len(all) == 0 {
		return "all is well"
	}
	text := figures.Count(len(all), "problem")
	switch {
	case named <= 0:
		return text
	case len(all) > named:
		return fmt.Sprintf("%s: %s and %d more", text, strings.Join(all[:named], ", "), len(all)-named)
	}
	return text + ": " + strings.Join(all, ", ")
}

// problems are the conditions that somebody should look at, by name, and the slots
// that nobody serves, whatever the conditions say. What is so of many slots is one
// problem: else one dead node would look like hundreds.
func problems(s Status) []string {
	down, idle := 0, map[string]bool{}
	for _, sl := range s.Slots {
		if !sl.Serving {
			down++
			idle[sl.Slot.String()] = true
		}
	}
	slots := map[monitor.Name]int{} // how many, -1 when that has been said
	counts := func(c monitor.Condition) bool {
		return c.Severity != monitor.Info && !(c.Name == monitor.SlotNoMaster && idle[c.About])
	}
	for _, c := range s.Conditions {
		if _, err := slot.ParseID(c.About); err == nil && counts(c) {
			slots[c.Name]++
		}
	}
	var out []string
	for _, c := range s.Conditions {
		switch _, err := slot.ParseID(c.About); {
		case !counts(c):
		case err != nil || slots[c.Name] == 1:
			out = append(out, strings.TrimSpace(string(c.Name)+" "+c.About))
		case slots[c.Name] > 1:
			out = append(out, fmt.Sprintf("%s of %s", c.Name, figures.Count(slots[c.Name], "slot")))
			slots[c.Name] = -1
		}
	}
	if down > 0 {
		out = append(out, fmt.Sprintf("%s not served", figures.Count(down, "slot")))
	}
	if s.State != "" && s.State != "serving" {
		out = append(out, fmt.Sprintf("%s is %s", s.Node, s.State))
	}
	return out
}

// FirstCommand is what to type first, "" when there is nothing to do: what decides
// a failover, else what the gravest condition asks for, in the order of the table.
func FirstCommand(s Status) string {
	if len(s.Proposals) > 0 {
		return "mailnode failover show " + s.Proposals[0].ID
	}
	var first monitor.Condition
	for _, c := range s.Conditions {
		if c.Severity != monitor.Info && c.Next != "" && c.Next != "mailnode status" && (first.Name == "" || c.Before(first)) {
			first = c
		}
	}
	if first.Next != "" {
		return first.Next
	}
	for _, sl := range s.Slots {
		if !sl.Serving {
			return "mailnode slot show " + sl.Slot.String()
		}
	}
	return ""
}
