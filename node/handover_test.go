package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2/imapclient"

	"mailnode/node/admin"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/slot"
)

// move proposes and confirms, as `mailnode fo` does.
func (s *site) move(ctx context.Context, at *running, r admin.ProposeRequest) admin.Outcome {
	s.t.Helper()
	p, err := at.admin.Propose(ctx, r)
	if err != nil || p.ID == "" {
		s.t.Fatalf("propose %+v: %+v, %v", r, p, err)
	}
	out, err := at.admin.Confirm(ctx, admin.ConfirmRequest{ID: p.ID})
	if err != nil || out.Exit != admin.ExitDone {
		s.t.Fatalf("confirm %+v: %+v, %v", r, out, err)
	}
	return out
}

// load delivers to all users at all nodes until stop, which returns what was
// acknowledged for each, and the longest that one delivery took.
func (s *site) load(users []string, width int) (stop func() (acked map[string]int, slowest time.Duration)) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var mu sync.Mutex
	acked := map[string]int{}
	var slowest time.Duration
	for w := range width {
		wg.Go(func() {
			for i := w; ctx.Err() == nil; i++ {
				u := users[i%len(users)]
				began := time.Now()
				err := s.deliver(s.nodes[i%len(s.nodes)], u, fmt.Sprintf("Subject: %d of %d\r\n\r\nhello\r\n", i, w))
				took := time.Since(began)
				if err != nil {
					s.t.Errorf("a delivery failed: %v", err)
					continue
				}
				mu.Lock()
				acked[u]++
				slowest = max(slowest, took)
				mu.Unlock()
			}
		})
	}
	return func() (map[string]int, time.Duration) {
		cancel()
		wg.Wait()
		return acked, slowest
	}
}

// All masters of a node move off and come home while mail flows: no delivery fails, no
// epoch is unclean, the slots stay protected, and every mailbox has each message once
// (laws 1, 2, 4).
func TestLaw01Law02Law04HandOverUnderLoad(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 6)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	users := s.users(ctx, 6)
	validity := s.validities(users)
	stop := s.load(users, 4)
	mine := func(st admin.Status) (ids []slot.ID) {
		for _, sl := range st.Slots {
			if sl.Master == "n1" {
				ids = append(ids, sl.Slot)
			}
		}
		return ids
	}
	home := mine(s.status(ctx, s.nodes[0]))
	if len(home) == 0 {
		t.Fatal("n1 is master of no slot")
	}
	for range 3 {
		if out := s.move(ctx, s.nodes[1], admin.ProposeRequest{Node: "n1"}); len(out.Done) != len(home) {
			t.Errorf("%d slots were at home, moved: %+v", len(home), out)
		}
		if left := mine(s.status(ctx, s.nodes[1])); len(left) != 0 {
			t.Errorf("n1 still has %v", left)
		}
		if p, err := s.nodes[2].admin.Propose(ctx, admin.ProposeRequest{Node: "n1"}); err != nil || p.Exit != admin.ExitNothing {
			t.Errorf("typed again: %+v, %v", p, err)
		}
		s.move(ctx, s.nodes[2], admin.ProposeRequest{Node: "n1", Home: true})
		if now := mine(s.status(ctx, s.nodes[2])); !slices.Equal(now, home) {
			t.Errorf("home again: %v, want %v", now, home)
		}
	}
	acked, slowest := stop()
	total := 0
	for i, u := range users {
		total += acked[u]
		if n, err := s.count(s.nodes[i%3], u, "pw"); err != nil || int(n) != acked[u] {
			t.Errorf("%s: %d messages, %d acknowledged, %v", u, n, acked[u], err)
		}
	}
	t.Logf("%d messages, the slowest took %s", total, slowest)
	for _, sl := range s.nodes[0].node.State().Slots {
		if sl.Unclean != 0 {
			t.Errorf("%s has %d unclean epochs", sl.ID, sl.Unclean)
		}
	}
	for u, v := range s.validities(users) {
		if v != validity[u] {
			t.Errorf("%s: UIDVALIDITY %d is %d now", u, validity[u], v)
		}
	}
}

