package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"mailnode/storage/slot"
)

// replaced is a machine that takes n2's place in sample.
func replaced(s *State, token, key string) ReplaceMember {
	was, _ := s.Member("n2")
	m := member("n2", Voter)
	m.ServerID, m.Key = "n2-"+token, key
	return ReplaceMember{Member: m, Was: was.ServerID, Token: token, Hash: tokenHash, By: "eve"}
}

// TestReplaceIsOneStep: the name, its slots and their order stay; the Raft ID and the
// key are new, the old ones are remembered as former. Of two machines with one token
// one wins, and is answered the same however often it asks; what is delayed is refused.
func TestReplaceIsOneStep(t *testing.T) {
	s := sample(t)
	old, _ := s.Member("n2")
	apply(t, s, 20, UpdateMember{Name: "n2", Release: "1.0"})
	apply(t, s, 21, AddToken{Token{ID: "r1", Hash: tokenHash, Node: "n2", LeftS: 60}})
	first, second := replaced(s, "r1", keyA), replaced(s, "r1", keyB)
	slots := slices.Clone(s.Slots)
	apply(t, s, 22, first)
	got, _ := s.Member("n2")
	if got.ServerID != "n2-r1" || got.Key != keyA || got.Release != "" {
		t.Errorf("n2 is %+v", got)
	}
	for i, sl := range s.Slots {
		was := slots[i]
		if sl.Master != was.Master || sl.Epoch != was.Epoch || fmt.Sprint(sl.Replicas, sl.InSync, sl.Protected) != fmt.Sprint(was.Replicas, was.InSync, was.Protected) {
			t.Errorf("%s was %+v, is %+v", sl.ID, was, sl)
		}
	}
	before := EncodeSnapshot(s)
	index := s.Index
	apply(t, s, 23, first)
	if s.Index = index; !bytes.Equal(EncodeSnapshot(s), before) {
		t.Error("asking again changed the state")
	}
	if _, err := s.Apply(24, second); !errors.As(err, &ErrExists{}) || !strings.Contains(err.Error(), "another key") {
		t.Errorf("the second machine: %v", err)
	}
	if f, ok := s.FormerOf("n2", old.Key); old.Key == "" && !ok || ok && (f.ServerID != old.ServerID || !f.Replaced || f.By != "eve") {
		t.Errorf("the old one is remembered as %+v, %v", f, ok)
	}
	if f, ok := s.FormerOf("n2", keyA); ok {
		t.Errorf("the new one is former: %+v", f)
	}
	apply(t, s, 25, AddToken{Token{ID: "r2", Hash: tokenHash, Node: "n2", LeftS: 60}})
	late := replaced(s, "r2", keyB)
	late.Was = old.ServerID
	if _, err := s.Apply(26, late); !errors.As(err, &ErrInvalid{}) || !strings.Contains(err.Error(), "meanwhile") {
		t.Errorf("one that was judged on an older record: %v", err)
	}
	apply(t, s, 27, replaced(s, "r2", keyB))
	if _, err := s.Apply(28, first); !errors.As(err, &ErrNotFound{}) {
		t.Errorf("the first again, after the second: %v", err)
	}
	if f, ok := s.FormerOf("n2", keyA); !ok || !f.Replaced {
		t.Errorf("the first is remembered as %+v, %v", f, ok)
	}
}

// TestFormerKeyStaysOutside: a machine whose try was overtaken has a key that nobody
// believes any more. It is told so before it is let in with it.
func TestFormerKeyStaysOutside(t *testing.T) {
	s := sample(t)
	for i, key := range []string{keyA, keyB} {
		id := fmt.Sprintf("r%d", i)
		apply(t, s, uint64(20+2*i), AddToken{Token{ID: id, Hash: tokenHash, Node: "n2", LeftS: 60}})
		apply(t, s, uint64(21+2*i), replaced(s, id, key))
	}
	apply(t, s, 30, AddToken{Token{ID: "r9", Hash: tokenHash, Node: "n2", LeftS: 60}})
	if _, err := s.Apply(31, replaced(s, "r9", keyA)); !errors.As(err, &ErrInvalid{}) || !strings.Contains(err.Error(), "join-key.pem") {
		t.Errorf("with the key of the first: %v", err)
	}
}

