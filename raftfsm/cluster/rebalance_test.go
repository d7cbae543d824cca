package cluster

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"mailnode/storage/slot"
)

// placed are slots where Place puts them.
func placed(members []Member, n, replicas int) []Slot {
	slots := emptySlots(n)
	for _, a := range Place(members, slots, replicas) {
		slots[a.Slot] = Slot{ID: a.Slot, Epoch: 1, Master: a.Master, Replicas: a.Replicas}
	}
	return slots
}

// moved are slots after their moves.
func moved(slots []Slot, moves []PlannedMove) []Slot {
	out := slices.Clone(slots)
	for _, m := range moves {
		sl := &out[m.Slot]
		master := cmp.Or(m.Lead, sl.Master)
		copies := append(slices.Clone(sl.Replicas), sl.Master)
		if m.To != "" {
			copies = append(copies, m.To)
		}
		sl.Master, sl.Replicas = master, without(copies, master)
		if m.From != "" {
			sl.Replicas = without(sl.Replicas, m.From)
		}
	}
	return out
}

// carried is what each node has: masters, replicas, and the most that it would leave to
// a single other node.
type carried struct{ masters, replicas, share int }

func carriedBy(members []Member, slots []Slot) map[slot.NodeName]carried {
	out := map[slot.NodeName]carried{}
	for _, m := range members {
		if m.Role == Witness {
			continue
		}
		c, heirs := carried{}, map[slot.NodeName]int{}
		for _, sl := range slots {
			if sl.Master == m.Name {
				c.masters++
				for _, r := range sl.Replicas {
					heirs[r]++
					c.share = max(c.share, heirs[r])
				}
			}
			if slices.Contains(sl.Replicas, m.Name) {
				c.replicas++
			}
		}
		out[m.Name] = c
	}
	return out
}

// What Place has placed is good as it is, however many nodes, zones and replicas.
func TestRebalanceLeavesAFreshPlacement(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := zoned(rapid.IntRange(1, 12).Draw(t, "nodes"), rapid.IntRange(1, 4).Draw(t, "zones"))
		replicas := rapid.IntRange(0, 3).Draw(t, "replicas")
		slots := placed(members, rapid.IntRange(1, 40).Draw(t, "slots"), replicas)
		if r := Rebalance(Site{Members: members, Slots: slots}, replicas, ""); len(r.Moves)+len(r.Cannot) > 0 {
			t.Fatalf("%+v", r)
		}
	})
}

// drawnSite draws a site in any state: nodes that have joined or are full, slots of any
// size, placed by anybody.
func drawnSite(t *rapid.T) (Site, int) {
	s := Site{Members: zoned(rapid.IntRange(2, 8).Draw(t, "nodes"), rapid.IntRange(1, 4).Draw(t, "zones")),
		Weights: map[slot.ID]Weight{}, Free: map[slot.NodeName]int64{}, Shut: map[slot.NodeName]bool{}}
	var all []slot.NodeName
	for i := range s.Members {
		m := &s.Members[i]
		all = append(all, m.Name)
		m.Standby = i > 0 && rapid.IntRange(0, 5).Draw(t, "standby") == 0
		s.Shut[m.Name] = i > 0 && rapid.IntRange(0, 5).Draw(t, "shut") == 0
		if rapid.IntRange(0, 4).Draw(t, "small") == 0 {
			s.Free[m.Name] = int64(rapid.IntRange(0, 400).Draw(t, "free")) << 30
		}
	}
	for id := range slot.ID(rapid.IntRange(1, 24).Draw(t, "slots")) {
		copies := rapid.Permutation(all).Draw(t, "copies")[:rapid.IntRange(1, min(3, len(all))).Draw(t, "count")]
		s.Slots = append(s.Slots, Slot{ID: id, Epoch: 1, Master: copies[0], Replicas: without(copies[1:], "")})
		s.Weights[id] = Weight{Bytes: int64(rapid.IntRange(0, 100).Draw(t, "bytes")) << 30, Messages: int64(rapid.IntRange(0, 1_000_000).Draw(t, "messages"))}
	}
	return s, rapid.IntRange(0, 2).Draw(t, "replicas")
}

