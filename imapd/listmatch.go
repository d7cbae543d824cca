package imapd

import (
	"strings"

	"mailnode/storage"
)

// maxListBytes bounds the patterns of one LIST together, in bytes, the reference
// before each and neighbouring wildcards as one: the memory of a matcher, and
// what one name costs.
const maxListBytes = 8 << 10

// matcher matches names with all patterns of one LIST at once (RFC 3501, section
// 6.3.8). It is a nondeterministic automaton with one bit for each byte and
// wildcard of the patterns: a bit is set while all before it is matched. A name
// costs its length times the words of bits, whatever the wildcards are.
type matcher struct {
	row      [256]int // of a byte: its words in literals, from here
	literals []uint64 // by row: where the patterns have that byte; row 0 is of those they have not
	any      []uint64 // where they have '*'
	level    []uint64 // where they have '%'
	begins   []uint64 // their first places
	ends     []uint64 // the places behind their last
	now      []uint64 // what is set: Match's own
}

// newMatcher compiles patterns. The reference is put before each; a pattern that
// begins with the separator stands alone.
func newMatcher(reference string, patterns []string) (*matcher, error) {
	reference = collapse(reference)
	var joined []string
	bits := 0
	for _, p := range patterns {
		if rest, alone := strings.CutPrefix(p, "/"); alone {
			p = collapse(rest)
		} else {
			p = collapse(reference + collapse(p))
		}
		if len(p)-strings.Count(p, "*")-strings.Count(p, "%") > storage.MaxMailboxNameBytes {
			continue // no name is so long
		}
		if bits += len(p) + 1; bits > maxListBytes {
			return nil, no("LIMIT", "the patterns are too long together")
		}
		joined = append(joined, p)
	}
	words := (bits + 63) / 64
	m := &matcher{literals: make([]uint64, words)}
	for _, set := range []*[]uint64{&m.any, &m.level, &m.begins, &m.ends, &m.now} {
		*set = make([]uint64, words)
	}
	at := 0
	for _, p := range joined {
		m.begins[at/64] |= 1 << (at % 64)
		for i := range len(p) {
			set := m.any
			switch p[i] {
			case '*':
			case '%':
				set = m.level
			default:
				set = m.literal(p[i])
			}
			set[at/64] |= 1 << (at % 64)
			at++
		}
		m.ends[at/64] |= 1 << (at % 64)
		at++
	}
	return m, nil
}

// literal returns a byte's row, and makes it if need be.
func (m *matcher) literal(c byte) []uint64 {
	words := len(m.now)
	if m.row[c] == 0 {
		m.row[c] = len(m.literals)
		m.literals = append(m.literals, make([]uint64, words)...)
	}
	return m.literals[m.row[c]:][:words]
}

// collapse makes one of neighbouring wildcards: '*' if there is one among them.
func collapse(pattern string) string {
	out := make([]byte, 0, len(pattern))
	for i := range len(pattern) {
		c := pattern[i]
		if n := len(out); n > 0 && (c == '*' || c == '%') && (out[n-1] == '*' || out[n-1] == '%') {
			if c == '*' {
				out[n-1] = '*'
			}
			continue
		}
		out = append(out, c)
	}
	return string(out)
}

const inbox = "INBOX"

// match reports whether one of the patterns matches a name. INBOX as a first
// level is the same in any case (RFC 3501, section 5.1).
func (m *matcher) match(name string) bool {
	if len(m.now) == 0 {
		return false
	}
	folded := 0
	if name == inbox || strings.HasPrefix(name, inbox+"/") {
		folded = len(inbox)
	}
	copy(m.now, m.begins)
	m.skipWildcards()
	for i := range len(name) {
		c := name[i]
		row, second := m.row[c], 0
		if i < folded {
			second = m.row[c|0x20]
		}
		if !m.step(row, second, c == storage.Separator) {
			return false
		}
	}
	for w, set := range m.now {
		if set&m.ends[w] != 0 {
			return true
		}
	}
	return false
}

// skipWildcards lets wildcards match nothing. No two are neighbours.
func (m *matcher) skipWildcards() {
	var carry uint64
	for w, set := range m.now {
		skip := set & (m.any[w] | m.level[w])
		m.now[w] = set | skip<<1 | carry
		carry = skip >> 63
	}
}

// step reads a byte, and reports whether anything can still match.
func (m *matcher) step(row, second int, separator bool) bool {
	var alive, moved, skipped uint64
	for w, set := range m.now {
		if set|moved|skipped == 0 {
			continue
		}
		stay := m.any[w]
		if !separator {
			stay |= m.level[w]
		}
		move := set & (m.literals[row+w] | m.literals[second+w])
		next := move<<1 | moved | set&stay
		skip := next & (m.any[w] | m.level[w])
		m.now[w] = next | skip<<1 | skipped
		moved, skipped = move>>63, skip>>63
		alive |= m.now[w]
	}
	return alive != 0
}
