package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mailnode/storage/slot"
)

const tokenHash = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func member(name string, role Role) Member {
	return Member{Name: slot.NodeName(name), ServerID: name + "-00000001", Addr: "127.0.0.1:2400", Role: role, Features: KnownFeatures}
}

func names(s ...slot.NodeName) []slot.NodeName { return s }

// sample is a cluster of three nodes and a witness: s000 protected on n1 with
// n2 and n3, s001 unprotected on n2 with n1, s002 without a master, s003 on n1
// without replicas; p1 is open for s000.
func sample(t *testing.T) *State {
	t.Helper()
	s := New()
	for i, c := range []Command{
		Init{ClusterID: "c-1", SlotCount: 4, DefaultReplicas: 1, First: member("n1", Voter)},
		AddMember{Member: member("n2", Voter)},
		AddMember{Member: member("n3", Nonvoter)},
		AddMember{Member: member("w1", Witness)},
		AssignSlot{Slot: 0, Master: "n1", Replicas: names("n2", "n3")},
		AssignSlot{Slot: 1, Master: "n2", Replicas: names("n1")},
		AssignSlot{Slot: 3, Master: "n1"},
		SetProtected{Slot: 0, Epoch: 1, InSync: names("n3", "n2")},
		AddToken{Token{ID: "t1", Hash: tokenHash, Node: "n4", LeftS: 60}},
		OpenProposal{Node: "n1", Reason: "n1 is silent", By: "n2", Slots: []ProposedSlot{
			{Slot: 0, Epoch: 1, From: "n1", To: "n2", Position: slot.At(1, 9), Note: "n3 is building"}}},
	} {
		apply(t, s, uint64(i+1), c)
	}
	return s
}

// decidedOn returns the command as it is decided on the slot record of now.
func decidedOn(s *State, c Command) Command {
	version := func(id slot.ID) uint64 { sl, _ := s.Slot(id); return sl.Version }
	switch x := c.(type) {
	case SetUnprotected:
		x.Version = version(x.Slot)
		return x
	case SetProtected:
		x.Version = version(x.Slot)
		return x
	case ConfirmSlot:
		x.Version = version(x.Slot)
		return x
	case BeginHandOver:
		x.Version = version(x.Slot)
		return x
	case BeginDrop:
		x.Version = version(x.Slot)
		return x
	case CancelDrop:
		x.Version = version(x.Slot)
		return x
	case SetReplicas:
		x.Version = version(x.Slot)
		return x
	case EndDrop:
		x.Version = version(x.Slot)
		return x
	case CommitHandOver:
		x.Begun = begun(s, x.Slot)
		return x
	case AbortHandOver:
		x.Begun = begun(s, x.Slot)
		return x
	case BeginMove:
		x.Begun = moveBegun(s, x.Slot)
		return x
	case FinishMove:
		x.Begun = moveBegun(s, x.Slot)
		return x
	case GiveUpMove:
		x.Begun = moveBegun(s, x.Slot)
		return x
	case UndoMove:
		x.Begun = moveBegun(s, x.Slot)
		return x
	}
	return c
}

// moveBegun names the move of a slot; 0: there is none.
func moveBegun(s *State, id slot.ID) uint64 {
	if sl, _ := s.Slot(id); sl.Move != nil {
		return sl.Move.Begun
	}
	return 0
}

// begun names the hand-over of a slot that is under way; 0: there is none.
func begun(s *State, id slot.ID) uint64 {
	if sl, _ := s.Slot(id); sl.HandOver != nil {
		return sl.HandOver.Begun
	}
	return 0
}

func apply(t *testing.T, s *State, index uint64, c Command) Result {
	t.Helper()
	c = decidedOn(s, c)
	back, err := Decode(Encode(c))
	if err != nil {
		t.Fatalf("decode %T: %v", c, err)
	}
	res, err := s.Apply(index, back)
	if err != nil {
		t.Fatalf("apply %+v: %v", c, err)
	}
	return res
}

// refusal is a command that sample's state must refuse.
type refusal struct {
	name string
	c    Command
	want error  // its type is compared
	text string // a part of the text
}

