package ownership

import (
	"testing"
	"time"

	"mailnode/raftfsm/cluster"
)

// TestLaw04HistoriesOfTwoOwnersAreFound: the model sees what it is there for.
func TestLaw04HistoriesOfTwoOwnersAreFound(t *testing.T) {
	one, two := Owner{1, "n1"}, Owner{2, "n2"}
	type op struct {
		call, end int64
		in, out   any
	}
	change := op{0, 20, Gives{one, two}, cluster.Done}
	for _, c := range []struct {
		name string
		ops  []op
		ok   bool
	}{
		{"before and after", []op{{1, 2, Reads{}, one}, change, {30, 31, Reads{}, two}}, true},
		{"an old owner acknowledges when a new one has", []op{change, {5, 6, Reads{}, two}, {7, 8, Reads{}, one}}, false},
		{"both at once, in an order that is possible", []op{change, {5, 9, Reads{}, two}, {7, 8, Reads{}, one}}, true},
		{"two owners of an epoch", []op{change, {30, 31, Reads{}, two}, {32, 33, Reads{}, Owner{2, "n3"}}}, false},
		{"an epoch ends twice", []op{change, {0, 20, Gives{one, Owner{2, "n3"}}, cluster.Done}}, false},
		{"a change that may have come true", []op{{0, 0, Gives{one, two}, cluster.UnknownOutcome}, {5, 6, Reads{}, one}, {7, 8, Reads{}, two}}, true},
		{"an owner whom nobody made one", []op{{5, 6, Reads{}, two}}, false},
	} {
		h := &History{}
		for i, o := range c.ops {
			h.Note(i, o.call, o.end, o.in, o.out)
		}
		if err := h.Check(one, time.Minute); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
