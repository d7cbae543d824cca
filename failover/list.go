package failover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"mailnode/figures"
	"mailnode/raftfsm/cluster"
)

// Proposals is what `failover list --json` prints.
type Proposals struct {
	Proposals []Plan `json:"proposals"`
}

// List returns the plans of all open proposals, oldest first.
func List(ctx context.Context, st *cluster.State, v View, suspectAfter time.Duration, asker Asker) (Proposals, error) {
	out := Proposals{Proposals: []Plan{}}
	for _, p := range st.OpenProposals() {
		plan, err := MakePlan(ctx, st, v, suspectAfter, p.ID, asker)
		if err != nil {
			return out, fmt.Errorf("list proposals: %w", err)
		}
		out.Proposals = append(out.Proposals, plan)
	}
	return out, nil
}

// Render prints all plans; with none it says so.
func (ps Proposals) Render(w io.Writer) error {
	var out printer
	if len(ps.Proposals) == 0 {
		out.line(0, "no open proposal")
	}
	for i, p := range ps.Proposals {
		if i > 0 {
			out.gap()
		}
		p.print(&out)
	}
	return out.writeTo(w)
}

// Reject closes an open proposal that an operator does not want. Decide does not
// open it again before its cause went away and came back.
func Reject(ctx context.Context, own Ownership, id, by, why string) (Outcome, error) {
	p, refused := find(own.State(), id)
	switch {
	case refused != nil && p.State == cluster.Rejected: // said again
		return Outcome{Text: refused.Text}, nil
	case refused != nil:
		return *refused, nil
	}
	_, err := own.Propose(ctx, cluster.RejectProposal{Proposal: p.ID, By: by, Why: why})
	var closed cluster.ErrClosed
	switch outcome := cluster.OutcomeOf(err); {
	case outcome == cluster.Done, outcome == cluster.Unseen:
		return Outcome{Text: fmt.Sprintf("%s is rejected; nothing was changed\n", p.ID)}, nil
	case errors.As(err, &closed):
		return refuse(ExitRefused, closed.Error()), nil
	}
	return Outcome{ExitCode: ExitFailed}, fmt.Errorf("reject proposal %q: %w", p.ID, err)
}

// find returns the proposal that an operator means, "" for the only open one, or
// the answer why there is none to act on.
func find(st *cluster.State, id string) (cluster.Proposal, *Outcome) {
	open := st.OpenProposals()
	if id == "" {
		switch len(open) {
		case 0:
			o := refuse(ExitNothing, "no open proposal")
			return cluster.Proposal{}, &o
		case 1:
			return open[0], nil
		}
		o := refuse(ExitUsage, fmt.Sprintf("%d proposals are open, name one:", len(open)), briefly(open)...)
		return cluster.Proposal{}, &o
	}
	p, ok := st.Proposal(id)
	switch {
	case !ok && len(open) == 0:
		o := refuse(ExitUsage, fmt.Sprintf("there is no proposal %q, and no open one", short(id)))
		return p, &o
	case !ok:
		o := refuse(ExitUsage, fmt.Sprintf("there is no proposal %q; open:", short(id)), briefly(open)...)
		return p, &o
	case p.State != cluster.Open:
		text := fmt.Sprintf("%s was %s", p.ID, p.State)
		if p.ClosedBy != "" {
			text += " by " + p.ClosedBy
		}
		if p.Closed != "" {
			text += ": " + p.Closed
		}
		o := refuse(ExitRefused, text)
		return p, &o
	}
	return p, nil
}

func briefly(open []cluster.Proposal) []string {
	var out []string
	for _, p := range open {
		out = append(out, fmt.Sprintf("%s: %s of %s, %s", p.ID, figures.Count(p.Left(), "slot"), subject(p), p.Reason))
	}
	return out
}

// refuse is an outcome in which nothing was done.
func refuse(code int, text string, more ...string) Outcome {
	var out printer
	out.line(0, "%s", text)
	for _, m := range more {
		if strings.HasPrefix(m, "mailnode ") {
			out.command(m)
		} else {
			out.line(2, "%s", m)
		}
	}
	return Outcome{ExitCode: code, Text: out.String()}
}
