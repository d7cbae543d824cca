package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"mailnode/figures"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// Plan is a proposal as an operator reads it: what would happen to each slot,
// and what is not known. Its JSON is one entry of `failover list --json`; fields
// are only ever added.
type Plan struct {
	Proposal  string                `json:"id"`
	Node      slot.NodeName         `json:"node"`
	State     cluster.ProposalState `json:"state"`
	SinceS    int64                 `json:"since_s"` // how long the cause has lasted, as far as this node heard
	Slots     []PlanSlot            `json:"slots"`
	Reason    string                `json:"reason,omitempty"`
	LastWords string                `json:"last_words,omitempty"`
	CutOff    string                `json:"cut_off,omitempty"` // what becomes of the mail of a node that only seems dead
	OpenedBy  string                `json:"opened_by,omitempty"`
	ClosedBy  string                `json:"closed_by,omitempty"`
	Closed    string                `json:"closed,omitempty"`     // why it was closed
	SinceWall string                `json:"since_wall,omitempty"` // shown only (law 11)
}

// PlanSlot is the plan for one slot. What is at risk counts what the old master
// had beyond the target, by the last heartbeat that anyone kept.
type PlanSlot struct {
	Slot slot.ID       `json:"slot"`
	From slot.NodeName `json:"from"`
	To   slot.NodeName `json:"to"` // "" when no viable copy answers
	Verdict
	LagS *float64 `json:"lag_s"` // of the target, by the master's last heartbeat to it; null: it had none
	Risk
	KnownUsers
	Epoch       slot.Epoch    `json:"epoch"`              // the epoch that the change ends
	Version     uint64        `json:"version"`            // of the slot record that this plan was made from
	Done        bool          `json:"done,omitempty"`     // it was changed already
	SinceS      int64         `json:"since_s"`            // how long the slot has been without its master
	Position    slot.Position `json:"position"`           // last event of the target
	InProposal  slot.NodeName `json:"proposed,omitempty"` // the target that the proposal recorded, when it differs
	OtherCopies []string      `json:"other_copies"`       // viable ones that remain beside the target
	NotChosen   []string      `json:"not_chosen"`         // other copies, and why they were not chosen
}

// Verdict reports whether a slot may change.
type Verdict struct {
	Safe   bool   `json:"safe"`
	Why    string `json:"why,omitempty"`    // not safe: what is not known or would be lost
	Accept string `json:"accept,omitempty"` // the command that accepts the loss
	Next   string `json:"next,omitempty"`   // not safe, and no loss to accept: the command that goes on
	Serves bool   `json:"serves,omitempty"` // the old master serves the slot: nothing to do
	// HandOver says that the old master serves, and hands the slot over: nothing can be
	// missing, and service pauses for about a second.
	HandOver bool `json:"hand_over,omitempty"`
	// Stays says that the old master serves, and cannot hand the slot over now.
	Stays bool `json:"stays,omitempty"`
	// Opening says that it cannot because the next master still opens its copy, as after
	// a restart: in a moment it can.
	Opening bool `json:"opening,omitempty"`
	Empty   bool `json:"empty,omitempty"`   // the slot starts with nothing
	NoCopy  bool `json:"no_copy,omitempty"` // no copy with mail is known to live
	// SeenEpoch is set when a node has seen a higher epoch than Raft has.
	SeenEpoch slot.Epoch `json:"seen_epoch,omitempty"`
}

// Risk is what the old master had beyond the target, by what living nodes last
// heard; null while nobody heard of this epoch.
type Risk struct {
	EventsAtRisk   *uint64       `json:"events_at_risk"`
	MessagesAtRisk *uint64       `json:"messages_at_risk"`
	BytesAtRisk    *uint64       `json:"bytes_at_risk"`
	UsersAtRisk    *int          `json:"users_at_risk"` // whom the target does not know at all; null: not known
	RiskKnown      bool          `json:"risk_known"`
	RiskBy         slot.NodeName `json:"risk_by,omitempty"`     // who heard it
	RiskAgoMs      int64         `json:"risk_ago_ms,omitempty"` // how long before the plan
}

