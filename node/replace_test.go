package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailnode/node/admin"
	"mailnode/node/monitor"
	"mailnode/node/peer"
	"mailnode/storage/slot"
)

// onVolumes makes a site whose slots lie on volumes of their own: node.data is the
// root disk, meta and data are others.
func onVolumes(t *testing.T, nodes, replicas, slots int) *site {
	t.Helper()
	s, base := &site{t: t}, t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	defer cancel()
	for i := range nodes {
		name := fmt.Sprintf("n%d", i+1)
		r := s.install(base, name, fmt.Sprintf("[[volume]]\nmeta = %q\ndata = %q\n", filepath.Join(base, name+"-meta"), filepath.Join(base, name+"-data")))
		if i == 0 {
			if _, err := admin.InitCluster(ctx, r.cfg, admin.InitOptions{Slots: slots, Replicas: replicas, Nodes: nodes}); err != nil {
				t.Fatal(err)
			}
		} else {
			s.letIn(ctx, r)
		}
		s.start(r)
	}
	t.Cleanup(s.stopAll)
	s.eventually("every slot serves and is protected", allWell(slots))
	return s
}

// allWell reports whether all slots are served, each with a replica in sync.
func allWell(slots int) func(admin.Status) bool {
	return func(st admin.Status) bool {
		return len(st.Slots) == slots && !slices.ContainsFunc(st.Slots, func(sl admin.SlotStatus) bool { return !sl.Serving || !sl.IsProtected() })
	}
}

// mail returns what a user sees at a node: UIDVALIDITY, then per message its UID,
// its flags and its text.
func (s *site) mail(r *running, user string) string {
	s.t.Helper()
	c := s.dialUser(r, user)
	defer c.Close()
	sel, err := c.Select("INBOX", nil).Wait()
	if err != nil {
		s.t.Fatalf("select of %s at %s: %v", user, r.name, err)
	}
	out := fmt.Sprintf("%d", sel.UIDValidity)
	if sel.NumMessages == 0 {
		return out
	}
	body := &imap.FetchItemBodySection{Peek: true}
	list, err := c.Fetch(imap.SeqSet{{Start: 1}}, &imap.FetchOptions{UID: true, Flags: true, BodySection: []*imap.FetchItemBodySection{body}}).Collect()
	if err != nil {
		s.t.Fatalf("fetch of %s at %s: %v", user, r.name, err)
	}
	for _, m := range list {
		flags := slices.DeleteFunc(m.Flags, func(f imap.Flag) bool { return f == "\\Recent" })
		slices.Sort(flags)
		text := string(m.FindBodySection(body))
		if _, after, ok := strings.Cut(text, "\r\n\r\n"); ok {
			text = after
		}
		out += fmt.Sprintf("\n%d %v %q", m.UID, flags, text)
	}
	return out
}

// filled gives each user three messages of one node, one of them flagged, and returns
// what they see.
func (s *site) filled(r *running, users []string) map[string]string {
	s.t.Helper()
	out := map[string]string{}
	for i, u := range users {
		for k := range 3 {
			if err := s.deliver(r, u, fmt.Sprintf("Subject: %d\r\n\r\nbody %d of %d, %s\r\n", k, k, i, strings.Repeat("x", 200*k))); err != nil {
				s.t.Fatal(err)
			}
		}
		c := s.dialUser(r, u)
		if _, err := c.Select("INBOX", nil).Wait(); err != nil {
			s.t.Fatal(err)
		}
		if err := c.Store(imap.SeqSetNum(2), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagFlagged}}, nil).Close(); err != nil {
			s.t.Fatal(err)
		}
		c.Close()
		out[u] = s.mail(r, u)
	}
	return out
}

// same compares what users see with what they saw.
func (s *site) same(r *running, was map[string]string) {
	s.t.Helper()
	for u, want := range was {
		if got := s.mail(r, u); got != want {
			s.t.Errorf("%s at %s sees\n%s\nand saw\n%s", u, r.name, got, want)
		}
	}
}

