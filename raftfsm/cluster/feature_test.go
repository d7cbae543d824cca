package cluster

import (
	"bytes"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"mailnode/storage/slot"
)

// teleport is a command of a release to come: it stands at feature level 2.
type teleport struct{}

func (teleport) kind() string { return "teleport" }

func (teleport) apply(s *State, _ uint64) (Result, error) {
	s.DefaultReplicas = 7
	return Result{}, nil
}

func future(kind string) (slot.FeatureLevel, bool) {
	if kind == (teleport{}).kind() {
		return 2, true
	}
	return featureOf(kind)
}

func threeMembers(t *testing.T) *State {
	t.Helper()
	s := New()
	for i, n := range []slot.NodeName{"n1", "n2", "n3"} {
		m := Member{Name: n, ServerID: string(n) + "-1", Addr: "127.0.0.1:24", Role: Voter}
		var c Command = AddMember{Member: m}
		if i == 0 {
			c = Init{ClusterID: "c", SlotCount: 4, DefaultReplicas: 1, First: m}
		}
		if _, err := s.Apply(uint64(i+1), c); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// TestFutureCommandWaitsForItsLevel walks an upgrade node by node.
func TestFutureCommandWaitsForItsLevel(t *testing.T) {
	s, index := threeMembers(t), uint64(10)
	try := func(c Command) error {
		t.Helper()
		before := EncodeSnapshot(s)
		index++
		_, err := s.applyAt(index, c, future)
		if err != nil && !bytes.Equal(before, EncodeSnapshot(s)) {
			t.Errorf("%T was refused and has changed the state", c)
		}
		return err
	}
	refused := func(c Command, words string) {
		t.Helper()
		var invalid ErrInvalid
		if err := try(c); !errors.As(err, &invalid) || !strings.Contains(err.Error(), words) {
			t.Errorf("%+v: %v, want a refusal with %q", c, err, words)
		}
	}
	must := func(c Command) {
		t.Helper()
		if err := try(c); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	refused(teleport{}, "mailnode cluster upgrade")
	refused(RaiseFeatureLevel{From: 1, To: 2}, "n1 (level 1), n2 (level 1), n3 (level 1)")
	must(UpdateMember{Name: "n1", Features: 2, Release: "2.0"})
	must(UpdateMember{Name: "n3", Features: 3, Release: "3.0"})
	must(UpdateMember{Name: "n2", Release: "1.1"})
	refused(RaiseFeatureLevel{From: 1, To: 2}, "too old: n2 (level 1, release 1.1)")
	refused(teleport{}, "needs feature level 2, the cluster has 1")
	must(UpdateMember{Name: "n2", Features: 2, Release: "2.0"})
	if err := try(RaiseFeatureLevel{From: 2, To: 3}); !errors.As(err, new(ErrStale)) {
		t.Errorf("raised from a level that is not the cluster's: %v", err)
	}
	must(RaiseFeatureLevel{From: 1, To: 2, By: "ann", WallTime: "2026-11-20T03:31:07Z"})
	must(teleport{})
	if s.Features() != 2 || s.DefaultReplicas != 7 {
		t.Errorf("level %d, %d replicas", s.Features(), s.DefaultReplicas)
	}
	if last := s.History[len(s.History)-1]; last.Kind != ChangeFeatures || last.By != "ann" || last.Why != "feature level 2 instead of 1" {
		t.Errorf("history: %+v", last)
	}
	refused(RaiseFeatureLevel{From: 2, To: 2}, "never falls")
	refused(RaiseFeatureLevel{From: 2, To: 1}, "never falls")
	refused(UpdateMember{Name: "n1", Features: 1}, "the cluster has 2: upgrade it")
	refused(AddMember{Member: Member{Name: "n4", ServerID: "n4-1", Addr: "127.0.0.1:24", Role: Voter}}, "the cluster has 2: upgrade it")
	must(AddMember{Member: Member{Name: "n4", ServerID: "n4-1", Addr: "127.0.0.1:24", Role: Voter, Features: 2}})
	back, err := DecodeSnapshot(EncodeSnapshot(s))
	if err != nil || back.Features() != 2 {
		t.Errorf("after a snapshot: level %d, %v", back.Features(), err)
	}
}

// TestUnlistedKindIsNeverCommitted: whoever forgets to give a command its level
// is told by the first test that applies it.
func TestUnlistedKindIsNeverCommitted(t *testing.T) {
	s := threeMembers(t)
	if err := s.Permit(teleport{}); !errors.As(err, new(ErrInvalid)) {
		t.Errorf("permitted: %v", err)
	}
	if _, err := s.Apply(9, teleport{}); !errors.As(err, new(ErrInvalid)) {
		t.Errorf("applied: %v", err)
	}
}

// TestEveryKindHasALevel reads the names on disk from the code, so that none is
// forgotten.
func TestEveryKindHasALevel(t *testing.T) {
	kinds := kindsInCode(t)
	if len(kinds) < 19 {
		t.Fatalf("found only %q", kinds)
	}
	for _, kind := range kinds {
		if level, ok := featureOf(kind); !ok || level < slot.FirstFeatureLevel || level > KnownFeatures {
			t.Errorf("command %q has feature level %d (listed: %v), this release knows 1 to %d", kind, level, ok, KnownFeatures)
		}
		if _, err := decodeBody(kind, []byte("{}")); err != nil {
			t.Errorf("command %q cannot be read: %v", kind, err)
		}
		if kind == kindGroup {
			t.Errorf("%q is the name of a group of commands", kind)
		}
	}
}

// kindsInCode returns what the kind methods of this package return.
func kindsInCode(t *testing.T) []string {
	t.Helper()
	var kinds []string
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Name.Name != "kind" {
				continue
			}
			kind, err := strconv.Unquote(fn.Body.List[0].(*ast.ReturnStmt).Results[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	return kinds
}
