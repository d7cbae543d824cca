package failover

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// arbitrary draws any report, also ones that no honest node sends.
func arbitrary(t *rapid.T, node slot.NodeName) Report {
	r := Report{Node: node, Boot: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "boot"), Seq: rapid.Uint64Range(0, 50).Draw(t, "seq"),
		LastWords: rapid.SampledFrom([]string{"", CleanStop, rapid.String().Draw(t, "text")}).Draw(t, "words")}
	for range rapid.IntRange(0, 5).Draw(t, "copies") {
		r.Slots = append(r.Slots, CopyReport{
			Slot: slot.ID(rapid.IntRange(0, 6).Draw(t, "slot")), Role: rapid.SampledFrom([]Role{RoleMaster, RoleReplica, RoleNone, ""}).Draw(t, "role"),
			Serving: rapid.Bool().Draw(t, "serving"), Epoch: slot.Epoch(rapid.IntRange(0, 3).Draw(t, "epoch")),
			Position: slot.At(1, rapid.Uint64Range(0, 5).Draw(t, "n")), Lineage: slot.Epoch(rapid.IntRange(0, 3).Draw(t, "lineage")),
			Health: Health{Viable: rapid.IntRange(0, 3).Draw(t, "viable") > 0, Building: rapid.IntRange(0, 5).Draw(t, "building") == 0, Diverged: rapid.IntRange(0, 5).Draw(t, "diverged") == 0,
				Failed: rapid.SampledFrom([]string{"", "", "EIO", rapid.StringN(0, 200, 500).Draw(t, "failed")}).Draw(t, "failure")}})
	}
	for range rapid.IntRange(0, 2).Draw(t, "heard") {
		h := Heard{Node: anyNode(t), AgoMs: rapid.Int64().Draw(t, "ago")}
		if rapid.Bool().Draw(t, "unserved") {
			h.Unserved = []Unserved{{Slot: slot.ID(rapid.IntRange(0, 3).Draw(t, "slot")), Why: "w"}}
		}
		r.Heard = append(r.Heard, h)
	}
	return r
}

func anyNode(t *rapid.T) slot.NodeName {
	return rapid.SampledFrom(list("n1", "n2", "n3", "n4", "n9")).Draw(t, "node")
}

// meddle is what else happens in Raft: operators and masters at work.
func meddle(t *rapid.T, s *site) {
	sl := rapid.SampledFrom(s.st.Slots).Draw(t, "slot")
	var c cluster.Command
	switch rapid.IntRange(0, 5).Draw(t, "meddle") {
	case 0:
		c = cluster.BeginDrop{Slot: sl.ID, Epoch: sl.Epoch, Version: sl.Version, Node: anyNode(t), Anyway: true}
	case 1:
		c = cluster.AddReplica{Slot: sl.ID, Epoch: sl.Epoch, Node: anyNode(t)}
	case 2:
		c = cluster.RejectProposal{Proposal: fmt.Sprint("p", rapid.Uint64Range(1, s.st.NextProposal).Draw(t, "id"))}
	case 3:
		c = cluster.RaiseGeneration{Generation: s.st.Generation, With: []slot.NodeName{anyNode(t)}}
	case 4:
		p, ok := s.st.OpenProposalOf(sl.ID)
		if !ok {
			return
		}
		c = cluster.ConfirmSlot{Proposal: p.ID, Slot: sl.ID, Epoch: sl.Epoch, To: anyNode(t), Unclean: true}
	default:
		standby := rapid.Bool().Draw(t, "standby")
		c = cluster.UpdateMember{Name: anyNode(t), Standby: &standby}
	}
	_, _ = s.Propose(t.Context(), decidedOn(s.st, c)) // many are refused, as they should be
}

// TestLaw04DecideNeverChangesMaster: whatever evidence arrives, Decide's commands
// are accepted, are none that can change a master, leave no slot in two open
// proposals, and once they are applied there is nothing more to say.
func TestLaw04DecideNeverChangesMaster(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newSite(t, list("n1", "n2", "n3"), list("n1", "n3", "n4"), list("n2", "n1"), list("n3", "n1", "n2", "n4"), list("n1"))
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			s.now += time.Duration(rapid.IntRange(0, 20_000).Draw(rt, "ms")) * time.Millisecond
			switch rapid.IntRange(0, 5).Draw(rt, "step") {
			case 0:
				meddle(rt, s)
			case 1:
				s.ev.Tick(s.now)
			case 2:
				s.ev.Observe(s.now, s.st)
			case 3:
				n := rapid.SampledFrom(list("n1", "n2", "n3", "n4")).Draw(rt, "honest")
				s.ev.Hear(s.now, s.report(n))
			default:
				s.ev.Hear(s.now, arbitrary(rt, anyNode(rt)))
			}
			decideOnce(rt, s)
		}
	})
}

func decideOnce(t *rapid.T, s *site) {
	before := s.st
	for _, c := range Decide(s.st, s.view(), suspect) {
		switch c.(type) {
		case cluster.OpenProposal, cluster.UpdateProposal, cluster.WithdrawProposal:
		default:
			t.Fatalf("decided %T", c)
		}
		if _, err := s.Propose(t.Context(), c); err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
	}
	for i, sl := range s.st.Slots {
		if sl.Master != before.Slots[i].Master || sl.Epoch != before.Slots[i].Epoch {
			t.Fatalf("%+v became %+v", before.Slots[i], sl)
		}
	}
	in := map[slot.ID]string{}
	for _, p := range s.st.OpenProposals() {
		for _, ps := range p.Slots {
			if o, ok := in[ps.Slot]; ok && !ps.Done {
				t.Fatalf("%s is in %s and %s", ps.Slot, o, p.ID)
			}
			if !ps.Done {
				in[ps.Slot] = p.ID
			}
			if c, _ := s.view().copyOf(ps.To, ps.Slot); ps.To != "" && !ps.Done && ps.Position == 0 && c.Position != 0 {
				t.Fatalf("%+v names a target without its position", ps)
			}
		}
	}
	if again := Decide(s.st, s.view(), suspect); len(again) > 0 {
		t.Fatalf("decided twice: %v", brief(again))
	}
}

