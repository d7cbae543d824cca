package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"mailnode/node/admin"
	"mailnode/node/job"
	"mailnode/node/monitor"
	"mailnode/storage"
	"mailnode/storage/slot"
)

// site is a cluster as its operators see it, behind a real admin socket.
type site struct {
	status    admin.Status
	outcome   admin.Outcome
	confirmed []admin.ConfirmRequest
	rejected  []admin.RejectRequest
	proposed  []admin.ProposeRequest
	added     []admin.AddUser
	passwords []admin.SetPassword
	jobs      *job.Registry
	mending   *audits
	level     slot.FeatureLevel // of the cluster
	known     slot.FeatureLevel // what the node's release knows
	orders    []any             // those of user delete, undelete, erase, quota, disable, enable
	election  *election         // nil: there is a leader
	also      []string          // proposals that have the rest of a wish
	opens     atomic.Int32      // for so many plans a copy is opened
}

// election is over when it was looked for a leader often enough.
type election struct {
	looks atomic.Int32
	over  chan struct{}
}

// Recorded implements admin.Recorder.
func (f failovers) Recorded() admin.Recorded {
	if f.election == nil {
		return admin.Recorded{}
	}
	n := f.election.looks.Add(1)
	if n == 7 { // the CLI has asked twice since there is a leader
		close(f.election.over)
	}
	return admin.Recorded{RecordStale: n < 4}
}

func of[T any](v T) *T { return &v }

// calm is a cluster of three nodes where all is well.
func calm() *site {
	s := &site{status: admin.Status{Node: "n2", State: "serving", Leader: "n1", Cluster: "7a6aab1b392d8a9b741e47678b360147", Generation: 1, Version: "1.0",
		Nodes: []admin.NodeStatus{
			{Name: "n1", State: "up", Voter: true, Address: "192.0.2.1:7400"},
			{Name: "n2", State: "up", Voter: true, Address: "192.0.2.2:7400"},
			{Name: "w1", State: "up", Witness: true, Voter: true, Address: "192.0.2.9:7400"},
		}}}
	for i := range slot.ID(12) {
		master, replica := slot.NodeName("n1"), slot.NodeName("n2")
		if i%3 == 2 {
			master, replica = replica, master
		}
		s.status.Slots = append(s.status.Slots, admin.SlotStatus{Slot: i, Epoch: 2, Master: master, Protected: of(true), ProtectedSource: "master " + string(master) + ", 0.3 s ago", RecordedProtected: true, RecordSource: "raft, applied index 99", Serving: true, Copies: []admin.CopyStatus{
			{Node: master, Viable: true, Position: of(slot.At(2, 100)), LagS: of(0.0), State: "master", HeardS: of(0.3)},
			{Node: replica, Viable: true, Position: of(slot.At(2, 100)), LagS: of(0.1), State: "following", HeardS: of(0.3)},
		}})
	}
	return s
}

// broken is the same cluster 17 s after the death of n1.
func broken() *site {
	s := calm()
	s.status.Nodes[0].State, s.status.Nodes[0].SilentS = "silent", 17
	s.status.Leader = "n2"
	p := admin.Proposal{ID: "p3", Node: "n1", State: "open", SinceS: 2, Reason: "n1 is silent"}
	for i := range s.status.Slots {
		sl := &s.status.Slots[i]
		if sl.Master == "n1" {
			sl.Serving, sl.Waiting = false, "its master n1 is silent"
			sl.Protected, sl.ProtectedSource = nil, "master n1 is silent, last heard 17 s ago"
			sl.Copies[0].LagS, sl.Copies[0].State, sl.Copies[0].HeardS = nil, "silent", of(17.2)
			p.Slots = append(p.Slots, admin.ProposedSlot{Slot: sl.Slot, From: "n1", To: "n2", Safe: sl.Slot != 7, LagS: of(0.1), EventsAtRisk: of(uint64(2)), Users: of(3), Why: "n3 may hold more"})
		} else {
			sl.Protected = of(false)
			sl.Copies[1].Viable, sl.Copies[1].LagS, sl.Copies[1].State, sl.Copies[1].HeardS = false, nil, "silent", of(17.2)
		}
	}
	s.status.Proposals = []admin.Proposal{p}
	c := monitor.NewConditions()
	c.Set(monitor.NodeSilent, "n1", "last heard 03:31:07")
	c.Set(monitor.ProposalOpen, "p3", "")
	for _, ps := range p.Slots {
		c.Set(monitor.SlotNoMaster, ps.Slot.String(), "n1 is silent")
	}
	c.Set(monitor.TLSSelfSigned, "", "")
	s.status.Conditions = c.List()
	s.status.Jobs = []admin.Job{{ID: "j12", State: "running", Kind: "resync", About: "s005", Done: 0.25, EtaS: 200}}
	s.outcome = admin.Outcome{Exit: admin.ExitRefused, Text: "p3: 7 of 8 done\ns007 was not changed\n  mailnode failover confirm p3 --slot s007 --accept-loss", Refused: []slot.ID{7}}
	return s
}

