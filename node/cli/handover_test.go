package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mailnode/node/admin"
	"mailnode/storage/slot"
)

// What is typed on a phone, and what a script types, propose and confirm the same.
func TestMoves(t *testing.T) {
	seven := slot.ID(7)
	for args, want := range map[string]admin.ProposeRequest{
		"fo -a n1 --yes":                           {Node: "n1"},
		"fo -m n1 -y":                              {Node: "n1", Home: true},
		"fo -K n2 --yes":                           {Node: "n2", Dead: true},
		"fo s007 n3 --yes":                         {Slot: &seven, To: "n3"},
		"failover propose --node n1":               {Node: "n1"},
		"failover propose --node n1 --dead --json": {Node: "n1", Dead: true},
		"failover propose --slot s007 --to n3":     {Slot: &seven, To: "n3"},
		"failover propose --home":                  {Home: true},
		"failover propose --slot s007 --to n3 --empty --accept-loss": {Slot: &seven, To: "n3", Empty: true},
		"failover propose --home n2":                                 {Home: true, Node: "n2"},
	} {
		s := calm()
		s.status.Proposals = broken().status.Proposals
		exit, out, errs := call(t, s.serve(t), "", strings.Fields(args)...)
		if diff := cmp.Diff([]admin.ProposeRequest{want}, s.proposed); diff != "" || exit != admin.ExitDone {
			t.Errorf("%s: exit %d, %s%s%s", args, exit, errs, out, diff)
		}
		if len(s.confirmed) == 1 && (want.Slot == nil) != (s.confirmed[0].Slots == nil) {
			t.Errorf("%s: confirmed %+v, want what was typed and no more", args, s.confirmed)
		}
		confirms := strings.HasPrefix(args, "fo ")
		if confirms != (len(s.confirmed) == 1) {
			t.Errorf("%s: confirmed %+v", args, s.confirmed)
		}
		if !confirms && !strings.Contains(out, "p1") {
			t.Errorf("%s: %s", args, out)
		}
	}
}

// Nothing moves without a terminal and without --yes; what there is nothing to do for
// is no failure of a script.
func TestMovesAreAskedFor(t *testing.T) {
	for args, want := range map[string]int{
		"fo -a n1":                          admin.ExitRefused,
		"fo -m n1":                          admin.ExitRefused,
		"fo -K n1":                          admin.ExitRefused,
		"fo s007 n3":                        admin.ExitRefused,
		"fo -a idle --yes":                  admin.ExitNothing,
		"failover propose --node idle":      admin.ExitNothing,
		"fo -a n1 -K n2":                    admin.ExitUsage,
		"fo -a n1 s007":                     admin.ExitUsage,
		"fo s007":                           admin.ExitUsage,
		"fo s007 n3 n2":                     admin.ExitUsage,
		"fo 7 n3":                           admin.ExitUsage,
		"fo -a":                             admin.ExitUsage,
		"failover propose":                  admin.ExitUsage,
		"failover propose --slot s007":      admin.ExitUsage,
		"failover propose --dead":           admin.ExitUsage,
		"failover propose n1":               admin.ExitUsage,
		"failover propose --node n1 n2":     admin.ExitUsage,
		"failover propose --slot 7 --to n3": admin.ExitUsage,
	} {
		s := calm()
		s.status.Proposals = broken().status.Proposals
		exit, out, errs := call(t, s.serve(t), "", strings.Fields(args)...)
		unasked := want == admin.ExitRefused && (len(s.proposed) != 0 || !strings.Contains(errs, "next: mailnode "+args+" --yes"))
		if exit != want || len(s.confirmed) != 0 || unasked {
			t.Errorf("%s: exit %d, want %d: %s%s", args, exit, want, out, errs)
		}
	}
}

// While there is no leader an order waits for one, and says so on standard error.
func TestOrderSaysThatItWaitsForALeader(t *testing.T) {
	s := calm()
	s.election = &election{over: make(chan struct{})}
	exit, out, errs := call(t, s.serve(t), "", "failover", "propose", "--node", "n1")
	want := "no Raft leader is known here: it waits for a new one\nthere is a leader: it goes on\n"
	if exit != admin.ExitDone || errs != want || !strings.Contains(out, "mailnode failover confirm p1") {
		t.Errorf("exit %d, %s%s", exit, out, errs)
	}
}

// What another proposal has of a wish is named, and is not called done.
func TestMoveInPart(t *testing.T) {
	s := calm()
	s.status.Proposals = broken().status.Proposals
	s.also = []string{"p2", "p3"}
	exit, out, errs := call(t, s.serve(t), "", "fo", "-a", "n1", "--yes")
	if exit != admin.ExitRefused || len(s.confirmed) != 1 || !strings.HasSuffix(out, "before:\n  mailnode failover confirm p2\n  mailnode failover confirm p3\n") {
		t.Errorf("exit %d, %s%s", exit, out, errs)
	}
}

// Whoever has just restarted a node and brings its masters home waits until its copies
// are open, and is told so.
func TestMoveWaitsForCopiesThatOpen(t *testing.T) {
	s := calm()
	s.status.Proposals = broken().status.Proposals
	s.opens.Store(2)
	exit, _, errs := call(t, s.serve(t), "", "fo", "-m", "n2", "--yes")
	want := "n2 is opening its copies: waiting for it, 15 s at most\n"
	if exit != admin.ExitDone || errs != want || len(s.confirmed) != 1 || s.opens.Load() >= 0 {
		t.Errorf("exit %d, %d confirmed: %s", exit, len(s.confirmed), errs)
	}
}

// What `fo` has opened and could not do stays open, and is named.
func TestMoveRefusedStaysOpen(t *testing.T) {
	s := calm()
	s.status.Proposals = broken().status.Proposals
	s.outcome = admin.Outcome{Exit: admin.ExitRefused, Text: "p1: 0 of 1 done"}
	exit, out, _ := call(t, s.serve(t), "", "fo", "-a", "n1", "--yes")
	if exit != admin.ExitRefused || !strings.HasSuffix(out, "p1 stays open; to close it:\n  mailnode failover reject p1\n") {
		t.Errorf("exit %d: %s", exit, out)
	}
}