// Whatever a site looks like: the moves make sense to the state machine, no copy goes to
// a node that is shut, full or has one, no slot gets fewer copies or more that share a
// zone, a copy on a standby stays, a node that is to be empty is; the order of what is
// known changes nothing; and what is planned makes the site better, so that planning
// comes to an end.
func TestRebalanceOfAnySite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, replicas := drawnSite(t)
		empty := slot.NodeName("")
		if rapid.IntRange(0, 2).Draw(t, "drain") == 0 {
			empty = s.Members[rapid.IntRange(0, len(s.Members)-1).Draw(t, "empty")].Name
			s.Shut[empty] = true
		}
		members := map[slot.NodeName]Member{}
		for _, m := range s.Members {
			members[m.Name] = m
		}
		for round := 0; ; round++ {
			got := Rebalance(s, replicas, empty)
			if again := Rebalance(shuffled(s, uint64(round)), replicas, empty); fmt.Sprint(got) != fmt.Sprint(again) {
				t.Fatalf("in another order: %+v, %+v", got, again)
			}
			coming := map[slot.NodeName]int64{}
			for _, m := range got.Moves {
				checkMove(t, s, m, members)
				coming[m.To] += s.Weights[m.Slot].Bytes
			}
			for n, bytes := range coming {
				if free, known := s.Free[n]; known && bytes > free {
					t.Fatalf("%d bytes go to %s, which has room for %d: %+v", bytes, n, free, got)
				}
			}
			then := moved(s.Slots, got.Moves)
			if before, after := costOf(s, s.Slots), costOf(s, then); empty == "" && len(got.Moves) > 0 && !better(s, before, after, then, replicas) {
				t.Fatalf("no better: %v, %v after %+v", before, after, got)
			}
			for _, sl := range then {
				if empty != "" && sl.Holds(empty) && !slices.Contains(got.Cannot, sl.ID) {
					t.Fatalf("%s holds %s still: %+v", empty, sl.ID, got)
				}
			}
			s.Slots = then
			if len(got.Moves) == 0 {
				return
			}
			if round > 100 {
				t.Fatalf("it never ends: %+v", got)
			}
		}
	})
}

func checkMove(t *rapid.T, s Site, m PlannedMove, members map[slot.NodeName]Member) {
	sl := s.Slots[m.Slot]
	st := &State{Members: s.Members, Slots: s.Slots}
	if err := st.movable(sl, m); err != nil {
		t.Fatalf("%+v: %v", m, err)
	}
	then := moved(s.Slots, []PlannedMove{m})[m.Slot]
	if len(then.Replicas) < len(sl.Replicas) {
		t.Fatalf("%+v: fewer copies than %v", m, sl)
	}
	if s.Shut[m.To] || s.Shut[m.Lead] || m.Lead != "" && members[m.Lead].Standby {
		t.Fatalf("%+v: that node takes nothing", m)
	}
	shared := func(sl Slot) int {
		n := 0
		all := append([]slot.NodeName{sl.Master}, sl.Replicas...)
		for i, a := range all {
			for _, b := range all[:i] {
				if members[a].Zone == members[b].Zone {
					n++
				}
			}
		}
		return n
	}
	open := slices.ContainsFunc(s.Members, func(o Member) bool {
		return !s.Shut[o.Name] && !then.Holds(o.Name) && !o.Standby && s.Free[o.Name] == 0 && !slices.ContainsFunc(append([]slot.NodeName{then.Master}, then.Replicas...),
			func(n slot.NodeName) bool { return n != m.To && members[n].Zone == o.Zone })
	})
	if _, limited := s.Free[m.To]; m.To != "" && shared(then) > shared(sl) && open && !limited && len(s.Free) == 0 && !members[m.To].Standby {
		t.Fatalf("%+v: two copies in one zone, and another zone has none: %+v", m, then)
	}
}

// costOf is the cost by which layouts are compared, and the copies that share a zone.
func costOf(s Site, slots []Slot) [2]int64 {
	s.Slots = slots
	l := newLayout(s)
	var out [2]int64
	for i := range l.nodes {
		out[1] += masterShare*int64(l.masters[i])*int64(l.masters[i]) + int64(l.replicas[i])*int64(l.replicas[i])
		for _, p := range l.pairs[i] {
			out[1] += int64(p) * int64(p)
		}
	}
	for _, copies := range l.copies {
		out[0] += int64(l.together(copies))
	}
	return out
}

// better reports whether what was planned is: replicas were added, fewer copies share a
// zone, or the load is more even.
func better(s Site, before, after [2]int64, then []Slot, replicas int) bool {
	for i, sl := range then {
		if len(sl.Replicas) > len(s.Slots[i].Replicas) {
			return true
		}
	}
	return slices.Compare(after[:], before[:]) < 0
}

func shuffled(s Site, seed uint64) Site {
	r := rand.New(rand.NewPCG(seed, 1))
	s.Members, s.Slots = slices.Clone(s.Members), slices.Clone(s.Slots)
	r.Shuffle(len(s.Members), func(i, j int) { s.Members[i], s.Members[j] = s.Members[j], s.Members[i] })
	r.Shuffle(len(s.Slots), func(i, j int) { s.Slots[i], s.Slots[j] = s.Slots[j], s.Slots[i] })
	return s
}

