package failover

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"mailnode/raftfsm/cluster"
)

// TestLaw04ConfirmByKindOfError: what became of a command is decided by the kind
// of its error, and said.
func TestLaw04ConfirmByKindOfError(t *testing.T) {
	late := errors.New("waited 4 s for n3: no answer in time")
	for name, c := range map[string]struct {
		before, after error // a fault before or after the command was applied
		exit          int
		done, refused int
		says          string
	}{
		"no leader":                 {before: cluster.ErrNotDone{Cause: errors.New("no leader took it")}, exit: ExitRefused, refused: 15, says: "nothing was done: no leader took it"},
		"halted":                    {before: halted{}, exit: ExitRefused, refused: 15, says: "raft is stopped"},
		"committed, not seen here":  {after: cluster.ErrUnseen{Index: 9, Cause: context.DeadlineExceeded}, done: 15},
		"the answer was lost":       {after: late, done: 15},
		"the leader does not reply": {before: late, exit: ExitFailed, says: "the outcome is not known: waited 4 s for n3: no answer in time; ask another node:"},
		"refused":                   {before: cluster.ErrInvalid{What: "confirm", Why: "no"}, exit: ExitRefused, refused: 15, says: "confirm: no"},
		"unknown, then not done":    {before: errors.Join(cluster.ErrNotDone{Cause: late}, cluster.ErrUnknownOutcome), exit: ExitFailed, says: "ask another node:"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := fifteen(t)
				s.propose = func(cluster.Command) error { return c.before }
				s.after = func(cluster.Command) error { return c.after }
				o, err := Confirm(t.Context(), s.deps(), Request{})
				if err != nil || o.ExitCode != c.exit || len(o.Done) != c.done || len(o.Refused) != c.refused || !said(o, c.says) {
					t.Errorf("%+v, %v", o, err)
				}
			})
		})
	}
}

type halted struct{}

func (halted) Error() string            { return "raft is stopped" }
func (halted) Outcome() cluster.Outcome { return cluster.Halted }
