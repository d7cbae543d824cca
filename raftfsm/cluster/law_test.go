package cluster

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"mailnode/storage/slot"
)

// random draws commands that are mostly near the truth: every refusal and every
// success must be reachable.
type random struct {
	t *rapid.T
	s *State
}

func (r random) node() slot.NodeName {
	return rapid.SampledFrom(names("n1", "n2", "n3", "n4", "w1", "n9")).Draw(r.t, "node")
}

func (r random) nodes() []slot.NodeName {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) slot.NodeName { return random{t, r.s}.node() }), 0, 3).Draw(r.t, "nodes")
}

func (r random) slot() (slot.ID, slot.Epoch) {
	id := slot.ID(rapid.IntRange(0, 4).Draw(r.t, "slot"))
	sl, _ := r.s.Slot(id)
	if rapid.IntRange(0, 7).Draw(r.t, "stale") == 0 {
		return id, sl.Epoch + slot.Epoch(rapid.IntRange(-1, 1).Draw(r.t, "off"))
	}
	return id, sl.Epoch
}

func (r random) proposal() string {
	return fmt.Sprintf("p%d", max(1, int(r.s.NextProposal)-rapid.IntRange(0, 3).Draw(r.t, "back")))
}

func (r random) proposed() []ProposedSlot {
	var ps []ProposedSlot
	for range rapid.IntRange(0, 3).Draw(r.t, "count") {
		id, e := r.slot()
		sl, _ := r.s.Slot(id)
		p := ProposedSlot{Slot: id, Epoch: e, From: sl.Master, Note: "note"}
		switch {
		case rapid.IntRange(0, 3).Draw(r.t, "empty") == 0:
			p.To, p.Empty = r.node(), true
		case len(sl.Replicas) > 0:
			p.To = rapid.SampledFrom(sl.Replicas).Draw(r.t, "to")
		}
		ps = append(ps, p)
	}
	return ps
}

func (r random) confirm() Command {
	c := ConfirmSlot{Proposal: r.proposal(), To: r.node(), Unclean: rapid.Bool().Draw(r.t, "unclean"), AcceptLoss: rapid.Bool().Draw(r.t, "loss")}
	c.Slot, c.Epoch = r.slot()
	if p, ok := r.s.Proposal(c.Proposal); ok && rapid.IntRange(0, 3).Draw(r.t, "near") > 0 {
		ps := rapid.SampledFrom(p.Slots).Draw(r.t, "proposed")
		c.Slot, c.Epoch, c.To, c.Empty = ps.Slot, ps.Epoch, ps.To, ps.Empty
	}
	return c
}

func (r random) command() Command {
	id, e := r.slot()
	switch kind := rapid.IntRange(0, 42).Draw(r.t, "kind"); kind {
	case 0:
		return AddMember{Member: upToDate(string(r.node()), Voter)}
	case 1:
		return UpdateMember{Name: r.node(), Role: rapid.SampledFrom([]Role{"", Voter, Witness}).Draw(r.t, "role")}
	case 2:
		return RemoveMember{Name: r.node()}
	case 3, 4, 5:
		return AssignSlot{Slot: id, Epoch: e, Master: r.node(), Replicas: r.nodes()}
	case 6, 7:
		sl, _ := r.s.Slot(id)
		return AddReplica{Slot: id, Epoch: e, Version: sl.Version * uint64(rapid.IntRange(0, 2).Draw(r.t, "version")), Node: r.node()}
	case 8:
		return SetReplicas{Slot: id, Epoch: e, Count: rapid.IntRange(0, 3).Draw(r.t, "replicas")}
	case 9:
		return SetUnprotected{Slot: id, Epoch: e, Since: slot.At(e, uint64(rapid.IntRange(0, 9).Draw(r.t, "n")))}
	case 10:
		return SetProtected{Slot: id, Epoch: e, InSync: r.nodes()}
	case 11, 12, 13, 18:
		return OpenProposal{Slots: r.proposed()}
	case 14:
		return UpdateProposal{Proposal: r.proposal(), Slots: r.proposed()}
	case 15, 19:
		return WithdrawProposal{Proposal: r.proposal()}
	case 16:
		return ResolveLoss{Slot: id, Epoch: e}
	case 17:
		if rapid.IntRange(0, 3).Draw(r.t, "raise") == 0 {
			return RaiseGeneration{Generation: r.s.Generation, With: r.nodes()}
		}
		return RejectProposal{Proposal: r.proposal(), By: "eve"}
	case 20, 21:
		c := r.confirm().(ConfirmSlot)
		return BeginHandOver{Proposal: c.Proposal, Slot: c.Slot, Epoch: c.Epoch, To: c.To}
	case 22, 23:
		return CommitHandOver{Slot: id, Epoch: e, InSync: r.nodes(), Position: slot.At(e, uint64(rapid.IntRange(0, 9).Draw(r.t, "n")))}
	case 24:
		return AbortHandOver{Slot: id, Epoch: e}
	case 27, 28:
		return BeginDrop{Slot: id, Epoch: e, Node: r.node(), Anyway: rapid.Bool().Draw(r.t, "anyway")}
	case 29:
		return CancelDrop{Slot: id, Epoch: e, Node: r.node()}
	case 30, 31:
		return EndDrop{Slot: id, Epoch: e, Node: r.node()}
	case 32, 33, 34, 35, 36, 37, 38, 39:
		return r.move(id, e, kind)
	case 42:
		return r.replace()
	}
	return r.confirm()
}

