package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "mailnode"

// Sizes, in lines.
const (
	fileTalkLines = 600
	fileMaxLines  = 1000
	funcMaxLines  = 70
)

// structMaxFields is how many fields a struct may have: one of more is two.
const structMaxFields = 15

// wideStructs are the structs that have more, as "file:Type", with how many. The
// list gets shorter, and its numbers lower.
var wideStructs = map[string]int{}

// longFuncs are the functions that may be longer than funcMaxLines, as
// "folder.Receiver.Name", each with its reason. The list gets shorter, not longer.
var longFuncs = map[string]string{}

// arrow says what a package may import of our own, and why no more. A name that
// ends in /... stands for the packages below it.
type arrow struct {
	may []string
	why string
}

// arrows is the house of LAWS §3.2. Test files may import what they like, except
// that nothing but node and its parts knows node.
var arrows = map[string]arrow{
	".":            {[]string{"node", "node/cli"}, "main hands the node to the command line, nothing else"},
	"storage/slot": {nil, "the vocabulary is below everything: standard library only"},
	"figures":      {nil, "numbers in, words out: plans, screens and conditions write them alike"},
	"storage/disk": {nil, "what a disk can do is the same for whoever writes there: it knows no mail"},
	"storage/fair": {nil, "who is next does not depend on what for: addresses and names in, turns out"},
	"storage":      {[]string{"storage/slot", "storage/disk"}, "an interface does not know who implements it"},
	"storage/mime": {nil, "bytes in, offsets out: the scanner knows no mailbox"},
	"storage/event": {[]string{"storage", "storage/slot"},
		"a pure heart: what an event does must not depend on how a copy is stored"},
	"storage/blob":  {[]string{"storage/disk", "storage/slot"}, "bodies are found by GUID; whose they are is the index's business"},
	"storage/index": {[]string{"storage/disk"}, "how Pebble writes its files does not depend on what is in them: a newer Pebble is this package's business"},
	"storage/local": {[]string{"storage", "storage/blob", "storage/disk", "storage/event", "storage/fair", "storage/index", "storage/mime", "storage/slot", "storage/check"},
		"the Store on disk knows no network, cluster or protocol"},
	"storage/repl/ack": {[]string{"storage/slot"}, "a pure heart: law 1's decision, on plain values"},
	"storage/repl": {[]string{"storage", "storage/event", "storage/blob", "storage/repl/ack", "storage/slot"},
		"replication speaks in events and bodies over any stream; stores and nodes are handed in"},
	"storage/check": {[]string{"storage", "storage/event", "storage/blob", "storage/mime", "storage/slot"},
		"the checker proves a snapshot that is handed in; to import a store would be to trust it"},
	"raftfsm/cluster": {[]string{"storage/slot"}, "a pure heart: Raft carries no mail and no users (law 10)"},
	"raftfsm":         {[]string{"raftfsm/cluster", "storage/disk", "storage/slot"}, "Raft binds the state machine and knows no mail (law 10)"},
	"failover": {[]string{"figures", "raftfsm/cluster", "storage/slot"},
		"decisions are made on plain values; failover declares the small interfaces that it needs"},
	"failover/sim": {[]string{"failover", "raftfsm/cluster", "storage/repl/ack", "storage/slot"},
		"the simulation drives the real decisions around model copies; to import a store would make it slow, and other than pure"},
	"imapd/wire":  {nil, "wire knows no mailbox"},
	"imapd/match": {nil, "words and texts: it knows no message"},
	"imapd":       {[]string{"imapd/match", "imapd/wire", "storage", "storage/fair", "storage/mime", "storage/slot"}, "a frontend sees the Store only, never Raft or a node"},
	"lmtpd":       {[]string{"storage", "storage/fair", "storage/slot"}, "a frontend sees the Store only, never Raft or a node"},

	"node/config":  {[]string{"node/peer", "storage/slot"}, "settings are read before anything runs; peer says what a node may be called"},
	"node/peer":    {[]string{"storage/disk", "storage/fair", "storage/slot"}, "the peer port carries streams and does not know what is in them"},
	"node/monitor": {[]string{"node/config", "raftfsm/cluster", "failover", "storage", "storage/fair", "storage/slot"}, "health is judged on what it is told"},
	"node/job":     {[]string{"storage"}, "the registry runs what it is handed and knows no slot; time comes in as storage.Clock"},
	"node/diary":   {[]string{"figures", "storage", "storage/disk", "storage/slot"}, "it notes what it is told, and makes a report of what others noted: plain values"},
	"node/admin": {[]string{"node/config", "node/diary", "node/job", "node/monitor", "node/peer", "failover", "figures", "raftfsm/cluster", "storage", "storage/disk", "storage/slot"},
		"the operators' API calls interfaces that node implements; init and join work on a node that does not run"},
	"node/rpc": {[]string{"storage", "storage/slot"}, "what travels between nodes: plain messages and error kinds"},
	"node": {[]string{"failover", "figures", "imapd", "imapd/wire", "lmtpd", "raftfsm/...", "storage/...", "storage", "raftfsm",
		"node/config", "node/diary", "node/job", "node/peer", "node/admin", "node/monitor", "node/rpc"}, "node assembles everything, and the command line runs node"},
	"raftfsm/ownership": {[]string{"raftfsm/cluster", "storage/slot"}, "what tests compare histories with; no program imports it"},
	"node/testport":     {nil, "a test of any package takes its ports there; no program imports it"},
	"node/cli": {[]string{"figures", "node/config", "node/admin", "node/monitor", "node/peer", "node/cli/demo", "storage", "storage/slot"},
		"one file per verb, no logic beyond printing: it asks the admin API, and is handed the node that serve runs"},
	"node/cli/demo": {[]string{"node/config", "node/admin", "node/peer", "storage/disk", "storage/slot"},
		"the demo uses what operators use: config files, init and join, the admin API, LMTP"},
}

