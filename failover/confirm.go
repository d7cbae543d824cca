package failover

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"mailnode/figures"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

const (
	inParallel = 16               // slots handed over or asked for at once
	changeMax  = 64               // slots whose master is changed at once: they share entries of Raft's log
	changeWait = 10 * time.Second // for one slot's command, an election included
	serveWait  = 30 * time.Second // until every confirmed slot serves (LAWS §8.2)
	serveAsk   = time.Second      // for one question whether a slot serves
	pollEvery  = 50 * time.Millisecond
)

// Deps is what Confirm works with. View is called once, at the beginning, and
// returns the evidence of the node that runs it.
type Deps struct {
	Ownership    Ownership
	Serving      Serving
	Asker        Asker
	View         func() View
	SuspectAfter time.Duration
}

// Request is an operator's confirmation.
type Request struct {
	Proposal   string    // "" is the only open one
	Slots      []slot.ID // nil is all of the proposal
	AcceptLoss bool      // for the named slots: change them although mail may be lost
	By, Why    string
	WallTime   string // shown only (law 11)
}

// SlotOutcome is what became of one slot.
type SlotOutcome struct {
	Slot   slot.ID       `json:"slot"`
	To     slot.NodeName `json:"to,omitempty"`
	Epoch  slot.Epoch    `json:"epoch,omitempty"` // the one that began
	Why    string        `json:"why,omitempty"`
	Accept string        `json:"accept,omitempty"` // the command that accepts the loss
	Next   string        `json:"next,omitempty"`   // else: the command that goes on
	users  KnownUsers    // whom a loss concerns
}

// Outcome is what a confirmation did. A slot of NotServing is also one of Done.
type Outcome struct {
	Proposal   string        `json:"proposal,omitempty"`
	Done       []SlotOutcome `json:"done,omitempty"`
	Refused    []SlotOutcome `json:"refused,omitempty"`
	Failed     []SlotOutcome `json:"failed,omitempty"`      // what happened is not known
	NotServing []SlotOutcome `json:"not_serving,omitempty"` // changed, but clients are not served yet
	ExitCode   int           `json:"exit_code"`
	Text       string        `json:"text"`
}

// Confirm makes the plan again and changes the master of every slot that is safe,
// or whose loss was accepted by name; the others stay in the proposal. Then it
// waits until all the changed ones serve. What was begun is finished even when
// ctx ends (law 12); only the waiting stops. An error means that nothing was done.
//
// It begins with proof that this node's state is fresh, and each command carries
// the version of the slot record that its plan rests on: whatever Raft records in
// between, for instance that the master went on alone, refuses it (law 1).
func Confirm(ctx context.Context, d Deps, r Request) (Outcome, error) {
	if err := d.Ownership.Fresh(ctx); err != nil {
		return Outcome{}, fmt.Errorf("confirm: this node cannot prove that what it knows of the cluster is current: %w", err)
	}
	st := d.Ownership.State()
	p, refused := find(st, r.Proposal)
	switch {
	case refused != nil && p.State == cluster.Confirmed:
		return d.confirmedBefore(ctx, st, p, r), nil
	case refused != nil:
		return *refused, nil
	}
	if r.AcceptLoss && len(r.Slots) == 0 {
		return refuse(ExitUsage, "to accept a loss, name the slots:",
			fmt.Sprintf("mailnode failover confirm %s --slot s007 --accept-loss", p.ID)), nil
	}
	for _, id := range r.Slots {
		if !slices.ContainsFunc(p.Slots, func(ps cluster.ProposedSlot) bool { return ps.Slot == id }) {
			return refuse(ExitUsage, fmt.Sprintf("%s is not in %s: mailnode failover show %s", id, p.ID, p.ID)), nil
		}
	}
	plan, err := MakePlan(ctx, st, d.View(), d.SuspectAfter, p.ID, d.Asker)
	if err != nil {
		return Outcome{}, fmt.Errorf("confirm proposal %q: %w", p.ID, err)
	}
	if err := ctx.Err(); err != nil { // hung up before anything was begun
		return Outcome{}, fmt.Errorf("confirm proposal %q: %w", p.ID, err)
	}
	out := Outcome{Proposal: p.ID}
	changes, over := chosen(st, plan, r, &out)
	d.change(context.WithoutCancel(ctx), p, r, changes, over, &out)
	out.NotServing = awaitServing(ctx, d.Serving, out.Done)
	out.finish(plan)
	return out, nil
}

