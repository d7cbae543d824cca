package main

import (
	"fmt"
	"go/ast"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// contract is what may be cited: the laws, paragraphs and rows of docs/LAWS.md,
// the habits of docs/STYLE.md, and the tests of each folder.
type contract struct {
	laws, sections, rows, habits map[string]bool
	tests                        map[string]map[string]bool // folder, name
	parts                        map[string]bool            // names of subtests
}

// gap is what may stand between the words of a citation, the end of a line of
// comment included.
const gap = `(?:[ \t]|\n[ \t]*(?://)?[ \t]*)+`

// list is the tail of "1, 2 and 3".
const list = `((?:,` + gap + `\d+)*(?:,?` + gap + `(?:and|or|to)` + gap + `\d+)?)`

var (
	lawCited     = regexp.MustCompile(`\b[Ll]aws?` + gap + `(\d+)` + list)
	lawInName    = regexp.MustCompile(`Law(\d\d)`)
	sectionCited = regexp.MustCompile(`\bLAWS` + gap + `§(\d+(?:\.\d+)?)`)
	rowCited     = regexp.MustCompile(`\bLAWS` + gap + `rows?` + gap + `(\d+)` + list)
	habitCited   = regexp.MustCompile(`\bSTYLE` + gap + `habits?` + gap + `(\d+)` + list)
	anyCited     = regexp.MustCompile(`\b(LAWS|STYLE)\b(\.md|` + gap + `(?:§|rows?` + gap + `\d|habits?` + gap + `\d))?`)
	notHere      = regexp.MustCompile(`\b(?:DESIGN|FAULTS)\b`)
	bareSection  = regexp.MustCompile(`§(\d+(?:\.\d+)?)`)
	bareRow      = regexp.MustCompile(`\brows? (\d+)` + list)
	number       = regexp.MustCompile(`\d+`)
	quoted       = regexp.MustCompile("`([^`\n]+)`|;|\\||\\. |\n")
	testName     = regexp.MustCompile(`^((?:Test|Fuzz)[A-Z]\w*)(…?)(?:/(\w+))?$`)
	matrixRow    = regexp.MustCompile(`(?m)^\| (\d+) \|.*\| (.*) \|$`)
)

// lintCitations wants whatever code and documents cite to be in the repository.
func lintCitations(t *testing.T, files []*file) {
	c := readContract(t, files)
	for _, p := range texts(t) {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range c.wrong(p, string(b)) {
			t.Error(s)
		}
	}
	for _, s := range c.wrongMatrix(read(t, "docs/LAWS.md")) {
		t.Error(s)
	}
}

// texts lists what may cite: all but the check itself, whose samples are wrong.
func texts(t *testing.T) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == "testdata" || d.Name() == "bin" || len(p) > 1 && strings.HasPrefix(d.Name(), ".") {
				return filepath.SkipDir
			}
			return nil
		}
		p = filepath.ToSlash(p)
		known := slices.Contains([]string{".go", ".md", ".proto", ".sh", ".service"}, path.Ext(p)) || p == "Makefile"
		if known && !strings.HasSuffix(p, ".pb.go") && p != "lint_citations_test.go" {
			out = append(out, p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func read(t *testing.T, p string) string {
	t.Helper()
	b, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func readContract(t *testing.T, files []*file) contract {
	t.Helper()
	c := parseContract(read(t, "docs/LAWS.md"), read(t, "docs/STYLE.md"))
	for _, f := range files {
		if c.tests[f.dir] == nil {
			c.tests[f.dir] = map[string]bool{}
		}
		if !f.test {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				c.tests[f.dir][fn.Name.Name] = true
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && len(call.Args) == 2 {
				fn, isSel := call.Fun.(*ast.SelectorExpr)
				name, isLit := call.Args[0].(*ast.BasicLit)
				if isSel && isLit && fn.Sel.Name == "Run" {
					s, _ := strconv.Unquote(name.Value)
					c.parts[s] = true
				}
			}
			return true
		})
	}
	return c
}

// parseContract finds what can be cited in the two documents.
func parseContract(laws, style string) contract {
	c := contract{laws: map[string]bool{}, sections: map[string]bool{}, rows: map[string]bool{}, habits: map[string]bool{},
		tests: map[string]map[string]bool{}, parts: map[string]bool{}}
	each := func(text, pattern string, into map[string]bool) {
		for _, m := range regexp.MustCompile(`(?m)`+pattern).FindAllStringSubmatch(text, -1) {
			into[m[1]] = true
		}
	}
	each(laws, `^(\d+)\. \*\*`, c.laws)
	each(laws, `^## (\d+)\. `, c.sections)
	each(laws, `^\*\*(\d+\.\d+)\*\* `, c.sections)
	each(laws, `^\| (\d+) \|`, c.rows)
	each(style, `^(\d+)\. \*\*`, c.habits)
	return c
}

// wrong lists the citations of a text that lead nowhere.
func (c contract) wrong(p, text string) []string {
	var out []string
	say := func(at int, format string, args ...any) {
		out = append(out, fmt.Sprintf("%s:%d: %s", p, 1+strings.Count(text[:at], "\n"), fmt.Sprintf(format, args...)))
	}
	numbers := func(re *regexp.Regexp, what string, known map[string]bool) {
		for _, m := range re.FindAllStringSubmatchIndex(text, -1) {
			for i := 2; i < len(m); i += 2 {
				for _, n := range numbersIn(re, text[m[i]:m[i+1]]) {
					if !known[n] {
						say(m[0], "there is no %s %s", what, n)
					}
				}
			}
		}
	}
	numbers(lawCited, "law", c.laws)
	numbers(lawInName, "law", c.laws)
	numbers(sectionCited, "LAWS §", c.sections)
	numbers(rowCited, "LAWS row", c.rows)
	numbers(habitCited, "STYLE habit", c.habits)
	if p == "docs/LAWS.md" {
		numbers(bareSection, "§", c.sections)
		numbers(bareRow, "row", c.rows)
	}
	for _, m := range anyCited.FindAllStringSubmatchIndex(text, -1) {
		if m[4] < 0 {
			say(m[0], `%s is cited in no known form: write "law 4", "LAWS §4.6", "LAWS row 7" or "STYLE habit 2"`, text[m[2]:m[3]])
		}
	}
	for _, m := range notHere.FindAllStringIndex(text, -1) {
		say(m[0], "%s is not in this repository: cite docs/LAWS.md", text[m[0]:m[1]])
	}
	if path.Ext(p) == ".md" {
		c.wrongTests(text, say)
	}
	return out
}

// numbersIn splits a list; a section and the number in a test's name are one.
func numbersIn(re *regexp.Regexp, s string) []string {
	switch re {
	case sectionCited, bareSection:
		return []string{s}
	case lawInName:
		return []string{strings.TrimPrefix(s, "0")}
	}
	return number.FindAllString(s, -1)
}

// wrongTests looks for the tests that a document names. A package before them, in
// the same clause, says where they are.
func (c contract) wrongTests(text string, say func(at int, format string, args ...any)) {
	dir := ""
	for _, m := range quoted.FindAllStringSubmatchIndex(text, -1) {
		if m[2] < 0 {
			if text[m[0]:m[1]] != "\n" { // a clause may go on in the next line
				dir = ""
			}
			continue
		}
		token := text[m[2]:m[3]]
		if c.tests[token] != nil {
			dir = token
			continue
		}
		name := testName.FindStringSubmatch(token)
		if name == nil {
			continue
		}
		switch {
		case !c.hasTest(dir, name[1], name[2] != ""):
			say(m[0], "there is no test %s %s", token, dir)
		case name[3] != "" && !c.parts[name[3]]:
			say(m[0], "%s has no part %s", name[1], name[3])
		}
	}
}

// hasTest looks in one folder, or in all when none was named.
func (c contract) hasTest(dir, name string, prefix bool) bool {
	for d, tests := range c.tests {
		if dir != "" && d != dir {
			continue
		}
		if tests[name] && !prefix {
			return true
		}
		for have := range tests {
			if prefix && strings.HasPrefix(have, name) {
				return true
			}
		}
	}
	return false
}

// wrongMatrix wants each fault to name its tests, or to say that it has none.
func (c contract) wrongMatrix(text string) []string {
	var out []string
	for i, m := range matrixRow.FindAllStringSubmatch(text, -1) {
		row, by := m[1], m[2]
		names := strings.Contains(by, "`Test") || strings.Contains(by, "`Fuzz") || strings.Contains(by, "the simulation")
		left := strings.Contains(by, "Not proved yet") || strings.Contains(by, "There is no")
		switch {
		case row != strconv.Itoa(i+1):
			out = append(out, fmt.Sprintf("row %s of the matrix is at place %d", row, i+1))
		case strings.HasPrefix(by, "proved") && names, strings.HasPrefix(by, "in part: ") && names && left, strings.HasPrefix(by, "not proved yet"):
		default:
			out = append(out, fmt.Sprintf("row %s of the matrix says neither which test proves it nor what is not proved yet: %s", row, by))
		}
	}
	return out
}

// TestLintCitationsFinds tries the check on citations that lead nowhere, and on
// those that lead somewhere.
func TestLintCitationsFinds(t *testing.T) {
	c := parseContract("## 2. Laws\n1. **One.**\n2. **Two.**\n## 4. Disk\n**4.1** Text.\n| 1 | a | b | not proved yet |\n", "1. **Pure.**\n")
	c.tests = map[string]map[string]bool{".": {"TestSystem": true}, "storage": {"TestLaw01Kept": true}, "node": {}}
	c.parts["Kill"] = true
	for _, tt := range []struct{ path, text, want string }{
		{"a.go", "// law 1, laws 1 and 2, law 1 or\n// 2; LAWS §4.1, LAWS §2, LAWS row 1, STYLE habit 1, docs/LAWS.md", ""},
		{"a.go", "// Law 3 holds", "a.go:1: there is no law 3"},
		{"a.go", "x\n// as (law\n\t// 13) says", "a.go:2: there is no law 13"},
		{"a.go", "// laws 1, 2 and 5", "no law 5"},
		{"a.go", "func TestLaw03Kept(t *testing.T)", "no law 3"},
		{"a.go", "// LAWS §4.2", "no LAWS § 4.2"},
		{"a.go", "// LAWS §9", "no LAWS § 9"},
		{"a.go", "// LAWS row 2", "no LAWS row 2"},
		{"a.go", "// STYLE habit 2", "no STYLE habit 2"},
		{"a.go", "// LAWS section 4", "no known form"},
		{"a.go", "// STYLE: plan", "no known form"},
		{"a.go", "// DESIGN §4", "not in this repository"},
		{"a.go", "// FAULTS row 1", "not in this repository"},
		{"a.md", "`storage` `TestLaw01Kept`; `TestSystem/Kill`, `TestLaw01…`, `.` `TestSystem`", ""},
		{"a.md", "`TestLaw02Kept`", "no test TestLaw02Kept"},
		{"a.md", "`node` `TestLaw01Kept`", "no test TestLaw01Kept node"},
		{"a.md", "`TestLaw01`", "no test TestLaw01"},
		{"a.md", "`TestLaw02…`", "no test TestLaw02…"},
		{"a.md", "`TestSystem/Die`", "no part Die"},
		{"docs/LAWS.md", "as row 2 (§4.2)", "no row 2"},
		{"docs/LAWS.md", "as row 1 (§4.2)", "no § 4.2"},
	} {
		got := strings.Join(c.wrong(tt.path, tt.text), "\n")
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%q: %q, want %q", tt.text, got, tt.want)
		}
	}
	for by, ok := range map[string]bool{
		"proved: `TestX`": true, "in part: `TestX`. Not proved yet: y": true, "not proved yet": true,
		"proved": false, "in part: `TestX`": false, "in part: Not proved yet": false, "": false, "`TestX`": false,
	} {
		if got := c.wrongMatrix("| 1 | a | b | " + by + " |"); (len(got) == 0) != ok {
			t.Errorf("matrix %q: %q", by, got)
		}
	}
	if got := c.wrongMatrix("| 2 | a | b | not proved yet |"); len(got) != 1 {
		t.Errorf("a row is missing: %q", got)
	}
}
