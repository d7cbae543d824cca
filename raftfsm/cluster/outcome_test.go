package cluster

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

// TestLaw01OutcomeOf: whether a record was refused, or only not known, decides
// whether a master ends or goes on alone.
func TestLaw01OutcomeOf(t *testing.T) {
	halted := haltedNode{}
	for name, c := range map[string]struct {
		err  error
		want Outcome
	}{
		"no error":                       {nil, Done},
		"epoch over":                     {ErrStale{"epoch of slot s007", 1, 2}, Refused},
		"no such proposal":               {ErrNotFound{"proposal", "p9"}, Refused},
		"exists":                         {ErrExists{Kind: "member", Name: "n1"}, Refused},
		"invalid":                        {ErrInvalid{"slot s007", "no"}, Refused},
		"closed":                         {ErrClosed{Proposal: "p3", State: Rejected}, Refused},
		"a refusal that was wrapped":     {fmt.Errorf("propose: %w", ErrStale{}), Refused},
		"nothing was sent":               {ErrNotDone{context.DeadlineExceeded}, NotDone},
		"committed, not seen":            {fmt.Errorf("propose: %w", ErrUnseen{7, context.Canceled}), Unseen},
		"halted before":                  {halted, Halted},
		"halted in the middle":           {fmt.Errorf("%w (%w)", ErrUnknownOutcome, halted), UnknownOutcome},
		"not done, then sent all alike":  {fmt.Errorf("%w (%w)", ErrNotDone{errors.New("no leader")}, ErrUnknownOutcome), UnknownOutcome},
		"a time-out that has no kind":    {context.DeadlineExceeded, UnknownOutcome},
		"an error that nobody has heard": {errors.New("rpc error: code = Unavailable"), UnknownOutcome},
	} {
		if got := OutcomeOf(c.err); got != c.want {
			t.Errorf("%s: outcome %d, want %d", name, got, c.want)
		}
	}
}

type haltedNode struct{}

func (haltedNode) Error() string    { return "raft is stopped" }
func (haltedNode) Outcome() Outcome { return Halted }
