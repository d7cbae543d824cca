package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// syntaxErrorsMax bounds how many broken lines of one file are reported.
const syntaxErrorsMax = 20

// shownMax bounds how much of a wrong value is repeated, in bytes.
const shownMax = 60

// decode reads the text as TOML. The parser stops at its first error; so that
// one run of `config check` shows them all, each broken line is reported, made
// empty, and the rest is read again.
func (r *reader) decode(text string) (map[string]any, []toml.Key) {
	lines := strings.Split(text, "\n")
	for range syntaxErrorsMax {
		var values map[string]any
		meta, err := toml.Decode(strings.Join(lines, "\n"), &values)
		if err == nil {
			return values, meta.Keys()
		}
		var at toml.ParseError
		if !errors.As(err, &at) {
			r.complain(0, "%v", err)
			return nil, nil
		}
		line := max(1, min(at.Position.Line, len(lines)))
		for line > 1 && strings.TrimSpace(lines[line-1]) == "" {
			line-- // the parser noticed at a line end what began above
		}
		if strings.Contains(at.Message, "already been defined") {
			r.complain(line, "%s is written twice: keep one of the lines", strings.TrimSpace(strings.SplitN(lines[line-1], "=", 2)[0]))
		} else {
			r.complain(line, "not TOML: %s: write one `setting = value` per line, text in quotes", strings.TrimSuffix(at.Message, "."))
		}
		if strings.TrimSpace(lines[line-1]) == "" {
			return nil, nil
		}
		lines[line-1] = ""
	}
	return nil, nil
}

// keyLines finds the line of each key. Keys come in the order of the file, so
// a walk down the lines meets each at the first line that begins with it.
func keyLines(text string, keys []toml.Key) map[string]int {
	found := make(map[string]int)
	lines := strings.Split(text, "\n")
	next := 0
	for _, key := range keys {
		if _, ok := found[key[0]]; ok {
			continue
		}
		for i := next; i < len(lines); i++ {
			if beginsWith(lines[i], key[0]) {
				found[key[0]], next = i+1, i+1
				break
			}
		}
	}
	return found
}

// beginsWith reports whether a line defines a key or a table of that name.
func beginsWith(line, key string) bool {
	line = strings.TrimLeft(strings.TrimSpace(line), "[ \t")
	for _, written := range []string{key, strconv.Quote(key), "'" + key + "'"} {
		if rest, ok := strings.CutPrefix(line, written); ok {
			rest = strings.TrimSpace(rest)
			return rest != "" && strings.ContainsRune("=.]", rune(rest[0]))
		}
	}
	return false
}

// shown returns a value as its file has it, shortened.
func shown(v any) string {
	s := fmt.Sprint(v)
	switch v := v.(type) {
	case string:
		s = strconv.Quote(v)
	case []any:
		parts := make([]string, len(v))
		for i, item := range v {
			parts[i] = shown(item)
		}
		s = "[" + strings.Join(parts, ", ") + "]"
	}
	if len(s) > shownMax {
		s = strings.ToValidUTF8(s[:shownMax], "") + "…"
	}
	return s
}

// isBlock reports whether a value is a TOML table or a list of tables.
func isBlock(v any) bool {
	switch v.(type) {
	case map[string]any, []map[string]any:
		return true
	}
	return false
}

// nearest suggests the setting that an unknown name was probably meant to be.
func (r *reader) nearest(name string) string {
	best, bestDistance := "", len(name)/2+1
	for _, s := range r.table {
		if d := distance(strings.ToLower(name), s.name); d < bestDistance {
			best, bestDistance = s.name, d
		}
	}
	if best == "" {
		return ": `mailnode config example` lists them all"
	}
	return fmt.Sprintf(": did you mean %q?", best)
}

// distance counts the single-byte insertions, deletions and replacements that
// make b out of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
