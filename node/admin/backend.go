package admin

import (
	"context"
	"fmt"
	"strings"

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
}

// Health says how things are.
type Health interface {
	// Status answers also while the node is starting or has no quorum, from
	// what it knows; it must take under a second.
	Status(ctx context.Context) (Status, error)
}

// Failovers lists proposals and does what a person decides about them.
type Failovers interface {
	// Proposals gives the open ones, and the last closed ones after them when
	// all is set.
	Proposals(ctx context.Context, all bool) ([]Proposal, error)
	// Plan asks the living nodes anew and gives what would be done.
	Plan(ctx context.Context, id string) (Plan, error)
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
	// one for the same node. A name that is a member already is refused.
	Token(ctx context.Context, r TokenRequest) (Token, error)
	// Upgrade raises the feature level when every member has said that it knows it.
	Upgrade(ctx context.Context, r UpgradeRequest) error
}

// Verdict says in one line how a cluster is: what is known by name counts, and
// so does a slot that nobody serves, whatever the conditions say. Such slots are
// one problem: else one dead node would look like hundreds.
func Verdict(s Status) string {
	down, idle := 0, map[string]bool{}
	for _, sl := range s.Slots {
		if !sl.Serving {
			down++
			idle[sl.Slot.String()] = true
		}
	}
	var problems []string
	for _, c := range s.Conditions {
		if c.Severity != monitor.Info && !(c.Name == monitor.SlotNoMaster && idle[c.About]) {
			problems = append(problems, strings.TrimSpace(string(c.Name)+" "+c.About))
		}
	}
	if down > 0 {
		problems = append(problems, fmt.Sprintf("%s not served", counted(down, "slot")))
	}
	if s.State != "" && s.State != "serving" {
		problems = append(problems, fmt.Sprintf("%s is %s", s.Node, s.State))
	}
	if len(problems) == 0 {
		return "all is well"
	}
	text := counted(len(problems), "problem") + ": "
	const namedMax = 4
	if len(problems) > namedMax {
		return text + strings.Join(problems[:namedMax], ", ") + fmt.Sprintf(" and %d more", len(problems)-namedMax)
	}
	return text + strings.Join(problems, ", ")
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
