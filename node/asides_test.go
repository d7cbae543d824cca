package node

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mailnode/failover"
	"mailnode/node/admin"
	"mailnode/node/monitor"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

func (s *site) named(n slot.NodeName) *running {
	for _, r := range s.nodes {
		if r.name == string(n) {
			return r
		}
	}
	s.t.Fatalf("there is no node %q", n)
	return nil
}

// eventuallyAt asks one node until its status is right.
func (s *site) eventuallyAt(r *running, what string, ok func(admin.Status) bool) {
	s.t.Helper()
	all := s.nodes
	s.nodes = []*running{r}
	defer func() { s.nodes = all }()
	s.eventually(r.name+": "+what, ok)
}

func conditionOf(st admin.Status, name monitor.Name, about string) (monitor.Condition, bool) {
	for _, c := range st.Conditions {
		if c.Name == name && c.About == about {
			return c, true
		}
	}
	return monitor.Condition{}, false
}

// leftBehind is a slot whose old master has two messages that its new one never saw.
type leftBehind struct {
	id                    slot.ID
	user                  string
	old, replica, witness *running
}

// leaveBehind makes one, and starts the old master again.
func (s *site) leaveBehind(ctx context.Context) leftBehind {
	s.t.Helper()
	c := s.leaveDown(ctx)
	s.start(c.old)
	return c
}

// leaveDown makes one whose old master is down.
func (s *site) leaveDown(ctx context.Context) leftBehind {
	t := s.t
	t.Helper()
	users := s.users(ctx, 3)
	id := servedBy(t, s.status(ctx, s.nodes[0]), "n1")
	old, replica := s.nodes[0], s.named(s.status(ctx, s.nodes[0]).Slots[id].Copies[1].Node)
	witness := s.nodes[3-indexOf(s.nodes, replica)]
	send := func(at *running, n int) {
		t.Helper()
		if err := s.deliver(at, users[id], fmt.Sprintf("Subject: %d\r\nMessage-ID: <%d@example.test>\r\n\r\nhello\r\n", n, n)); err != nil {
			t.Fatal(err)
		}
	}
	send(old, 1)
	replica.stopped()
	send(old, 2) // after ack_timeout, recorded as unprotected
	send(old, 3)
	old.stopped()
	s.start(replica)
	proposal := ""
	s.eventuallyAt(replica, "the slot is proposed", func(st admin.Status) bool {
		for _, p := range st.Proposals {
			for _, ps := range p.Slots {
				if ps.Slot == id && ps.To == slot.NodeName(replica.name) {
					proposal = p.ID
				}
			}
		}
		return proposal != ""
	})
	if out, err := witness.admin.Confirm(ctx, admin.ConfirmRequest{ID: proposal, Slots: []slot.ID{id}, AcceptLoss: true}); err != nil || len(out.Done) != 1 {
		t.Fatalf("confirm: %+v, %v", out, err)
	}
	send(witness, 4)
	return leftBehind{id, users[id], old, replica, witness}
}

// Mail that a master took before a promotion which accepted its loss is said to be
// missing by every node when the old master returns, is listed by Message-ID at
// any of them, and is said until a person has looked, who deletes nothing.
func TestLaw07MailOfACutOffMasterIsSaid(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := s.leaveBehind(ctx)
	id, old, replica, witness := c.id, c.old, c.replica, c.witness
	for _, r := range s.nodes {
		s.eventuallyAt(r, "the missing mail is said", func(st admin.Status) bool {
			said, is := conditionOf(st, monitor.CopyDiverged, id.String())
			return is && strings.Contains(said.Text, "on n1, diverged-1-") && strings.Contains(said.Text, "2 messages, 1 user, 1 folder") && strings.Contains(said.Text, "mailnode rescue show "+id.String())
		})
	}
	got, err := witness.admin.Aside(ctx, id.String(), 1)
	if err != nil || len(got.States) != 1 || len(got.Unknown) != 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	x := got.States[0]
	if x.Count == nil || x.Count.Messages != 2 || len(x.List) != 1 || x.List[0].MessageID != "<2@example.test>" || string(x.List[0].Address) != c.user ||
		!x.List[0].Body || x.Node != "n1" || x.Was != "master" || !x.Acknowledged || x.Since == "" {
		t.Errorf("%+v, list %+v, count %+v", x, x.List, x.Count)
	}
	if got, err := replica.admin.DismissAside(ctx, admin.DismissAside{What: x.Name, Why: "restored by hand"}); err != nil || len(got.States) != 1 || got.States[0].Dismissed == nil {
		t.Fatalf("dismiss: %+v, %v", got, err)
	}
	for _, r := range s.nodes {
		s.eventuallyAt(r, "nobody says it any more", func(st admin.Status) bool {
			_, is := conditionOf(st, monitor.CopyDiverged, id.String())
			return !is
		})
	}
	got, err = old.admin.Aside(ctx, x.Name, 10)
	if err != nil || len(got.States) != 1 || len(got.States[0].List) != 2 || got.States[0].Dismissed == nil || got.States[0].Dismissed.Why != "restored by hand" {
		t.Errorf("after it was dismissed: %+v, %v", got, err)
	}
	witness.stopped()
	if got, err := old.admin.Asides(ctx); err != nil || len(got.States) != 1 || len(got.Unknown) != 1 || !strings.HasPrefix(got.Unknown[0], "what "+witness.name+" has set aside: "+witness.name+": ") {
		t.Errorf("with a silent node: %+v, %v", got, err)
	}
}

func indexOf(list []*running, r *running) int {
	for i, x := range list {
		if x == r {
			return i
		}
	}
	return -1
}

// Only what may have been acknowledged, what holds something, and what nobody has
// looked at goes into the reports; the numbers are not known before it is counted.
func TestLaw07OpenAsidesAreReported(t *testing.T) {
	a := newAsides(&Node{})
	alone := slot.At(1, 5)
	for name, o := range map[string]ownAside{
		"diverged-1-1": {Aside: local.Aside{Role: local.AsideMaster}, counted: &local.AsideContent{Messages: 1}}, // acknowledged to nobody
		"diverged-1-2": {Aside: local.Aside{Seen: &local.Seen{}}, counted: &local.AsideContent{Messages: 1}},
		"diverged-1-3": {counted: &local.AsideContent{}},
		"diverged-1-4": {counted: &local.AsideContent{Unread: []string{"a table"}}},
		"diverged-1-5": {trouble: "it is fetched"},
		"diverged-1-9": {Aside: local.Aside{Role: local.AsideMaster, Head: slot.At(1, 9), Alone: &alone}, counted: &local.AsideContent{Messages: 3, Users: 2, Folders: 1}},
	} {
		o.Name = name
		a.own[asideKey{7, name}] = o
	}
	want := []failover.AsideReport{
		{Slot: 7, Name: "diverged-1-4", Counted: true, Trouble: "not all of it can be read"},
		{Slot: 7, Name: "diverged-1-5", Trouble: "it is fetched"},
		{Slot: 7, Name: "diverged-1-9", Counted: true, Messages: 3, Users: 2, Folders: 1},
	}
	if diff := cmp.Diff(want, a.open()); diff != "" {
		t.Error(diff)
	}
}