// confirmedBefore is the answer to a confirmation that is said again, after a connection
// that dropped or by another operator: how it ended.
func (d Deps) confirmedBefore(ctx context.Context, st *cluster.State, p cluster.Proposal, r Request) Outcome {
	out := Outcome{Proposal: p.ID}
	for _, ps := range p.Slots {
		sl, _ := st.Slot(ps.Slot)
		switch {
		case len(r.Slots) > 0 && !slices.Contains(r.Slots, ps.Slot):
		case sl.Master == ps.To:
			out.file(SlotOutcome{Slot: ps.Slot, To: ps.To, Epoch: sl.Epoch}, changed)
		default:
			out.file(wentElsewhere(sl), declined)
		}
	}
	out.sort()
	out.NotServing = awaitServing(ctx, d.Serving, out.Done)
	out.finish(Plan{})
	if p.ClosedBy != r.By {
		out.Text = fmt.Sprintf("%s was confirmed by %s already\n", p.ID, p.ClosedBy) + out.Text
	}
	return out
}

// change does what was chosen. Slots whose master serves are handed over; one that is
// taken for dead is given a moment for that, and then its slots change without it, as
// far as a plan that was made then says that they may.
func (d Deps) change(ctx context.Context, p cluster.Proposal, r Request, changes []cluster.ConfirmSlot, over []cluster.BeginHandOver, out *Outcome) {
	changeAll(ctx, d.Ownership, changes, out)
	if len(over) == 0 {
		return
	}
	if !p.Dead {
		sideBySide(over, inParallel, func(c cluster.BeginHandOver) (SlotOutcome, result) {
			return handOver(ctx, d.Ownership, c, handOverWait)
		}, out.file)
		out.sort()
		return
	}
	var left []SlotOutcome
	sideBySide(over, changeMax, func(c cluster.BeginHandOver) (SlotOutcome, result) { return handOver(ctx, d.Ownership, c, deadWait) }, func(so SlotOutcome, kind result) {
		if kind == changed {
			out.file(so, kind)
		} else {
			left = append(left, so)
		}
	})
	out.sort()
	if len(left) == 0 {
		return
	}
	sortBySlot(left)
	again := Request{Proposal: p.ID, AcceptLoss: r.AcceptLoss, By: r.By, Why: r.Why, WallTime: r.WallTime}
	for _, so := range left {
		again.Slots = append(again.Slots, so.Slot)
	}
	st := d.Ownership.State()
	if p, ok := st.Proposal(p.ID); !ok || p.State != cluster.Open { // somebody was faster
		fileClosed(st, over, left, out)
	} else {
		plan := makePlan(ctx, planner{st: st, v: d.View(), suspectAfter: d.SuspectAfter, proposal: p.ID, noHandOver: true}, p, d.Asker)
		changes, _ := chosen(st, plan, again, out)
		changeAll(ctx, d.Ownership, changes, out)
	}
}

// fileClosed files what became of slots whose proposal was closed meanwhile.
func fileClosed(st *cluster.State, over []cluster.BeginHandOver, left []SlotOutcome, out *Outcome) {
	for _, so := range left {
		i := slices.IndexFunc(over, func(c cluster.BeginHandOver) bool { return c.Slot == so.Slot })
		end, kind := handedOver(st, over[i], 0)
		if kind == undecided {
			end = so
		}
		out.file(end, kind)
	}
	out.sort()
}

// chosen sorts the slots of a plan into commands and refusals.
func chosen(st *cluster.State, plan Plan, r Request, out *Outcome) (changes []cluster.ConfirmSlot, over []cluster.BeginHandOver) {
	for _, s := range plan.Slots {
		named := slices.Contains(r.Slots, s.Slot)
		accepted := named && r.AcceptLoss && s.Accept != ""
		switch {
		case len(r.Slots) > 0 && !named:
		case s.Done && named:
			if so, kind := settled(st, cluster.ConfirmSlot{Proposal: plan.Proposal, Slot: s.Slot, Epoch: s.Epoch, Seen: s.SeenEpoch, To: s.To}); kind == changed {
				out.Done = append(out.Done, so)
			} else {
				out.Refused = append(out.Refused, so)
			}
		case s.Done:
		case s.Safe && s.HandOver:
			over = append(over, cluster.BeginHandOver{Proposal: plan.Proposal, Slot: s.Slot, Epoch: s.Epoch, Version: s.Version, To: s.To, By: r.By, WallTime: r.WallTime})
		case s.Safe || accepted:
			// The old master did not seal the slot, so the epoch is unclean also
			// when its node lives.
			changes = append(changes, cluster.ConfirmSlot{Proposal: plan.Proposal, Slot: s.Slot, Epoch: s.Epoch, Seen: s.SeenEpoch, Version: s.Version, To: s.To, Position: s.Position,
				Unclean: true, AcceptLoss: !s.Safe, Empty: s.Empty, By: r.By, Why: r.Why, WallTime: r.WallTime})
		default:
			out.Refused = append(out.Refused, SlotOutcome{Slot: s.Slot, To: s.To, Why: s.Why, Accept: s.Accept, Next: s.Next, users: s.KnownUsers})
		}
	}
	return changes, over
}