// pure are the packages that take plain values and give plain values.
var pure = []string{"figures", "raftfsm/cluster", "storage/event", "storage/mime", "storage/repl/ack", "imapd/match"}

// impureImports and impureCalls would make two copies disagree about one event
// (law 8), or a replayed log differ from the first run (law 11).
var (
	impureImports = []string{"os", "net", "log", "log/slog", "math/rand", "math/rand/v2", "crypto/rand", "io/fs", "syscall"}
	impureCalls   = []string{"time.Now", "time.Since", "time.Until", "time.Sleep", "time.After", "time.AfterFunc", "time.Tick", "time.NewTimer", "time.NewTicker"}
)

// badPackages are names that say nothing, with what to do instead.
var badPackages = []string{"util", "utils", "helper", "helpers", "manager", "common", "types", "pkg", "internal", "misc", "data", "info", "process"}

// badWords must not be part of a declared name.
var badWords = map[string]string{
	"Manager": "say what it does: committer, router, keeper",
	"Helper":  "name the thing that it computes",
	"Util":    "put it where it is used",
}

type file struct {
	path      string // below the top, with slashes
	dir       string
	test      bool
	generated bool
	lines     int
	fset      *token.FileSet
	ast       *ast.File
}

func (f *file) at(p token.Pos) string { return fmt.Sprintf("%s:%d", f.path, f.fset.Position(p).Line) }

// TestLint is the part of docs/STYLE.md that a machine can see.
func TestLint(t *testing.T) {
	files := readFiles(t)
	for _, c := range []struct {
		name  string
		check func(*testing.T, []*file)
	}{
		{"imports", lintImports},
		{"package comments", lintPackageComments},
		{"package names", lintPackageNames},
		{"file sizes", lintFileSizes},
		{"function sizes", lintFuncSizes},
		{"struct sizes", lintStructSizes},
		{"init", lintInit},
		{"variables", lintVariables},
		{"sleep in tests", lintSleep},
		{"wall clock in tests", lintWallClock},
		{"words", lintWords},
		{"pure hearts", lintPure},
		{"citations", lintCitations},
		{"lines of tests", lintTestLines},
		{"imap commands", lintCommands},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(t, files) })
	}
}

