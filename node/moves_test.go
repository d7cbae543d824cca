package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/node/monitor"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// join installs, lets in and starts one more node.
func (s *site) join(ctx context.Context, name, settings string) *running {
	s.t.Helper()
	r := s.install(s.t.TempDir(), name, settings)
	s.letIn(ctx, r)
	s.start(r)
	s.eventuallyAt(s.nodes[0], name+" is heard", func(st admin.Status) bool {
		i := slices.IndexFunc(st.Nodes, func(n admin.NodeStatus) bool { return string(n.Name) == name })
		return i >= 0 && st.Nodes[i].State == "up"
	})
	return r
}

// rebalance plans at a node and has the plan recorded, as `slot rebalance --yes` does.
func (s *site) rebalance(ctx context.Context, at *running, empty slot.NodeName) admin.Moves {
	s.t.Helper()
	m, err := at.admin.Moves(ctx, empty)
	if err != nil || len(m.Planned) == 0 {
		s.t.Fatalf("plan: %+v, %v", m, err)
	}
	if err := at.admin.StartMoves(ctx, m.Planned); err != nil {
		s.t.Fatal(err)
	}
	return m
}

// healthyCopies watches each state of a node's Raft: how many copies of a slot count, the
// master included, never falls below what it was, and a slot is never unprotected. stop
// returns how many states were seen.
func (s *site) healthyCopies(r *running) (stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	least := map[slot.ID]int{}
	for _, sl := range r.node.State().Slots {
		least[sl.ID] = len(sl.InSync)
	}
	seen, last := 0, uint64(0)
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			changed := r.node.raft.Changed()
			st := r.node.State()
			if st.Index != last {
				seen, last = seen+1, st.Index
			}
			for _, sl := range st.Slots {
				if !sl.Protected || len(sl.InSync) < least[sl.ID] {
					s.t.Errorf("raft index %d: %d copies of %s count beside the master, there were %d: %+v", st.Index, len(sl.InSync), sl.ID, least[sl.ID], sl)
					least[sl.ID] = len(sl.InSync)
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	})
	return func() int { cancel(); wg.Wait(); return seen }
}

// onTheirWay are the slots of which a copy is on its way.
func onTheirWay(st *cluster.State) (ids []slot.ID) {
	for _, sl := range st.Slots {
		if sl.Moving() {
			ids = append(ids, sl.ID)
		}
	}
	return ids
}

// moved waits until no copy is on its way, and confirms the changes of masters that this
// takes. It returns how many proposals that were.
func (s *site) moved(ctx context.Context, at *running) int {
	s.t.Helper()
	confirmed := 0
	s.until(at, 100*time.Second, "all copies are where they are to be", func(admin.Status) bool {
		for _, p := range at.node.State().OpenProposals() {
			if p.OpenedBy == cluster.Mover {
				out, err := at.admin.Confirm(ctx, admin.ConfirmRequest{ID: p.ID})
				if err != nil || out.Exit != admin.ExitDone {
					s.t.Fatalf("confirm %+v: %+v, %v", p, out, err)
				}
				confirmed++
			}
		}
		return len(onTheirWay(at.node.State())) == 0
	})
	return confirmed
}

// sameDigests waits until all copies of each slot are at one position, and compares what
// they hold there (law 8).
func (s *site) sameDigests(ctx context.Context, at *running) {
	s.t.Helper()
	for _, sl := range at.node.State().Slots {
		s.until(at, 30*time.Second, "the digests of "+sl.ID.String(), func(admin.Status) bool {
			d, err := at.admin.Slot(ctx, sl.ID.String())
			if err != nil || len(d.Copies) != 1+len(sl.Replicas) {
				return false
			}
			for _, c := range d.Copies {
				if c.Digest == "" || c.DigestAt != d.Copies[0].DigestAt {
					return false
				}
			}
			for _, c := range d.Copies {
				if c.Digest != d.Copies[0].Digest {
					s.t.Errorf("%s: %+v", sl.ID, d.Copies)
				}
			}
			return true
		})
	}
}

// spreadOver is how many copies each node has, masters apart.
func spreadOver(st *cluster.State) (masters, copies map[slot.NodeName]int) {
	masters, copies = map[slot.NodeName]int{}, map[slot.NodeName]int{}
	for _, sl := range st.Slots {
		masters[sl.Master]++
		copies[sl.Master]++
		for _, r := range sl.Replicas {
			copies[r]++
		}
	}
	return masters, copies
}

