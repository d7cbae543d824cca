package failover

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// handsOver makes the site's masters hand over what is sealed, after a while.
func (s *site) handsOver(t *testing.T, after time.Duration) {
	s.after = func(c cluster.Command) error {
		b, ok := c.(cluster.BeginHandOver)
		if !ok {
			return nil
		}
		sl := s.st.Slots[b.Slot]
		go func() {
			time.Sleep(after)
			inSync := append([]slot.NodeName{sl.Master}, slices.DeleteFunc(slices.Clone(sl.Replicas), func(n slot.NodeName) bool { return n == b.To })...)
			_, err := s.Propose(t.Context(), cluster.CommitHandOver{Slot: b.Slot, Epoch: b.Epoch, Begun: sl.HandOver.Begun, Position: slot.At(1, 100), InSync: inSync})
			if err != nil {
				t.Log(err)
			}
		}()
		return nil
	}
}

func (s *site) wish(t *testing.T, w Wish) Proposed {
	t.Helper()
	w.By = "alice"
	p, err := Propose(t.Context(), s, s.view(), suspect, w)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// All masters go off a node that lives, and come home again. The watcher leaves a
// person's proposal alone, and what was wished for twice is proposed once.
func TestMoveOffAndHome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, list("n1", "n2", "n3"), list("n1", "n2", "n3"), list("n1", "n3"), list("n2", "n1"))
		p := s.wish(t, Wish{From: "n1"})
		if again := s.wish(t, Wish{From: "n1"}); p.Proposal != "p1" || again.Proposal != "p1" || again.ExitCode != ExitDone {
			t.Fatalf("%+v, then %+v", p, again)
		}
		s.run(t, 20*time.Second)
		plan := s.plan(t, "p1")
		if safe, left := plan.Safe(); safe != 3 || left != 3 || !plan.Slots[0].HandOver {
			t.Fatalf("%+v", plan)
		}
		var text strings.Builder
		plan.Render(&text)
		checkWidth(t, text.String())
		if !strings.Contains(text.String(), "p1: SAFE, 3 slots of n1") || strings.Contains(text.String(), "lag") {
			t.Error(text.String())
		}
		s.handsOver(t, 300*time.Millisecond)
		o, err := Confirm(t.Context(), s.deps(), Request{By: "alice"})
		if err != nil || o.ExitCode != ExitDone || ids(o.Done) != "s000 s001 s002" {
			t.Fatalf("%+v, %v", o, err)
		}
		for _, sl := range s.st.Slots[:3] {
			if sl.Master == "n1" || sl.Epoch != 2 || sl.Unclean != 0 || !sl.Protected {
				t.Errorf("%+v", sl)
			}
		}
		if got := s.wish(t, Wish{From: "n1"}); got.ExitCode != ExitNothing {
			t.Errorf("typed again: %+v", got)
		}
		if got := s.wish(t, Wish{Home: true, HomeOf: "n2"}); got.ExitCode != ExitNothing {
			t.Errorf("n2's slots are at home: %+v", got)
		}
		if got := s.wish(t, Wish{Home: true, HomeOf: "n1"}); got.Proposal != "p2" {
			t.Fatalf("%+v", got)
		}
		for _, ps := range s.st.OpenProposals()[0].Slots {
			if ps.To != "n1" {
				t.Errorf("%+v", ps)
			}
		}
	})
}