func readFiles(t *testing.T) []*file {
	t.Helper()
	var files []*file
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || len(p) > 1 && strings.HasPrefix(d.Name(), ".")) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(p, ".go") {
			return nil
		}
		p = filepath.ToSlash(p)
		f := &file{path: p, dir: path.Dir(p), test: strings.HasSuffix(p, "_test.go"), fset: token.NewFileSet()}
		if f.ast, err = parser.ParseFile(f.fset, p, nil, parser.ParseComments); err != nil {
			return err
		}
		f.generated = ast.IsGenerated(f.ast)
		f.lines = f.fset.File(f.ast.FileStart).LineCount()
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func lintImports(t *testing.T, files []*file) {
	for _, f := range files {
		a, known := arrows[f.dir]
		if !known {
			t.Errorf("%s: package %q is not in the house (LAWS §3.2): put the code where it belongs, or add the package to arrows with its reason", f.path, f.dir)
			continue
		}
		for _, i := range f.ast.Imports {
			to, own := ownImport(i)
			if !own || to == f.dir {
				continue
			}
			switch {
			case f.test && f.dir != "." && !strings.HasPrefix(f.dir, "node") && (to == "node" || to == "node/cli"):
				t.Errorf("%s: a test of %s imports %s: test against the package's own interfaces; what needs a whole node is a test of node", f.at(i.Pos()), f.dir, to)
			case !f.test && !a.allows(to):
				t.Errorf("%s: %s may not import %s: %s. Declare the small interface that you need and have node hand it in", f.at(i.Pos()), f.dir, to, a.why)
			}
		}
	}
}

// ownImport returns the folder of one of our own packages.
func ownImport(i *ast.ImportSpec) (string, bool) {
	p, err := strconv.Unquote(i.Path.Value)
	if err != nil || p != module && !strings.HasPrefix(p, module+"/") {
		return "", false
	}
	return strings.TrimPrefix(p, module+"/"), true
}

func (a arrow) allows(to string) bool {
	return slices.ContainsFunc(a.may, func(m string) bool {
		below, tree := strings.CutSuffix(m, "/...")
		return m == to || tree && strings.HasPrefix(to, below+"/")
	})
}

func lintPackageComments(t *testing.T, files []*file) {
	comments := map[string][]string{}
	for _, f := range files {
		if f.test || f.generated {
			continue
		}
		comments[f.dir] = append(comments[f.dir], nil...)
		if f.ast.Doc != nil {
			comments[f.dir] = append(comments[f.dir], f.path)
		}
	}
	for dir, in := range comments {
		if len(in) != 1 {
			t.Errorf("%s: package comments in %q, want one: it is a newcomer's first page on the package", dir, in)
		}
	}
}

func lintPackageNames(t *testing.T, files []*file) {
	for _, f := range files {
		if name := f.ast.Name.Name; slices.Contains(badPackages, strings.TrimSuffix(name, "_test")) || slices.Contains(badPackages, path.Base(f.dir)) {
			t.Errorf("%s: package %s in %s: such a name takes in everything; name the package after what it provides", f.path, name, f.dir)
		}
	}
}

func lintFileSizes(t *testing.T, files []*file) {
	for _, f := range files {
		switch {
		case f.generated:
		case f.lines > fileMaxLines:
			t.Errorf("%s: %d lines, at most %d: split it by what its parts decide", f.path, f.lines, fileMaxLines)
		case f.lines > fileTalkLines:
			t.Logf("%s: %d lines: time to talk about splitting it", f.path, f.lines)
		}
	}
}

