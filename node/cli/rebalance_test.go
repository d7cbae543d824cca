package cli

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mailnode/node/admin"
	"mailnode/storage/slot"
)

// moveBook is admin.Moving: n3 can be emptied, n2 cannot, n1 holds nothing, n9 is nobody.
type moveBook struct{ *site }

func (b moveBook) Moves(_ context.Context, empty slot.NodeName) (admin.Moves, error) {
	m := admin.Moves{RatePerS: 20 << 20}
	switch empty {
	case "n1":
	case "n2":
		m.Cannot = []slot.ID{1, 2, 3}
	case "n9":
		return m, &admin.Error{Text: "move copies: there is no node n9", Exit: admin.ExitUsage, Next: "mailnode cluster members"}
	default:
		m.Bytes, m.AboutS = 9<<30, 461
		m.Planned = []admin.Move{{Slot: 3, Epoch: 1, To: "n4", From: "n3", Bytes: 4 << 30}, {Slot: 7, Epoch: 2, To: "n4", From: "n3", Lead: "n4", Bytes: 5 << 30}, {Slot: 9, Epoch: 1, Lead: "n1"}}
		m.UnderWay = []admin.Move{{Slot: 11, To: "n4", From: "n2", State: "from n2 to n4: being filled"}}
		if empty == "n3" {
			m.Cannot = []slot.ID{5}
		}
	}
	return m, nil
}

func (b moveBook) StartMoves(_ context.Context, r admin.StartMoves) error {
	r.By = ""
	b.orders = append(b.orders, r)
	return nil
}

func (b moveBook) StopMoves(_ context.Context, r admin.StopMoves) error {
	r.By = ""
	b.orders = append(b.orders, r)
	return nil
}

// The moves are shown, asked for, and given as they were shown; what cannot be done is
// said; and nothing is done unasked.
func TestRebalanceVerb(t *testing.T) {
	planned, err := moveBook{}.Moves(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	start := []any{admin.StartMoves{Moves: planned.Planned}}
	for args, want := range map[string]struct {
		exit   int
		orders []any
		says   string
	}{
		"slot rebalance --yes":            {orders: start, says: "to stop:  mailnode slot rebalance --stop"},
		"slot rebalance":                  {exit: admin.ExitRefused, says: "mailnode slot rebalance --yes"},
		"slot rebalance --dry-run":        {says: "s007: copy n3 > n4, 5.0 GiB, then master n4"},
		"slot rebalance --dry-run --json": {says: `"about_s":461`},
		"slot rebalance --json":           {exit: admin.ExitUsage},
		"slot rebalance --node n3 --yes":  {exit: admin.ExitRefused, orders: start, says: "no node can take a copy of s005"},
		"slot rebalance --node n3":        {exit: admin.ExitRefused, says: "mailnode slot rebalance --node n3 --yes"},
		"slot rebalance --node n2 --yes":  {exit: admin.ExitRefused, says: "no node can take a copy of s001-s003"},
		"slot rebalance --node n1 --yes":  {exit: admin.ExitNothing, says: "n1 holds no copy that can be moved"},
		"slot rebalance --node n9 --yes":  {exit: admin.ExitUsage, says: "mailnode cluster members"},
		"slot rebalance --stop --yes":     {orders: []any{admin.StopMoves{}}, says: "stopped"},
		"slot rebalance --stop":           {exit: admin.ExitRefused, says: "mailnode slot rebalance --stop --yes"},
		"slot rebalance --stop --node n3": {exit: admin.ExitUsage},
		"slot rebalance s003":             {exit: admin.ExitUsage},
	} {
		s := calm()
		exit, out, errs := call(t, s.serve(t), "", strings.Fields(args)...)
		if diff := cmp.Diff(want.orders, s.orders); diff != "" || exit != want.exit || !strings.Contains(out+errs, want.says) {
			t.Errorf("%s: exit %d, want %d\n%s%s%s", args, exit, want.exit, out, errs, diff)
		}
	}
}