// A slot is not handed over to a copy that is being dropped, and the plan says so, with
// the command that keeps it. A slot whose home keeps no copy is not said to be at home.
func TestNothingIsHandedOverToWhoLeaves(t *testing.T) {
	s := newSite(t, list("n1", "n2", "n3"), list("n2", "n1", "n3"))
	s.st.FeatureLevel = cluster.KnownFeatures
	for _, n := range []slot.NodeName{"n2", "n3"} {
		if _, err := s.Propose(t.Context(), cluster.BeginDrop{Slot: 0, Epoch: 1, Version: s.st.Slots[0].Version, Node: n}); err != nil {
			t.Fatal(err)
		}
		if n == "n2" {
			s.wish(t, Wish{From: "n1"})
			if one := s.plan(t, "p1").Slots[0]; !one.Safe || one.To != "n3" {
				t.Errorf("n2 leaves, n3 stays: %+v", one)
			}
		}
	}
	if one := s.plan(t, "p1").Slots[0]; one.Safe || one.Accept != "" || !strings.Contains(one.Why, "is being dropped") || !strings.HasPrefix(one.Next, "mailnode slot add-replica s000 n") {
		t.Errorf("both leave: %+v", one)
	}
	s.st.Slots[1].Home = "n1"
	if _, err := s.Propose(t.Context(), cluster.BeginDrop{Slot: 1, Epoch: 1, Version: s.st.Slots[1].Version, Node: "n1"}); err != nil {
		t.Fatal(err)
	}
	if got := s.wish(t, Wish{Home: true, HomeOf: "n1"}); got.ExitCode != ExitRefused || !strings.Contains(got.Text, "mailnode slot add-replica s001 n1") {
		t.Errorf("home: %+v", got)
	}
}

// A hand-over that does not come about is given up by a command, is said, and leaves
// the slot as it was.
func TestHandOverIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, list("n1", "n2", "n3"))
		s.wish(t, Wish{Slot: 0, To: "n3"})
		s.edit("n3", 0, func(c *CopyAnswer) { c.Viable, c.Building = false, true })
		if plan := s.plan(t, "p1"); plan.Slots[0].Safe || plan.Slots[0].Accept != "" || !strings.Contains(plan.Slots[0].Why, "n3 cannot take it now") {
			t.Errorf("to a copy that is being built: %+v", plan.Slots[0])
		}
		s.edit("n3", 0, func(c *CopyAnswer) { c.Viable, c.Building, c.Opening = false, false, "checks its index" })
		if one := s.plan(t, "p1").Slots[0]; one.Safe || !one.Opening {
			t.Errorf("to a copy that is being opened, which passes: %+v", one)
		}
		s.edit("n3", 0, func(c *CopyAnswer) { c.Viable, c.Opening = true, "" })
		if one := s.plan(t, "p1").Slots[0]; !one.Safe || one.Opening {
			t.Errorf("to a copy that is open: %+v", one)
		}
		began := time.Now()
		go func() { // the leader
			var seen []Sealed
			for time.Since(began) < time.Minute {
				cmds, now := GiveUp(s.State(), time.Since(began), seen)
				seen = now
				for _, c := range cmds {
					if _, err := s.Propose(t.Context(), c); err != nil {
						t.Error(err)
					}
				}
				time.Sleep(500 * time.Millisecond)
			}
		}()
		o, err := Confirm(t.Context(), s.deps(), Request{By: "alice"})
		if err != nil || o.ExitCode != ExitRefused || !said(o, "n1 did not hand over to n3 within 30s; n1 serves it as before") {
			t.Fatalf("%+v, %v", o, err)
		}
		if took := time.Since(began); took < GiveUpHandOver || took > GiveUpHandOver+2*time.Second {
			t.Errorf("given up after %s", took)
		}
		time.Sleep(time.Minute) // the leader ends
		if sl := s.State().Slots[0]; sl.HandOver != nil || sl.Master != "n1" || sl.Epoch != 1 {
			t.Errorf("%+v", sl)
		}
	})
}