// forty is a site of forty slots on five nodes, one of which is silent; its
// proposal is open.
func forty() *site {
	s := calm()
	s.status.Nodes = nil
	for i := range 5 {
		s.status.Nodes = append(s.status.Nodes, admin.NodeStatus{Name: slot.NodeName(fmt.Sprintf("n%d", i+1)), State: "up", Voter: true})
	}
	s.status.Nodes[4].State, s.status.Nodes[4].SilentS = "silent", 600
	like := s.status.Slots[0]
	s.status.Slots = nil
	p := admin.Proposal{ID: "p4", Node: "n5", State: "open", SinceS: 600, Reason: "n5 is silent"}
	c := monitor.NewConditions()
	for i := range slot.ID(40) {
		master, replica := s.status.Nodes[i%5].Name, s.status.Nodes[(i+1+i/5%4)%5].Name
		sl := like
		sl.Slot, sl.Master = i, master
		sl.Copies = []admin.CopyStatus{like.Copies[0], like.Copies[1]}
		sl.Copies[0].Node, sl.Copies[1].Node = master, replica
		switch "n5" {
		case string(master):
			sl.Serving, sl.Waiting, sl.Protected = false, "its master n5 is silent", nil
			sl.Copies[0].State, sl.Copies[0].LagS = "silent", nil
			p.Slots = append(p.Slots, admin.ProposedSlot{Slot: i, From: "n5", To: replica, Safe: true, Users: of(100)})
			c.Set(monitor.SlotNoMaster, i.String(), "n5 is silent")
		case string(replica):
			sl.Protected, sl.RecordedProtected = of(false), false
			sl.Copies[1].State, sl.Copies[1].Viable, sl.Copies[1].LagS = "silent", false, nil
			c.Set(monitor.SlotUnprotected, i.String(), "")
		}
		s.status.Slots = append(s.status.Slots, sl)
	}
	s.status.Proposals = []admin.Proposal{p}
	c.Set(monitor.NodeSilent, "n5", "silent for 600 s")
	c.Set(monitor.ProposalOpen, "p4", "n5 is silent")
	s.status.Conditions = c.List()
	return s
}

// crowded is a site on which every condition of the table holds, with names as long
// as they may be.
func crowded() *site {
	s := calm()
	long := slot.NodeName(strings.Repeat("mail-node-", 3) + "x")
	s.status.Nodes[0] = admin.NodeStatus{Name: long, State: "silent", SilentS: 100000, Voter: true, Standby: true}
	s.status.Leader = long
	for i := range s.status.Slots {
		if s.status.Slots[i].Master == "n1" {
			s.status.Slots[i].Master, s.status.Slots[i].Copies[0].Node = long, long
			s.status.Slots[i].Copies[0].Viable, s.status.Slots[i].Copies[0].State = false, "silent"
		}
	}
	c := monitor.NewConditions()
	for _, k := range monitor.Table() {
		about := map[string]string{"node": string(long), "slot": "s007", "path": "/srv/" + strings.Repeat("volume-of-a-long-name/", 4) + "data", "proposal": "p12345"}[k.Subject]
		c.Set(k.Name, about, strings.Repeat("why ", 10)+strings.Repeat("/a/long/path", 6))
	}
	s.status.Conditions = c.List()
	s.status.RecordStale, s.status.RecordSource = true, "raft, applied index 123456789, no leader for 3600 s"
	return s
}

// nothingKnown is what a node says that has just started and has heard nobody.
func nothingKnown() *site {
	s := &site{status: admin.Status{Node: "n2", State: "starting", Cluster: "7a6aab1b392d8a9b741e47678b360147", Generation: 1, Version: "1.0",
		Nodes: []admin.NodeStatus{{Name: "n1", State: "unknown", Voter: true}, {Name: "n2", State: "up", Voter: true}}}}
	for i := range slot.ID(12) {
		s.status.Slots = append(s.status.Slots, admin.SlotStatus{Slot: i, Epoch: 2, Master: "n1", Waiting: "its master n1 is unknown", ProtectedSource: "master n1 was not heard yet",
			RecordSource: "raft, applied index 0, no leader for 3.0 s", Copies: []admin.CopyStatus{{Node: "n1", State: "unknown"}, {Node: "n2", State: "following"}}})
	}
	s.status.RecordStale, s.status.RecordSource = true, "raft, applied index 0, no leader for 3.0 s"
	return s
}