// KnownUsers are the users of a slot, as far as a living node knows them.
type KnownUsers struct {
	Users      int      `json:"users"`
	UsersKnown bool     `json:"users_known"` // false: no living node knows the names
	UserNames  []string `json:"user_names"`  // the first few
}

// blank is a slot of a plan before anybody was asked. Lists are never null in JSON.
func blank(ps cluster.ProposedSlot) PlanSlot {
	return PlanSlot{Slot: ps.Slot, From: ps.From, Epoch: ps.Epoch, KnownUsers: KnownUsers{UserNames: []string{}}, OtherCopies: []string{}, NotChosen: []string{}}
}

// MakePlan asks every living node about the proposal's slots that are not done,
// and says for each what a confirmation would do. Closed proposals are shown as
// they ended, without asking. The error is cluster.ErrNotFound for an unknown ID.
func MakePlan(ctx context.Context, st *cluster.State, v View, suspectAfter time.Duration, id string, asker Asker) (Plan, error) {
	p, ok := st.Proposal(id)
	if !ok {
		return Plan{}, cluster.ErrNotFound{Kind: "proposal", Name: id}
	}
	return makePlan(ctx, planner{st: st, v: v, suspectAfter: suspectAfter, proposal: p.ID}, p, asker), nil
}

func makePlan(ctx context.Context, pl planner, p cluster.Proposal, asker Asker) Plan {
	if p.State == cluster.Open {
		pl.answers = askAll(ctx, asker, pl.questions(p), pl.v, pl.suspectAfter)
	}
	return pl.plan(p)
}

// PlanOf is the pure part of MakePlan: from one state, one view, and what was
// answered; a node without an entry did not answer. tried says that a hand-over was
// tried with masters that are taken for dead.
func PlanOf(st *cluster.State, v View, suspectAfter time.Duration, p cluster.Proposal, got map[slot.NodeName]Answer, tried bool) Plan {
	pl := planner{st: st, v: v, suspectAfter: suspectAfter, proposal: p.ID, answers: answers{}, noHandOver: tried}
	for n := range pl.questions(p) {
		a, ok := got[n]
		if !ok {
			pl.answers[n] = answer{err: errNoAnswer}
			continue
		}
		pl.answers[n] = answered(a, nil)
	}
	return pl.plan(p)
}

var errNoAnswer = errors.New("it does not answer")

func (pl planner) plan(p cluster.Proposal) Plan {
	plan := Plan{Proposal: p.ID, Node: p.Node, State: p.State, Reason: p.Reason, OpenedBy: p.OpenedBy,
		ClosedBy: p.ClosedBy, Closed: p.Closed, SinceWall: p.SinceWall, Slots: []PlanSlot{}}
	if p.Node == "" {
		plan.Node = slot.NodeName(subject(p))
	}
	if p.State == cluster.Open {
		plan.LastWords, plan.CutOff = pl.lastWords(p), pl.cutOff(p)
	}
	for _, ps := range p.Slots {
		if p.State != cluster.Open || ps.Done {
			one := blank(ps)
			one.To, one.Done = ps.To, ps.Done
			plan.Slots = append(plan.Slots, one)
			continue
		}
		one := pl.slot(p, ps)
		plan.SinceS = max(plan.SinceS, one.SinceS)
		plan.Slots = append(plan.Slots, one)
	}
	return plan
}

// Safe counts the slots that a confirmation changes at once, Left those that are
// not done.
func (p Plan) Safe() (safe, left int) {
	for _, s := range p.Slots {
		if s.Safe {
			safe++
		}
		if !s.Done {
			left++
		}
	}
	return safe, left
}

// planner makes the plan of each slot from one state, one view and one round of answers.
type planner struct {
	st           *cluster.State
	v            View
	suspectAfter time.Duration
	proposal     string
	answers      answers
	noHandOver   bool // it was tried: the master counts as dead
}