// A node that has joined gets its share, and no more moves than that takes.
func TestRebalanceFillsANewNode(t *testing.T) {
	for _, tt := range []struct{ nodes, slots, replicas int }{{3, 24, 1}, {3, 24, 2}, {9, 100, 1}} {
		members := zoned(tt.nodes, 1)
		slots := placed(members, tt.slots, tt.replicas)
		members = zoned(tt.nodes+1, 1)
		s := Site{Members: members, Slots: slots}
		moves := 0
		for {
			r := Rebalance(s, tt.replicas, "")
			if len(r.Moves) == 0 {
				break
			}
			moves += len(r.Moves)
			s.Slots = moved(s.Slots, r.Moves)
		}
		got := carriedBy(members, s.Slots)[members[tt.nodes].Name]
		share, even := tt.slots/(tt.nodes+1), tt.slots*(1+tt.replicas)/(tt.nodes+1)
		t.Logf("%+v: %d moves, the new node has %+v", tt, moves, got)
		if got.masters < share-1 || got.masters > share+1 || got.masters+got.replicas < even-2 || moves > even+tt.slots/4 {
			t.Errorf("%+v: %d moves, the new node has %+v, its share is %d of %d", tt, moves, got, share, even)
		}
	}
}

// By bytes and by load, not only by count: two slots that weigh as much as all others
// are not masters on one node.
func TestRebalanceByWeight(t *testing.T) {
	members := zoned(2, 1)
	s := Site{Members: members, Weights: map[slot.ID]Weight{}}
	for i := range slot.ID(8) {
		m := members[i/4].Name // n000 has 0 to 3, two of them heavy
		s.Slots = append(s.Slots, Slot{ID: i, Epoch: 1, Master: m, Replicas: []slot.NodeName{members[1-i/4].Name}})
		s.Weights[i] = Weight{Bytes: 1, Messages: 1}
	}
	s.Weights[0], s.Weights[1] = Weight{Bytes: 200 << 30, Messages: 2_000_000}, Weight{Bytes: 200 << 30, Messages: 2_000_000}
	r := Rebalance(s, 1, "")
	then := moved(s.Slots, r.Moves)
	if then[0].Master == then[1].Master {
		t.Errorf("%+v", r.Moves)
	}
	for _, m := range r.Moves {
		if m.To != "" || m.Lead == "" {
			t.Errorf("%+v copies mail for nothing", m)
		}
	}
}