// serve puts a site behind a socket and returns its path.
func (s *site) serve(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.sock")
	ln, err := admin.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	b := admin.Backend{Health: s, Failovers: failovers{s}, Users: userBook{s}, Slots: slotBook{s}, Cluster: s, Jobs: s.jobs, Mending: s.mending, Rescuing: asideBook{s}, Copying: copyBook{s}, Moving: moveBook{s}, Incidents: incidentBook{s}}
	server := admin.NewServer(b, s.status.Node, s.status.Version, slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Close(), <-done); err != nil {
			t.Error(err)
		}
	})
	return path
}

func (s *site) Status(context.Context) (admin.Status, error) { return s.status, nil }

func (s *site) Members(context.Context) (admin.Members, error) {
	return admin.Members{Cluster: s.status.Cluster, Generation: 1, Leader: s.status.Leader, Members: s.status.Nodes,
		FeatureLevel: s.level, KnownFeatures: s.known}, nil
}

func (s *site) Place(context.Context, admin.PlaceRequest) (admin.Placed, error) {
	if s.status.Slots[0].Master != "" {
		return admin.Placed{}, &admin.Error{Text: "place slots: every slot has a master", Exit: admin.ExitNothing}
	}
	return admin.Placed{Slots: len(s.status.Slots)}, nil
}

// Remove removes whoever has no copy.
func (s *site) Remove(_ context.Context, r admin.RemoveRequest) (admin.Removed, error) {
	if !slices.ContainsFunc(s.status.Nodes, func(n admin.NodeStatus) bool { return n.Name == r.Node }) {
		return admin.Removed{}, &admin.Error{Text: "remove node: there is none", Exit: admin.ExitUsage, Next: "mailnode cluster members"}
	}
	out := admin.Removed{Node: r.Node}
	for _, sl := range s.status.Slots {
		switch {
		case sl.Master == r.Node:
			out.Needs = append(out.Needs, admin.Need{Slot: sl.Slot, Master: true, Why: "it is the master"})
		case slices.ContainsFunc(sl.Copies, func(c admin.CopyStatus) bool { return c.Node == r.Node }):
			out.Needs = append(out.Needs, admin.Need{Slot: sl.Slot, Why: "it has the only replica"})
		}
	}
	out.Done = len(out.Needs) == 0 && !r.Try
	out.Left = out.Done
	return out, nil
}

func (s *site) Upgrade(_ context.Context, r admin.UpgradeRequest) error {
	r.By = ""
	s.orders = append(s.orders, r)
	s.level = r.To
	return nil
}

func (s *site) Token(_ context.Context, r admin.TokenRequest) (admin.Token, error) {
	for _, n := range s.status.Nodes {
		if n.Name == r.Node {
			return admin.Token{}, &admin.Error{Text: "make join token: " + string(n.Name) + " is a member already", Exit: admin.ExitRefused, Next: "mailnode cluster members"}
		}
	}
	return admin.Token{Node: r.Node, Token: "dG9rZW4"}, nil
}

type failovers struct{ *site }

func (f failovers) Proposals(context.Context, bool) ([]admin.Proposal, error) {
	return f.status.Proposals, nil
}

func (f failovers) Plan(_ context.Context, id string) (admin.Plan, error) {
	p := f.status.Proposals[0]
	if f.opens.Add(-1) >= 0 {
		p.Slots = append(slices.Clone(p.Slots), admin.ProposedSlot{Slot: 1, From: "n1", To: "n2", Opening: true})
	}
	return admin.Plan{Proposal: p, Text: "plan of " + id + "\n  s000: n1 -> n2, safe"}, nil
}

func (f failovers) Confirm(_ context.Context, r admin.ConfirmRequest) (admin.Outcome, error) {
	r.By = ""
	f.confirmed = append(f.confirmed, r)
	return f.outcome, nil
}

func (f failovers) Propose(_ context.Context, r admin.ProposeRequest) (admin.Proposed, error) {
	r.By = ""
	f.proposed = append(f.proposed, r)
	if r.Node == "idle" {
		return admin.Proposed{Exit: admin.ExitNothing, Text: "idle is the master of no slot"}, nil
	}
	if f.election != nil {
		<-f.election.over
	}
	out := admin.Proposed{ID: "p1", Also: f.also, Text: "p1 is open; nothing was changed"}
	if r.Slot != nil { // it has others too
		out.Slots = []slot.ID{*r.Slot}
	}
	return out, nil
}

func (f failovers) Reject(_ context.Context, r admin.RejectRequest) error {
	r.By = ""
	f.rejected = append(f.rejected, r)
	return nil
}

type userBook struct{ *site }

func (u userBook) Add(_ context.Context, r admin.AddUser) (admin.User, error) {
	r.By = ""
	u.added = append(u.added, r)
	return admin.User{Address: r.Address, Slot: 7}, nil
}

