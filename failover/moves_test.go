package failover

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// stage is a cluster of four nodes and what a leader hears of it, for moves. Nodes do at
// once what the record asks of them, unless they are silent.
type stage struct {
	st     *cluster.State
	index  uint64
	now    time.Duration
	silent map[slot.NodeName]bool
	full   map[slot.NodeName]bool
	local  bool // masters wait for no replica
	seen   []StuckMove
	strict interface{ Fatalf(string, ...any) } // a refusal of what a leader asks ends it; nil: not
}

const stageSlots = 6

func newStage(t interface{ Fatalf(string, ...any) }) *stage {
	s := &stage{st: cluster.New(), now: time.Hour, silent: map[slot.NodeName]bool{}, full: map[slot.NodeName]bool{}}
	m := func(n string) cluster.Member {
		return cluster.Member{Name: slot.NodeName(n), ServerID: n + "-1", Addr: "127.0.0.1:24", Role: cluster.Voter, Features: cluster.KnownFeatures}
	}
	cmds := []cluster.Command{cluster.Init{ClusterID: "c", SlotCount: stageSlots, DefaultReplicas: 1, First: m("n1")}}
	for _, n := range []string{"n2", "n3", "n4"} {
		cmds = append(cmds, cluster.AddMember{Member: m(n)})
	}
	for id := range slot.ID(stageSlots) {
		cmds = append(cmds, cluster.AssignSlot{Slot: id, Master: "n1", Replicas: []slot.NodeName{"n2", "n3"}})
	}
	for _, c := range cmds {
		if err := s.apply(c); err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
	}
	return s
}

func (s *stage) apply(c cluster.Command) error {
	s.index++
	_, err := s.st.Apply(s.index, c)
	return err
}

// masters do what ack does: have recorded who keeps up, and drop who leaves.
func (s *stage) masters() {
	for _, sl := range s.st.Slots {
		if s.silent[sl.Master] {
			continue
		}
		var in []slot.NodeName
		for _, r := range sl.Replicas {
			if _, leaves := sl.Leaves(r); !leaves && !s.silent[r] && !s.full[r] {
				in = append(in, r)
			}
		}
		slices.Sort(in)
		if len(in) > 0 && !s.local && (!sl.Protected || fmt.Sprint(in) != fmt.Sprint(sl.InSync)) {
			_ = s.apply(cluster.SetProtected{Slot: sl.ID, Epoch: sl.Epoch, Version: sl.Version, InSync: in})
		}
		sl, _ = s.st.Slot(sl.ID)
		for _, l := range sl.MayLeave() {
			if sl.Protected || l.Anyway || s.local {
				_ = s.apply(cluster.EndDrop{Slot: sl.ID, Epoch: sl.Epoch, Version: sl.Version, Node: l.Node})
				break
			}
		}
	}
}

func (s *stage) view() View {
	v := View{Self: "n3", Now: s.now, Nodes: map[slot.NodeName]NodeView{}, Members: map[slot.NodeName]time.Duration{}}
	for _, m := range s.st.Members {
		nv := NodeView{Known: true, HeardAt: s.now, Copies: map[slot.ID]CopyView{}}
		if s.silent[m.Name] {
			nv.HeardAt = s.now - time.Hour
		}
		for _, sl := range s.st.Slots {
			c := CopyReport{Slot: sl.ID, Epoch: sl.Epoch, Position: slot.At(sl.Epoch, 9), Health: Health{Viable: !s.full[m.Name], NoRoom: s.full[m.Name], Building: s.full[m.Name]}}
			switch {
			case sl.Master == m.Name:
				c.Role, c.Serving, c.AckLocal = RoleMaster, true, s.local
			case sl.Holds(m.Name):
				c.Role, c.LagKnown = RoleReplica, true
			default:
				continue
			}
			nv.Copies[sl.ID] = CopyView{CopyReport: c}
		}
		v.Nodes[m.Name] = nv
	}
	return v
}

// turn is one of a leader. It returns what was to be done.
func (s *stage) turn() []cluster.Command {
	s.now += time.Minute
	var cmds []cluster.Command
	cmds, s.seen = Moves(s.st, s.view(), time.Second, GiveUpMoveAfter, s.seen)
	for _, c := range cmds {
		if err := s.apply(c); err != nil && s.strict != nil {
			s.strict.Fatalf("%+v: %v", c, err)
		}
	}
	s.masters()
	return cmds
}

func (s *stage) plan(t interface{ Fatalf(string, ...any) }, to, from, lead slot.NodeName) {
	c := cluster.PlanMoves{By: "eve"}
	for _, sl := range s.st.Slots {
		c.Moves = append(c.Moves, cluster.PlannedMove{Slot: sl.ID, Epoch: sl.Epoch, To: to, From: from, Lead: lead})
	}
	if err := s.apply(c); err != nil {
		t.Fatalf("%+v: %v", c, err)
	}
}