// move draws a command about a move, which mostly fits the one that there is.
func (r random) move(id slot.ID, e slot.Epoch, kind int) Command {
	sl, _ := r.s.Slot(id)
	switch kind {
	case 32, 33:
		pm := PlannedMove{Slot: id, Epoch: e, To: r.node(), From: r.node()}
		if rapid.Bool().Draw(r.t, "lead") {
			pm.Lead = r.node()
		}
		return PlanMoves{Moves: []PlannedMove{pm}, By: "eve"}
	case 34, 35:
		return BeginMove{Slot: id, Epoch: e}
	case 36:
		return FinishMove{Slot: id, Epoch: e}
	case 37:
		return GiveUpMove{Slot: id, Why: "its node is silent"}
	case 38:
		if sl.Move != nil && rapid.Bool().Draw(r.t, "drop") {
			return BeginDrop{Slot: id, Epoch: e, Node: sl.Move.From}
		}
		return UndoMove{Slot: id, Epoch: e}
	}
	return StopMoves{By: "eve"}
}

// checkMoves: a move takes no copy off the list before the one that replaces it counts,
// its end leaves as many copies as there were, and what it added is remembered for as
// long as it is there.
func checkMoves(t *rapid.T, was, now Slot, c Command) {
	m := was.Move
	if c, ok := c.(EndDrop); ok && m != nil && m.GivenUp == "" && m.From == c.Node && was.Protected && !now.Holds(m.From) && !was.Copied() {
		t.Fatalf("%+v dropped the old copy before the new one counts: %+v", c, was)
	}
	if m == nil || now.Move != nil {
		return
	}
	if m.Added && m.GivenUp != "" && slices.Contains(now.Replicas, m.To) && (m.From == "" || now.Holds(m.From)) {
		t.Fatalf("%+v forgot what the move added: %+v, %+v", c, was, now)
	}
	if _, ok := c.(FinishMove); ok && (m.To != "" && !now.Holds(m.To) || now.Holds(m.From)) {
		t.Fatalf("%+v ended half a move: %+v", c, was)
	}
}

// replace is a machine with a token, or without one.
func (r random) replace() Command {
	name := r.node()
	if len(r.s.Tokens) == 0 || rapid.IntRange(0, 3).Draw(r.t, "new token") == 0 {
		return AddToken{Token{ID: fmt.Sprintf("t%d", r.s.Index), Hash: tokenHash, Node: name, LeftS: 60}}
	}
	token := rapid.SampledFrom(r.s.Tokens).Draw(r.t, "token")
	m := member(string(token.Node), rapid.SampledFrom([]Role{Voter, Voter, Witness}).Draw(r.t, "role"))
	m.ServerID, m.Key = string(m.Name)+"-"+token.ID, rapid.SampledFrom([]string{keyA, keyB}).Draw(r.t, "key")
	was, _ := r.s.Member(m.Name)
	return ReplaceMember{Member: m, Was: was.ServerID, Token: token.ID, Hash: tokenHash}
}