func memberRefusals() []refusal {
	return []refusal{
		{"init twice", Init{ClusterID: "c-2", SlotCount: 1, First: member("n9", Voter)}, ErrExists{}, "c-1"},
		{"add known member", AddMember{Member: member("n1", Voter)}, ErrExists{}, "n1"},
		{"add known server", AddMember{Member: Member{Name: "n9", ServerID: "n1-00000001", Addr: "a:1", Role: Voter, Features: KnownFeatures}}, ErrExists{}, "n1"},
		{"add bad name", AddMember{Member: member("../n9", Voter)}, ErrInvalid{}, "node name"},
		{"add bad addr", AddMember{Member: Member{Name: "n9", ServerID: "x", Addr: "here", Role: Voter}}, ErrInvalid{}, "host:port"},
		{"add bad role", AddMember{Member: member("n9", "king")}, ErrInvalid{}, "king"},
		{"update unknown", UpdateMember{Name: "n9"}, ErrNotFound{}, "n9"},
		{"mail node to witness", UpdateMember{Name: "n1", Role: Witness}, ErrInvalid{}, "s000"},
		{"update to taken server", UpdateMember{Name: "n1", ServerID: "n2-00000001"}, ErrExists{}, "n2"},
		{"remove unknown", RemoveMember{Name: "n9"}, ErrNotFound{}, "n9"},
		{"token again", AddToken{Token{ID: "t1", Hash: tokenHash, Node: "n5", LeftS: 60}}, ErrExists{}, "t1"},
		{"token hash", AddToken{Token{ID: "t2", Hash: "xyz", Node: "n5"}}, ErrInvalid{}, "SHA-256"},
		{"token for no time", AddToken{Token{ID: "t2", Hash: tokenHash, Node: "n5"}}, ErrInvalid{}, "0 s"},
		{"token for ever", AddToken{Token{ID: "t2", Hash: tokenHash, Node: "n5", LeftS: MaxTokenSeconds + 1}}, ErrInvalid{}, "not between"},
		{"age of nothing", AgeTokens{}, ErrInvalid{}, "no time"},
		{"join with an unknown token", joined("n4", "t9", keyA), ErrNotFound{}, "t9"},
		{"join as another", joined("n5", "t1", keyA), ErrNotFound{}, "t1"},
		{"join without a key", joined("n4", "t1", ""), ErrInvalid{}, "key"},
		{"join with the wrong secret", func() Command { c := joined("n4", "t1", keyA); c.Hash = strings.Repeat("0", 64); return c }(), ErrInvalid{}, "secret"},
		{"generation stale", RaiseGeneration{Generation: 3, With: names("n1")}, ErrStale{}, "generation"},
		{"recovered by nobody", RaiseGeneration{}, ErrInvalid{}, "nobody"},
		{"recovered by a stranger", RaiseGeneration{With: names("n1", "n9")}, ErrNotFound{}, "n9"},
	}
}

func slotRefusals() []refusal {
	return []refusal{
		{"remove replica in sync", RemoveMember{Name: "n2"}, ErrInvalid{}, "acknowledgements wait for its copy"},
		{"remove replica", RemoveMember{Name: "n3"}, ErrInvalid{}, "s000"},
		{"assign owned", AssignSlot{Slot: 0, Epoch: 1, Master: "n2"}, ErrExists{}, "confirmed"},
		{"assign stale", AssignSlot{Slot: 2, Epoch: 1, Master: "n2"}, ErrStale{}, "s002"},
		{"assign unknown slot", AssignSlot{Slot: 9, Master: "n2"}, ErrNotFound{}, "s009"},
		{"assign to witness", AssignSlot{Slot: 2, Master: "w1"}, ErrInvalid{}, "witness"},
		{"assign to nobody", AssignSlot{Slot: 2}, ErrNotFound{}, "member"},
		{"assign twice the same", AssignSlot{Slot: 2, Master: "n1", Replicas: names("n1")}, ErrInvalid{}, "twice"},
		{"assign twice the same replica", AssignSlot{Slot: 2, Master: "n1", Replicas: names("n2", "n2")}, ErrInvalid{}, "twice"},
		{"add replica to witness", AddReplica{Slot: 3, Epoch: 1, Node: "w1"}, ErrInvalid{}, "witness"},
		{"add replica of nobody", AddReplica{Slot: 3, Epoch: 1, Node: "n9"}, ErrNotFound{}, "n9"},
		{"add replica again", AddReplica{Slot: 0, Epoch: 1, Node: "n3"}, ErrExists{}, "n3"},
		{"add replica stale", AddReplica{Slot: 3, Epoch: 7, Node: "n3"}, ErrStale{}, "7"},
		{"add replica unowned", AddReplica{Slot: 2, Epoch: 0, Node: "n3"}, ErrInvalid{}, "no master"},
		{"want too many", SetReplicas{Slot: 1, Epoch: 1, Count: MaxReplicas + 1}, ErrInvalid{}, "8"},
		{"want fewer than none", SetReplicas{Slot: 1, Epoch: 1, Count: -1}, ErrInvalid{}, "between"},
		{"want unowned", SetReplicas{Slot: 2, Epoch: 0, Count: 1}, ErrInvalid{}, "no master"},
		{"unprotected stale", SetUnprotected{Slot: 0, Epoch: 2}, ErrStale{}, "s000"},
		{"protected by nobody", SetProtected{Slot: 1, Epoch: 1}, ErrInvalid{}, "at least one"},
		{"protected by stranger", SetProtected{Slot: 1, Epoch: 1, InSync: names("n3")}, ErrInvalid{}, "n3"},
		{"protected twice by one", SetProtected{Slot: 0, Epoch: 1, InSync: names("n2", "n2")}, ErrInvalid{}, "twice"},
	}
}