// changeAll runs the commands side by side and files each result.
func changeAll(ctx context.Context, own Ownership, changes []cluster.ConfirmSlot, out *Outcome) {
	sideBySide(changes, changeMax, func(c cluster.ConfirmSlot) (SlotOutcome, result) { return change(ctx, own, c) }, out.file)
	out.sort()
}

// sideBySide does something for each command, so many at once, and gives each result to
// file, one at a time.
func sideBySide[C any](list []C, atOnce int, do func(C) (SlotOutcome, result), file func(SlotOutcome, result)) {
	var mu sync.Mutex
	each(list, atOnce, func(c C) {
		so, kind := do(c)
		mu.Lock()
		defer mu.Unlock()
		file(so, kind)
	})
}

func (o *Outcome) file(so SlotOutcome, kind result) {
	switch kind {
	case changed:
		o.Done = append(o.Done, so)
	case declined:
		o.Refused = append(o.Refused, so)
	default:
		o.Failed = append(o.Failed, so)
	}
}

func (o *Outcome) sort() {
	for _, list := range [][]SlotOutcome{o.Done, o.Refused, o.Failed} {
		sortBySlot(list)
	}
}

// awaitServing waits until every changed slot serves, and returns those that do
// not when the time is over or nobody waits any more.
func awaitServing(ctx context.Context, serving Serving, done []SlotOutcome) []SlotOutcome {
	ctx, cancel := context.WithTimeout(ctx, serveWait)
	defer cancel()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for pending := done; ; {
		var mu sync.Mutex
		var left []SlotOutcome
		each(pending, inParallel, func(so SlotOutcome) {
			one, cancel := context.WithTimeout(ctx, serveAsk)
			defer cancel()
			ok, err := serving.Serving(one, so.To, so.Slot, so.Epoch)
			if ok && err == nil {
				return
			}
			so.Why = fmt.Sprintf("%s does not serve it", so.To)
			if err != nil {
				so.Why = fmt.Sprintf("%s does not report whether it serves: %v", so.To, err)
			}
			mu.Lock()
			defer mu.Unlock()
			left = append(left, so)
		})
		if len(left) == 0 {
			return nil
		}
		sortBySlot(left)
		pending = left
		select {
		case <-ctx.Done():
			return pending
		case <-poll.C:
		}
	}
}

// finish sets exit code and text.
func (o *Outcome) finish(plan Plan) {
	switch {
	case len(o.NotServing) > 0 || len(o.Failed) > 0:
		o.ExitCode = ExitFailed
	case len(o.Refused) > 0:
		o.ExitCode = ExitRefused
	}
	var out printer
	total := len(o.Done) + len(o.Refused) + len(o.Failed)
	out.line(0, "%s: %d of %d done", o.Proposal, len(o.Done), total)
	for _, g := range grouped(o.NotServing, SlotOutcome.said) {
		out.line(0, "%s: changed, yet %s", outcomeNames(g), g[0].Why)
		out.command("mailnode slot show " + g[0].Slot.String())
	}
	for _, g := range grouped(o.Failed, SlotOutcome.said) {
		out.line(0, "%s: %s", outcomeNames(g), g[0].Why)
		out.command("mailnode failover show " + o.Proposal)
	}
	for _, g := range grouped(o.Refused, SlotOutcome.said) {
		out.line(0, "%s: not done, %s", outcomeNames(g), g[0].Why)
		switch {
		case g[0].Accept != "":
			out.line(2, "%s", g[0].concerns())
			out.line(2, "to accept the loss:")
			out.command(g[0].Accept)
		case g[0].Next != "":
			out.command(g[0].Next)
		}
	}
	if len(o.Done) > 0 && plan.CutOff != "" {
		out.line(0, "%s", plan.CutOff)
	}
	o.Text = out.String()
}

// said is what is printed of an outcome; a command is for one slot.
func (s SlotOutcome) said() string { return s.Why + "|" + s.Accept + "|" + s.Next }

// concerns says whose mail a loss would hide.
func (s SlotOutcome) concerns() string {
	if !s.users.UsersKnown {
		return "whom it concerns is not known: no living node knows the users"
	}
	text := "it concerns " + figures.Count(s.users.Users, "user")
	if names := s.users.names(); names != "" {
		text += ": " + names
	}
	return text
}

func outcomeNames(g []SlotOutcome) string {
	list := make([]slot.ID, 0, len(g))
	for _, s := range g {
		list = append(list, s.Slot)
	}
	return names(list)
}

// each runs f for all items, so many at once.
func each[T any](items []T, atOnce int, f func(T)) {
	var wg sync.WaitGroup
	gate := make(chan struct{}, atOnce)
	for _, it := range items {
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			f(it)
		})
	}
	wg.Wait()
}

func sortBySlot(list []SlotOutcome) {
	slices.SortFunc(list, func(a, b SlotOutcome) int { return strings.Compare(a.Slot.String(), b.Slot.String()) })
}
