package cli

import (
	"context"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/node/diary"
	"mailnode/storage/slot"
)

// incidentBook is what the nodes of a site remember.
type incidentBook struct{ *site }

func (incidentBook) History(context.Context) (admin.History, error) {
	id := func(n slot.ID) *slot.ID { return &n }
	h := admin.History{Changes: []admin.OwnerChange{
		{Kind: "features", By: "root", Why: "level 2", When: "2026-11-01T10:00:00Z"},
		{Kind: "assigned", Slot: id(0), Epoch: 1, To: "n1", Why: "first placement", When: "2026-11-01T10:00:00Z"},
		{Kind: "assigned", Slot: id(1), Epoch: 1, To: "n2", Why: "first placement", When: "2026-11-01T10:00:00Z"},
		{Kind: "assigned", Slot: id(2), Epoch: 1, To: "n1", Why: "first placement", When: "2026-11-01T10:00:01Z"},
		{Kind: "confirmed", Slot: id(0), Epoch: 2, From: "n1", To: "n2", Proposal: "p1", By: "ann\x1b at n2", Why: "handed over", When: "2026-11-02T10:00:00Z"},
		{Kind: "confirmed", Slot: id(2), Epoch: 2, From: "n1", To: "n3", Proposal: "p2", By: "root at n3", Why: "confirmed by root", When: "2026-11-03T03:30:00Z", Unclean: true, AcceptedLoss: true},
		{Kind: "resolved", Slot: id(2), Epoch: 2, From: "n1", By: "root", Why: "restored by hand", When: "2026-11-04T10:00:00Z"},
	}}
	return h, nil
}

func (b incidentBook) Note(_ context.Context, r admin.NoteRequest) (admin.Noted, error) {
	r.By = ""
	b.orders = append(b.orders, r)
	return admin.Noted{Nodes: []slot.NodeName{"n1", "n2"}, Missing: map[slot.NodeName]string{"n3": "waited 3 s for n3: no answer in time"}, Again: r.Text == "again"}, nil
}

func (incidentBook) Report(_ context.Context, since time.Duration) (diary.Report, error) {
	return diary.Report{Cluster: "c1", By: "n1", Wall: time.Date(2026, 11, 3, 4, 0, 0, 0, time.UTC), SinceMs: since.Milliseconds(), Diaries: map[slot.NodeName][]diary.Told{"n1": nil},
		Unreached: map[slot.NodeName]string{"n3": "no answer in time"}}, nil
}

func (incidentBook) Ordered(string, string) {}

func TestIncidentScreens(t *testing.T) {
	golden(t, "incident.txt", transcript(t, calm().serve(t), "failover history", "fo history --slot s001", "fo history --slot s999", "fo history --slot s000 --json", "failover history --slot s7x", "failover history --since 1h", "failover history --since x",
		"incident", "incident report", "incident report --since 3d --json", "incident report --since 0s", "incident note", "incident note the switch was rebooted", "incident note again"))
}