// TestLaw04OnlyConfirmChangesMaster: whatever commands come in whatever order, a
// slot's master changes only by a confirm of an open proposal for its epoch; an
// epoch has one master for ever; epochs and unclean counts never go down. The
// same log gives the same bytes, also through a snapshot at every step.
func TestLaw04OnlyConfirmChangesMaster(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := New(), New()
		owner := map[string]slot.NodeName{} // slot/epoch -> the only master it ever had
		step := func(index uint64, c Command) {
			before := a.Clone()
			_, errA := a.Apply(index, c)
			decoded, err := DecodeEntry(EncodeEntry([]Command{c, c})) // the second one is not applied
			if err != nil {
				t.Fatalf("decode %+v: %v", c, err)
			}
			_, errB := b.Apply(index, decoded[0])
			if fmt.Sprint(errA) != fmt.Sprint(errB) {
				t.Fatalf("%+v: %v on one replica, %v on the other", c, errA, errB)
			}
			bytesA := EncodeSnapshot(a)
			if !bytes.Equal(bytesA, EncodeSnapshot(b)) {
				t.Fatalf("%+v: replicas differ", c)
			}
			if errA != nil && !bytes.Equal(bytesA, EncodeSnapshot(before)) {
				t.Fatalf("%+v: refused (%v), yet the state changed", c, errA)
			}
			if b, err = DecodeSnapshot(bytesA); err != nil || !bytes.Equal(bytesA, EncodeSnapshot(b)) {
				t.Fatalf("%+v: snapshot round trip: %v", c, err)
			}
			checkStep(t, before, a, c, owner)
		}
		step(1, Init{ClusterID: "c", SlotCount: 4, DefaultReplicas: 1, First: upToDate("n1", Voter)})
		for i, n := range []string{"n2", "n3", "n4"} {
			step(uint64(2+i), AddMember{Member: upToDate(n, Voter)})
		}
		step(5, AddMember{Member: upToDate("w1", Witness)})
		step(6, AssignSlot{Slot: 0, Master: "n1", Replicas: names("n2", "n3")})
		step(7, AssignSlot{Slot: 1, Master: "n2", Replicas: names("n1")})
		steps, index := rapid.IntRange(1, 80).Draw(t, "steps"), uint64(7)
		for range steps {
			if rapid.IntRange(0, 3).Draw(t, "same entry") > 0 { // else one group with the last
				index++
			}
			c := random{t, a}.command()
			if rapid.IntRange(0, 7).Draw(t, "old decision") > 0 {
				c = decidedOn(a, c)
			}
			step(index, c)
		}
	})
}