// TestLaw02ReplacedMasterIsNeverEmpty: a master that comes back on another machine has
// at least one event of its copy, or does not serve. What the plan has found stays.
func TestLaw02ReplacedMasterIsNeverEmpty(t *testing.T) {
	s := sample(t)
	s.Slots[1].Master, s.Slots[1].Replicas, s.Slots[1].InSync, s.Slots[1].Protected = "n2", names("n1"), nil, false
	s.Slots[2] = Slot{ID: 2, Epoch: 7, Master: "n2", AtLeast: slot.At(6, 9)}
	apply(t, s, 21, AddToken{Token{ID: "r1", Hash: tokenHash, Node: "n2", LeftS: 60}})
	apply(t, s, 22, replaced(s, "r1", keyA))
	if sl := s.Slots[1]; sl.AtLeast == 0 || sl.AtLeast > slot.At(1, 1) || sl.Version != 22 {
		t.Errorf("%+v: want that it holds at least something", sl)
	}
	if sl := s.Slots[2]; sl.AtLeast != slot.At(6, 9) {
		t.Errorf("%+v: want what the plan found", sl)
	}
}

// TestLaw01RemovedOnlyWhenNotNeeded: a node is removed when it is no master and the
// other replicas are enough, and are in sync without it; its copies go with it.
func TestLaw01RemovedOnlyWhenNotNeeded(t *testing.T) {
	for name, tt := range map[string]struct {
		slot Slot
		want string // "": it goes
	}{
		"master":             {Slot{Master: "n2", Replicas: names("n1", "n3")}, "it is the master"},
		"the only replica":   {Slot{Master: "n1", Replicas: names("n2")}, "the only replica"},
		"in sync":            {Slot{Master: "n1", Replicas: names("n2", "n3"), Protected: true, InSync: names("n2", "n3")}, "acknowledgements wait"},
		"nobody else is":     {Slot{Master: "n1", Replicas: names("n2", "n3")}, "no other replica is in sync"},
		"its mail is missed": {Slot{Master: "n1", Replicas: names("n2", "n3"), Protected: true, InSync: names("n3"), OpenLoss: &OpenLoss{Node: "n2"}}, "not rescued"},
		"is to be heard":     {Slot{Master: "n1", Replicas: names("n2", "n3"), Protected: true, Inherited: true, InSync: names("n3"), Awaits: names("n2")}, "has to hear"},
		"was heard":          {Slot{Master: "n1", Replicas: names("n2", "n3"), Protected: true, InSync: names("n3"), Awaits: names("n2")}, ""},
		"the other leaves":   {Slot{Master: "n1", Replicas: names("n2", "n3"), Protected: true, InSync: names("n3"), Wished: Wished{Leaving: []Leaver{{Node: "n3"}}}}, "the only replica"},
		"who counts leaves":  {Slot{Master: "n1", Replicas: names("n2", "n3", "n4"), Protected: true, InSync: names("n3"), Wished: Wished{Leaving: []Leaver{{Node: "n3"}}}}, "no other replica is in sync"},
		"more are wanted":    {Slot{Master: "n1", Replicas: names("n2", "n3"), Protected: true, InSync: names("n3"), Wished: Wished{Want: new(2)}}, "1 of 2 replicas"},
		"is handed over":     {Slot{Master: "n1", Replicas: names("n2", "n3"), Protected: true, InSync: names("n3"), HandOver: &HandOver{To: "n2"}}, "hand-over"},
		"others are enough":  {Slot{Master: "n1", Replicas: names("n2", "n3"), Protected: true, InSync: names("n3")}, ""},
		"it holds nothing":   {Slot{Master: "n1", Replicas: names("n3")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := sample(t)
			for i := range s.Slots {
				s.Slots[i] = Slot{ID: slot.ID(i), Epoch: 3, Master: "n1", Replicas: names("n3")}
			}
			tt.slot.ID, tt.slot.Epoch = 1, 3
			s.Slots[1] = tt.slot
			_, err := s.Apply(30, RemoveMember{Name: "n2", By: "eve"})
			_, is := s.Member("n2")
			switch {
			case tt.want == "" && (err != nil || is || s.Slots[1].Holds("n2")):
				t.Errorf("%v; member %v, %+v", err, is, s.Slots[1])
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "s001") || !is):
				t.Errorf("%v; want %q about s001", err, tt.want)
			}
			if f, ok := s.FormerOf("n2", ""); ok == is || ok && (f.Replaced || f.By != "eve") {
				t.Errorf("remembered as %+v, %v", f, ok)
			}
		})
	}
}

// TestFormerIsBounded: the oldest is forgotten.
func TestFormerIsBounded(t *testing.T) {
	s := sample(t)
	for i := range MaxFormer + 2 {
		m := member(fmt.Sprintf("x%d", i), Voter)
		apply(t, s, uint64(30+2*i), AddMember{Member: m})
		apply(t, s, uint64(31+2*i), RemoveMember{Name: m.Name})
	}
	if len(s.Former) != MaxFormer || s.Former[0].Name != "x2" {
		t.Errorf("%d are remembered, the first is %+v", len(s.Former), s.Former[0])
	}
}
