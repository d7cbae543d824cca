package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"mailnode/storage/slot"
)

func TestDecodeErrors(t *testing.T) {
	good := Encode(RemoveMember{Name: "n1"})
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x40
		if _, err := Decode(bad); !errors.Is(err, ErrCorrupt) {
			t.Errorf("byte %d flipped: %v", i, err)
		}
	}
	for name, body := range map[string]string{
		"unknown command": `{"k":"teleport","c":{}}`,
		"unknown field":   `{"k":"remove-member","c":{"name":"n1","gently":true}}`,
		"no JSON":         `hello`,
		"two values":      `{"k":"remove-member","c":{"name":"n1"}} {}`,
	} {
		if _, err := Decode(seal(commandVersion, []byte(body))); !errors.Is(err, ErrNewer) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Decode(seal(commandVersion+1, good[frameHead:])); !errors.Is(err, ErrNewer) {
		t.Errorf("newer version: %v", err)
	}
	if _, err := DecodeSnapshot(good); !errors.Is(err, ErrNewer) {
		t.Errorf("a command is no snapshot: %v", err)
	}
}

// full is a cluster at the limits: 100 nodes, 1,000 slots, each slot in an open
// or closed proposal, full history and tokens, texts of the greatest length.
func full(t *testing.T) *State {
	t.Helper()
	s, index := New(), uint64(0)
	do := func(c Command) Result {
		index++
		res, err := s.Apply(index, decidedOn(s, c))
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		return res
	}
	long := strings.Repeat("why it had to be ", 20)
	members := zoned(100, 4)
	for i := range members {
		members[i].Key, members[i].Features = tokenHash, KnownFeatures
		members[i].Addr = fmt.Sprintf("mail-node-%03d.example.com:2400", i)
	}
	do(Init{ClusterID: "0123456789abcdef0123456789abcdef", SlotCount: 1000, DefaultReplicas: 2, First: members[0]})
	for _, m := range members[1:] {
		do(AddMember{Member: m})
		do(AddToken{Token{ID: "token-" + string(m.Name), Hash: tokenHash, Node: m.Name, LeftS: MaxTokenSeconds}})
	}
	for _, a := range Place(s.Members, s.Slots, 2) {
		do(AssignSlot{Slot: a.Slot, Epoch: a.Epoch, Master: a.Master, Replicas: a.Replicas})
	}
	moveAll(s, members[98].Name, long, do)
	for _, sl := range s.Slots {
		do(SetReplicas{Slot: sl.ID, Epoch: sl.Epoch, Count: 1})
	}
	for i := range MaxFormer {
		s.leave(members[i%len(members)], true, long, "2026-11-20T03:31:07Z")
	}
	propose := func(first, last slot.ID) string {
		c := OpenProposal{Reason: long, By: "n001", SinceWall: "2026-11-20T03:31:07Z"}
		for id := first; id < last; id++ {
			sl, _ := s.Slot(id)
			c.Slots = append(c.Slots, ProposedSlot{Slot: id, Epoch: sl.Epoch, From: sl.Master, To: sl.Replicas[0],
				Position: slot.At(sl.Epoch, 123456789), Note: long, Others: sl.Replicas[1:]})
		}
		return do(c).Proposal
	}
	for range 2 { // losses of two old masters in each slot, a history of the last 1,000 changes
		for first := slot.ID(0); first < 1000; first += 20 {
			p := propose(first, first+20)
			for id := first; id < first+20; id++ {
				ps, _ := s.Slot(id)
				do(ConfirmSlot{Proposal: p, Slot: id, Epoch: ps.Epoch, To: ps.Replicas[0], Unclean: true, AcceptLoss: true,
					By: "an operator", Why: long, WallTime: "2026-11-20T03:31:07Z"})
			}
		}
	}
	for id := range slot.ID(1000) {
		sl, _ := s.Slot(id)
		do(SetProtected{Slot: id, Epoch: sl.Epoch, InSync: sl.Replicas})
	}
	for first := slot.ID(0); first < 1000; first += 20 {
		p := propose(first, first+20)
		for id := first; id < first+20; id++ {
			sl, _ := s.Slot(id)
			do(BeginHandOver{Proposal: p, Slot: id, Epoch: sl.Epoch, To: sl.Replicas[0], By: "an operator", WallTime: "2026-11-20T03:31:07Z"})
		}
	}
	return s
}

// moveAll plans and begins moves of each slot to one node, and gives half of them up.
func moveAll(s *State, to slot.NodeName, why string, do func(Command) Result) {
	var moves []PlannedMove
	for _, sl := range s.Slots {
		if !sl.Holds(to) {
			moves = append(moves, PlannedMove{Slot: sl.ID, Epoch: sl.Epoch, To: to, From: sl.Master, Lead: sl.Replicas[0]})
		}
	}
	do(PlanMoves{Moves: moves, By: "operator"})
	for _, m := range moves {
		do(BeginMove{Slot: m.Slot, Epoch: m.Epoch})
		if m.Slot%2 == 0 {
			do(GiveUpMove{Slot: m.Slot, Why: why})
		}
	}
}