func proposalRefusals() []refusal {
	confirm := ConfirmSlot{Proposal: "p1", Slot: 0, Epoch: 1, To: "n2", Unclean: true}
	with := func(change func(*ConfirmSlot)) ConfirmSlot { c := confirm; change(&c); return c }
	ps := ProposedSlot{Slot: 1, Epoch: 1, From: "n2", To: "n1"}
	open := func(change func(*ProposedSlot)) OpenProposal {
		p := ps
		change(&p)
		return OpenProposal{Slots: []ProposedSlot{p}}
	}
	return []refusal{
		{"propose nothing", OpenProposal{}, ErrInvalid{}, "no slot"},
		{"propose for stranger", OpenProposal{Node: "n9", Slots: []ProposedSlot{ps}}, ErrNotFound{}, "n9"},
		{"propose twice", OpenProposal{Slots: []ProposedSlot{{Slot: 0, Epoch: 1, From: "n1", To: "n3"}}}, ErrExists{}, "p1"},
		{"propose slot twice", OpenProposal{Slots: []ProposedSlot{ps, ps}}, ErrInvalid{}, "twice"},
		{"propose stale", open(func(p *ProposedSlot) { p.Epoch = 2 }), ErrStale{}, "s001"},
		{"propose other master", open(func(p *ProposedSlot) { p.From = "n3" }), ErrInvalid{}, "n2, not n3"},
		{"propose to stranger", open(func(p *ProposedSlot) { p.To = "n3" }), ErrInvalid{}, "n3 holds no replica"},
		{"propose to master", open(func(p *ProposedSlot) { p.To = "n2" }), ErrInvalid{}, "n2"},
		{"update unknown proposal", UpdateProposal{Proposal: "p9"}, ErrNotFound{}, "p9"},
		{"update slot not in it", UpdateProposal{Proposal: "p1", Slots: []ProposedSlot{ps}}, ErrNotFound{}, "s001"},
		{"withdraw unknown", WithdrawProposal{Proposal: "p9"}, ErrNotFound{}, "p9"},
		{"confirm unknown", with(func(c *ConfirmSlot) { c.Proposal = "p9" }), ErrNotFound{}, "p9"},
		{"confirm slot not in it", with(func(c *ConfirmSlot) { c.Slot = 1 }), ErrNotFound{}, "s001"},
		{"confirm stale", with(func(c *ConfirmSlot) { c.Epoch = 2 }), ErrStale{}, "s000"},
		{"confirm to nobody", with(func(c *ConfirmSlot) { c.To = "" }), ErrInvalid{}, "no target"},
		{"confirm to master", with(func(c *ConfirmSlot) { c.To = "n1" }), ErrInvalid{}, "master already"},
		{"confirm to witness", with(func(c *ConfirmSlot) { c.To = "w1" }), ErrInvalid{}, "witness"},
		{"confirm to no member", with(func(c *ConfirmSlot) { c.To = "n9" }), ErrNotFound{}, "n9"},
		{"clean loss", with(func(c *ConfirmSlot) { c.Unclean, c.AcceptLoss = false, true }), ErrInvalid{}, "clean"},
		{"hand over by a stranger", BeginHandOver{Proposal: "p9", Slot: 0, Epoch: 1, To: "n2"}, ErrNotFound{}, "p9"},
		{"hand over a slot not in it", BeginHandOver{Proposal: "p1", Slot: 1, Epoch: 1, To: "n1"}, ErrNotFound{}, "s001"},
		{"hand over stale", BeginHandOver{Proposal: "p1", Slot: 0, Epoch: 2, To: "n2"}, ErrStale{}, "s000"},
		{"hand over to the master", BeginHandOver{Proposal: "p1", Slot: 0, Epoch: 1, To: "n1"}, ErrInvalid{}, "n1 holds no replica"},
		{"commit nothing", CommitHandOver{Slot: 0, Epoch: 1, Begun: 7}, ErrInvalid{}, "ended already"},
		{"give up nothing", AbortHandOver{Slot: 0, Epoch: 1, Begun: 7}, ErrInvalid{}, "ended already"},
		{"resolve nothing", ResolveLoss{Slot: 0, Epoch: 1}, ErrNotFound{}, "s000"},
	}
}