// A node that is taken for dead is asked to hand over for 5 s. One that does not is
// replaced as a silent one is, and its epoch counts as unclean.
func TestTakenForDead(t *testing.T) {
	for _, answers := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, list("n1", "n2", "n3"), list("n1", "n2", "n3"))
			if answers {
				s.handsOver(t, time.Second)
			}
			s.wish(t, Wish{From: "n1", Dead: true})
			began := time.Now()
			o, err := Confirm(t.Context(), s.deps(), Request{By: "alice"})
			if err != nil || o.ExitCode != ExitDone || ids(o.Done) != "s000 s001" {
				t.Fatalf("%+v, %v", o, err)
			}
			took := time.Since(began)
			for _, sl := range s.st.Slots {
				if unclean := sl.Unclean == 1; sl.Master == "n1" || sl.Epoch != 2 || unclean == answers || sl.HandOver != nil {
					t.Errorf("hands over: %v: %+v", answers, sl)
				}
			}
			if answers && took > 2*time.Second || !answers && (took < deadWait || took > deadWait+2*time.Second) {
				t.Errorf("hands over: %v: took %s", answers, took)
			}
		})
	}
}

// A dead node's slots are waited for all at once, however many they are.
func TestTakenForDeadWithManySlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var layout [][]slot.NodeName
		for range 40 {
			layout = append(layout, list("n1", "n2", "n3"))
		}
		s := newSite(t, layout...)
		s.wish(t, Wish{From: "n1", Dead: true})
		began := time.Now()
		o, err := Confirm(t.Context(), s.deps(), Request{By: "alice"})
		if took := time.Since(began); err != nil || len(o.Done) != len(layout) || took > deadWait+2*time.Second {
			t.Fatalf("%d done after %s, %v", len(o.Done), took, err)
		}
	})
}

// A master that serves, and whose index is damaged, is proposed to hand that slot over;
// the proposal goes when the damage does.
func TestDamagedMasterIsProposedToHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, list("n1", "n2", "n3"), list("n1", "n2", "n3"), list("n1"))
		for _, id := range []slot.ID{0, 2} {
			s.edit("n1", id, func(c *CopyAnswer) { c.Away = "its index is damaged: block 7 of 000012.sst" })
		}
		s.run(t, 5*time.Second)
		open := s.st.OpenProposals()
		if len(open) != 1 || len(open[0].Slots) != 1 || open[0].Slots[0].Slot != 0 || open[0].Reason != "n1 serves s000, but its index is damaged" {
			t.Fatalf("%+v", open) // s002 has no other copy
		}
		s.run(t, time.Minute)
		plan := s.plan(t, "p1")
		if !plan.Slots[0].Safe || !plan.Slots[0].HandOver {
			t.Fatalf("%+v", plan)
		}
		before := s.State()
		s.edit("n1", 0, func(c *CopyAnswer) { c.Away = "" })
		s.run(t, 20*time.Second)
		if p, _ := s.st.Proposal("p1"); p.State != cluster.Withdrawn {
			t.Errorf("after the damage went: %+v", p)
		}
		s.st = before
		s.edit("n1", 0, func(c *CopyAnswer) { c.Away = "its index is damaged: block 7 of 000012.sst" })
		s.handsOver(t, 300*time.Millisecond)
		o, err := Confirm(t.Context(), s.deps(), Request{By: "alice"})
		if err != nil || o.ExitCode != ExitDone || s.st.Slots[0].Unclean != 0 || s.st.Slots[0].Master == "n1" {
			t.Errorf("%+v, %v: %+v", o, err, s.st.Slots[0])
		}
	})
}