// A fourth node joins a site with mail, and the site is evened out while mail flows: no
// delivery fails, at no moment does a slot have fewer copies that count, masters change
// by one confirmed proposal only, and all copies hold the same in the end (laws 1, 4, 8).
// Then a node is emptied, in the same way.
func TestLaw01Law04Law08RebalanceUnderLoad(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 6)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	users := s.users(ctx, 6)
	n4 := s.join(ctx, "n4", "")
	stop := s.load(users, 3)
	before := s.nodes[0].node.State()
	watched := s.healthyCopies(s.nodes[0])
	m := s.rebalance(ctx, s.nodes[1], "")
	again, err := s.nodes[2].admin.Moves(ctx, "")
	if err != nil || len(again.Planned) != 0 || len(again.UnderWay) != len(m.Planned) {
		t.Errorf("planned again: %+v, %v", again, err)
	}
	confirmed := s.moved(ctx, s.nodes[0])
	masters, copies := spreadOver(s.nodes[0].node.State())
	if copies["n4"] < 2 || masters["n4"] < 1 || confirmed > 2 {
		t.Errorf("n4 has %d copies and is master of %d, %d proposals; moves were %+v", copies["n4"], masters["n4"], confirmed, m.Planned)
	}
	for _, sl := range s.nodes[0].node.State().Slots {
		if was := before.Slots[sl.ID]; len(sl.Replicas) != len(was.Replicas) || sl.Unclean != 0 {
			t.Errorf("%+v, it was %+v", sl, was)
		}
	}
	s.rebalance(ctx, n4, "n3")
	s.moved(ctx, s.nodes[0])
	if _, copies = spreadOver(s.nodes[0].node.State()); copies["n3"] != 0 {
		t.Errorf("n3 holds %d copies still", copies["n3"])
	}
	seen := watched()
	acked, slowest := stop()
	total := 0
	for i, u := range users {
		total += acked[u]
		if n, err := s.count(s.nodes[i%4], u, "pw"); err != nil || int(n) != acked[u] {
			t.Errorf("%s: %d messages, %d acknowledged, %v", u, n, acked[u], err)
		}
	}
	s.sameDigests(ctx, s.nodes[0])
	t.Logf("%d messages, the slowest took %s; %d moves, %d states of Raft were looked at", total, slowest, len(m.Planned), seen)
}

// toN4 is the wish that n4 takes the place of each slot's replica.
func toN4(st *cluster.State) cluster.PlanMoves {
	plan := cluster.PlanMoves{By: "eve"}
	for _, sl := range st.Slots {
		plan.Moves = append(plan.Moves, cluster.PlannedMove{Slot: sl.ID, Epoch: sl.Epoch, To: "n4", From: sl.Replicas[0]})
	}
	return plan
}

// saysAbout reports whether a condition holds about a slot.
func saysAbout(st admin.Status, name monitor.Name, id slot.ID) bool {
	return slices.ContainsFunc(st.Conditions, func(c monitor.Condition) bool { return c.Name == name && c.About == id.String() })
}

// withMail is a site of three nodes with some mail in every slot, and a fourth that is
// empty.
func (s *site) withMail(ctx context.Context, slots int) (users []string, n4 *running) {
	s.t.Helper()
	newSiteWith(s.t, s, 3, 1, slots, "")
	users = s.users(ctx, slots)
	for i, u := range users {
		if err := s.deliver(s.nodes[i%3], u, "Subject: x\r\n\r\nhello\r\n"); err != nil {
			s.t.Fatal(err)
		}
	}
	return users, s.join(ctx, "n4", "")
}

// The target of a move is away when it begins, and the leader, who alone has worked on it,
// dies: the wish stands, is named on each node, and another leader ends it when the target
// is there.
func TestMoveGoesOnUnderAnotherLeader(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	s := &site{t: t}
	_, n4 := s.withMail(ctx, 3)
	s.join(ctx, "w1", "witness = true\n") // there is a quorum without two of five
	s.eventuallyAt(s.nodes[0], "all vote", func(admin.Status) bool { v, _ := s.votes(); return len(v) == 5 })
	n4.stopped()
	before := s.nodes[0].node.State()
	if _, err := s.nodes[0].node.Propose(ctx, toN4(before)); err != nil {
		t.Fatal(err)
	}
	leader := s.named(s.nodes[0].node.leader())
	leader.stopped()
	other := s.nodes[slices.IndexFunc(s.nodes, func(r *running) bool { return r != leader && r != n4 })]
	s.until(other, 30*time.Second, "another leads, and the moves are named", func(st admin.Status) bool {
		return st.Leader != "" && string(st.Leader) != leader.name && saysAbout(st, monitor.SlotMoving, 0)
	})
	s.start(n4)
	s.start(leader)
	s.moved(ctx, other)
	for _, sl := range other.node.State().Slots {
		if was := before.Slots[sl.ID]; sl.Move != nil || !slices.Equal(sl.Replicas, []slot.NodeName{"n4"}) || sl.Master != was.Master || sl.Epoch != was.Epoch {
			t.Errorf("%+v, it was %+v", sl, was)
		}
	}
	s.sameDigests(ctx, other)
}

