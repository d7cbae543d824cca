package cli

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"mailnode/node/admin"
)

func TestUserRemoval(t *testing.T) {
	golden(t, "users.txt", transcript(t, calm().serve(t),
		"user delete u1@example.org", "user delete u1@example.org --yes", "user delete gone@example.org --yes", "user delete u9@example.org --yes",
		"user list --deleted", "user list --deleted --json", "user show gone@example.org",
		"user undelete gone@example.org", "user undelete u1@example.org", "user undelete u1@example.org --since 2h --mailbox work/x --json",
		"user undelete u1@example.org --mailbox empty", "user undelete u1@example.org --since soon",
		"user erase u1@example.org --yes", "user erase gone@example.org", "user erase gone@example.org --yes",
		"user quota u1@example.org 5G", "user quota u1@example.org lots", "user quota u1@example.org 0",
		"user disable u1@example.org", "user enable u1@example.org", "user disable gone@example.org"))
}

// TestLaw07NothingIsRemovedUnasked: without a terminal and without --yes no
// account is deleted or erased.
func TestLaw07NothingIsRemovedUnasked(t *testing.T) {
	s := calm()
	socket := s.serve(t)
	for _, args := range [][]string{{"user", "delete", "u1@example.org"}, {"user", "erase", "gone@example.org"}} {
		if exit, _, _ := call(t, socket, "y\ngone@example.org\n", args...); exit != admin.ExitRefused || len(s.orders) != 0 {
			t.Errorf("%q: exit %d, orders %v", args, exit, s.orders)
		}
	}
	for _, args := range [][]string{{"user", "delete", "U1@example.org", "-y"}, {"user", "erase", "gone@example.org", "--yes"},
		{"user", "undelete", "u1@example.org", "--since", "3d", "--mailbox", "a"}, {"user", "quota", "u1@example.org", "1K"}, {"user", "disable", "u1@example.org"}} {
		if exit, out, errs := call(t, socket, "", args...); exit != admin.ExitDone {
			t.Errorf("%q: exit %d: %s%s", args, exit, out, errs)
		}
	}
	want := []any{"delete u1@example.org", "erase gone@example.org", admin.UndeleteUser{Address: "u1@example.org", SinceS: 3 * 86400, Mailbox: "a"},
		admin.SetQuota{Address: "u1@example.org", QuotaBytes: 1024}, admin.SetDisabled{Address: "u1@example.org", Disabled: true}}
	if diff := cmp.Diff(want, s.orders); diff != "" {
		t.Error(diff)
	}
}

func TestAges(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "90m": 5400, "2h": 7200, "3d": 259200, "1h30m": 5400} {
		if got, err := parseAge(text); err != nil || got != want {
			t.Errorf("parseAge(%q) = %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"2", "0h", "-1h", "0d", "-2d", "1.5d", "10ms", "yesterday", "99999999999999d"} {
		if got, err := parseAge(text); err == nil {
			t.Errorf("parseAge(%q) = %d", text, got)
		}
	}
}
