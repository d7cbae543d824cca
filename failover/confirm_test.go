package failover

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// fifteen is a site whose n1 is master of 15 slots and silent, with p1 open.
func fifteen(t *testing.T) *site {
	t.Helper()
	var layout [][]slot.NodeName
	for range 15 {
		layout = append(layout, list("n1", "n2", "n3"))
	}
	s := newSite(t, layout...)
	s.up["n1"] = false
	s.run(t, 20*time.Second)
	if len(s.st.OpenProposals()) != 1 {
		t.Fatalf("%+v", s.st.Proposals)
	}
	return s
}

func ids(list []SlotOutcome) string {
	var out []string
	for _, s := range list {
		out = append(out, s.Slot.String())
	}
	return strings.Join(out, " ")
}

// said looks for words in an outcome's text, however it is wrapped.
func said(o Outcome, words string) bool {
	return strings.Contains(strings.Join(strings.Fields(o.Text), " "), words)
}

func TestConfirmAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fifteen(t)
		begin := time.Now()
		o, err := Confirm(t.Context(), s.deps(), Request{By: "alice", Why: "night"})
		if err != nil || o.ExitCode != ExitDone || len(o.Done) != 15 {
			t.Fatalf("%+v, %v", o, err)
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("mail flows again after %v, want at most 2 s", took)
		}
		on := map[slot.NodeName]int{}
		for _, sl := range s.st.Slots {
			on[sl.Master]++
			if sl.Epoch != 2 || sl.Unclean != 1 || sl.OpenLoss != nil {
				t.Errorf("%+v", sl)
			}
		}
		if d := cmp.Diff(map[slot.NodeName]int{"n2": 8, "n3": 7}, on); d != "" {
			t.Error(d)
		}
		if c := s.st.History[len(s.st.History)-1]; c.By != "alice" || c.Why != "night" || c.AcceptedLoss {
			t.Errorf("%+v", c)
		}
	})
}

func TestConfirmPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fifteen(t)
		s.apply(t, cluster.SetUnprotected{Slot: 7, Epoch: 1, Since: slot.At(1, 90)})
		o, err := Confirm(t.Context(), s.deps(), Request{})
		if err != nil || o.ExitCode != ExitRefused || len(o.Done) != 14 || ids(o.Refused) != "s007" ||
			!strings.HasPrefix(o.Text, "p1: 14 of 15 done\n") || !strings.Contains(o.Text, "confirm p1 --slot s007 --accept-loss\n") {
			t.Fatalf("%+v, %v", o, err)
		}
		if p := s.st.OpenProposals()[0]; p.Left() != 1 {
			t.Fatalf("%+v", p)
		}
		o, err = Confirm(t.Context(), s.deps(), Request{Slots: []slot.ID{3, 7}, AcceptLoss: true, By: "alice"})
		if err != nil || o.ExitCode != ExitDone || ids(o.Done) != "s003 s007" {
			t.Fatalf("%+v, %v", o, err)
		}
		if sl := s.st.Slots[7]; sl.OpenLoss == nil || sl.OpenLoss.Node != "n1" {
			t.Errorf("%+v", sl)
		}
	})
}

// The master came back after the proposal was opened, and the leader has not yet
// withdrawn it.
func TestConfirmRefusesLivingMaster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fifteen(t)
		s.ev.Hear(s.now, s.report("n1"))
		s.up["n1"] = true
		before := s.index
		o, err := Confirm(t.Context(), s.deps(), Request{})
		if err != nil || o.ExitCode != ExitRefused || len(o.Done) != 0 || !said(o, "n1 answers again: nothing to do") || s.index != before {
			t.Fatalf("%+v, %v", o, err)
		}
		// By its reports it serves, by its answers it does not.
		for i := range s.st.Slots {
			s.edit("n1", slot.ID(i), func(c *CopyAnswer) { c.Serving = false })
		}
		if o, err = Confirm(t.Context(), s.deps(), Request{}); err != nil || o.ExitCode != ExitDone {
			t.Fatalf("%+v, %v", o, err)
		}
	})
}

func TestTwoOperators(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fifteen(t)
		var wg sync.WaitGroup
		outs := make([]Outcome, 2)
		for i := range outs {
			wg.Go(func() {
				o, err := Confirm(t.Context(), s.deps(), Request{By: fmt.Sprint("operator", i)})
				if err != nil {
					t.Error(err)
				}
				outs[i] = o
			})
		}
		wg.Wait()
		for _, o := range outs {
			switch {
			// Whoever looks when the other is half way finds fewer slots left to do.
			case o.ExitCode == ExitDone && len(o.Done) > 0, o.ExitCode == ExitRefused:
			case o.ExitCode == ExitNothing && len(o.Done) == 0: // the other had ended before this one looked
			default:
				t.Errorf("%+v", o)
			}
		}
		changes := 0
		for _, c := range s.st.History {
			if c.Kind == cluster.ChangeConfirmed {
				changes++
			}
		}
		for _, sl := range s.st.Slots {
			if sl.Epoch != 2 {
				t.Errorf("%+v", sl)
			}
		}
		if changes != 15 {
			t.Errorf("%d changes of 15 slots", changes)
		}
	})
}