func lintFuncSizes(t *testing.T, files []*file) {
	used := map[string]bool{}
	for _, f := range files {
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || f.generated {
				continue
			}
			lines := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1
			if lines <= funcMaxLines {
				continue
			}
			name := f.dir + "." + receiver(fn) + fn.Name.Name
			used[name] = true
			if longFuncs[name] == "" {
				t.Errorf("%s: %s has %d lines, at most %d: give its steps names", f.at(fn.Pos()), name, lines, funcMaxLines)
			}
		}
	}
	for name := range longFuncs {
		if !used[name] {
			t.Errorf("longFuncs: %s is short or gone: take it off the list", name)
		}
	}
}

func lintStructSizes(t *testing.T, files []*file) {
	wide := map[string]int{}
	for _, f := range files {
		if f.test || f.generated {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok && s.Fields.NumFields() > structMaxFields {
				name := f.path + ":" + spec.Name.Name
				wide[name] = s.Fields.NumFields()
				if wide[name] > wideStructs[name] {
					t.Errorf("%s: %s has %d fields, at most %d: give its parts names of their own", f.at(spec.Pos()), name, wide[name], max(structMaxFields, wideStructs[name]))
				}
			}
			return true
		})
	}
	for name, listed := range wideStructs {
		if wide[name] < listed {
			t.Errorf("wideStructs: %s has %d fields, %d are listed: lower the number, or take it off", name, wide[name], listed)
		}
	}
}

func receiver(fn *ast.FuncDecl) string {
	if fn.Recv == nil || len(fn.Recv.List) == 0 {
		return ""
	}
	e := fn.Recv.List[0].Type
	for {
		switch x := e.(type) {
		case *ast.StarExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.IndexListExpr:
			e = x.X
		case *ast.Ident:
			return x.Name + "."
		default:
			return "?."
		}
	}
}

func lintInit(t *testing.T, files []*file) {
	for _, f := range files {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && !f.generated && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: init runs unseen, in an order that nobody chose: call it from where it is needed", f.at(fn.Pos()))
			}
		}
	}
}

// lintVariables wants package-level variables to be constants in all but name:
// nothing assigns to them, takes their address, or locks them.
func lintVariables(t *testing.T, files []*file) {
	const instead = "package-level state is shared by all nodes of one test process; make it a field and hand it in"
	vars := map[string]map[string]*ast.ValueSpec{} // by folder and name
	for _, f := range files {
		if f.generated || f.test {
			continue
		}
		for _, d := range f.ast.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, s := range g.Specs {
				spec := s.(*ast.ValueSpec)
				if why := stateful(spec); why != "" {
					t.Errorf("%s: %s %s: %s", f.at(spec.Pos()), spec.Names[0].Name, why, instead)
				}
				for _, n := range spec.Names {
					if vars[f.dir] == nil {
						vars[f.dir] = map[string]*ast.ValueSpec{}
					}
					if n.Name != "_" {
						vars[f.dir][n.Name] = spec
					}
				}
			}
		}
	}
	for _, f := range files {
		if f.generated {
			continue
		}
		for _, w := range writes(f.ast) {
			spec := vars[f.dir][w.Name]
			// No Obj: declared in another file of the package. An Obj whose Decl is
			// not the variable's: a local of the same name.
			if spec != nil && (w.Obj == nil || w.Obj.Decl == spec) {
				t.Errorf("%s: %s is written: %s", f.at(w.Pos()), w.Name, instead)
			}
		}
	}
}

// stateful says why a variable holds state by its type or first value.
func stateful(spec *ast.ValueSpec) (why string) {
	look := func(n ast.Node) bool {
		switch x := n.(type) {
		case *ast.FuncLit:
			return false
		case *ast.ChanType:
			why = "is a channel"
		case *ast.SelectorExpr:
			if p, ok := x.X.(*ast.Ident); ok && slices.Contains([]string{"sync", "atomic", "prometheus", "rand", "context", "slog"}, p.Name) {
				why = "is made of " + p.Name
			}
		}
		return true
	}
	if spec.Type != nil && spec.Names[0].Name != "_" {
		ast.Inspect(spec.Type, look)
	}
	for _, v := range spec.Values {
		if spec.Names[0].Name != "_" { // var _ I = T{}
			ast.Inspect(v, look)
		}
	}
	return why
}