// TestLaw11WallClockDecidesNothing: with the wall clock of any year, jumping at
// every step, the same commands come out, but for texts that are only shown; and
// a confirmation does the same.
func TestLaw11WallClockDecidesNothing(t *testing.T) {
	scenario := func(t *testing.T, wall func(i int) time.Time) ([][]string, *cluster.State) {
		s := newSite(t, list("n1", "n2", "n3"), list("n1", "n3", "n2"), list("n2", "n1"))
		var out [][]string
		for i := range 60 {
			switch i {
			case 5:
				s.up["n1"] = false
			case 25:
				s.up["n1"] = true
			case 30:
				s.up["n1"] = false
			}
			s.now += time.Second
			s.ev.Tick(s.now)
			for _, n := range list("n1", "n2", "n3", "n4") {
				if s.up[n] {
					s.ev.Hear(s.now, s.report(n))
				}
			}
			v := s.ev.Snapshot(s.now)
			v.Wall = wall(i)
			cmds := Decide(s.st, v, suspect)
			for _, c := range cmds {
				s.apply(t, c)
			}
			out = append(out, brief(cmds))
		}
		synctest.Test(t, func(t *testing.T) {
			d := s.deps()
			d.View = func() View { v := s.ev.Snapshot(s.now); v.Wall = wall(99); return v }
			o, err := Confirm(t.Context(), d, Request{WallTime: "any"})
			if err != nil || o.ExitCode != ExitDone {
				t.Fatalf("%+v, %v", o, err)
			}
		})
		// Slots are confirmed side by side: the order of the log is free.
		end := s.st.Clone()
		end.History = nil
		for i := range end.Slots {
			end.Slots[i].Version = 0
		}
		for i := range end.Proposals {
			end.Proposals[i].SinceWall = ""
		}
		return out, end
	}
	want, wantState := scenario(t, func(int) time.Time { return time.Time{} })
	base := time.Date(2026, 12, 31, 23, 59, 50, 0, time.UTC)
	for name, wall := range map[string]func(i int) time.Time{
		"steady":         func(i int) time.Time { return base.Add(time.Duration(i) * time.Second) },
		"jumps of years": func(i int) time.Time { return base.AddDate(i%3*50-50, 0, 0) },
		"backwards":      func(i int) time.Time { return base.Add(-time.Duration(i) * time.Hour) },
		"leap second":    func(i int) time.Time { return base.Add(time.Duration(min(i, 9)) * time.Second) },
	} {
		got, state := scenario(t, wall)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: commands:\n%s", name, d)
		}
		if d := cmp.Diff(wantState, state); d != "" {
			t.Errorf("%s: state:\n%s", name, d)
		}
	}
}

// TestLaw01SafeHoldsEveryAcknowledgement: acknowledged means that one of the
// recorded in-sync replicas has it. Whatever else is wrong with the copies, a
// plan that says safe names a target that has it.
func TestLaw01SafeHoldsEveryAcknowledgement(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, list("n1", "n2", "n3", "n4"))
			acked := slot.At(1, 105)
			holder := rapid.SampledFrom(list("n2", "n3", "n4")).Draw(rt, "holder")
			for _, n := range list("n2", "n3", "n4") {
				s.edit(n, 0, func(c *CopyAnswer) {
					if n != holder {
						c.Position = slot.At(1, rapid.Uint64Range(98, 108).Draw(rt, "n"))
					} else {
						c.Position = acked + slot.Position(rapid.IntRange(0, 2).Draw(rt, "more"))
					}
					c.Viable = rapid.IntRange(0, 5).Draw(rt, "viable") > 0
					c.Building = rapid.IntRange(0, 5).Draw(rt, "building") == 0
					c.Lineage = slot.Epoch(rapid.SampledFrom([]int{1, 1, 1, 1, 0, 2}).Draw(rt, "lineage"))
				})
			}
			if rapid.IntRange(0, 3).Draw(rt, "unprotected") == 0 {
				s.apply(t, cluster.SetUnprotected{Slot: 0, Epoch: 1, Since: slot.At(1, 50)})
			} else {
				in := []slot.NodeName{holder}
				for _, n := range list("n2", "n3", "n4") {
					if n != holder && rapid.Bool().Draw(rt, "in sync") {
						in = append(in, n)
					}
				}
				s.apply(t, cluster.SetProtected{Slot: 0, Epoch: 1, InSync: in})
			}
			s.up["n1"] = false
			s.up["n3"] = rapid.IntRange(0, 4).Draw(rt, "n3 up") > 0
			s.up["n4"] = rapid.IntRange(0, 4).Draw(rt, "n4 up") > 0
			s.run(t, 20*time.Second)
			if p := s.plan(t, "p1").Slots[0]; p.Safe {
				if sl := s.st.Slots[0]; !sl.Protected || p.Position < acked {
					rt.Fatalf("safe, yet %s has %s of %s: %+v", p.To, p.Position, acked, p)
				}
			}
		})
	})
}
