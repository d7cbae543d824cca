package cli

import (
	"context"
	"testing"

	"mailnode/node/admin"
	"mailnode/storage/slot"
)

// asideBook is what the nodes of a site have set aside.
type asideBook struct{ *site }

func (asideBook) states() []admin.Aside {
	shared, alone := slot.At(1, 90), slot.At(1, 95)
	return []admin.Aside{
		{Node: "n1", Slot: 7, Name: "diverged-1-99", Since: "2026-11-21T03:40:10Z", Was: "master", Acknowledged: true, Head: slot.At(1, 99), Shared: &shared, Alone: &alone,
			Count: &admin.AsideCount{Messages: 274, Users: 12, Folders: 14, Bytes: 5 << 20, NoBody: 1, NewUsers: 1, NewFolders: 2, Changed: 1, ChangedUsers: []string{"u3@example.org"}}, Unread: []string{"messages from \"m\x1b\" to before \"n\" cannot be read: checksum"}},
		{Node: "n2", Slot: 7, Name: "diverged-1-92", Was: "master", Head: slot.At(1, 92), Count: &admin.AsideCount{Messages: 1, Users: 1, Folders: 1, Bytes: 10}},
		{Node: "n2", Slot: 8, Name: "diverged-1-5", Acknowledged: true, Head: slot.At(1, 5), Trouble: "the present state is still being fetched",
			Dismissed: &admin.AsideSeen{By: "root", Why: "restored by hand", When: "2026-11-22T10:00:00Z"}},
		{Node: "n2", Slot: 9, Name: "diverged-1-6", Was: "replica", Acknowledged: true, Head: slot.At(1, 6)},
	}
}

func (b asideBook) Asides(context.Context) (admin.Asides, error) {
	return admin.Asides{States: b.states(), Unknown: []string{"what n3 has set aside: waited 3 s for n3: no answer in time"}}, nil
}

func (b asideBook) ShowAside(_ context.Context, what string, most int) (admin.Asides, error) {
	var out admin.Asides
	for _, x := range b.states() {
		if x.Slot.String() != what && x.Name != what {
			continue
		}
		all := []admin.AsideMessage{{Address: "u1@example.org", Mailbox: "INBOX", UID: 41, Date: "2026-11-21T03:33:00Z", Bytes: 2048, MessageID: "<1@example.org>", GUID: "ab", Body: true},
			{Address: "u1@example.org", Mailbox: "Sent \x1b", UID: 7, Date: "2026-11-21T03:34:00Z", Bytes: 10, GUID: "cd"}}
		x.List = all[:min(len(all), most)]
		out.States = append(out.States, x)
	}
	return out, nil
}

func (b asideBook) DismissAside(_ context.Context, r admin.DismissAside) (admin.Asides, error) {
	r.By = ""
	b.orders = append(b.orders, r)
	out := admin.Asides{Unknown: []string{"what n3 has set aside: waited 3 s for n3: no answer in time"}}
	for _, x := range b.states() {
		if x.Dismissed == nil && (x.Slot.String() == r.What || x.Name == r.What) {
			x.Dismissed = &admin.AsideSeen{By: "root"}
			out.States = append(out.States, x)
		}
	}
	return out, nil
}

func TestRescueScreens(t *testing.T) {
	golden(t, "rescue.txt", transcript(t, calm().serve(t), "rescue list", "rescue show s007", "rescue show diverged-1-6 --json", "rescue show s003", "rescue show x",
		"rescue dismiss s007", "rescue dismiss diverged-1-6 --yes", "rescue dismiss diverged-1-5 --yes", "rescue dismiss x"))
}

// A node that does not answer may have more: dismissing is done in part.
func TestDismissTellsWhatItCannotKnow(t *testing.T) {
	s := calm()
	exit, _, _ := call(t, s.serve(t), "", "rescue", "dismiss", "diverged-1-6", "--why", "restored", "--yes")
	if len(s.orders) != 1 || s.orders[0] != (admin.DismissAside{What: "diverged-1-6", Why: "restored"}) || exit != admin.ExitRefused {
		t.Errorf("exit %d, %+v", exit, s.orders)
	}
}
