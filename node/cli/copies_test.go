package cli

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mailnode/node/admin"
)

// copyBook is admin.Copying: n9 is nobody, n1 holds a copy already.
type copyBook struct{ *site }

func (b copyBook) PlanCopies(_ context.Context, r admin.CopiesRequest) (admin.CopiesAnswer, error) {
	switch {
	case r.Add == "n9":
		return admin.CopiesAnswer{Exit: admin.ExitUsage, Lines: []string{"there is no node"}, Next: "mailnode cluster members"}, nil
	case r.Add == "n1":
		return admin.CopiesAnswer{Exit: admin.ExitNothing, Lines: []string{"n1 holds one"}}, nil
	}
	return admin.CopiesAnswer{Lines: []string{"the replica", "it goes when the others hold all that it has confirmed"}}, nil
}

func (b copyBook) ChangeCopies(_ context.Context, r admin.CopiesRequest) (admin.CopiesAnswer, error) {
	r.By = ""
	b.orders = append(b.orders, r)
	return admin.CopiesAnswer{Lines: []string{"recorded"}, Next: "mailnode slot show s007"}, nil
}

// A wish is shown, asked for, and given as it was typed.
func TestReplicaVerbs(t *testing.T) {
	two := 2
	for args, want := range map[string]struct {
		exit   int
		orders []any
		says   string
	}{
		"slot add-replica s007 n3 --yes":          {orders: []any{admin.CopiesRequest{Slot: 7, Add: "n3"}}, says: "next: mailnode slot show s007"},
		"slot drop-replica s007 n3 --yes":         {orders: []any{admin.CopiesRequest{Slot: 7, Drop: "n3"}}},
		"slot drop-replica s007 n3 --force --yes": {orders: []any{admin.CopiesRequest{Slot: 7, Drop: "n3", Force: true}}},
		"slot replicas s007 2 --yes":              {orders: []any{admin.CopiesRequest{Slot: 7, Count: &two}}},
		"slot replicas s007 2 --yes --json":       {orders: []any{admin.CopiesRequest{Slot: 7, Count: &two}}, says: `"exit":0`},
		"slot drop-replica s007 n3 --force":       {exit: admin.ExitRefused, says: "mailnode slot drop-replica s007 n3 --force --yes"},
		"slot add-replica s007 n9 --yes":          {exit: admin.ExitUsage, says: "mailnode cluster members"},
		"slot add-replica s007 n1 --yes":          {exit: admin.ExitNothing},
		"slot add-replica 7 n3 --yes":             {exit: admin.ExitUsage},
		"slot add-replica s007":                   {exit: admin.ExitUsage},
		"slot replicas s007 two --yes":            {exit: admin.ExitUsage},
	} {
		s := calm()
		exit, out, errs := call(t, s.serve(t), "", strings.Fields(args)...)
		if diff := cmp.Diff(want.orders, s.orders); diff != "" || exit != want.exit || !strings.Contains(out+errs, want.says) {
			t.Errorf("%s: exit %d, want %d\n%s%s%s", args, exit, want.exit, out, errs, diff)
		}
	}
}
