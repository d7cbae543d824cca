package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/node/monitor"
	"mailnode/storage/slot"
)

// flat is a text without its line ends.
func flat(text string) string { return strings.Join(strings.Fields(text), " ") }

// startEmpty proposes that a slot starts empty, and confirms it.
func (s *site) startEmpty(ctx context.Context, living []*running, wish admin.ProposeRequest) {
	s.t.Helper()
	id := ""
	s.eventually("it is proposed, and there is no copy to give it to", func(st admin.Status) bool {
		for _, p := range st.Proposals {
			for _, ps := range p.Slots {
				if ps.Slot == *wish.Slot && ps.To == "" {
					id = p.ID
				}
			}
		}
		return id != ""
	})
	s.eventually("both are known to be silent", func(admin.Status) bool {
		p, err := living[0].admin.Propose(ctx, wish)
		return err == nil && p.Exit == admin.ExitDone && p.ID == id
	})
	if p, err := living[1].admin.Propose(ctx, wish); err != nil || p.Exit != admin.ExitDone || p.ID != id || !strings.Contains(p.Text, "open already") {
		s.t.Errorf("the same wish again: %+v, %v", p, err)
	}
	plan, err := living[0].admin.Plan(ctx, id)
	if err != nil || !strings.Contains(flat(plan.Text), "STARTS EMPTY: all accounts and all mail of "+wish.Slot.String()) || !strings.Contains(plan.Text, "--accept-loss") {
		s.t.Errorf("plan: %s, %v", plan.Text, err)
	}
	if out, err := living[0].admin.Confirm(ctx, admin.ConfirmRequest{ID: id, Slots: []slot.ID{*wish.Slot}}); err != nil || out.Exit != admin.ExitRefused {
		s.t.Errorf("without a word about the loss: %+v, %v", out, err)
	}
	if out, err := living[0].admin.Confirm(ctx, admin.ConfirmRequest{ID: id, Slots: []slot.ID{*wish.Slot}, AcceptLoss: true}); err != nil || out.Exit != admin.ExitDone {
		s.t.Fatalf("confirm: %+v, %v", out, err)
	}
	if p, err := living[1].admin.Propose(ctx, wish); err != nil || p.Exit != admin.ExitNothing || !strings.Contains(flat(p.Text), "started empty on "+string(wish.To)+" already") {
		s.t.Errorf("the same wish when it is done: %+v, %v", p, err)
	}
}

// Both copies of a slot are lost. It is started empty on a third node, by a person who
// accepts the loss: a user who is made again has mail at once, under another
// UIDVALIDITY; who is unknown is not bounced. When an old copy returns it is set aside
// whole, and what it has is said.
func TestLaw02Law07StartEmpty(t *testing.T) {
	t.Parallel()
	s := newSite(t, 5, 1, 5)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	users := s.users(ctx, 5)
	sl := s.status(ctx, s.nodes[0]).Slots[0]
	user := users[sl.Slot]
	other := "other-" + user
	for i := 0; addr(t, other).Home(5) != sl.Slot; i++ {
		other = fmt.Sprintf("other%d@example.test", i)
	}
	if _, err := s.nodes[0].admin.AddUser(ctx, admin.AddUser{Address: addr(t, other), Password: "pw"}); err != nil {
		t.Fatal(err)
	}
	before := s.validities([]string{user})
	for range 2 {
		if err := s.deliver(s.nodes[0], user, "Subject: x\r\n\r\nbefore\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	holders := []*running{s.named(sl.Copies[0].Node), s.named(sl.Copies[1].Node)}
	living := slices.DeleteFunc(slices.Clone(s.nodes), func(r *running) bool { return slices.Contains(holders, r) })
	to := living[2]
	wish := admin.ProposeRequest{Slot: &sl.Slot, To: slot.NodeName(to.name), Empty: true}
	if p, err := living[0].admin.Propose(ctx, wish); err != nil || p.Exit != admin.ExitRefused || !strings.Contains(flat(p.Text), "lives and has a copy") {
		t.Errorf("while a copy lives: %+v, %v", p, err)
	}
	for _, r := range holders {
		r.stopped()
	}
	s.nodes = living
	s.startEmpty(ctx, living, wish)
	if _, err := living[0].admin.AddUser(ctx, admin.AddUser{Address: addr(t, user), Password: "pw"}); err != nil {
		t.Fatalf("a user is not made again: %v", err)
	}
	if err := s.deliver(living[1], user, "Subject: y\r\n\r\nafter\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := s.deliver(living[1], other, "x\r\n"); err == nil || !strings.HasPrefix(err.Error(), "451") {
		t.Errorf("deliver to who is missing: %v, want 451", err)
	}
	if n, err := s.count(living[0], user, "pw"); err != nil || n != 1 {
		t.Errorf("%d messages, %v: want the one since", n, err)
	}
	after := s.validities([]string{user})
	if after[user] <= before[user] {
		t.Errorf("UIDVALIDITY %d after %d (law 2)", after[user], before[user])
	}
	s.start(holders[0])
	s.eventually("what the old copy has is said", func(st admin.Status) bool {
		c, is := conditionOf(st, monitor.CopyDiverged, sl.Slot.String())
		return is && strings.Contains(c.Text, "2 messages")
	})
	if got, err := living[0].admin.Aside(ctx, sl.Slot.String(), 5); err != nil || len(got.States) != 1 || got.States[0].Count == nil || got.States[0].Count.Messages != 2 {
		t.Errorf("what was set aside: %+v, %v", got, err)
	}
	if n, err := s.count(living[0], user, "pw"); err != nil || n != 1 {
		t.Errorf("%d messages after the old copy came back, %v", n, err)
	}
}