func TestRefusals(t *testing.T) {
	for _, tt := range slices.Concat(memberRefusals(), slotRefusals(), proposalRefusals()) {
		t.Run(tt.name, func(t *testing.T) {
			s := sample(t)
			before := EncodeSnapshot(s)
			_, err := s.Apply(99, decidedOn(s, tt.c))
			if got, want := fmt.Sprintf("%T", err), fmt.Sprintf("%T", tt.want); got != want {
				t.Fatalf("got %s (%v), want %s", got, err, want)
			}
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("text %q does not say %q", err, tt.text)
			}
			if !bytes.Equal(before, EncodeSnapshot(s)) {
				t.Error("a refused command changed the state")
			}
		})
	}
}

func TestBeforeInit(t *testing.T) {
	var invalid ErrInvalid
	if _, err := New().Apply(1, AddMember{Member: member("n1", Voter)}); !errors.As(err, &invalid) {
		t.Errorf("got %v", err)
	}
	for _, c := range []Init{
		{SlotCount: 1, First: member("n1", Voter)},
		{ClusterID: "c", First: member("n1", Voter)},
		{ClusterID: "c", SlotCount: slot.MaxSlots + 1, First: member("n1", Voter)},
		{ClusterID: "c", SlotCount: 1, DefaultReplicas: -1, First: member("n1", Voter)},
		{ClusterID: "c", SlotCount: 1, First: member("", Voter)},
	} {
		if _, err := New().Apply(1, c); !errors.As(err, &invalid) {
			t.Errorf("%+v: got %v", c, err)
		}
	}
}

func TestConfirm(t *testing.T) {
	s := sample(t)
	res := apply(t, s, 20, ConfirmSlot{Proposal: "p1", Slot: 0, Epoch: 1, To: "n2", Unclean: true, AcceptLoss: true, By: "eve", Why: "rack down", WallTime: "2026-11-20T03:31:07Z"})
	want := Slot{ID: 0, Epoch: 2, Unclean: 1, Master: "n2", Wished: Wished{Home: "n1"}, Replicas: names("n3", "n1"), OpenLoss: &OpenLoss{Node: "n1", Since: 2}, Version: 20}
	got, _ := s.Slot(0)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Result{Index: 20, Epoch: 2, Proposal: "p1"}, res); diff != "" {
		t.Error(diff)
	}
	p, _ := s.Proposal("p1")
	wantP := Proposal{ID: "p1", Node: "n1", Reason: "n1 is silent", State: Confirmed, OpenedBy: "n2", ClosedBy: "eve",
		Slots: []ProposedSlot{{Slot: 0, Epoch: 1, From: "n1", To: "n2", Done: true}}}
	if diff := cmp.Diff(wantP, p); diff != "" {
		t.Error(diff)
	}
	wantH := Change{Kind: ChangeConfirmed, Slot: 0, Epoch: 2, From: "n1", To: "n2", Proposal: "p1", By: "eve", Why: "rack down",
		WallTime: "2026-11-20T03:31:07Z", Unclean: true, AcceptedLoss: true}
	if diff := cmp.Diff(wantH, s.History[len(s.History)-1]); diff != "" {
		t.Error(diff)
	}
	var closed ErrClosed
	if _, err := s.Apply(21, ConfirmSlot{Proposal: "p1", Slot: 0, Epoch: 2, To: "n3"}); !errors.As(err, &closed) || closed.State != Confirmed {
		t.Errorf("second confirm: %v", err)
	}
	// The old master's copy may hold mail: it stays listed until that is settled.
	var invalid ErrInvalid
	if _, err := s.Apply(22, decidedOn(s, BeginDrop{Slot: 0, Epoch: 2, Node: "n1"})); !errors.As(err, &invalid) {
		t.Errorf("drop the old master: %v", err)
	}
	apply(t, s, 23, ResolveLoss{Slot: 0, Epoch: 2, By: "eve", Why: "rescued"})
	apply(t, s, 24, BeginDrop{Slot: 0, Epoch: 2, Node: "n1"})
	apply(t, s, 25, EndDrop{Slot: 0, Epoch: 2, Node: "n1"})
	got, _ = s.Slot(0)
	if got.OpenLoss != nil || got.Holds("n1") {
		t.Errorf("after the drop: %+v", got)
	}
}