// writes lists the identifiers at the root of whatever a file changes.
func writes(f *ast.File) []*ast.Ident {
	var out []*ast.Ident
	add := func(e ast.Expr) {
		for {
			switch x := e.(type) {
			case *ast.Ident:
				out = append(out, x)
				return
			case *ast.IndexExpr:
				e = x.X
			case *ast.SelectorExpr:
				e = x.X
			case *ast.ParenExpr:
				e = x.X
			default:
				return
			}
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch x := n.(type) {
		case *ast.AssignStmt:
			if x.Tok != token.DEFINE {
				for _, e := range x.Lhs {
					add(e)
				}
			}
		case *ast.IncDecStmt:
			add(x.X)
		case *ast.UnaryExpr:
			if x.Op == token.AND {
				add(x.X)
			}
		case *ast.CallExpr:
			if fn, ok := x.Fun.(*ast.Ident); ok && len(x.Args) > 0 && (fn.Name == "delete" || fn.Name == "clear") {
				add(x.Args[0])
			}
		}
		return true
	})
	return out
}

func lintSleep(t *testing.T, files []*file) {
	for _, f := range files {
		if !f.test || imports(f, "testing/synctest") {
			continue
		}
		for _, s := range selectors(f) {
			if s.name == "time.Sleep" {
				t.Errorf("%s: a sleep is too short on a busy machine and too long on an idle one: wait for the event, or use testing/synctest", f.at(s.pos))
			}
		}
	}
}

func imports(f *file, name string) bool {
	return slices.ContainsFunc(f.ast.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == strconv.Quote(name) })
}

type selector struct {
	name string // "package.Name"
	pos  token.Pos
}

func selectors(f *file) []selector {
	var out []selector
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if p, ok := s.X.(*ast.Ident); ok && p.Obj == nil {
				out = append(out, selector{p.Name + "." + s.Sel.Name, s.Pos()})
			}
		}
		return true
	})
	return out
}

func lintWords(t *testing.T, files []*file) {
	for _, f := range files {
		if f.generated || f.path == "lint_test.go" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			var name *ast.Ident
			switch x := n.(type) {
			case *ast.BasicLit:
				if x.Kind == token.STRING && !f.test && strings.Contains(strings.ToLower(x.Value), "failed to") {
					t.Errorf(`%s: %s: "failed to" chains say nothing; write "<verb> <object> <id>: <cause>"`, f.at(x.Pos()), x.Value)
				}
			case *ast.FuncDecl:
				name = x.Name
			case *ast.TypeSpec:
				name = x.Name
			}
			for bad, instead := range badWords {
				if name != nil && (strings.Contains(name.Name, bad) || strings.HasPrefix(name.Name, strings.ToLower(bad))) {
					t.Errorf("%s: %s: %q is not a word of this project: %s", f.at(name.Pos()), name.Name, bad, instead)
				}
			}
			return true
		})
	}
}

func lintPure(t *testing.T, files []*file) {
	const instead = "a heart gives the same result on every copy and at every replay (laws 8, 11); let the proposer choose the value and put it into the command"
	for _, f := range files {
		if f.test || f.generated || !slices.Contains(pure, f.dir) {
			continue
		}
		for _, i := range f.ast.Imports {
			if p, _ := strconv.Unquote(i.Path.Value); slices.Contains(impureImports, p) {
				t.Errorf("%s: %s imports %s: %s", f.at(i.Pos()), f.dir, p, instead)
			}
		}
		for _, s := range selectors(f) {
			if slices.Contains(impureCalls, s.name) {
				t.Errorf("%s: %s uses %s: %s", f.at(s.pos), f.dir, s.name, instead)
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok {
				t.Errorf("%s: %s starts a goroutine: %s", f.at(g.Pos()), f.dir, instead)
			}
			return true
		})
	}
}
