package node

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/node/monitor"
	"mailnode/storage/slot"
)

// raftFolders are the folders of a node's data that Raft has, with what is
// remembered of it.
func raftFolders() []string { return []string{"raft", "remembered"} }

// keepRaft copies Raft's folders of every node, which must be stopped, and returns
// what puts them back.
func (s *site) keepRaft() (putBack func()) {
	s.t.Helper()
	kept := s.t.TempDir()
	for _, r := range s.nodes {
		for _, sub := range raftFolders() {
			if err := os.CopyFS(filepath.Join(kept, r.name, sub), os.DirFS(filepath.Join(r.cfg.Node.Data, sub))); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	return func() {
		for _, r := range s.nodes {
			for _, sub := range raftFolders() {
				s.remove(filepath.Join(r.cfg.Node.Data, sub))
				if err := os.CopyFS(filepath.Join(r.cfg.Node.Data, sub), os.DirFS(filepath.Join(kept, r.name, sub))); err != nil {
					s.t.Fatal(err)
				}
			}
		}
	}
}

// Raft's files of a whole site are put back to before a failover, with what is
// remembered of them. The old epoch does not come true again: its master does not
// serve, nothing changes by itself, and a person begins an epoch above the one that
// was forgotten, with the copy that has its mail (laws 1 and 4).
func TestLaw04ForgottenEpochDoesNotComeTrue(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	user := s.users(ctx, 1)[0]
	sl := s.status(ctx, s.nodes[0]).Slots[0]
	old := s.nodes[slices.IndexFunc(s.nodes, func(r *running) bool { return r.name == string(sl.Master) })]
	living := slices.DeleteFunc(slices.Clone(s.nodes), func(r *running) bool { return r == old })
	s.stopAll()
	putBack := s.keepRaft()
	for _, r := range living {
		s.start(r)
	}
	s.nodes = append(slices.Clone(living), old)
	s.eventually("the slot is proposed", func(st admin.Status) bool { return len(st.Proposals) == 1 && len(st.Proposals[0].Slots) == 1 })
	out, err := living[0].admin.Confirm(ctx, admin.ConfirmRequest{Slots: []slot.ID{0}, AcceptLoss: true})
	if err != nil || out.Exit != admin.ExitDone {
		t.Fatalf("confirm: %+v, %v", out, err)
	}
	for range 3 {
		if err := s.deliver(living[0], user, "Subject: x\r\n\r\nnew epoch\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	s.stopAll()
	putBack()
	for _, r := range s.nodes {
		s.start(r)
	}
	forgotten := "has seen epoch 2, Raft"
	s.eventually("the slot waits for a person", func(st admin.Status) bool {
		return len(st.Proposals) == 1 && len(st.Proposals[0].Slots) == 1 && strings.Contains(st.Proposals[0].Slots[0].Why, forgotten)
	})
	if err := s.deliver(old, user, "x\r\n"); err == nil || !strings.HasPrefix(err.Error(), "4") {
		t.Errorf("deliver under the forgotten epoch: %v, want a 4xx", err)
	}
	if out, err := old.admin.Confirm(ctx, admin.ConfirmRequest{}); err == nil && out.Exit != admin.ExitRefused {
		t.Errorf("confirm without a word about the loss: %+v, %v", out, err)
	}
	if out, err = old.admin.Confirm(ctx, admin.ConfirmRequest{Slots: []slot.ID{0}, AcceptLoss: true}); err != nil || out.Exit != admin.ExitDone {
		t.Fatalf("confirm: %+v, %v", out, err)
	}
	if n, err := s.count(old, user, "pw"); err != nil || n != 3 {
		t.Errorf("%d messages, %v: want the 3 of the forgotten epoch", n, err)
	}
	if got := s.status(ctx, old).Slots[0]; got.Epoch != 3 || got.Master == slot.NodeName(old.name) {
		t.Errorf("epoch %d at %s, want 3 at whoever had 2", got.Epoch, got.Master)
	}
}

// Two of three nodes have lost Raft's file: there is no leader, and each says why.
// When what was only out of reach is put back there is one again.
func TestLaw04RaftFilesOfTwoOfThree(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	s.stopAll()
	for _, r := range s.nodes[1:] {
		s.rename(filepath.Join(r.cfg.Node.Data, "raft"), filepath.Join(r.cfg.Node.Data, "out-of-reach"))
	}
	for _, r := range s.nodes {
		s.start(r)
	}
	for _, r := range s.nodes {
		s.eventuallyAt(r, "it says why there is no leader", func(st admin.Status) bool {
			c, is := conditionOf(st, monitor.RaftNoQuorum, "")
			return is && strings.Contains(c.Text, "3 of 3 voters are heard") && strings.Contains(c.Text, "2 of them have lost raft's files")
		})
	}
	s.stopAll()
	for _, r := range s.nodes[1:] {
		s.remove(filepath.Join(r.cfg.Node.Data, "raft"))
		s.rename(filepath.Join(r.cfg.Node.Data, "out-of-reach"), filepath.Join(r.cfg.Node.Data, "raft"))
	}
	for _, r := range s.nodes {
		s.start(r)
	}
	s.eventually("a leader, and all slots serve", func(st admin.Status) bool {
		_, no := conditionOf(st, monitor.RaftNoQuorum, "")
		return !no && !slices.ContainsFunc(st.Slots, func(sl admin.SlotStatus) bool { return !sl.Serving })
	})
}

// Raft's file of one of three nodes is cut short while it is down. Its slots are
// served again as soon as a leader has said that they are still its own, it says
// what happened, and its vote counts again when it has been filled.
func TestLaw09DamagedRaftFileOfOneOfThree(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 6)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	users := s.users(ctx, 6)
	hurt := s.nodes[2]
	mine := servedBy(t, s.status(ctx, hurt), "n3")
	hurt.stopped()
	if err := os.Truncate(filepath.Join(hurt.cfg.Node.Data, "raft", "raft.db"), 32768); err != nil {
		t.Fatal(err)
	}
	s.start(hurt)
	n1, n2 := s.nodes[0], s.nodes[1]
	s.nodes = []*running{hurt, n2, n1} // it is asked what it knows
	s.eventually("all slots are served as before, and it says that it was filled", func(st admin.Status) bool {
		return len(st.Slots) == 6 && st.Slots[mine].Master == "n3" &&
			!slices.ContainsFunc(st.Slots, func(sl admin.SlotStatus) bool { return !sl.Serving }) &&
			slices.ContainsFunc(st.Conditions, func(c monitor.Condition) bool {
				return c.Name == monitor.RaftStoreFailed && strings.Contains(c.Text, "set aside") && strings.Contains(c.Text, "filled again: this node votes")
			})
	})
	for _, u := range users {
		if err := s.deliver(hurt, u, "x\r\n"); err != nil {
			t.Errorf("deliver: %v", err)
		}
	}
	n1.stopped()
	s.nodes = []*running{hurt, n2}
	s.eventually("n2 and n3 have a leader: n3 votes", func(st admin.Status) bool { return st.Leader != "" && st.Leader != "n1" })
}
