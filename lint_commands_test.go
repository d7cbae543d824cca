package main

import (
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// testLinesMin is how many lines of tests a package has at least for one line of
// its code.
var testLinesMin = map[string]float64{"imapd": 0.8}

func lintTestLines(t *testing.T, files []*file) {
	code, tests := map[string]int{}, map[string]int{}
	for _, f := range files {
		switch {
		case f.generated:
		case f.test:
			tests[f.dir] += f.lines
		default:
			code[f.dir] += f.lines
		}
	}
	for dir, least := range testLinesMin {
		if got := float64(tests[dir]) / float64(code[dir]); !(got >= least) {
			t.Errorf("%s: %d lines of tests for %d of code, at least %.1f for one: write the tests that are missing", dir, tests[dir], code[dir], least)
		}
	}
}

// imapCommand is one row of imapd's table of commands.
type imapCommand struct{ verb, method string }

// lintCommands wants each IMAP command to be played by the test of its own file:
// fetch.go has FETCH and UID FETCH, and fetch_test.go says what they must do.
func lintCommands(t *testing.T, files []*file) {
	const dir = "imapd"
	methods := map[string]string{} // of session: the file's name without .go
	played := map[string]map[string]bool{}
	var rows []imapCommand
	for _, f := range files {
		if f.dir != dir {
			continue
		}
		base := strings.TrimSuffix(path.Base(f.path), ".go")
		if f.test {
			played[base] = verbsIn(f.ast)
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && receiver(fn) == "session." {
				methods[fn.Name.Name] = base
			}
		}
		if base == "commands" {
			rows = commandRows(f.ast)
		}
	}
	if len(rows) < 30 {
		t.Fatalf("%d commands were found in imapd/commands.go: this check does not read its table any more", len(rows))
	}
	for _, r := range rows {
		base := methods[r.method]
		switch verbs, ok := played[base+"_test"]; {
		case base == "":
			t.Errorf("imapd/commands.go: %s is run by %s, which no file declares", r.verb, r.method)
		case !ok:
			t.Errorf("imapd/%s.go: %s has no %s_test.go: a command's tests are found by its file's name", base, r.verb, base)
		case !verbs[r.verb]:
			t.Errorf("imapd/%s_test.go: %s is never sent: say there what it must do", base, r.verb)
		}
	}
}

// commandRows reads the table `commands`: "VERB": {run: (*session).method, ...}.
func commandRows(f *ast.File) (rows []imapCommand) {
	ast.Inspect(f, func(n ast.Node) bool {
		row, ok := n.(*ast.KeyValueExpr)
		if !ok {
			return true
		}
		key, isLit := row.Key.(*ast.BasicLit)
		value, isRow := row.Value.(*ast.CompositeLit)
		if !isLit || !isRow {
			return true
		}
		verb, err := strconv.Unquote(key.Value)
		for _, e := range value.Elts {
			field, ok := e.(*ast.KeyValueExpr)
			if !ok || err != nil {
				continue
			}
			if run, ok := field.Value.(*ast.SelectorExpr); ok && isNamed(field.Key, "run") {
				rows = append(rows, imapCommand{verb, run.Sel.Name})
			}
		}
		return false
	})
	return rows
}

func isNamed(e ast.Expr, name string) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == name
}

var imapVerb = regexp.MustCompile(`\b(?:UID )?[A-Z]+\b`)

// verbsIn collects the commands that a file's strings may send.
func verbsIn(f *ast.File) map[string]bool {
	verbs := map[string]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if text, err := strconv.Unquote(lit.Value); err == nil {
				for _, v := range imapVerb.FindAllString(text, -1) {
					verbs[v] = true
				}
			}
		}
		return true
	})
	return verbs
}