// settle runs until nothing has changed for longer than a move may be stuck.
func (s *stage) settle(t interface{ Fatalf(string, ...any) }) {
	still := 0
	for range 1000 {
		was := s.st.Index
		if s.turn(); s.st.Index != was {
			still = 0
		} else if still++; time.Duration(still)*time.Minute > GiveUpMoveAfter+time.Minute {
			return
		}
	}
	t.Fatalf("it does not come to rest: %+v", s.st.Slots)
}

func (s *stage) holders() string {
	var b strings.Builder
	for _, sl := range s.st.Slots {
		fmt.Fprintf(&b, "%s%v ", sl.Master, sl.Replicas)
	}
	return b.String()
}

// A few at a time, and to the end; also where masters wait for nobody.
func TestMovesFewAtATime(t *testing.T) {
	for _, local := range []bool{false, true} {
		s := newStage(t)
		s.local = local
		s.masters()
		s.plan(t, "n4", "n2", "")
		if cmds := s.turn(); len(cmds) != MovesAtOnce {
			t.Errorf("%d moves began at once", len(cmds))
		}
		s.settle(t)
		if got := s.holders(); got != strings.Repeat("n1[n3 n4] ", stageSlots) {
			t.Errorf("ack local %t: %s", local, got)
		}
	}
}

// Masters that are to change are proposed once, together, when everything is copied; a
// person confirms, and the old copies go (law 4).
func TestLaw04MovesProposeOnce(t *testing.T) {
	s := newStage(t)
	s.masters()
	s.plan(t, "n4", "n1", "n4")
	s.settle(t)
	open := s.st.OpenProposals()
	if len(open) != 1 || len(open[0].Slots) != stageSlots || open[0].OpenedBy != cluster.Mover {
		t.Fatalf("%+v", open)
	}
	for _, sl := range s.st.Slots {
		if sl.Master != "n1" || len(sl.Replicas) != 3 || !sl.Holds("n4") {
			t.Errorf("before it is confirmed: %+v", sl)
		}
		if err := s.apply(cluster.ConfirmSlot{Proposal: open[0].ID, Slot: sl.ID, Epoch: sl.Epoch, Version: sl.Version, To: "n4"}); err != nil {
			t.Fatal(err)
		}
	}
	s.settle(t)
	if got := s.holders(); got != strings.Repeat("n4[n2 n3] ", stageSlots) || len(s.st.OpenProposals()) != 0 {
		t.Error(got)
	}
}

// A target that is away or full for long ends its moves; one that comes back in time
// does not. What was added goes.
func TestMovesAreGivenUp(t *testing.T) {
	for name, bad := range map[string]func(*stage, bool){
		"silent": func(s *stage, is bool) { s.silent["n4"] = is },
		"full":   func(s *stage, is bool) { s.full["n4"] = is },
	} {
		for _, back := range []bool{false, true} {
			s := newStage(t)
			s.masters()
			s.plan(t, "n4", "n2", "")
			bad(s, true)
			s.turn()
			if back {
				bad(s, false)
			}
			s.settle(t)
			want := "n1[n2 n3] "
			if back {
				want = "n1[n3 n4] "
			}
			if got := s.holders(); got != strings.Repeat(want, stageSlots) {
				t.Errorf("%s, back %t: %s", name, back, got)
			}
			for _, sl := range s.st.Slots {
				if sl.Moving() || (sl.Move == nil) != back {
					t.Errorf("%s, back %t: %+v", name, back, sl.Move)
				}
			}
		}
	}
}

// counted is how many replicas of a slot count and live.
func (s *stage) counted(sl cluster.Slot) int {
	n := 0
	for _, r := range sl.InSync {
		if !s.silent[r] {
			n++
		}
	}
	return n
}

// live counts the nodes that are heard.
func (s *stage) live(nodes ...slot.NodeName) int {
	n := 0
	for _, name := range nodes {
		if !s.silent[name] {
			n++
		}
	}
	return n
}