// slot plans one slot that is not done.
func (pl planner) slot(p cluster.Proposal, ps cluster.ProposedSlot) PlanSlot {
	out := blank(ps)
	sl, ok := pl.st.Slot(ps.Slot)
	if !ok || sl.Epoch != ps.Epoch || sl.Master != ps.From {
		out.Why = fmt.Sprintf("%s has epoch %d and master %s now, the proposal is for epoch %d", ps.Slot, sl.Epoch, sl.Master, ps.Epoch)
		return out
	}
	out.SinceS, out.Version = pl.since(sl), sl.Version
	asked, seen := pl.asked(sl), pl.sightings(sl.ID)
	forgotten := pl.beyond(sl, seen)
	if ps.Empty {
		out.SeenEpoch = forgotten.epoch
		return pl.empty(out, sl, ps)
	}
	if (p.OpenedBy != Watcher || pl.away(sl)) && forgotten.why == "" && !pl.noHandOver && pl.serves(sl) {
		named := p.OpenedBy != Watcher && p.Node == "" // a person named the target
		if one := pl.handOver(out, sl, ps, asked.staying(sl), named); one.Safe || !p.Dead {
			return one
		}
	}
	doubts := pl.doubts(sl, asked, seen)
	if forgotten.why != "" {
		doubts, out.SeenEpoch = []string{forgotten.why}, forgotten.epoch
	}
	to := asked.choose(sl, ps.To, len(doubts) == 0, forgotten.why != "")
	if to != nil {
		out.To, out.Position = to.Node, to.Position
		if to.Head != 0 && to.Role == RoleReplica {
			lag := float64(to.LagMs/100) / 10
			out.LagS = &lag
		}
		out.Risk = pl.risk(sl, *to, seen)
	}
	if out.To != ps.To {
		out.InProposal = ps.To
	}
	asked.describe(&out)
	out.NoCopy = to == nil && pl.v.stillHas(sl, "", pl.suspectAfter) == ""
	switch {
	case pl.serves(sl) && forgotten.why == "" && p.OpenedBy == Watcher:
		out.Serves = true
		out.Why = fmt.Sprintf("%s answers again: nothing to do", sl.Master)
	case to == nil && len(sl.Replicas) == 0:
		out.Why, out.Next = fmt.Sprintf("no other copy exists: bring %s back", sl.Master), showSlot(sl)
	case to == nil:
		out.Why, out.Next = "no viable copy answers: "+strings.Join(out.NotChosen, ", "), showSlot(sl)
	case len(doubts) > 0:
		out.Why = strings.Join(doubts, "; ")
		out.Accept = fmt.Sprintf("mailnode failover confirm %s --slot %s --accept-loss", pl.proposal, sl.ID)
	default:
		out.Safe = true
	}
	return out
}

// away reports whether the master itself wants another one to serve.
func (pl planner) away(sl cluster.Slot) bool {
	if c, ok := pl.answers[sl.Master].copies[sl.ID]; ok {
		return c.Away != ""
	}
	return pl.v.away(sl, pl.suspectAfter) != ""
}

// showSlot is the command that shows how the copies of a slot are.
func showSlot(sl cluster.Slot) string { return "mailnode slot show " + sl.ID.String() }