// Another operator gave a slot to another node between our plan and our command.
func TestConfirmLosesRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fifteen(t)
		once := sync.Once{}
		s.propose = func(c cluster.Command) error {
			if c, ok := c.(cluster.ConfirmSlot); ok && c.Slot == 4 {
				once.Do(func() {
					next := s.st.Clone()
					other := list("n2", "n3")
					if c.To == "n2" {
						other = list("n3")
					}
					c.To = other[0]
					s.index++
					if _, err := next.Apply(s.index, c); err != nil {
						t.Error(err)
					}
					s.st = next
				})
			}
			return nil
		}
		o, err := Confirm(t.Context(), s.deps(), Request{})
		if err != nil || o.ExitCode != ExitRefused || len(o.Done) != 14 || ids(o.Refused) != "s004" || !strings.Contains(o.Text, "meanwhile") {
			t.Fatalf("%+v, %v", o, err)
		}
	})
}

// TestConfirmUnknownOutcome: answers are lost before or after the command took
// effect; each slot changes once all the same.
func TestConfirmUnknownOutcome(t *testing.T) {
	lost := errors.New("the leader is gone")
	for _, late := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := fifteen(t)
			tries := map[slot.ID]int{}
			fault := func(c cluster.Command) error {
				if c, ok := c.(cluster.ConfirmSlot); ok {
					if tries[c.Slot]++; tries[c.Slot] < 3 {
						return lost
					}
				}
				return nil
			}
			if late {
				s.after = fault
			} else {
				s.propose = fault
			}
			o, err := Confirm(t.Context(), s.deps(), Request{})
			if err != nil || o.ExitCode != ExitDone || len(o.Done) != 15 {
				t.Fatalf("%+v, %v", o, err)
			}
			for _, sl := range s.st.Slots {
				if sl.Epoch != 2 {
					t.Errorf("%+v", sl)
				}
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		s := fifteen(t)
		s.propose = func(cluster.Command) error { return lost }
		o, err := Confirm(t.Context(), s.deps(), Request{})
		if err != nil || o.ExitCode != ExitFailed || len(o.Failed) != 15 || !said(o, "not known: the leader is gone") {
			t.Fatalf("%+v, %v", o, err)
		}
	})
}

func TestConfirmWaitsForService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fifteen(t)
		s.notServe[2], s.notServe[9] = true, true
		begin := time.Now()
		o, err := Confirm(t.Context(), s.deps(), Request{})
		if took := time.Since(begin); took < serveWait || took > serveWait+5*time.Second {
			t.Errorf("waited %v", took)
		}
		if err != nil || o.ExitCode != ExitFailed || len(o.Done) != 15 || ids(o.NotServing) != "s002 s009" || !strings.Contains(o.Text, "mailnode slot show s002\n") {
			t.Fatalf("%+v, %v", o, err)
		}
	})
}

// Law 12: the changes are finished although the operator has hung up.
func TestConfirmHangUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fifteen(t)
		s.notServe[0] = true
		ctx, cancel := context.WithCancel(t.Context())
		s.after = func(c cluster.Command) error { cancel(); return nil }
		o, err := Confirm(ctx, s.deps(), Request{})
		if err != nil || len(o.Done) != 15 || o.ExitCode != ExitFailed {
			t.Fatalf("%+v, %v", o, err)
		}
		s = fifteen(t)
		if _, err := Confirm(ctx, s.deps(), Request{}); !errors.Is(err, context.Canceled) || len(s.st.OpenProposals()) != 1 {
			t.Fatalf("hung up before: %v", err)
		}
	})
}

// meanwhile lets something happen in Raft between the plan's questions and its commands.
type meanwhile struct {
	Asker
	happened sync.Once
	what     func()
}

func (m *meanwhile) Ask(ctx context.Context, n slot.NodeName, q []Question) (Answer, error) {
	got, err := m.Asker.Ask(ctx, n, q)
	m.happened.Do(m.what)
	return got, err
}

// TestLaw01ConfirmRestsOnTheStateOfItsPlan: the master lives, cut off from whoever
// confirms, and records between the plan's questions and the change that it goes on
// alone. The change is refused, with the command that shows the new plan.
func TestLaw01ConfirmRestsOnTheStateOfItsPlan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, list("n1", "n2", "n3"))
		s.up["n1"] = false
		s.run(t, 20*time.Second)
		d := s.deps()
		d.Asker = &meanwhile{Asker: s, what: func() {
			s.apply(t, cluster.SetUnprotected{Slot: 0, Epoch: 1, Since: slot.At(1, 100)})
		}}
		o, err := Confirm(t.Context(), d, Request{By: "alice"})
		if err != nil {
			t.Fatal(err)
		}
		if sl := s.st.Slots[0]; sl.Epoch != 1 || o.ExitCode != ExitRefused || !strings.Contains(o.Text, "the plan is no longer true") || !strings.Contains(o.Text, "mailnode failover show p1") {
			t.Errorf("exit %d, %+v:\n%s", o.ExitCode, sl, o.Text)
		}
	})
}