// Whatever happens to nodes, and whoever confirms, rejects or stops: a leader never makes
// fewer copies of a slot count than would without the move, every move comes to its end,
// and a slot has as many copies as it had (laws 1, 4).
func TestLaw01Law04MovesUnderAnyFaults(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newStage(t)
		s.masters()
		forms := [][3]slot.NodeName{{"n4", "n2", ""}, {"n4", "n1", "n4"}, {"n4", "n1", "n2"}, {"", "", "n2"}, {"n4", "n3", "n4"}}
		form := rapid.SampledFrom(forms).Draw(t, "form")
		s.plan(t, form[0], form[1], form[2])
		for range rapid.IntRange(1, 40).Draw(t, "turns") {
			masters := map[slot.ID]slot.NodeName{}
			for _, sl := range s.st.Slots {
				masters[sl.ID] = sl.Master
			}
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				s.silent[rapid.SampledFrom([]slot.NodeName{"n2", "n3", "n4"}).Draw(t, "silent")] = true
			case 1:
				clear(s.silent)
			case 2:
				_ = s.apply(cluster.StopMoves{By: "ann"})
			case 3:
				s.seen = nil // another leader
			case 4, 5:
				for _, p := range s.st.OpenProposals() {
					for _, ps := range p.Slots {
						sl, _ := s.st.Slot(ps.Slot)
						if s.apply(cluster.ConfirmSlot{Proposal: p.ID, Slot: ps.Slot, Epoch: ps.Epoch, Version: sl.Version, To: ps.To}) == nil {
							masters[ps.Slot] = ps.To
						}
					}
				}
			case 6:
				for _, p := range s.st.OpenProposals() {
					_ = s.apply(cluster.RejectProposal{Proposal: p.ID, By: "ann"})
				}
			}
			s.masters()
			before := s.st.Clone()
			s.turn()
			for _, sl := range s.st.Slots {
				if had, has := s.counted(before.Slots[sl.ID]), s.counted(sl); has < had && 1+has < s.live("n1", "n2", "n3") {
					t.Fatalf("%d replicas counted, %d do now: %+v", had, has, sl)
				}
				if masters[sl.ID] != sl.Master {
					t.Fatalf("%s changed its master from %s to %s", sl.ID, masters[sl.ID], sl.Master)
				}
				if len(sl.Replicas) < 2 {
					t.Fatalf("a replica was lost: %+v", sl)
				}
			}
		}
		clear(s.silent)
		s.settle(t)
		for _, p := range s.st.OpenProposals() {
			_ = s.apply(cluster.RejectProposal{Proposal: p.ID, By: "ann"})
		}
		s.settle(t)
		for _, sl := range s.st.Slots {
			if sl.Moving() || len(sl.Leaving) > 0 || len(sl.Replicas) != 2 || len(sl.InSync) != 2 {
				t.Fatalf("it did not come to an end: %+v %+v", sl, sl.Move)
			}
		}
	})
}

// persons do anything to slots that move: they drop and add replicas, confirm with and
// without the old master, accept losses, reject, stop.
func (s *stage) persons(t *rapid.T) {
	node := func() slot.NodeName {
		return rapid.SampledFrom([]slot.NodeName{"n1", "n2", "n3", "n4"}).Draw(t, "node")
	}
	sl := s.st.Slots[rapid.IntRange(0, stageSlots-1).Draw(t, "slot")]
	p, open := s.st.OpenProposalOf(sl.ID)
	if !open && len(sl.Replicas) > 0 {
		_ = s.apply(cluster.OpenProposal{By: "ann", Slots: []cluster.ProposedSlot{{Slot: sl.ID, Epoch: sl.Epoch, From: sl.Master, To: sl.Replicas[0]}}})
		p, _ = s.st.OpenProposalOf(sl.ID)
	}
	switch rapid.IntRange(0, 11).Draw(t, "what") {
	case 0:
		s.silent[node()] = true
	case 1:
		clear(s.silent)
	case 2:
		_ = s.apply(cluster.StopMoves{By: "ann"})
	case 3:
		s.full[node()] = rapid.Bool().Draw(t, "full")
	case 4, 5:
		_ = s.apply(cluster.BeginDrop{Slot: sl.ID, Epoch: sl.Epoch, Version: sl.Version, Node: node(), Anyway: rapid.Bool().Draw(t, "anyway")})
	case 6:
		_ = s.apply(cluster.AddReplica{Slot: sl.ID, Epoch: sl.Epoch, Node: node()})
	case 7:
		_ = s.apply(cluster.RejectProposal{Proposal: p.ID, By: "ann"})
	case 8:
		_ = s.apply(cluster.ConfirmSlot{Proposal: p.ID, Slot: sl.ID, Epoch: sl.Epoch, Version: sl.Version, To: node(), Unclean: true, AcceptLoss: rapid.Bool().Draw(t, "loss")})
	case 9:
		_ = s.apply(cluster.BeginHandOver{Proposal: p.ID, Slot: sl.ID, Epoch: sl.Epoch, Version: sl.Version, To: node()})
	case 10:
		if h := sl.HandOver; h != nil {
			_ = s.apply(cluster.CommitHandOver{Slot: sl.ID, Epoch: sl.Epoch, Begun: h.Begun, Position: slot.At(sl.Epoch, 9)})
		}
	case 11:
		_ = s.apply(cluster.CancelDrop{Slot: sl.ID, Epoch: sl.Epoch, Version: sl.Version, Node: node()})
	}
}

// Whatever persons do to a slot while a copy of it moves: what a leader asks of the
// state is never refused, so that it does not write the same refusal into Raft's log at
// each of its turns, and it comes to rest.
func TestMovesAskNothingThatIsRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newStage(t)
		s.strict = t
		s.masters()
		forms := [][3]slot.NodeName{{"n4", "n2", ""}, {"n4", "n1", "n4"}, {"n4", "n1", "n2"}, {"", "", "n2"}, {"n4", "", ""}}
		form := rapid.SampledFrom(forms).Draw(t, "form")
		s.plan(t, form[0], form[1], form[2])
		for range rapid.IntRange(1, 40).Draw(t, "turns") {
			s.persons(t)
			s.turn()
		}
		clear(s.silent)
		clear(s.full)
		s.settle(t)
	})
}