func TestLaw10SnapshotSmall(t *testing.T) {
	s := full(t)
	if len(s.History) != MaxHistory || len(s.Proposals) < 2*MaxClosed || len(s.Members) != 100 {
		t.Fatalf("%d changes, %d proposals, %d members: not full", len(s.History), len(s.Proposals), len(s.Members))
	}
	for _, sl := range s.Slots {
		if sl.HandOver == nil || !sl.Protected || sl.OpenLoss == nil || len(sl.OpenLoss.Also) == 0 {
			t.Fatalf("%s is not at its largest: %+v", sl.ID, sl)
		}
	}
	b := EncodeSnapshot(s)
	t.Logf("%d bytes", len(b))
	if len(b) > 1<<20 {
		t.Errorf("%d bytes, law 10 allows %d", len(b), 1<<20)
	}
	back, err := DecodeSnapshot(b)
	if err != nil || !bytes.Equal(b, EncodeSnapshot(back)) {
		t.Errorf("round trip: %v", err)
	}
}

func TestClosedProposalsAreForgotten(t *testing.T) {
	s, index := sample(t), uint64(20)
	apply(t, s, index, RejectProposal{Proposal: "p1", By: "eve"})
	for range 2 * MaxClosed {
		index++
		p := apply(t, s, index, OpenProposal{Slots: []ProposedSlot{{Slot: 0, Epoch: 1, From: "n1", To: "n2"}}}).Proposal
		apply(t, s, index, RejectProposal{Proposal: p, By: "eve"})
	}
	if len(s.Proposals) != MaxClosed || s.Proposals[MaxClosed-1].ID != "p101" {
		t.Errorf("%d proposals kept, the last is %s", len(s.Proposals), s.Proposals[len(s.Proposals)-1].ID)
	}
}

func BenchmarkCloneFull(b *testing.B) {
	s := full(&testing.T{})
	for b.Loop() {
		_ = s.Clone()
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode(RemoveMember{Name: "n1"})[frameHead:])
	f.Add(Encode(ConfirmSlot{Proposal: "p1", Slot: 7, Epoch: 1, To: "n2"})[frameHead:])
	f.Add(EncodeEntry([]Command{RemoveMember{Name: "n1"}, RemoveMember{Name: "n2"}})[frameHead:])
	f.Add(Encode(OpenProposal{Slots: []ProposedSlot{{Slot: 1, Epoch: 1, From: "n2", To: "n1"}}})[frameHead:])
	f.Fuzz(func(t *testing.T, body []byte) {
		_, _ = DecodeEntry(body)
		if group, err := DecodeEntry(seal(commandVersion, body)); err == nil && len(group) > 1 {
			if again, err := DecodeEntry(EncodeEntry(group)); err != nil || !bytes.Equal(EncodeEntry(again), EncodeEntry(group)) {
				t.Fatalf("round trip of %+v: %v", group, err)
			}
		}
		c, err := Decode(seal(commandVersion, body)) // past the sum, into the parser
		if err != nil {
			return
		}
		if group, err := DecodeEntry(EncodeEntry([]Command{c, c})); err != nil || len(group) != 2 || !bytes.Equal(Encode(group[1]), Encode(c)) {
			t.Fatalf("round trip of a group with %+v: %v", c, err)
		}
		again, err := Decode(Encode(c))
		if err != nil || !bytes.Equal(Encode(again), Encode(c)) {
			t.Fatalf("round trip of %+v: %v", c, err)
		}
		s := sample(t)
		before := EncodeSnapshot(s)
		if _, err := s.Apply(99, c); err != nil && !bytes.Equal(before, EncodeSnapshot(s)) {
			t.Fatalf("%+v was refused and changed the state", c)
		}
		if _, err := DecodeSnapshot(EncodeSnapshot(s)); err != nil {
			t.Fatalf("after %+v: %v", c, err)
		}
	})
}

func FuzzDecodeSnapshot(f *testing.F) {
	f.Add(EncodeSnapshot(New())[frameHead:])
	f.Add([]byte(`{"format":1,"slot_count":1,"slots":[{"s":"s000","e":1,"m":"n1"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		_, _ = DecodeSnapshot(body)
		s, err := DecodeSnapshot(seal(snapshotVersion, body))
		if err != nil {
			return
		}
		b := EncodeSnapshot(s)
		back, err := DecodeSnapshot(b)
		if err != nil || !bytes.Equal(b, EncodeSnapshot(back)) {
			t.Fatalf("round trip: %v", err)
		}
		_, _ = s.Apply(1, RaiseGeneration{Generation: s.Generation, With: s.LeftBehind()})
	})
}