// A hand-over to a node that cannot take it is given up by itself; meanwhile changes
// wait, and then go on at the old master. While it lasts the slot can be read.
func TestHandOverToAStoppedNode(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	users := s.users(ctx, 3)
	n1 := s.nodes[0]
	st := s.status(ctx, n1)
	id := servedBy(t, st, "n1")
	var to *running
	for _, c := range st.Slots[id].Copies {
		if c.Node != "n1" {
			to = s.nodes[c.Node[1]-'1']
		}
	}
	p, err := n1.admin.Propose(ctx, admin.ProposeRequest{Slot: &id, To: slot.NodeName(to.name)})
	if err != nil {
		t.Fatal(err)
	}
	to.stopped()
	var confirmed atomic.Pointer[admin.Outcome]
	var wg sync.WaitGroup
	wg.Go(func() {
		out, err := n1.admin.Confirm(ctx, admin.ConfirmRequest{ID: p.ID})
		if err != nil {
			t.Error(err)
		}
		confirmed.Store(&out)
	})
	wg.Wait()
	if out := confirmed.Load(); out.Exit != admin.ExitRefused || len(out.Done) != 0 {
		t.Errorf("%+v", out)
	}
	if err := s.deliver(n1, users[id], "x\r\n"); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// validities returns the UIDVALIDITY of each user's INBOX.
func (s *site) validities(users []string) map[string]uint32 {
	out := map[string]uint32{}
	for _, u := range users {
		c, err := imapclient.DialInsecure(s.nodes[0].cfg.IMAP.Plain, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		if err := c.Login(u, "pw").Wait(); err != nil {
			s.t.Fatal(err)
		}
		box, err := c.Select("INBOX", nil).Wait()
		if err != nil {
			s.t.Fatal(err)
		}
		out[u] = box.UIDValidity
		c.Close()
	}
	return out
}

// A master that is stopped in the middle of a hand-over starts sealed, and ends it when
// its target is back: whatever its earlier process had said comes true (laws 1, 4).
func TestLaw01HandOverOfAMasterThatStartsAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	users := s.users(ctx, 3)
	n1 := s.nodes[0]
	id := servedBy(t, s.status(ctx, n1), "n1")
	before, _ := n1.node.State().Slot(id)
	to := s.named(before.Replicas[0])
	third := s.nodes[slices.IndexFunc(s.nodes, func(r *running) bool { return r != n1 && r != to })]
	if err := s.deliver(n1, users[id], "x\r\n"); err != nil {
		t.Fatal(err)
	}
	p, err := third.admin.Propose(ctx, admin.ProposeRequest{Slot: &id, To: before.Replicas[0]})
	if err != nil {
		t.Fatal(err)
	}
	to.stopped()
	sl, _ := third.node.State().Slot(id)
	if _, err := third.node.Propose(ctx, cluster.BeginHandOver{Proposal: p.ID, Slot: id, Epoch: sl.Epoch, Version: sl.Version, To: sl.Replicas[0]}); err != nil {
		t.Fatal(err)
	}
	n1.stopped()
	s.start(n1)
	s.until(third, 20*time.Second, "served again", func(st admin.Status) bool {
		return n1.node.copies.serving(id) != nil
	})
	if sl, _ := third.node.State().Slot(id); sl.HandOver == nil {
		t.Fatal("it ended while its target was away")
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	_, err = n1.node.copies.serving(id).CreateMailbox(short, 1, "Sealed", "")
	cancel()
	if !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("a change at a master that starts in a hand-over: %v", err)
	}
	s.start(to)
	s.until(third, 20*time.Second, "handed over", func(admin.Status) bool { return to.node.copies.serving(id) != nil })
	if sl, _ := third.node.State().Slot(id); string(sl.Master) != to.name || sl.Epoch != before.Epoch+1 || sl.Unclean != before.Unclean {
		t.Errorf("%+v", sl)
	}
	s.until(third, 20*time.Second, "the message is there", func(admin.Status) bool { // its Raft has just come back
		n, err := s.count(third, users[id], "pw")
		return err == nil && n == 1
	})
}

// A node that has not heard of a hand-over asks the leader before it puts off what the
// old master sends away: it looks for the slot where it is now.
func TestNodeBehindFindsTheNewMaster(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n1, n3 := s.nodes[0], s.nodes[2]
	id := servedBy(t, s.status(ctx, n1), "n1")
	before, _ := n3.node.State().Slot(id)
	fresh := n3.node.currency.fresh
	moved := false
	n3.node.currency.fresh = func(ctx context.Context) error { // what it does not know yet happens here
		if !moved {
			moved = true
			s.move(ctx, n1, admin.ProposeRequest{Slot: &id, To: before.Replicas[0]})
		}
		return fresh(ctx)
	}
	tries := 0
	away := func() error {
		tries++
		if sl, _ := n3.node.State().Slot(id); sl.Epoch == before.Epoch {
			return storage.Errorf(storage.ErrMoved, "slot %s has moved", id)
		}
		return nil
	}
	s.until(n3, 30*time.Second, "the first masters are no news", func(admin.Status) bool { return !n3.node.moving(id) })
	if err := n3.node.whileMoving(ctx, id, away); err != nil || !moved || tries != 2 {
		t.Errorf("%v, moved: %v, tried %d times", err, moved, tries)
	}
	if sl, _ := n3.node.State().Slot(id); sl.Master != before.Replicas[0] {
		t.Errorf("%+v", sl)
	}
	tries = 0
	never := func() error { tries++; return storage.Errorf(storage.ErrMoved, "slot %s has moved", id) }
	s.until(n3, 30*time.Second, "the move is no news", func(admin.Status) bool { return !n3.node.moving(id) })
	if err := n3.node.whileMoving(ctx, id, never); !errors.Is(err, storage.ErrMoved) || tries != 1 {
		t.Errorf("without a move: %v after %d tries", err, tries)
	}
}
