package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"mailnode/failover"
	"mailnode/node/admin"
	"mailnode/node/rpc"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// failovers implements admin.Failovers: what an operator sees and says about
// proposals goes to package failover and comes back.
type failovers struct{ n *Node }

// Proposals implements admin.Failovers.
func (f failovers) Proposals(ctx context.Context, all bool) ([]admin.Proposal, error) {
	f.n.catchUp(ctx)
	st, v := f.n.State(), f.n.view()
	open, err := failover.List(ctx, st, v, f.n.cfg.Replication.SuspectAfter, f.n)
	if err != nil {
		return nil, err
	}
	out := []admin.Proposal{}
	for _, p := range open.Proposals {
		out = append(out, planned(st, p))
	}
	if all {
		for _, p := range st.Proposals {
			if p.State != "open" {
				out = append(out, recorded(p, v))
			}
		}
	}
	return out, nil
}

var _ admin.Recorder = failovers{}

// Recorded implements admin.Recorder.
func (f failovers) Recorded() admin.Recorded { return f.n.recorded() }

// planned shows a plan. Its node is Raft's: "" when the proposal is about slots of a
// living one.
func planned(st *cluster.State, p failover.Plan) admin.Proposal {
	out := admin.Proposal{ID: p.Proposal, State: string(p.State), SinceS: p.SinceS, Reason: p.Reason, Slots: []admin.ProposedSlot{}}
	if recorded, ok := st.Proposal(p.Proposal); ok {
		out.Node = recorded.Node
	}
	for _, s := range p.Slots {
		ps := admin.ProposedSlot{Slot: s.Slot, From: s.From, To: s.To, Safe: s.Safe, Done: s.Done, Why: s.Why, Opening: s.Opening}
		if asked := p.State == cluster.Open && !s.Done; asked {
			ps.LagS = s.LagS
			ps.EventsAtRisk = s.EventsAtRisk
			ps.Users = known(s.UsersKnown, s.Users)
		}
		out.Slots = append(out.Slots, ps)
	}
	return out
}

// Plan implements admin.Failovers.
func (f failovers) Plan(ctx context.Context, id string) (admin.Plan, error) {
	f.n.catchUp(ctx)
	st := f.n.State()
	p, err := failover.MakePlan(ctx, st, f.n.view(), f.n.cfg.Replication.SuspectAfter, id, f.n)
	if err != nil {
		return admin.Plan{}, err
	}
	var text strings.Builder
	if err := p.Render(&text); err != nil {
		return admin.Plan{}, err
	}
	return admin.Plan{Proposal: planned(st, p), Text: text.String()}, nil
}

// Propose implements admin.Failovers.
func (f failovers) Propose(ctx context.Context, r admin.ProposeRequest) (admin.Proposed, error) {
	w := failover.Wish{From: r.Node, Dead: r.Dead, To: r.To, By: f.n.from(r.By), WallTime: f.n.wallTime()}
	if r.Home {
		w.From, w.Home, w.HomeOf = "", true, r.Node
	}
	if r.Slot != nil {
		w.Slot = *r.Slot
	}
	if forms := []bool{w.From != "", w.Home, w.To != ""}; len(slices.DeleteFunc(forms, func(is bool) bool { return !is })) != 1 || (r.Slot != nil) != (r.To != "") || r.Dead && w.From == "" || r.Empty && r.Slot == nil {
		return admin.Proposed{}, &admin.Error{Text: "propose: name a node, a slot and a node, or home", Exit: admin.ExitUsage, Next: "mailnode failover propose --node n1"}
	}
	if err := f.n.needQuorum(ctx, "propose"); err != nil {
		return admin.Proposed{}, err
	}
	if r.Empty {
		p, err := failover.ProposeEmpty(ctx, patient{f.n}, f.n.view(), f.n.cfg.Replication.SuspectAfter, failover.EmptyWish{Slot: w.Slot, To: w.To, By: w.By, WallTime: w.WallTime})
		return admin.Proposed{ID: p.Proposal, Exit: p.ExitCode, Text: p.Text}, err
	}
	p, err := failover.Propose(ctx, patient{f.n}, f.n.view(), f.n.cfg.Replication.SuspectAfter, w)
	return admin.Proposed{ID: p.Proposal, Also: p.Also, Exit: p.ExitCode, Text: p.Text, Slots: p.Slots}, err
}