// takesPlace lets a machine take the place of the node of its name; it is not started.
func (s *site) takesPlace(ctx context.Context, by, r *running, o admin.ReplaceOptions) admin.Replaced {
	s.t.Helper()
	var tok admin.Token
	var err error
	s.eventuallyAt(by, "the lost node is taken for lost", func(admin.Status) bool {
		tok, err = by.admin.Token(ctx, admin.TokenRequest{Node: slot.NodeName(r.name), Replace: true})
		return err == nil
	})
	got, err := admin.ReplaceNode(ctx, r.cfg, tok.Token, o)
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

// TestLaw01Law02ReplacedRootDisk: the root disk of n2 is lost, its volumes are whole.
// Another machine takes its place with them: its copies are what they were, and the
// slots whose master it was are served again without a person's word. What the old
// machine was is no member any more, and is told so.
func TestLaw01Law02ReplacedRootDisk(t *testing.T) {
	t.Parallel()
	s := onVolumes(t, 3, 1, 6)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	n1, n2 := s.nodes[0], s.nodes[1]
	was := s.filled(n1, s.users(ctx, 6))
	var refusal *admin.Error
	if _, err := n1.admin.Token(ctx, admin.TokenRequest{Node: "n2", Replace: true}); !errors.As(err, &refusal) || refusal.Exit != admin.ExitRefused || !strings.Contains(refusal.Text, "it lives") {
		t.Errorf("a token for the place of a node that lives: %v", err)
	}
	before, _ := n1.node.State().Member("n2")
	epochs := map[slot.ID]slot.Epoch{}
	for _, sl := range n1.node.State().Slots {
		epochs[sl.ID] = sl.Epoch
	}
	mine := servedBy(t, s.status(ctx, n1), "n2")
	n2.stopped()
	old := t.TempDir()
	s.rename(filepath.Join(n2.cfg.Node.Data, "cluster"), filepath.Join(old, "cluster"))
	s.remove(n2.cfg.Node.Data)
	got := s.takesPlace(ctx, n1, n2, admin.ReplaceOptions{})
	if len(got.Here) != 4 || len(got.Missing) != 0 || !slices.Contains(got.Here, mine) {
		t.Errorf("it found %+v", got)
	}
	s.start(n2)
	s.eventually("all is as before", allWell(6))
	s.eventually("nothing is proposed", func(st admin.Status) bool { return len(st.Proposals) == 0 })
	for id, e := range epochs {
		if sl, _ := n1.node.State().Slot(id); sl.Epoch != e {
			t.Errorf("%s: epoch %d, it was %d", id, sl.Epoch, e)
		}
	}
	for _, r := range s.nodes {
		s.same(r, was)
	}
	s.eventuallyAt(n1, "the new one votes in the place of the old one", func(admin.Status) bool {
		voters, servers := s.votes()
		return len(voters) == 3 && len(servers) == 3 && !slices.Contains(servers, before.ServerID)
	})
	ghost, err := peer.Load(old)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range s.nodes {
		s.eventuallyAt(r, "it knows", func(admin.Status) bool { _, ok := r.node.State().FormerOf("n2", ghost.KeyHash()); return ok })
		var refused *peer.RefusedError
		if _, err := peer.NewDialer(ghost, peer.Options{}).Dial(ctx, peer.ProtoRaft, "", r.cfg.Node.Peer); !errors.As(err, &refused) || !refused.Gone || !strings.Contains(refused.Reason, "--replace n2") {
			t.Errorf("the old one calls %s: %v", r.name, err)
		}
	}
	for u := range was {
		if err := s.deliver(n2, u, "Subject: after\r\n\r\nafter\r\n"); err != nil {
			t.Errorf("%s after it: %v", u, err)
		}
	}
}

// TestLongLaw02ReplacedMasterWithoutItsFolders: nothing is left of n2. The slots whose
// master it was are proposed, and never served empty; the others are filled.
func TestLongLaw02ReplacedMasterWithoutItsFolders(t *testing.T) {
	onlyLong(t)
	t.Parallel()
	s := newSite(t, 3, 1, 6)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	n1, n2 := s.nodes[0], s.nodes[1]
	users := s.users(ctx, 6)
	was := s.filled(n1, users)
	n2.stopped()
	s.remove(n2.cfg.Node.Data)
	got := s.takesPlace(ctx, n1, n2, admin.ReplaceOptions{})
	if len(got.Here) != 0 || len(got.Missing) != 4 || len(got.Idle) != 2 {
		t.Errorf("it found %+v", got)
	}
	s.start(n2)
	s.eventually("its slots are proposed, safely, and its copies of the others are filled", func(st admin.Status) bool {
		safe := 0
		for _, p := range st.Proposals {
			for _, ps := range p.Slots {
				if ps.From == "n2" && ps.Safe {
					safe++
				}
			}
		}
		filled := 0
		for _, sl := range st.Slots {
			if sl.Master != "n2" && sl.IsProtected() {
				filled++
			}
			if sl.Master == "n2" && sl.Serving {
				t.Errorf("%s is served by a copy that was empty", sl.Slot)
			}
		}
		return safe == 2 && filled == 4
	})
	out, err := n1.admin.Confirm(ctx, admin.ConfirmRequest{})
	if err != nil || out.Exit != admin.ExitDone {
		t.Fatalf("confirm: %+v, %v", out, err)
	}
	s.eventually("all is well", allWell(6))
	s.same(n2, was)
}

// TestReplacedTwice: of two machines with one token one wins; whoever repeats it is
// told what he has. One that was replaced comes home in the same way.
func TestReplacedTwice(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	n1, n2 := s.nodes[0], s.nodes[1]
	was := s.filled(n1, s.users(ctx, 3))
	n2.stopped()
	var tok admin.Token
	s.eventuallyAt(n1, "n2 is taken for lost", func(admin.Status) (ok bool) {
		var err error
		tok, err = n1.admin.Token(ctx, admin.TokenRequest{Node: "n2", Replace: true})
		return err == nil
	})
	other := s.install(t.TempDir(), "n2", "")
	s.nodes = s.nodes[:3]
	var refusal *admin.Error
	if _, err := admin.JoinCluster(ctx, other.cfg, tok.Token); !errors.As(err, &refusal) || refusal.Exit != admin.ExitRefused || !strings.Contains(refusal.Text, "cluster join --replace n2") {
		t.Errorf("a join without --replace: %v", err)
	}
	if _, err := admin.ReplaceNode(ctx, other.cfg, tok.Token, admin.ReplaceOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.ReplaceNode(ctx, other.cfg, tok.Token, admin.ReplaceOptions{}); !errors.As(err, &refusal) || refusal.Exit != admin.ExitNothing {
		t.Errorf("once more: %v", err)
	}
	if _, err := admin.ReplaceNode(ctx, n2.cfg, tok.Token, admin.ReplaceOptions{}); !errors.As(err, &refusal) || refusal.Exit != admin.ExitRefused {
		t.Errorf("another machine with the same token: %v", err)
	}
	s.start(n2) // nobody told its operator
	s.eventuallyAt(n2, "the old one says that it is none any more, and serves nothing", func(st admin.Status) bool {
		c, is := conditionOf(st, monitor.RaftRemoved, "")
		return is && strings.Contains(c.Text, "another machine has taken") && !slices.ContainsFunc(st.Slots, func(sl admin.SlotStatus) bool { return sl.Serving && sl.Master == "n2" })
	})
	mine := servedBy(t, s.status(ctx, n2), "n2")
	if n2.node.copies.serving(mine) != nil {
		t.Error("it serves")
	}
	for what, order := range map[string]func() error{
		"recover":              func() error { _, err := n2.admin.Recovery(ctx, nil); return err },
		"serve without quorum": func() error { _, err := n2.admin.Alone(ctx, mine); return err },
	} { // the living cluster would be left behind, or its mail be taken twice
		if text := refused(t, order(), admin.ExitRefused); !strings.Contains(text, "another machine has taken") {
			t.Errorf("%s on the old one: %s", what, text)
		}
	}
	n2.stopped()
	got := s.takesPlace(ctx, n1, n2, admin.ReplaceOptions{})
	if len(got.Here) != 2 {
		t.Errorf("home with %+v", got)
	}
	s.start(n2)
	s.eventually("all is as before", allWell(3))
	s.same(n2, was)
}

// TestReplaceWipes: with --wipe a replica starts empty; of a slot whose master it is
// the copy stays, since nobody else is known to have all of it.
func TestReplaceWipes(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	n1, n2 := s.nodes[0], s.nodes[1]
	was := s.filled(n1, s.users(ctx, 3))
	mine := servedBy(t, s.status(ctx, n1), "n2")
	n2.stopped()
	got := s.takesPlace(ctx, n1, n2, admin.ReplaceOptions{Wipe: true})
	if len(got.Wiped) != 1 || len(got.Kept) != 1 || got.Kept[0] != mine {
		t.Errorf("wiped %v, kept %v", got.Wiped, got.Kept)
	}
	s.start(n2)
	s.eventually("all is as before", allWell(3))
	s.same(n2, was)
}

// TestRemoveNode: a node that slots need stays, and what must move is said; one that
// nobody needs goes, is told so, and comes back when it is let in.
func TestRemoveNode(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	n1 := s.nodes[0]
	was := s.filled(n1, s.users(ctx, 3))
	n4 := s.install(filepath.Dir(n1.cfg.Node.Data), "n4", "")
	s.letIn(ctx, n4)
	s.start(n4)
	s.eventuallyAt(n1, "it follows, and is a fourth voter less", func(admin.Status) bool {
		voters, servers := s.votes()
		return len(voters) == 3 && len(servers) == 4
	})
	got, err := n1.admin.Remove(ctx, admin.RemoveRequest{Node: "n2"})
	if err != nil || got.Done || len(got.Needs) != 2 {
		t.Errorf("a node that is needed: %+v, %v", got, err)
	}
	var refusal *admin.Error
	if _, err := n1.admin.Remove(ctx, admin.RemoveRequest{Node: "n9"}); !errors.As(err, &refusal) || refusal.Exit != admin.ExitUsage || !strings.Contains(refusal.Text, "n1 n2 n3 n4") {
		t.Errorf("a node that there is not: %v", err)
	}
	if got, err := n1.admin.Remove(ctx, admin.RemoveRequest{Node: "n4", Try: true}); err != nil || got.Done {
		t.Errorf("tried: %+v, %v", got, err)
	}
	if got, err := n4.admin.Remove(ctx, admin.RemoveRequest{Node: "n4"}); err != nil || !got.Done {
		t.Errorf("asked at itself: %+v, %v", got, err)
	}
	s.eventuallyAt(n4, "it says that it was removed, and how it comes back", func(st admin.Status) bool {
		c, is := conditionOf(st, monitor.RaftRemoved, "")
		return is && strings.Contains(c.Text, "n4 was removed") && strings.Contains(c.Text, "mailnode cluster join --replace n4")
	})
	if text := refused(t, func() error { _, err := n4.admin.Recovery(ctx, nil); return err }(), admin.ExitRefused); !strings.Contains(text, "n4 was removed") {
		t.Errorf("recover on a node that was removed: %s", text)
	}
	if text := refused(t, func() error { _, err := n4.admin.Token(ctx, admin.TokenRequest{Node: "n5"}); return err }(), admin.ExitRefused); !strings.Contains(text, "n4 was removed") {
		t.Errorf("an order to a node that was removed: %s", text)
	}
	if text := refused(t, func() error { _, err := n1.admin.Token(ctx, admin.TokenRequest{Node: "n5", Replace: true}); return err }(), admin.ExitUsage); !strings.Contains(text, "n1, n2, n3") {
		t.Errorf("a token for the place of a node that there never was: %s", text)
	}
	s.eventuallyAt(n1, "raft is without it", func(admin.Status) bool { _, servers := s.votes(); return len(servers) == 3 })
	if _, err := n1.admin.Remove(ctx, admin.RemoveRequest{Node: "n4"}); !errors.As(err, &refusal) || refusal.Exit != admin.ExitNothing {
		t.Errorf("removed once more: %v", err)
	}
	n4.stopped()
	s.takesPlace(ctx, n1, n4, admin.ReplaceOptions{})
	s.start(n4)
	s.eventuallyAt(n1, "it is back", func(st admin.Status) bool {
		_, servers := s.votes()
		return len(servers) == 4 && slices.ContainsFunc(st.Nodes, func(n admin.NodeStatus) bool { return n.Name == "n4" && n.State == "up" })
	})
	s.eventuallyAt(n4, "it passes users on to their masters", func(st admin.Status) bool {
		for u := range was {
			if n, err := s.count(n4, u, "pw"); err != nil || n != 3 {
				return false
			}
		}
		return allWell(3)(st)
	})
	s.same(n4, was)
}

// TestRemoveLeader: a leader that is removed hands over first; the order is done
// wherever it was given, and never takes the last voter.
func TestRemoveLeader(t *testing.T) {
	t.Parallel()
	s, base := &site{t: t}, t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	t.Cleanup(s.stopAll)
	n1 := s.install(base, "n1", "")
	if _, err := admin.InitCluster(ctx, n1.cfg, admin.InitOptions{Slots: 1, Replicas: 0, Nodes: 1}); err != nil {
		t.Fatal(err)
	}
	s.start(n1)
	for _, name := range []string{"w1", "w2"} {
		w := s.install(base, name, "witness = true\n")
		s.letIn(ctx, w)
		s.start(w)
	}
	all := slices.Clone(s.nodes)
	s.eventuallyAt(n1, "all vote", func(admin.Status) bool { return s.votersAt(n1) == "n1 w1 w2" })
	var leader *running
	s.eventuallyAt(n1, "a witness leads", func(admin.Status) bool {
		i := slices.IndexFunc(all, func(r *running) bool { return r.node.raft.IsLeader() })
		if i > 0 {
			leader = all[i]
			return true
		}
		if i == 0 {
			n1.node.logErr("hand leadership over", n1.node.raft.TransferLeadership(ctx))
		}
		return false
	})
	got, err := n1.admin.Remove(ctx, admin.RemoveRequest{Node: slot.NodeName(leader.name)})
	if err != nil || !got.Done || !got.Left {
		t.Errorf("removed: %+v, %v", got, err)
	}
	s.eventuallyAt(leader, "it says so", func(st admin.Status) bool { _, is := conditionOf(st, monitor.RaftRemoved, ""); return is })
	s.eventuallyAt(n1, "the others have a leader", func(st admin.Status) bool { return st.Leader != "" && st.Leader != slot.NodeName(leader.name) })
	for _, w := range all[1:] {
		if w != leader {
			if got, err := n1.admin.Remove(ctx, admin.RemoveRequest{Node: slot.NodeName(w.name)}); err != nil || !got.Done {
				t.Errorf("the other witness: %+v, %v", got, err)
			}
		}
	}
	s.eventuallyAt(n1, "it decides alone", func(st admin.Status) bool { return st.Leader == "n1" && s.votersAt(n1) == "n1" })
	if got, err := n1.admin.Remove(ctx, admin.RemoveRequest{Node: "n1"}); err != nil || got.Done || len(got.Needs) != 1 {
		t.Errorf("the last node: %+v, %v", got, err)
	}
}

// TestLaw02Law07LostVolume: of n2's two disks one is lost, and an empty one is in its
// place. Its replicas come back from the other disk and from their masters, with their
// UIDs, flags and bodies; what it was master of is proposed, and comes back like that
// when a person has confirmed. Until the mark says that the disk is lost nothing is done.
func TestLaw02Law07LostVolume(t *testing.T) {
	t.Parallel()
	for _, lost := range []string{"data", "meta"} {
		t.Run(lost, func(t *testing.T) {
			t.Parallel()
			s := onVolumes(t, 3, 1, 3)
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			n1, n2 := s.nodes[0], s.nodes[1]
			was := s.filled(n1, s.users(ctx, 3))
			mine := servedBy(t, s.status(ctx, n1), "n2")
			n2.stopped()
			volume := filepath.Join(filepath.Dir(n2.cfg.Node.Data), "n2-"+lost)
			s.remove(volume)
			s.start(n2)
			s.eventuallyAt(n2, "it asks for the disk", func(st admin.Status) bool {
				c, is := conditionOf(st, monitor.SlotRefused, mine.String())
				return is && strings.Contains(c.Text, "is its disk mounted?") && strings.Contains(c.Text, "touch "+volume)
			})
			n2.stopped()
			if err := n2.node.volumes.mark(volume); err != nil {
				t.Fatal(err)
			}
			s.start(n2)
			s.eventuallyAt(n1, "what it is master of is proposed, safely", func(st admin.Status) bool {
				return len(st.Proposals) == 1 && len(st.Proposals[0].Slots) == 1 && st.Proposals[0].Slots[0].Slot == mine && st.Proposals[0].Slots[0].Safe
			})
			if out, err := n1.admin.Confirm(ctx, admin.ConfirmRequest{}); err != nil || out.Exit != admin.ExitDone {
				t.Fatalf("confirm: %+v, %v", out, err)
			}
			s.eventually("all is well", allWell(3))
			seen := map[string]string{} // the epoch was unclean: numbers that clients see do not change
			for u := range was {
				seen[u] = s.mail(n1, u)
			}
			s.same(n1, was)
			for _, sl := range n1.node.State().Slots { // now look at what n2 has
				if sl.Master != "n2" && sl.Holds("n2") {
					s.give(ctx, n1, sl.ID, "n2")
				}
			}
			s.eventually("n2 serves all that it has", func(st admin.Status) bool {
				return !slices.ContainsFunc(st.Slots, func(sl admin.SlotStatus) bool { return !sl.Serving })
			})
			s.same(n1, seen)
		})
	}
}

// TestLongLaw07ReplacedWithHalfAVolume: the root disk and the disk with the bodies are
// lost. Whoever takes the place is asked first, and then all comes back.
func TestLongLaw07ReplacedWithHalfAVolume(t *testing.T) {
	onlyLong(t)
	t.Parallel()
	s := onVolumes(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	n1, n2 := s.nodes[0], s.nodes[1]
	was := s.filled(n1, s.users(ctx, 3))
	n2.stopped()
	s.remove(n2.cfg.Node.Data)
	s.remove(n2.cfg.Volumes[0].Data)
	found, err := admin.FindCopies(n2.cfg, n1.node.id.ClusterID())
	if err != nil || len(found.Copies) != 2 || len(found.Halves()) != 1 || found.Halves()[0] != n2.cfg.Volumes[0].Data {
		t.Errorf("found %+v, %v", found, err)
	}
	if foreign, err := admin.FindCopies(n2.cfg, "another"); err != nil || len(foreign.Copies) != 0 || len(foreign.Foreign) != 2 {
		t.Errorf("for another cluster: %+v, %v", foreign, err)
	}
	s.takesPlace(ctx, n1, n2, admin.ReplaceOptions{})
	s.start(n2)
	s.eventually("its slot is proposed", func(st admin.Status) bool {
		return len(st.Proposals) == 1 && len(st.Proposals[0].Slots) == 1 && st.Proposals[0].Slots[0].Safe
	})
	if out, err := n1.admin.Confirm(ctx, admin.ConfirmRequest{}); err != nil || out.Exit != admin.ExitDone {
		t.Fatalf("confirm: %+v, %v", out, err)
	}
	s.eventually("all is well", allWell(3))
	s.same(n2, was)
}