func (u userBook) SetPassword(_ context.Context, r admin.SetPassword) error {
	r.By = ""
	u.passwords = append(u.passwords, r)
	return nil
}

func (u userBook) List(context.Context) (admin.Users, error) {
	return admin.Users{Users: []admin.User{{Address: "u1@example.org", Slot: 7, UsedBytes: 3 << 20, QuotaBytes: 5 << 30},
		{Address: "long-name@example.org", Slot: 11, Disabled: true}}, Unknown: []slot.ID{3, 4, 5}}, nil
}

func (u userBook) Show(_ context.Context, a slot.Address) (admin.User, error) {
	switch a {
	case "u1@example.org":
		return admin.User{Address: a, Slot: 7, Master: "n1", UsedBytes: 3 << 20, QuotaBytes: 5 << 30, Messages: 1234, UndeleteS: 7 * 86400}, nil
	case "gone@example.org":
		return deletedUser(), nil
	}
	return admin.User{}, storage.Errorf(storage.ErrNotFound, "find user %q: there is none", a)
}

func deletedUser() admin.User {
	return admin.User{Address: "gone@example.org", Slot: 3, Master: "n2", UsedBytes: 5 << 20, UndeleteS: 7 * 86400, Deleted: true, DeletedAgoS: 3 * 3600, LeftS: 6*86400 + 5}
}

func (u userBook) Deleted(context.Context) (admin.Users, error) {
	return admin.Users{Users: []admin.User{deletedUser(), {Address: "old@example.org", Slot: 4, Deleted: true, DeletedAgoS: 8 * 86400}}}, nil
}

// order notes an order as it came; who gave it is the server's to fill in.
func (u userBook) order(o any) error {
	u.orders = append(u.orders, o)
	return nil
}

func (u userBook) Delete(_ context.Context, r admin.NamedUser) error {
	return u.order("delete " + string(r.Address))
}

func (u userBook) Erase(_ context.Context, r admin.NamedUser) error {
	return u.order("erase " + string(r.Address))
}

func (u userBook) SetQuota(_ context.Context, r admin.SetQuota) error {
	r.By = ""
	return u.order(r)
}

func (u userBook) SetDisabled(_ context.Context, r admin.SetDisabled) error {
	r.By = ""
	return u.order(r)
}

func (u userBook) Undelete(_ context.Context, r admin.UndeleteUser) (admin.Undeleted, error) {
	r.By = ""
	if err := u.order(r); err != nil || r.Address == "gone@example.org" {
		return admin.Undeleted{Account: true}, err
	}
	if r.Mailbox == "empty" {
		return admin.Undeleted{}, &admin.Error{Text: `undelete "u1@example.org": nothing that was removed is still kept`, Exit: admin.ExitNothing}
	}
	return admin.Undeleted{Messages: 2345, Gone: 1, Mailboxes: []string{"work/x (2)"}}, nil
}

type slotBook struct{ *site }

func (s slotBook) List(context.Context) ([]admin.SlotStatus, error) { return s.status.Slots, nil }

func (s slotBook) Dismiss(context.Context, admin.DismissLoss) error { return nil }

func (s slotBook) Show(_ context.Context, id slot.ID) (admin.SlotDetail, error) {
	st := s.status.Slots[id]
	st.Copies = append([]admin.CopyStatus{}, st.Copies...)
	for i := range st.Copies {
		st.Copies[i].Digest, st.Copies[i].DigestAt = fmt.Sprintf("%032x", 1<<60), slot.At(2, 100)
	}
	st.Copies[1].SelfCheck = []string{"ok: identity: format 1, cluster 7a6a, slot s007", "ok: index: opened"}
	st.Copies[0].SelfCheck = []string{"ok: identity: format 1, cluster 7a6a, slot s007", "FAILED: packs folder: the index knows bodies, and there are no packs in \"/disk1/slots/s007/packs\": is the volume mounted?"}
	d := admin.SlotDetail{SlotStatus: st, Replicas: []slot.NodeName{"n2"}, InSync: []slot.NodeName{"n2"}, Unclean: 1, UnprotectedSince: slot.At(2, 90),
		OpenLoss: "n3 was master before epoch 2 and has not come back", Users: 3, UsersKnown: true, History: []admin.SlotChange{
			{Epoch: 1, To: "n3", When: "2026-11-20T10:00:00Z", Why: "first placement"},
			{Epoch: 2, From: "n3", To: "n1", When: "2026-11-21T03:32:10Z", By: "root", Why: "n3 is silent", Unclean: true}}}
	if len(s.status.Proposals) > 0 {
		d.Proposal = s.status.Proposals[0].ID
	}
	for _, c := range s.status.Conditions {
		if c.About == id.String() {
			d.Conditions = append(d.Conditions, c)
		}
	}
	return d, nil
}