// Confirm implements admin.Failovers.
func (f failovers) Confirm(ctx context.Context, r admin.ConfirmRequest) (admin.Outcome, error) {
	if err := f.n.needQuorum(ctx, "confirm"); err != nil {
		return admin.Outcome{}, err
	}
	o, err := failover.Confirm(ctx, failover.Deps{Ownership: f.n, Serving: f.n, Asker: f.n, View: f.n.view, SuspectAfter: f.n.cfg.Replication.SuspectAfter},
		failover.Request{Proposal: r.ID, Slots: r.Slots, AcceptLoss: r.AcceptLoss, By: f.n.from(r.By), Why: "confirmed by " + r.By, WallTime: f.n.wallTime()})
	if err != nil {
		return admin.Outcome{}, err
	}
	return admin.Outcome{Exit: o.ExitCode, Text: o.Text, Done: slotsOf(o.Done), Refused: slotsOf(append(o.Refused, o.Failed...)), NotServing: slotsOf(o.NotServing)}, nil
}

// from says who gave an order, and at which node: Raft's history keeps it.
func (n *Node) from(by string) string { return by + " at " + string(n.cfg.Node.Name) }

func slotsOf(list []failover.SlotOutcome) []slot.ID {
	out := []slot.ID{}
	for _, s := range list {
		out = append(out, s.Slot)
	}
	return out
}

// Reject implements admin.Failovers.
func (f failovers) Reject(ctx context.Context, r admin.RejectRequest) error {
	if err := f.n.needQuorum(ctx, "reject"); err != nil {
		return err
	}
	f.n.catchUp(ctx)
	o, err := failover.Reject(ctx, patient{f.n}, r.ID, f.n.from(r.By), r.Why)
	if err == nil && o.ExitCode != 0 {
		err = &admin.Error{Text: strings.TrimSpace(o.Text), Exit: o.ExitCode, Next: "mailnode failover list"}
	}
	return err
}

// catchUpWithin is how long an answer waits for what the leader knows already.
const catchUpWithin = time.Second

// catchUp brings this node's state up to what was committed before the call, when
// a leader can be asked: a proposal that was opened elsewhere a moment ago is not
// denied. Without one the answer is what is known here, and says so.
func (n *Node) catchUp(ctx context.Context) {
	if !n.raft.Quorum() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, catchUpWithin)
	defer cancel()
	if err := n.currency.prove(ctx); err != nil {
		n.log.Debug("an answer may be behind the leader", "err", err)
	}
}

// patient is the ownership for an order whose leader may die just now.
type patient struct{ *Node }

// Propose implements failover.Ownership: what never reached a leader is proposed again.
func (p patient) Propose(ctx context.Context, c cluster.Command) (cluster.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, quorumWithin)
	defer cancel()
	for {
		r, err := p.Node.Propose(ctx, c)
		var undone cluster.ErrNotDone
		if !errors.As(err, &undone) || !rpc.Unsent(undone.Cause) || !pause(ctx, proposePause) {
			return r, err
		}
	}
}

// quorumWithin is how long an order waits for an election to end.
const quorumWithin = 15 * time.Second

// needQuorum refuses an order that Raft has to record while it cannot.
func (n *Node) needQuorum(ctx context.Context, what string) error {
	if gone := n.membership(); gone != nil {
		return &admin.Error{Text: fmt.Sprintf("%s: nothing was done: %v", what, gone), Exit: admin.ExitRefused, Next: "systemctl stop mailnode"}
	}
	if n.isLeftBehind() {
		return &admin.Error{Text: fmt.Sprintf("%s: nothing was done: %s", what, n.leftBehindText()), Exit: admin.ExitRefused, Next: fmt.Sprintf("mailnode cluster token %s --replace, on a node that went on", n.cfg.Node.Name)}
	}
	if err := n.raft.Err(); err != nil {
		return &admin.Error{Text: what + ": " + err.Error(), Exit: admin.ExitRefused, Next: "mailnode status"}
	}
	ctx, cancel := context.WithTimeout(ctx, quorumWithin)
	defer cancel()
	for { // a leader that has just died is believed in for a moment
		led := n.raft.Quorum()
		var err error
		if led {
			if err = n.Fresh(ctx); err == nil {
				return nil
			}
		}
		if pause(ctx, proposePause) {
			continue
		}
		text := fmt.Sprintf("this node knows no Raft leader,\nand %d of the %d voters must be up to make one;\nmasters that serve go on serving", n.voters()/2+1, n.voters())
		if led {
			text = fmt.Sprintf("this node cannot prove that what it knows is current: %v", err)
		}
		return &admin.Error{Text: what + ": nothing was done: " + text, Exit: admin.ExitRefused, Next: "mailnode status"}
	}
}

func (n *Node) voters() int {
	count := 0
	for _, m := range n.State().Members {
		if m.Role != cluster.Nonvoter {
			count++
		}
	}
	return count
}