// handOver plans a slot whose master serves it and is to hand it over: to the copy that
// the proposal has, if a person named it, else to another one when that cannot.
func (pl planner) handOver(out PlanSlot, sl cluster.Slot, ps cluster.ProposedSlot, asked copies, named bool) PlanSlot {
	want := ps.To
	if h := sl.HandOver; h != nil && h.Proposal == pl.proposal {
		want, named = h.To, true // it has begun
	}
	best := asked.choose(sl, want, false, false)
	to := best
	if c, ok := asked[want]; ok && want != "" && (named || c.trouble() == "" || best == nil) {
		to = &c
	}
	out.SinceS, out.Stays = 0, true
	switch {
	case to == nil && len(sl.Replicas) == 0:
		out.Why, out.Next = fmt.Sprintf("no other copy exists: %s keeps it", sl.Master), showSlot(sl)
		return out
	case to == nil:
		asked.describe(&out)
		out.Why, out.Next = "no viable copy answers: "+strings.Join(out.NotChosen, ", "), showSlot(sl)
		out.Opening = slices.ContainsFunc(asked.sorted(), func(c copyState) bool { return c.Opening != "" })
		return out
	}
	out.To, out.Position = to.Node, to.Position
	switch why := to.trouble(); {
	case why == "":
		out.Safe, out.HandOver, out.Stays = true, true, false
	case best != nil:
		out.Why, out.Next = fmt.Sprintf("%s cannot take it now: it %s; %s can", to.Node, why, best.Node), fmt.Sprintf("mailnode failover reject %s; mailnode fo %s %s", pl.proposal, sl.ID, best.Node)
	case to.leaves:
		out.Why, out.Next = fmt.Sprintf("%s cannot take it: it %s; to keep it:", to.Node, why), fmt.Sprintf("mailnode slot add-replica %s %s", sl.ID, to.Node)
	default:
		out.Why, out.Next = fmt.Sprintf("%s cannot take it now: it %s", to.Node, why), showSlot(sl)
	}
	out.Opening = out.Stays && to.Opening != ""
	asked.describe(&out)
	return out
}

// doubts lists what stands against a change. None: the slot is recorded as
// protected, so at least one in-sync replica holds every acknowledged event, and
// all of them were asked just now; the highest of them holds it all (law 1).
func (pl planner) doubts(sl cluster.Slot, asked copies, seen []Sighting) []string {
	if len(sl.Awaits) > 0 && !begun(sl, seen, asked) {
		return []string{fmt.Sprintf("%s has not begun epoch %d: it waits for %s, which may hold acknowledged mail", sl.Master, sl.Epoch, nodeList(sl.Awaits))}
	}
	if !sl.Protected {
		since := fmt.Sprintf("no replica is recorded as in sync since epoch %d began", sl.Epoch)
		if sl.UnprotectedSince != 0 {
			since = fmt.Sprintf("unprotected since %s", sl.UnprotectedSince)
		}
		return []string{fmt.Sprintf("%s: %s may hold acknowledged mail that no other copy has", since, sl.Master)}
	}
	var out []string
	if why := wentAlone(sl, seen); why != "" {
		out = append(out, why)
	}
	for _, n := range sl.InSync {
		c, ok := asked[n]
		switch {
		case !ok || c.err != nil:
			out = append(out, fmt.Sprintf("%s may hold more and does not answer", n))
		case c.missing:
			out = append(out, fmt.Sprintf("%s was in sync and has no copy now", n))
		case c.fault() != "":
			out = append(out, fmt.Sprintf("%s was in sync and may hold more, but %s", n, c.fault()))
		case c.Lineage != sl.Epoch && !(sl.Inherited && c.Lineage == sl.AtLeast.Epoch() && c.Position >= sl.AtLeast):
			out = append(out, fmt.Sprintf("%s was in sync, yet its last epoch is %d, not %d", n, c.Lineage, sl.Epoch))
		default:
			if why := wentBack(sl, n, c.CopyAnswer, seen); why != "" {
				out = append(out, why)
			}
		}
	}
	return out
}

// begun reports whether any copy is known to have events of the slot's epoch.
func begun(sl cluster.Slot, seen []Sighting, asked copies) bool {
	for _, c := range asked {
		if c.Lineage >= sl.Epoch {
			return true
		}
	}
	return slices.ContainsFunc(seen, func(s Sighting) bool { return s.Lineage >= sl.Epoch })
}

