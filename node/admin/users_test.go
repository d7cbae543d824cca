package admin

import (
	"context"
	"errors"
	"os/user"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestUserOrders: each order reaches the backend with the canonical address and
// the name of who gave it; a wrong one does not.
func TestUserOrders(t *testing.T) {
	s := &site{}
	c, socket := serve(t, s, quiet())
	ctx := context.Background()
	var got Undeleted
	for _, err := range []error{
		c.DeleteUser(ctx, NamedUser{Address: "Ann@Example.org"}), c.EraseUser(ctx, NamedUser{Address: "ann@example.org"}),
		c.SetQuota(ctx, SetQuota{Address: "ann@example.org", QuotaBytes: 5}), c.SetDisabled(ctx, SetDisabled{Address: "ann@example.org", Disabled: true}),
		func() (err error) {
			got, err = c.UndeleteUser(ctx, UndeleteUser{Address: "ann@example.org", SinceS: 60, Mailbox: "x"})
			return err
		}(),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	want := []any{NamedUser{"ann@example.org", me.Username}, NamedUser{"ann@example.org", me.Username}, SetQuota{"ann@example.org", 5, me.Username},
		SetDisabled{"ann@example.org", true, me.Username}, UndeleteUser{"ann@example.org", 60, "x", me.Username}}
	if diff := cmp.Diff(want, s.orders); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Undeleted{Messages: 1, Mailboxes: []string{}}, got); diff != "" {
		t.Error(diff)
	}
	for _, err := range []error{c.DeleteUser(ctx, NamedUser{Address: "ann"}), c.EraseUser(ctx, NamedUser{}), c.SetQuota(ctx, SetQuota{Address: "ann@example.org", QuotaBytes: -1}),
		c.SetDisabled(ctx, SetDisabled{Address: "@"}), func() error {
			_, err := c.UndeleteUser(ctx, UndeleteUser{Address: "ann@example.org", SinceS: -1})
			return err
		}()} {
		var refusal *Error
		if !errors.As(err, &refusal) || refusal.Exit != ExitUsage {
			t.Errorf("a wrong order: %v", err)
		}
	}
	if len(s.orders) != len(want) {
		t.Errorf("wrong orders came through: %+v", s.orders[len(want):])
	}
	for path, want := range map[string]string{"/v1/users": `{"users":[]}`,
		"/v1/users?deleted=1": `{"users":[{"address":"gone@example.org","slot":"s000","quota_bytes":0,"used_bytes":0,"deleted":true,"left_s":5}]}`} {
		if got := strings.TrimSpace(raw(t, path, "GET", "", socket)); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}
