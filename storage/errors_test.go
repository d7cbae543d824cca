package storage

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
)

// Every kind of the closed list crosses to another node and back, and of two
// kinds the one that says that we don't know.
func TestKindsCrossNodes(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	declared := 0
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(s.Names[0].Name, "Err") {
			declared++
		}
		return true
	})
	if len(kinds()) != declared {
		t.Errorf("%d kinds are declared, %d have names", declared, len(kinds()))
	}
	names := map[string]bool{}
	for _, k := range kinds() {
		err := fmt.Errorf("open: %w", Errorf(k.kind, "text"))
		if name := KindName(err); names[name] || NamedKind(name) != k.kind {
			t.Errorf("%v became %q, and %v", k.kind, name, NamedKind(name))
		}
		names[k.name] = true
		if got := NamedKind(KindName(Errorf(ErrUnavailable, "look: %w", err))); k.kind != ErrNotMaster && got != ErrUnavailable {
			t.Errorf("%v that is unavailable became %v", k.kind, got)
		}
	}
	for _, name := range []string{"", "of a newer release", KindName(errors.New("no kind"))} {
		if got := NamedKind(name); got != ErrUnavailable {
			t.Errorf("%q became %v", name, got)
		}
	}
}