// risk counts what the old master is known to have had beyond the target, by
// whoever heard the most of it.
func (pl planner) risk(sl cluster.Slot, to copyState, seen []Sighting) Risk {
	var out Risk
	var head slot.Position
	var count Counters
	note := func(c CopyReport, by slot.NodeName, agoMs int64) {
		p, n := c.Head, c.HeadCount
		if c.Role == RoleMaster {
			p, n = c.Position, c.Counters
		}
		if c.Epoch == sl.Epoch && p > head {
			head, count, out.RiskBy, out.RiskAgoMs = p, n, by, agoMs
		}
	}
	for _, s := range seen {
		note(s.CopyReport, s.By, s.AgoMs)
	}
	for _, n := range append([]slot.NodeName{sl.Master}, sl.Replicas...) {
		if c, ok := pl.answers[n].copies[sl.ID]; ok {
			note(c.CopyReport, n, 0)
		}
	}
	if out.RiskKnown = head != 0; !out.RiskKnown {
		return out
	}
	have := Counters{}
	switch {
	case to.Lineage > head.Epoch() || to.Lineage == head.Epoch() && to.Position >= head:
		have = count
	case to.Epoch == sl.Epoch || to.Lineage == head.Epoch():
		have = to.Counters
	}
	out.UsersAtRisk = usersBeyond(sl, to, seen)
	events, messages, bytes := beyond(count.Events, have.Events), beyond(count.Messages, have.Messages), beyond(count.Bytes, have.Bytes)
	out.EventsAtRisk, out.MessagesAtRisk, out.BytesAtRisk = &events, &messages, &bytes
	return out
}

// usersBeyond counts the users that the old master had more than the target, by its last
// report in this epoch that anyone heard: with them whole mailboxes are hidden. nil: it is
// not known.
func usersBeyond(sl cluster.Slot, to copyState, seen []Sighting) *int {
	var last *Sighting
	for i, s := range seen {
		if s.Node == sl.Master && s.Epoch == sl.Epoch && s.Accounts != nil && (last == nil || s.Position > last.Position) {
			last = &seen[i]
		}
	}
	if last == nil || to.Accounts == nil {
		return nil
	}
	n := max(0, *last.Accounts-*to.Accounts)
	return &n
}

func beyond(a, b uint64) uint64 {
	if a < b {
		return 0
	}
	return a - b
}

// since is how long a slot has been without its master, in seconds.
func (pl planner) since(sl cluster.Slot) int64 {
	d := pl.v.Silence(sl.Master)
	if !pl.v.serves(sl, pl.suspectAfter) { // it may live, and not serve
		d = max(d, pl.v.Now-pl.v.UnservedSince(sl, pl.suspectAfter))
	}
	if c, ok := pl.v.copyOf(sl.Master, sl.ID); ok && c.Failed != "" {
		d = max(d, pl.v.Now-c.FailedSince)
	}
	return int64(d / time.Second)
}

func (pl planner) lastWords(p cluster.Proposal) string {
	nv := pl.v.Nodes[p.Node]
	if p.Node == "" || nv.LastWords == "" || pl.v.presence(p.Node, pl.suspectAfter) == alive {
		return ""
	}
	ago := figures.Age(pl.v.Now - nv.HeardAt)
	if nv.LastWords == CleanStop {
		return fmt.Sprintf("%s was stopped cleanly %s ago", p.Node, ago)
	}
	return fmt.Sprintf("%s said %s ago: %s", p.Node, ago, nv.LastWords)
}

// cutOff is said for every silent node: silence is no proof of death.
func (pl planner) cutOff(p cluster.Proposal) string {
	var silentNodes []slot.NodeName
	for _, ps := range p.Slots {
		if !ps.Done && !slices.Contains(silentNodes, ps.From) && pl.v.presence(ps.From, pl.suspectAfter) != alive {
			silentNodes = append(silentNodes, ps.From)
		}
	}
	var out []string
	for _, n := range silentNodes {
		since := "it was last heard"
		if t, ok := pl.v.wallAt(pl.v.Silence(n)); ok {
			since = t.Format("15:04:05")
		}
		out = append(out, fmt.Sprintf("if %s is alive but cut off, what it takes since %s is set aside when it returns", n, since))
	}
	return strings.Join(out, "; ")
}