// TestLaw04EpochAboveAllSeen: Raft has forgotten changes of masters. The next one
// begins an epoch that nobody has had, counts as many unclean ones as may have been,
// and needs a person who accepts the loss.
func TestLaw04EpochAboveAllSeen(t *testing.T) {
	s := sample(t)
	c := ConfirmSlot{Proposal: "p1", Slot: 0, Epoch: 1, Seen: 4, To: "n2", Unclean: true}
	var invalid ErrInvalid
	if _, err := s.Apply(20, c); !errors.As(err, &invalid) {
		t.Errorf("without accepting the loss: %v", err)
	}
	c.AcceptLoss = true
	if res := apply(t, s, 21, c); res.Epoch != 5 || c.Begins() != 5 {
		t.Errorf("epoch %d begins, %d was announced, want 5", res.Epoch, c.Begins())
	}
	if got, _ := s.Slot(0); got.Epoch != 5 || got.Unclean != 4 || got.Master != "n2" {
		t.Errorf("recorded %+v", got)
	}
	s = sample(t)
	c.Seen = slot.MaxEpoch
	if _, err := s.Apply(20, c); !errors.As(err, &invalid) {
		t.Errorf("an epoch above the last one: %v", err)
	}
}

func TestConfirmSlotBySlot(t *testing.T) {
	s := sample(t)
	apply(t, s, 20, WithdrawProposal{Proposal: "p1", Why: "n1 answers again"})
	apply(t, s, 21, AddReplica{Slot: 3, Epoch: 1, Node: "n2"})
	p := apply(t, s, 22, OpenProposal{Node: "n1", Slots: []ProposedSlot{
		{Slot: 0, Epoch: 1, From: "n1", To: "n3", Others: names("n2")}, {Slot: 3, Epoch: 1, From: "n1", Note: "n2 is building"}}}).Proposal
	if p != "p2" {
		t.Fatalf("proposal %q", p)
	}
	apply(t, s, 23, ConfirmSlot{Proposal: p, Slot: 0, Epoch: 1, To: "n3"})
	if got, _ := s.Proposal(p); got.State != Open || got.Left() != 1 {
		t.Errorf("after one of two: %+v", got)
	}
	var stale ErrStale
	if _, err := s.Apply(24, ConfirmSlot{Proposal: p, Slot: 0, Epoch: 2, To: "n1"}); !errors.As(err, &stale) {
		t.Errorf("a slot that is done: %v", err)
	}
	var invalid ErrInvalid
	if _, err := s.Apply(24, UpdateProposal{Proposal: p, Slots: []ProposedSlot{{Slot: 0, Epoch: 2}}}); !errors.As(err, &invalid) {
		t.Errorf("update of a slot that is done: %v", err)
	}
	// The done slot may be in another proposal while the first is still open.
	apply(t, s, 25, OpenProposal{Slots: []ProposedSlot{{Slot: 0, Epoch: 2, From: "n3", To: "n1"}}})
	apply(t, s, 26, UpdateProposal{Proposal: p, Reason: "n1 is dead", Slots: []ProposedSlot{{Slot: 3, Epoch: 1, To: "n2", Position: 7}}})
	apply(t, s, 27, ConfirmSlot{Proposal: p, Slot: 3, Epoch: 1, To: "n2", Unclean: true})
	if got, _ := s.Proposal(p); got.State != Confirmed || got.Reason != "n1 is dead" {
		t.Errorf("after two of two: %+v", got)
	}
	if sl, _ := s.Slot(0); sl.Unclean != 0 || sl.Epoch != 2 {
		t.Errorf("a clean change: %+v", sl)
	}
}