// A target that dies in the middle and stays away: the move is given up, what it had
// added is dropped, the old copy has stayed, and a person is told until he says that he
// has seen it.
func TestLongMoveWhoseTargetStaysAway(t *testing.T) {
	onlyLong(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	s := &site{t: t, moveWithin: 2 * time.Second}
	users, n4 := s.withMail(ctx, 1)
	n1 := s.nodes[0]
	before := n1.node.State().Slots[0]
	watched := s.healthyCopies(n1)
	if _, err := n1.node.Propose(ctx, toN4(n1.node.State())); err != nil {
		t.Fatal(err)
	}
	s.until(n1, 30*time.Second, "n4 is listed", func(admin.Status) bool { return n1.node.State().Slots[0].Holds("n4") })
	n4.stopped()
	if sl := n1.node.State().Slots[0]; sl.Move == nil || !slices.Equal(sl.Replicas, append(slices.Clone(before.Replicas), "n4")) {
		t.Fatalf("it was too fast: %+v", sl)
	}
	s.until(n1, 40*time.Second, "given up", func(st admin.Status) bool {
		return saysAbout(st, monitor.MoveGivenUp, 0) && !n1.node.State().Slots[0].Moving()
	})
	watched()
	if sl := n1.node.State().Slots[0]; !slices.Equal(sl.Replicas, before.Replicas) || sl.Moving() {
		t.Errorf("%+v, it was %+v", sl, before)
	}
	if err := s.deliver(n1, users[0], "Subject: y\r\n\r\nhello\r\n"); err != nil {
		t.Error(err)
	}
	if err := n1.admin.StopMoves(ctx); err != nil {
		t.Error(err)
	}
	s.until(n1, 10*time.Second, "seen", func(st admin.Status) bool { return !saysAbout(st, monitor.MoveGivenUp, 0) })
	var nothing *admin.Error
	if err := n1.admin.StopMoves(ctx); !errors.As(err, &nothing) || nothing.Exit != admin.ExitNothing {
		t.Errorf("typed again: %v", err)
	}
}

// A person stops moves in the middle: what was added goes, what was there stays.
func TestMovesAreStopped(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	s := &site{t: t}
	s.withMail(ctx, 3)
	n1 := s.nodes[0]
	before := n1.node.State()
	if _, err := n1.node.Propose(ctx, toN4(before)); err != nil {
		t.Fatal(err)
	}
	s.until(n1, 30*time.Second, "a copy is being made", func(admin.Status) bool { return n1.node.State().Slots[0].Holds("n4") })
	if err := s.nodes[1].admin.StopMoves(ctx); err != nil {
		t.Fatal(err)
	}
	s.moved(ctx, n1)
	for _, sl := range n1.node.State().Slots {
		// One that had only to drop the old copy ends.
		if was := before.Slots[sl.ID]; sl.Move != nil || len(sl.Replicas) != 1 || !slices.Equal(sl.Replicas, was.Replicas) && sl.Replicas[0] != "n4" {
			t.Errorf("%+v, it was %+v", sl, was)
		}
	}
}

// Zones: replicas that share a zone with their master are parted when another zone comes.
func TestRebalanceOverZones(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	s := newSiteWith(t, &site{t: t}, 2, 1, 2, "zone = \"east\"\n")
	s.users(ctx, 2)
	s.join(ctx, "n3", "zone = \"west\"\n")
	s.rebalance(ctx, s.nodes[0], "")
	s.moved(ctx, s.nodes[0])
	for _, sl := range s.nodes[0].node.State().Slots {
		if !sl.Holds("n3") {
			t.Errorf("both copies are in one zone: %+v", sl)
		}
	}
}

// While no slot has a user a node that joins gets its share of the replicas by itself, and
// no master is changed (law 4); with the first user that ends.
func TestLaw04NewNodeIsPlacedWhileThereIsNoUser(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	s := newSite(t, 3, 1, 6)
	before := s.nodes[0].node.State()
	s.join(ctx, "n4", "")
	s.until(s.nodes[0], 60*time.Second, "n4 has replicas", func(admin.Status) bool {
		st := s.nodes[0].node.State()
		_, copies := spreadOver(st)
		return copies["n4"] > 0 && len(onTheirWay(st)) == 0
	})
	for _, sl := range s.nodes[0].node.State().Slots {
		if was := before.Slots[sl.ID]; sl.Master != was.Master || sl.Epoch != was.Epoch || len(sl.Replicas) != len(was.Replicas) {
			t.Errorf("%+v, it was %+v", sl, was)
		}
	}
	userless := func() bool { return s.nodes[0].node.userless(ctx, s.nodes[0].node.State()) }
	if !userless() {
		t.Error("there is no user")
	}
	s.users(ctx, 6)
	if userless() { // at once
		t.Error("there are users")
	}
	n5 := s.join(ctx, "n5", "")
	n5.node.placeNewNodes(ctx)
	if ids := onTheirWay(n5.node.State()); len(ids) > 0 {
		t.Errorf("%v are moved although there are users", ids)
	}
}