// Small sites, as a person would do it.
func TestRebalanceByHand(t *testing.T) {
	a, b, c, far := member("a", Voter), member("b", Voter), member("c", Voter), member("far", Nonvoter)
	a.Zone, b.Zone, c.Zone, far.Zone, far.Standby = "x", "x", "y", "z", true
	one := func(sl Slot) []Slot { sl.Epoch = 1; return []Slot{sl} }
	for _, tt := range []struct {
		name     string
		s        Site
		replicas int
		empty    slot.NodeName
		want     string
	}{
		{"two copies in one zone", Site{Members: []Member{a, b, c}, Slots: one(Slot{Master: "a", Replicas: names("b")})}, 1, "", "[{s000 1 c b }] []"},
		{"a zone that is full", Site{Members: []Member{a, b, c}, Slots: one(Slot{Master: "a", Replicas: names("b")}), Free: map[slot.NodeName]int64{"c": 100},
			Weights: map[slot.ID]Weight{0: {Bytes: 1000}}}, 1, "", "[] []"},
		{"a replica is missing", Site{Members: []Member{a, b, c}, Slots: one(Slot{Master: "a"})}, 1, "", "[{s000 1 c  }] []"},
		{"only a standby is left", Site{Members: []Member{a, far}, Slots: one(Slot{Master: "a"})}, 1, "", "[{s000 1 far  }] []"},
		{"a copy on a standby stays", Site{Members: []Member{a, c, far}, Slots: one(Slot{Master: "a", Replicas: names("far")})}, 1, "", "[] []"},
		{"a master's node is emptied", Site{Members: []Member{a, b, c}, Slots: one(Slot{Master: "a", Replicas: names("c")}), Shut: map[slot.NodeName]bool{"a": true}}, 1, "a", "[{s000 1 b a c}] []"},
		{"a replica's node is emptied", Site{Members: []Member{a, b, c}, Slots: one(Slot{Master: "a", Replicas: names("c")}), Shut: map[slot.NodeName]bool{"c": true}}, 1, "c", "[{s000 1 b c }] []"},
		{"nobody can take it", Site{Members: []Member{a, c}, Slots: one(Slot{Master: "a", Replicas: names("c")}), Shut: map[slot.NodeName]bool{"c": true}}, 1, "c", "[] [s000]"},
		{"a slot with an open loss stays", Site{Members: []Member{a, b, c}, Slots: one(Slot{Master: "a", Replicas: names("b"), OpenLoss: &OpenLoss{Node: "b"}})}, 1, "", "[] []"},
		{"a slot that is busy stays", Site{Members: []Member{a, b, c}, Slots: one(Slot{Master: "a", Replicas: names("b")}), Busy: map[slot.ID]bool{0: true}}, 1, "", "[] []"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := Rebalance(tt.s, tt.replicas, tt.empty)
			if got := fmt.Sprintf("%v %v", r.Moves, r.Cannot); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// The figures of docs/SCALING.md: 100 nodes in four zones, 1,000 slots of very
// different sizes. What is asserted is counted; times are printed.
func TestScalingFigures(t *testing.T) { scalingFigures(t, 1) }

// The same with two replicas a slot.
func TestLongScalingFigures(t *testing.T) {
	if os.Getenv("MAILNODE_LONG") == "" {
		t.Skip("takes long: MAILNODE_LONG=1 runs it")
	}
	scalingFigures(t, 2)
}

func scalingFigures(t *testing.T, replicas int) {
	const nodes, slots = 100, 1000
	members := zoned(nodes, 4)
	r := rand.New(rand.NewPCG(7, 7))
	weights := map[slot.ID]Weight{}
	for i := range slot.ID(slots) {
		weights[i] = Weight{Bytes: int64(1+r.IntN(20)) << 30, Messages: int64(1+r.IntN(50)) * 10_000}
	}
	began := time.Now()
	s := Site{Members: members, Slots: placed(members, slots, replicas), Weights: weights}
	took := time.Since(began)
	describe(t, fmt.Sprintf("placed, %d replicas, in %s", replicas, took.Round(time.Millisecond)), s, replicas, 2)
	began = time.Now()
	plan := Rebalance(s, replicas, "")
	t.Logf("by the weights that came later: %d moves, planned in %s", len(plan.Moves), time.Since(began).Round(time.Millisecond))
	s.Slots = moved(s.Slots, plan.Moves)
	describe(t, "after them", s, replicas, 3)

	joined := s
	joined.Members = zoned(nodes+1, 4)
	began = time.Now()
	plan = Rebalance(joined, replicas, "")
	t.Logf("a node joins: %d moves, planned in %s", len(plan.Moves), time.Since(began).Round(time.Millisecond))

	drained := s
	drained.Shut = map[slot.NodeName]bool{"n050": true}
	began = time.Now()
	plan = Rebalance(drained, replicas, "n050")
	to := map[slot.NodeName]bool{}
	for _, m := range plan.Moves {
		to[m.To] = true
	}
	t.Logf("a node is emptied: %d moves to %d nodes, planned in %s", len(plan.Moves), len(to), time.Since(began).Round(time.Millisecond))
	if want := carriedBy(members, s.Slots)["n050"]; len(plan.Moves) != want.masters+want.replicas || len(to) < len(plan.Moves)*2/3 {
		t.Errorf("%d moves to %d nodes for %+v", len(plan.Moves), len(to), want)
	}
}

// describe prints how a site is spread, and what a dead node leaves to one other node.
func describe(t *testing.T, what string, s Site, replicas, shareMost int) {
	t.Helper()
	least, most := carried{1 << 30, 1 << 30, 1 << 30}, carried{}
	for _, c := range carriedBy(s.Members, s.Slots) {
		least = carried{min(least.masters, c.masters), min(least.replicas, c.replicas), min(least.share, c.share)}
		most = carried{max(most.masters, c.masters), max(most.replicas, c.replicas), max(most.share, c.share)}
	}
	l := newLayout(s)
	t.Logf("%s: masters %d to %d, replicas %d to %d a node; weight of the masters %.1f to %.1f, of the replicas %.1f to %.1f; a dead node leaves one other %d slots at most; %d copies share a zone",
		what, least.masters, most.masters, least.replicas, most.replicas,
		float64(slices.Min(l.masters))/unit, float64(slices.Max(l.masters))/unit, float64(slices.Min(l.replicas))/unit, float64(slices.Max(l.replicas))/unit,
		most.share, costOf(s, s.Slots)[0])
	if most.share > shareMost || costOf(s, s.Slots)[0] > 0 {
		t.Errorf("%s: a dead node leaves one other %d slots, %d copies share a zone", what, most.share, costOf(s, s.Slots)[0])
	}
}