func TestProtection(t *testing.T) {
	s := sample(t)
	at := func(n uint64) slot.Position { return slot.At(1, n) }
	steps := []struct {
		c    Command
		want Slot
	}{
		{SetProtected{Slot: 0, Epoch: 1, InSync: names("n3")}, Slot{Protected: true, InSync: names("n3")}},
		{SetUnprotected{Slot: 0, Epoch: 1, Since: at(5)}, Slot{UnprotectedSince: at(5)}},
		{SetUnprotected{Slot: 0, Epoch: 1, Since: at(8)}, Slot{UnprotectedSince: at(5)}},
		{SetProtected{Slot: 0, Epoch: 1, InSync: names("n3", "n2")}, Slot{Protected: true, InSync: names("n2", "n3")}},
	}
	for i, st := range steps {
		apply(t, s, uint64(20+i), st.c)
		got, _ := s.Slot(0)
		got = Slot{Protected: got.Protected, InSync: got.InSync, UnprotectedSince: got.UnprotectedSince}
		if diff := cmp.Diff(st.want, got); diff != "" {
			t.Errorf("step %d: %s", i, diff)
		}
	}
}

// TestLaw01OlderDecisionIsRefused: what was decided on an older record of the slot
// changes nothing, however late it comes.
func TestLaw01OlderDecisionIsRefused(t *testing.T) {
	s := sample(t)
	sl, _ := s.Slot(0)
	late := []Command{
		SetProtected{Slot: 0, Epoch: 1, Version: sl.Version, InSync: names("n2")},
		SetUnprotected{Slot: 0, Epoch: 1, Version: sl.Version, Since: 7},
		ConfirmSlot{Proposal: "p1", Slot: 0, Epoch: 1, Version: sl.Version, To: "n2", Unclean: true},
		ConfirmSlot{Proposal: "p1", Slot: 0, Epoch: 1, Version: sl.Version, To: "n2", Unclean: true, AcceptLoss: true},
	}
	apply(t, s, 20, SetProtected{Slot: 0, Epoch: 1, InSync: names("n3")})
	for i, c := range late {
		var changed ErrChanged
		if _, err := s.Apply(uint64(21+i), c); !errors.As(err, &changed) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestLaw01NewMasterHearsWhoWasInSync: the record says whom a new master must hear
// and what it must hold; who accepts the loss waits for nobody.
func TestLaw01NewMasterHearsWhoWasInSync(t *testing.T) {
	s := sample(t)
	apply(t, s, 20, ConfirmSlot{Proposal: "p1", Slot: 0, Epoch: 1, To: "n2", Position: slot.At(1, 9), Unclean: true})
	sl, _ := s.Slot(0)
	want := Slot{ID: 0, Epoch: 2, Unclean: 1, Master: "n2", Wished: Wished{Home: "n1"}, Replicas: names("n3", "n1"), Awaits: names("n3"), AtLeast: slot.At(1, 9), Version: 20}
	if diff := cmp.Diff(want, sl); diff != "" {
		t.Error(diff)
	}
	apply(t, s, 21, OpenProposal{Slots: []ProposedSlot{{Slot: 0, Epoch: 2, From: "n2"}}})
	var invalid ErrInvalid
	again := ConfirmSlot{Proposal: "p2", Slot: 0, Epoch: 2, Version: 20, To: "n2", Position: slot.At(1, 8), Unclean: true}
	if _, err := s.Apply(22, again); !errors.As(err, &invalid) {
		t.Errorf("the master again, without accepting a loss: %v", err)
	}
	again.AcceptLoss = true
	apply(t, s, 23, again)
	sl, _ = s.Slot(0)
	want = Slot{ID: 0, Epoch: 3, Unclean: 2, Master: "n2", Wished: Wished{Home: "n1"}, Replicas: names("n3", "n1"), AtLeast: slot.At(1, 8), OpenLoss: &OpenLoss{Node: "n3", Since: 3}, Version: 23}
	if diff := cmp.Diff(want, sl); diff != "" {
		t.Error(diff)
	}
}

// A loss is accepted while the master waits for a replica which may hold
// acknowledged mail: that replica's copy is listed too (law 7). Once the master has
// begun, it is the in-sync replicas who hold what it lost.
func TestLaw07AcceptedLossNamesAllWhoMayHoldMore(t *testing.T) {
	begin := func() *State {
		s := sample(t)
		apply(t, s, 20, ConfirmSlot{Proposal: "p1", Slot: 0, Epoch: 1, To: "n2", Position: slot.At(1, 9), Unclean: true})
		return s
	}
	lost := func(s *State, to slot.NodeName) *OpenLoss {
		apply(t, s, 30, OpenProposal{Slots: []ProposedSlot{{Slot: 0, Epoch: 2, From: "n2"}}})
		apply(t, s, 31, ConfirmSlot{Proposal: "p2", Slot: 0, Epoch: 2, To: to, Unclean: true, AcceptLoss: true})
		sl, _ := s.Slot(0)
		return sl.OpenLoss
	}
	s := begin()
	if diff := cmp.Diff(&OpenLoss{Node: "n2", Since: 3, Also: names("n3")}, lost(s, "n1")); diff != "" {
		t.Errorf("n2 waits for n3, and n1 gets the slot: %s", diff)
	}
	s = begin()
	apply(t, s, 21, SetProtected{Slot: 0, Epoch: 2, InSync: names("n1")})
	if diff := cmp.Diff(&OpenLoss{Node: "n1", Since: 3}, lost(s, "n2")); diff != "" {
		t.Errorf("n2 has begun with n1, and begins again: %s", diff)
	}
}

func TestSecondLossKeepsTheFirst(t *testing.T) {
	s := sample(t)
	apply(t, s, 20, ConfirmSlot{Proposal: "p1", Slot: 0, Epoch: 1, To: "n2", Unclean: true, AcceptLoss: true})
	apply(t, s, 21, OpenProposal{Slots: []ProposedSlot{{Slot: 0, Epoch: 2, From: "n2", To: "n3"}}})
	apply(t, s, 22, ConfirmSlot{Proposal: "p2", Slot: 0, Epoch: 2, To: "n3", Unclean: true, AcceptLoss: true})
	sl, _ := s.Slot(0)
	if diff := cmp.Diff(&OpenLoss{Node: "n1", Since: 2, Also: names("n2")}, sl.OpenLoss); diff != "" {
		t.Error(diff)
	}
	apply(t, s, 23, ResolveLoss{Slot: 0, Epoch: 3, Node: "n1"})
	sl, _ = s.Slot(0)
	if diff := cmp.Diff(&OpenLoss{Node: "n2", Since: 2}, sl.OpenLoss); diff != "" {
		t.Error(diff)
	}
	apply(t, s, 24, ResolveLoss{Slot: 0, Epoch: 3, Node: "n2"})
	if sl, _ = s.Slot(0); sl.OpenLoss != nil {
		t.Errorf("still open: %+v", sl.OpenLoss)
	}
}

func TestRaiseGeneration(t *testing.T) {
	s := sample(t)
	end := LogEnd{Term: 3, Index: 19}
	apply(t, s, 20, RaiseGeneration{With: names("n3", "n1"), End: end, By: "eve", Why: "two nodes burnt"})
	if s.Generation != 1 || s.RecoveredAt != end || s.Features() != operatorFeatures {
		t.Errorf("generation %d after %+v, feature level %d", s.Generation, s.RecoveredAt, s.Features())
	}
	if diff := cmp.Diff(names("n2", "w1"), s.LeftBehind()); diff != "" {
		t.Error(diff)
	}
	if !s.Belongs("n1") || s.Belongs("n2") || s.Belongs("n9") {
		t.Error("who belongs to the generation")
	}
	later := member("n5", Voter)
	later.Features = operatorFeatures
	if apply(t, s, 20, AddMember{Member: later}); !s.Belongs("n5") {
		t.Error("who comes after the recovery does not belong to it")
	}
	got, _ := s.Slot(0)
	if diff := cmp.Diff(Slot{ID: 0, Epoch: 17, Unclean: 16, Master: "n1", Wished: Wished{Home: "n1"}, Replicas: names("n2", "n3"), Version: 20}, got); diff != "" {
		t.Error(diff)
	}
	if p, _ := s.Proposal("p1"); p.State != Superseded {
		t.Errorf("the open proposal is %s", p.State)
	}
	// A slot that the lost majority may have given out begins above its numbers.
	if res := apply(t, s, 21, AssignSlot{Slot: 2, Epoch: 16, Master: "n3"}); res.Epoch != 17 {
		t.Errorf("first epoch after recovery: %d", res.Epoch)
	}
}

func TestMembersAndTokens(t *testing.T) {
	s := sample(t)
	zone, standby := "b\x1b[2J", true
	apply(t, s, 20, UpdateMember{Name: "n3", Addr: "[::1]:99", Role: Voter, ServerID: "n3-2", Zone: &zone, Standby: &standby})
	got, _ := s.Member("n3")
	if diff := cmp.Diff(Member{Name: "n3", Addr: "[::1]:99", Role: Voter, ServerID: "n3-2", Zone: "b [2J", Standby: true, Held: true, Features: KnownFeatures}, got); diff != "" {
		t.Error(diff)
	}
	apply(t, s, 21, RemoveMember{Name: "w1"})
	if _, ok := s.Member("w1"); ok {
		t.Error("w1 is still there")
	}
	apply(t, s, 22, AddToken{Token{ID: "t2", Hash: tokenHash, Node: "n4", LeftS: 60}})
	if len(s.Tokens) != 1 || s.Tokens[0].ID != "t2" {
		t.Errorf("one token per node: %+v", s.Tokens)
	}
}

const (
	keyA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	keyB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// joined is a node that joins with a token and a key.
func joined(name, token, key string) AddMember {
	m := member(name, Voter)
	m.ServerID, m.Key = name+"-"+token, key
	return AddMember{Member: m, Token: token, Hash: tokenHash}
}

// TestJoinIsOneStep: a token is used up exactly when its member is added, and the
// node that used it is answered the same however often it asks.
func TestJoinIsOneStep(t *testing.T) {
	s := sample(t)
	broken := joined("n4", "t1", keyA)
	broken.Member.Addr = "nowhere"
	if _, err := s.Apply(20, broken); err == nil || len(s.Tokens) != 1 {
		t.Fatalf("a refused join: %v, %d tokens left", err, len(s.Tokens))
	}
	apply(t, s, 21, joined("n4", "t1", keyA))
	if len(s.Tokens) != 0 {
		t.Errorf("the token of a member is still there: %+v", s.Tokens)
	}
	before := len(s.Members)
	apply(t, s, 22, joined("n4", "t1", keyA))
	if len(s.Members) != before {
		t.Error("asking again added a member")
	}
	if _, err := s.Apply(23, joined("n4", "t1", keyB)); !errors.As(err, &ErrExists{}) || !strings.Contains(err.Error(), "another key") {
		t.Errorf("the token with another key: %v", err)
	}
}

// TestAbsentMemberIsReplaced: who never came up leaves the name to the next token;
// who came up keeps it.
func TestAbsentMemberIsReplaced(t *testing.T) {
	s := sample(t)
	apply(t, s, 20, joined("n4", "t1", keyA))
	if !s.Absent("n4") || s.Absent("n2") || s.Absent("n9") {
		t.Errorf("absent: n4 %v, n2 %v, n9 %v", s.Absent("n4"), s.Absent("n2"), s.Absent("n9"))
	}
	apply(t, s, 21, AddToken{Token{ID: "t3", Hash: tokenHash, Node: "n4", LeftS: 60}})
	apply(t, s, 22, joined("n4", "t3", keyB))
	if m, _ := s.Member("n4"); m.Key != keyB || m.ServerID != "n4-t3" {
		t.Errorf("replaced by %+v", m)
	}
	apply(t, s, 23, UpdateMember{Name: "n4", Release: "1.0"})
	apply(t, s, 24, AddToken{Token{ID: "t4", Hash: tokenHash, Node: "n4", LeftS: 60}})
	if _, err := s.Apply(25, joined("n4", "t4", keyA)); !errors.As(err, &ErrExists{}) {
		t.Errorf("a node that came up was replaced: %v", err)
	}
	if len(s.Tokens) != 1 {
		t.Error("a refused join used its token up")
	}
}

// TestLaw11TokensAge: only what leaders measured counts, and a token is gone when
// its time is.
func TestLaw11TokensAge(t *testing.T) {
	s := sample(t)
	apply(t, s, 20, AddToken{Token{ID: "t2", Hash: tokenHash, Node: "n5", LeftS: 100}})
	apply(t, s, 21, AgeTokens{Seconds: 59})
	if len(s.Tokens) != 2 || s.Tokens[0].LeftS != 1 || s.Tokens[1].LeftS != 41 {
		t.Fatalf("after 59 s: %+v", s.Tokens)
	}
	apply(t, s, 22, AgeTokens{Seconds: 1})
	if len(s.Tokens) != 1 || s.Tokens[0].ID != "t2" {
		t.Fatalf("after 60 s: %+v", s.Tokens)
	}
	if _, err := s.Apply(23, joined("n4", "t1", keyA)); !errors.As(err, &ErrNotFound{}) {
		t.Errorf("an expired token: %v", err)
	}
}

func TestShown(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                   "plain",
		"a\x1b[31m\nb":            "a [31m b",
		"\xff":                    "?",
		strings.Repeat("é", 80):   strings.Repeat("é", 58) + "…",
		strings.Repeat("x", 120):  strings.Repeat("x", 120),
		strings.Repeat("ab", 100): strings.Repeat("ab", 58) + "a…",
	} {
		if got := shown(in); got != want {
			t.Errorf("shown(%q) = %q, want %q", in, got, want)
		}
	}
}