// A master on a strained disk hands over to a copy whose disk is well, and keeps the slot
// while there is none. A person may move it all the same.
func TestStrainedMasterGoesToADiskThatIsWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, list("n1", "n2", "n3"), list("n1", "n2"), list("n1", "n3"))
		strained := func(n slot.NodeName, id slot.ID) { s.edit(n, id, func(c *CopyAnswer) { c.Away = "its disk is slow" }) }
		strained("n2", 0)
		strained("n2", 1)
		strained("n1", 1)
		for _, id := range []slot.ID{0, 2} { // it is told of one after the other, and proposed together
			strained("n1", id)
			if got := brief(s.run(t, 2*time.Second)); len(got) != 0 {
				t.Fatalf("%v", got)
			}
		}
		if got := brief(s.run(t, time.Minute)); len(got) != 1 ||
			got[0] != `open "" 2 slots are served, and are to be moved; the first: n1 serves s000, but its disk is slow: s000:n1->n3[n2] s002:n1->n3` {
			t.Fatalf("%v", got)
		}
		if one := s.plan(t, "p1").Slots[0]; !one.Safe || !one.HandOver || one.To != "n3" {
			t.Errorf("%+v", one)
		}
		s.wish(t, Wish{From: "n1"})
		if one := s.plan(t, "p2").Slots[0]; !one.Safe || one.Slot != 1 || one.To != "n2" {
			t.Errorf("a person wants it: %+v", one)
		}
	})
}

// Slots of a silent node are in the watcher's proposal: who wants them off it gets
// that one.
func TestWishIsProposedAlready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fifteen(t)
		if p := s.wish(t, Wish{From: "n1", Dead: true}); p.Proposal != "p1" || p.ExitCode != ExitDone {
			t.Errorf("%+v", p)
		}
		for name, w := range map[string]Wish{"no node": {From: "n9"}, "no copy": {Slot: 0, To: "n4"}, "no slot": {Slot: 99, To: "n2"}} {
			if p := s.wish(t, w); p.Proposal != "" || p.ExitCode != ExitUsage && p.ExitCode != ExitRefused || !strings.Contains(p.Text, "mailnode ") && !strings.Contains(p.Text, "there are") {
				t.Errorf("%s: %+v", name, p)
			}
		}
	})
}

// What Raft recorded of a slot between the plan and the command does not stop a
// hand-over: its master proves that it is right.
func TestHandOverOfAChangedRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, list("n1", "n2", "n3"))
		s.handsOver(t, 100*time.Millisecond)
		s.wish(t, Wish{From: "n1"})
		once := true
		s.propose = func(c cluster.Command) error {
			if _, ok := c.(cluster.BeginHandOver); ok && once {
				once = false
				next := s.st.Clone()
				s.index++
				_, err := next.Apply(s.index, decidedOn(next, cluster.SetProtected{Slot: 0, Epoch: 1, InSync: list("n2")}))
				s.st = next
				return err
			}
			return nil
		}
		o, err := Confirm(t.Context(), s.deps(), Request{By: "alice"})
		if err != nil || once || o.ExitCode != ExitDone || ids(o.Done) != "s000" {
			t.Fatalf("%+v, %v", o, err)
		}
	})
}

// A hand-over by a node that is taken for dead, which ends just when nobody waits for
// it any more, is reported as done.
func TestTakenForDeadHandsOverLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, list("n1", "n2", "n3"))
		s.wish(t, Wish{From: "n1", Dead: true})
		over := cluster.BeginHandOver{Proposal: "p1", Slot: 0, Epoch: 1, Version: s.st.Slots[0].Version, To: "n2"}
		s.apply(t, over)
		s.apply(t, cluster.CommitHandOver{Slot: 0, Epoch: 1, Begun: s.st.Slots[0].HandOver.Begun, Position: slot.At(1, 100), InSync: list("n1")})
		var out Outcome
		fileClosed(s.st, []cluster.BeginHandOver{over}, []SlotOutcome{{Slot: 0, To: "n2"}}, &out)
		if ids(out.Done) != "s000" || len(out.Refused)+len(out.Failed) != 0 {
			t.Errorf("%+v", out)
		}
	})
}