// TestLaw01ConfirmBeginsFresh: a node that cannot prove that its state is current
// confirms nothing.
func TestLaw01ConfirmBeginsFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, list("n1", "n2", "n3"))
		s.up["n1"] = false
		s.run(t, 20*time.Second)
		d := s.deps()
		d.Ownership = stale{s}
		if o, err := Confirm(t.Context(), d, Request{By: "alice"}); err == nil || s.st.Slots[0].Epoch != 1 {
			t.Errorf("%+v, %v", o, err)
		}
	})
}

type stale struct{ *site }

func (stale) Fresh(context.Context) error { return errors.New("no leader is known") }

// TestLaw01MasterThatWentAloneIsNotSafe: Raft has the slot as protected, and a living
// node has heard the master say that it acknowledged alone.
func TestLaw01MasterThatWentAloneIsNotSafe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, list("n1", "n2", "n3"))
		s.edit("n1", 0, func(c *CopyAnswer) { c.Alone, c.AloneSince = true, slot.At(1, 98) })
		s.run(t, 2*time.Second)
		s.up["n1"] = false
		s.run(t, 20*time.Second)
		if p := s.plan(t, "p1").Slots[0]; p.Safe || !strings.Contains(p.Why, "acknowledged alone since 1/98") {
			t.Errorf("%+v", p)
		}
	})
}

// TestLaw01EvidenceOfEveryLivingNode: this node was restarted and has heard nothing;
// another one has heard a replica hold more than it says now, and what the master had.
func TestLaw01EvidenceOfEveryLivingNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, list("n1", "n2", "n3"))
		s.up["n1"] = false
		s.run(t, 20*time.Second)
		s.ev = NewEvidence("n2", s.now)
		s.run(t, 16*time.Second)
		seen := Sighting{CopyReport: CopyReport{Slot: 0, Role: RoleMaster, Epoch: 1, Lineage: 1, Position: slot.At(1, 130), Counters: Counters{130, 60, 6e6}}, Node: "n1", AgoMs: 36000, Highest: slot.At(1, 130)}
		s.seen = map[slot.NodeName][]Sighting{"n4": {seen}}
		p := s.plan(t, "p1").Slots[0]
		if !p.Safe || !p.RiskKnown || *p.EventsAtRisk != 30 || *p.MessagesAtRisk != 20 || p.RiskBy != "n4" {
			t.Errorf("%+v", p)
		}
		seen.Node, seen.Role = "n3", RoleReplica
		s.seen = map[slot.NodeName][]Sighting{"n4": {seen}}
		if p := s.plan(t, "p1").Slots[0]; p.Safe || !strings.Contains(p.Why, "n4 has heard it hold 1/130") {
			t.Errorf("%+v", p)
		}
	})
}

// TestLaw01WaitingMasterBeginsAgain: a new master waits for one who was in sync and
// fell silent. The slot is proposed; a person who accepts the loss lets the same
// node begin a new epoch, and the loss is open.
func TestLaw01WaitingMasterBeginsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, list("n1", "n2", "n3"))
		s.up["n1"] = false
		s.run(t, 20*time.Second)
		s.apply(t, cluster.ConfirmSlot{Proposal: "p1", Slot: 0, Epoch: 1, To: "n2", Position: slot.At(1, 100), Unclean: true})
		s.up["n3"] = false
		s.edit("n2", 0, func(c *CopyAnswer) {
			c.Role, c.Epoch, c.Waiting, c.InSync = RoleMaster, 2, "n3 was in sync when this was confirmed and does not answer", false
		})
		s.run(t, 40*time.Second)
		open := s.st.OpenProposals()
		if len(open) != 1 || open[0].Slots[0].Slot != 0 {
			t.Fatalf("proposals: %+v", open)
		}
		p := s.plan(t, open[0].ID).Slots[0]
		if p.Safe || p.To != "n2" || p.Accept == "" || !strings.Contains(p.Why, "waits for n3") {
			t.Fatalf("%+v", p)
		}
		o, err := Confirm(t.Context(), s.deps(), Request{Slots: []slot.ID{0}, AcceptLoss: true, By: "alice"})
		if err != nil {
			t.Fatal(err)
		}
		sl := s.st.Slots[0]
		if o.ExitCode != ExitDone || sl.Master != "n2" || sl.Epoch != 3 || len(sl.Awaits) > 0 || sl.OpenLoss == nil {
			t.Errorf("exit %d, %+v:\n%s", o.ExitCode, sl, o.Text)
		}
	})
}
