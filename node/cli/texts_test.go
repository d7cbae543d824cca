package cli

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"mailnode/storage/slot"
)

// unknown stands for a part of a text that is not constant.
const unknown = "X"

// prose are words behind "mailnode" that are no verbs.
func prose() []string {
	return []string{"command", "does", "is", "node", "reads", "running"}
}

// TestEveryCommandInATextExists: what an operator is told to type, in a text of the
// program or in its documents, is a verb with those flags and not more arguments.
func TestEveryCommandInATextExists(t *testing.T) {
	root := (&app{}).root()
	seen := 0
	check := func(where, text string) {
		for _, line := range commands(text) {
			seen++
			if wrong := wrongCall(root, line); wrong != "" {
				t.Errorf("%s: %q: %s", where, "mailnode "+strings.Join(line, " "), wrong)
			}
		}
	}
	top := filepath.Join("..", "..")
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && d.Name() != ".."):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".md"), strings.HasSuffix(path, ".service"):
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, code := range codeOf(string(text)) {
				check(path, code)
			}
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") && !strings.HasSuffix(path, ".pb.go"):
			texts, err := textsOf(path)
			if err != nil {
				return err
			}
			for _, text := range texts {
				check(path, text)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 150 {
		t.Errorf("only %d commands were looked at", seen)
	}
}

// commands finds what stands behind "mailnode", word by word, up to where the
// command ends.
func commands(text string) [][]string {
	var out [][]string
	for _, m := range regexp.MustCompile("(?:^|[^-/.\\w])mailnode ((?:[a-z][a-z-]*)[^\\n`;|#)(,<>\\\\]*)").FindAllStringSubmatch(text, -1) {
		words := strings.Fields(m[1])
		if at := slices.IndexFunc(words, func(w string) bool {
			return strings.HasSuffix(w, ":") || strings.HasSuffix(w, "?") || strings.HasSuffix(w, ".") && w != "."
		}); at >= 0 {
			words[at] = strings.TrimRight(words[at], ":.?")
			words = words[:at+1]
		}
		if slices.Contains(prose(), words[0]) {
			continue
		}
		out = append(out, words)
	}
	return out
}

// wrongCall says what is wrong with a call, "" when it can be typed.
func wrongCall(root *cobra.Command, words []string) string {
	c := root
	for len(words) > 0 {
		i := slices.IndexFunc(c.Commands(), func(v *cobra.Command) bool { return v.Name() == words[0] || v.HasAlias(words[0]) })
		if i < 0 {
			break
		}
		c, words = c.Commands()[i], words[1:]
	}
	if c.Name() == "failover" && len(words) == 2 {
		if _, err := slot.ParseID(words[0]); err == nil { // SLOT NODE
			return ""
		}
	}
	if c == root || c.HasSubCommands() && len(words) > 0 && !strings.HasPrefix(words[0], "-") && words[0] != unknown && words[0] != "%s" {
		return "there is no such verb"
	}
	var args []string
	for i := 0; i < len(words); i++ {
		word := strings.Trim(words[i], "'\"[]")
		switch {
		case !strings.HasPrefix(word, "--"):
			args = append(args, word)
			continue
		}
		name, _, given := strings.Cut(strings.TrimPrefix(word, "--"), "=")
		f := c.Flags().Lookup(name)
		if f == nil {
			f = c.InheritedFlags().Lookup(name)
		}
		switch {
		case f == nil:
			return "it has no flag --" + name
		case f.Value.Type() != "bool" && !given:
			i++ // its value
		}
	}
	if most := len(strings.Fields(c.Use)) - 1; !c.HasSubCommands() && len(args) > most && !isSentence(args[most:]) {
		return "it takes fewer arguments"
	}
	return ""
}

// isSentence reports whether words that follow a command go on with the sentence.
func isSentence(words []string) bool {
	return slices.Contains([]string{"on", "again", "prints", "shows", "shows,", "makes", "joins", "there", "said", "to", "runs", "and", "does", "in", "at", "is", "with", "will"}, words[0])
}

// codeOf is what a document shows as code: fenced lines that are commands, and
// what stands between backquotes.
func codeOf(text string) []string {
	var out []string
	fenced := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
		case fenced:
			out = append(out, strings.TrimPrefix(line, "$ "))
		default:
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(line, -1) {
				out = append(out, m[1])
			}
		}
	}
	return out
}

// textsOf are the string constants of a Go file; of a sum the parts are joined, with
// a word for what is not constant.
func textsOf(path string) ([]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		return nil, err
	}
	var out []string
	var text func(e ast.Expr) string
	text = func(e ast.Expr) string {
		switch e := e.(type) {
		case *ast.BasicLit:
			if e.Kind == token.STRING {
				s, err := strconv.Unquote(e.Value)
				if err == nil {
					return s
				}
			}
		case *ast.BinaryExpr:
			if e.Op == token.ADD {
				return text(e.X) + text(e.Y)
			}
		}
		return unknown
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if e, ok := n.(ast.Expr); ok {
			switch e.(type) {
			case *ast.BinaryExpr, *ast.BasicLit:
				out = append(out, text(e))
				return false
			}
		}
		return true
	})
	return out, nil
}