// A slot is never handed over to the master that it has, and one that is being handed
// over goes on to the copy that it was begun for.
func TestHandOverGoesToAnotherCopy(t *testing.T) {
	s := newSite(t, list("n1"), list("n1", "n2", "n3"))
	s.edit("n2", 1, func(c *CopyAnswer) { c.Viable, c.Building = false, true })
	s.edit("n3", 1, func(c *CopyAnswer) { c.Viable, c.Building = false, true })
	s.run(t, 5*time.Second)
	s.wish(t, Wish{From: "n1"})
	plan := s.plan(t, "p1")
	if one := plan.Slots[0]; one.Safe || one.To != "" || one.Why != "no other copy exists: n1 keeps it" {
		t.Errorf("a slot with one copy: %+v", one)
	}
	if one := plan.Slots[1]; one.Safe || one.To != "" || !strings.HasPrefix(one.Why, "no viable copy answers: ") {
		t.Errorf("a slot with one viable copy: %+v", one)
	}
	s.edit("n2", 1, func(c *CopyAnswer) { c.Building, c.Opening = false, "checks its index" })
	if one := s.plan(t, "p1").Slots[1]; one.Safe || !one.Opening {
		t.Errorf("a slot whose other copy is being opened: %+v", one)
	}
	s.edit("n2", 1, func(c *CopyAnswer) { c.Building, c.Opening = true, "" })
	s.edit("n3", 1, func(c *CopyAnswer) { c.Viable, c.Building = true, false })
	s.run(t, 5*time.Second)
	if one := s.plan(t, "p1").Slots[1]; !one.Safe || !one.HandOver || one.To != "n3" {
		t.Errorf("n3 is viable now: %+v", one)
	}
	s.apply(t, cluster.BeginHandOver{Proposal: "p1", Slot: 1, Epoch: 1, Version: s.st.Slots[1].Version, To: "n3"})
	s.edit("n2", 1, func(c *CopyAnswer) { c.Viable, c.Building, c.Position = true, false, c.Position+1 })
	s.run(t, 5*time.Second)
	if one := s.plan(t, "p1").Slots[1]; !one.Safe || one.To != "n3" {
		t.Errorf("it is being handed over to n3: %+v", one)
	}
}

// Who rejects a person's wish has not said that a silent node is to be left alone.
// What he did to the watcher's proposal for the same slot still counts.
func TestRejectedWishHidesNoProposal(t *testing.T) {
	s := newSite(t, list("n1", "n2", "n3"))
	open := func() (ids []string) {
		for _, p := range s.st.OpenProposals() {
			ids = append(ids, p.ID)
		}
		return ids
	}
	s.wish(t, Wish{From: "n1"})
	s.apply(t, cluster.RejectProposal{Proposal: "p1", By: "alice"})
	s.up["n1"] = false
	s.ev = NewEvidence("n2", s.now) // a leader that has just started
	s.run(t, time.Minute)
	if got := open(); !slices.Equal(got, []string{"p2"}) {
		t.Fatalf("open: %v", got)
	}
	s.apply(t, cluster.RejectProposal{Proposal: "p2", By: "alice"})
	s.wish(t, Wish{From: "n1"})
	s.apply(t, cluster.RejectProposal{Proposal: "p3", By: "alice"})
	s.run(t, time.Minute)
	if got := open(); len(got) != 0 {
		t.Errorf("the watcher's own was rejected, open: %v", got)
	}
}

// TestLaw04WishConfirmsWhatWasTyped: a wish that finds its slot in a proposal with others
// names it alone, so that nobody confirms what he has not typed.
func TestLaw04WishConfirmsWhatWasTyped(t *testing.T) {
	s := newSite(t, list("n1", "n2"), list("n1", "n2"), list("n1", "n2"))
	if p := s.wish(t, Wish{From: "n1"}); p.Proposal != "p1" || p.Slots != nil {
		t.Fatalf("%+v", p)
	}
	if p := s.wish(t, Wish{From: "n1"}); p.Proposal != "p1" || p.Slots != nil {
		t.Errorf("all of it, again: %+v", p)
	}
	if p := s.wish(t, Wish{Slot: 1, To: "n2"}); p.Proposal != "p1" || !slices.Equal(p.Slots, []slot.ID{1}) {
		t.Errorf("one of its slots: %+v", p)
	}
}