func checkStep(t *rapid.T, before, after *State, c Command, owner map[string]slot.NodeName) {
	for i, now := range after.Slots {
		var was Slot
		if i < len(before.Slots) {
			was = before.Slots[i]
		}
		if now.Epoch < was.Epoch || now.Unclean < was.Unclean {
			t.Fatalf("%+v: slot %s went from %d/%d to %d/%d", c, now.ID, was.Epoch, was.Unclean, now.Epoch, now.Unclean)
		}
		if was.Master != "" && now.Master != was.Master {
			checkConfirm(t, before, was, now, c)
		}
		if now.Master != "" {
			key := fmt.Sprintf("%s/%d", now.ID, now.Epoch)
			if o, ok := owner[key]; ok && o != now.Master {
				t.Fatalf("%+v: epoch %s had master %s and has %s", c, key, o, now.Master)
			}
			owner[key] = now.Master
		}
		checkMoves(t, was, now, c)
		for _, n := range now.InSync {
			if !now.Protected || n == now.Master || !now.Holds(n) {
				t.Fatalf("%+v: in-sync set of %+v", c, now)
			}
		}
		for _, l := range now.Leaving {
			if l.Node == now.Master || !now.Holds(l.Node) {
				t.Fatalf("%+v: who leaves of %+v", c, now)
			}
		}
		checkLeft(t, was, now, c)
		if h := now.HandOver; h != nil && (h.To == now.Master || !now.Holds(h.To)) {
			t.Fatalf("%+v: hand-over of %+v", c, now)
		} else if h != nil && (was.HandOver == nil || *was.HandOver != *h) {
			if b, ok := c.(BeginHandOver); !ok || b.Slot != now.ID || b.Epoch != now.Epoch {
				t.Fatalf("%+v began a hand-over of %s", c, now.ID)
			}
		}
		if now.Protected && len(now.InSync) == 0 {
			t.Fatalf("%+v: protected by nobody: %+v", c, now)
		}
		for _, n := range append(names(now.Master), now.Replicas...) {
			if m, ok := after.Member(n); n != "" && (!ok || m.Role == Witness) {
				t.Fatalf("%+v: slot %s has a copy on %s, which is no mail node", c, now.ID, n)
			}
		}
	}
	inOpen := map[slot.ID]string{}
	for _, p := range after.OpenProposals() {
		for _, ps := range p.Slots {
			if o, ok := inOpen[ps.Slot]; ok && !ps.Done {
				t.Fatalf("%+v: slot %s is in %s and %s", c, ps.Slot, o, p.ID)
			}
			if !ps.Done {
				inOpen[ps.Slot] = p.ID
			}
		}
	}
}

// checkLeft: a replica that counts goes only with a record that counts nobody, one that
// is wished away when that was decided on just this record.
func checkLeft(t *rapid.T, was, now Slot, c Command) {
	for _, n := range was.Replicas {
		if now.Holds(n) {
			continue
		}
		switch c := c.(type) {
		case RemoveMember:
			if c.Name != n || slices.Contains(was.InSync, n) || len(now.Replicas) == 0 {
				t.Fatalf("%+v took %s off %+v", c, n, was)
			}
		case EndDrop:
			if _, leaves := was.Leaves(n); !leaves || slices.Contains(was.InSync, n) || c.Version != was.Version || c.Node != n {
				t.Fatalf("%+v took %s off %+v", c, n, was)
			}
		default:
			t.Fatalf("%+v took %s off %+v", c, n, was)
		}
	}
}

func checkConfirm(t *rapid.T, before *State, was, now Slot, c Command) {
	if h, ok := c.(CommitHandOver); ok {
		p, _ := before.OpenProposalOf(was.ID)
		if was.HandOver == nil || h.Slot != was.ID || h.Epoch != was.Epoch || h.Begun != was.HandOver.Begun || p.ID != was.HandOver.Proposal ||
			now.Master != was.HandOver.To || now.Epoch != was.Epoch+1 || now.Unclean != was.Unclean {
			t.Fatalf("%+v changed %+v to %+v", h, was, now)
		}
		return
	}
	cs, ok := c.(ConfirmSlot)
	if !ok {
		t.Fatalf("%+v changed the master of %s from %s to %s", c, was.ID, was.Master, now.Master)
	}
	p, known := before.Proposal(cs.Proposal)
	open, inOne := before.OpenProposalOf(was.ID)
	i := slices.IndexFunc(p.Slots, func(ps ProposedSlot) bool { return ps.Slot == was.ID })
	if i < 0 || p.Slots[i].Empty != cs.Empty || !cs.Empty && !was.Holds(now.Master) ||
		cs.Empty && (!cs.AcceptLoss || now.Unclean <= was.Unclean || now.OpenLoss == nil || !now.OpenLoss.Empty || !now.Holds(was.Master)) {
		t.Fatalf("%+v changed %+v to %+v while %+v", cs, was, now, p)
	}
	if !known || p.State != Open || !inOne || open.ID != p.ID || cs.Slot != was.ID || cs.Epoch != was.Epoch || now.Epoch != was.Epoch+1 || now.Master != cs.To {
		t.Fatalf("%+v changed %+v to %+v while %+v", cs, was, now, p)
	}
}
