package imapd

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"mailnode/imapd/wire"
	"mailnode/storage"
)

// cost is what a search key must read of a message; cheaper ones are tried first.
type cost int

const (
	costNothing cost = iota // its numbers
	costRecord
	costSummary
	costBody
)

// searchKey is one search key, ready to match.
type searchKey struct {
	cost  cost
	match func(m *candidate) (bool, error)
}

const (
	maxSearchDepth = 50 // of NOT, OR and parentheses
	maxSearchKeys  = 1000
)

// searchParser parses search keys (RFC 3501, section 6.4.4).
type searchParser struct {
	cmd  *command
	view *view
	keys int
	// scope is the first set on the highest level: only these are looked at.
	scope  []span
	scoped bool
	failed error // a set that is wrong for this view
}

// all parses keys joined by "and".
func (p *searchParser) all(depth int) searchKey {
	var keys []searchKey
	for {
		keys = append(keys, p.key(depth))
		if p.cmd.Err() != nil || p.cmd.Peek() == ')' || p.cmd.AtEnd() {
			break
		}
		p.cmd.SP()
	}
	if len(keys) == 1 {
		return keys[0]
	}
	slices.SortStableFunc(keys, func(a, b searchKey) int { return int(a.cost - b.cost) })
	return searchKey{keys[len(keys)-1].cost, func(m *candidate) (bool, error) {
		for i := range keys {
			if ok, err := keys[i].match(m); !ok || err != nil {
				return false, err
			}
		}
		return true, nil
	}}
}

func everything(*candidate) (bool, error) { return true, nil }

func (p *searchParser) key(depth int) searchKey {
	if p.keys++; p.keys > maxSearchKeys || depth > maxSearchDepth {
		p.cmd.Fail("fewer or less nested search keys")
		return searchKey{match: everything}
	}
	switch c := p.cmd.Peek(); {
	case c == '(':
		p.cmd.Expect('(')
		k := p.all(depth + 1)
		p.cmd.Expect(')')
		return k
	case c == '*' || c >= '0' && c <= '9':
		return p.set(false, depth)
	}
	switch name := p.cmd.Keyword(); name {
	case "ALL":
		return searchKey{match: everything}
	case "UID":
		p.cmd.SP()
		return p.set(true, depth)
	case "NOT":
		p.cmd.SP()
		k := p.key(depth + 1)
		return searchKey{k.cost, func(m *candidate) (bool, error) {
			ok, err := k.match(m)
			return !ok && err == nil, err
		}}
	case "OR":
		return p.or(depth)
	default:
		if k, ok := p.flagKey(name); ok {
			return k
		}
		if k, ok := p.dateOrSizeKey(name); ok {
			return k
		}
		return p.textKey(name)
	}
}

func (p *searchParser) or(depth int) searchKey {
	p.cmd.SP()
	a := p.key(depth + 1)
	p.cmd.SP()
	b := p.key(depth + 1)
	if a.cost > b.cost {
		a, b = b, a
	}
	return searchKey{b.cost, func(m *candidate) (bool, error) {
		if ok, err := a.match(m); ok || err != nil {
			return ok, err
		}
		return b.match(m)
	}}
}

// set parses a set of sequence numbers or UIDs.
func (p *searchParser) set(isUID bool, depth int) searchKey {
	set := p.cmd.Set()
	if p.cmd.Err() != nil {
		return searchKey{match: everything}
	}
	spans, err := p.view.spans(set, isUID)
	if err != nil {
		p.failed = err
	}
	if depth == 0 && !p.scoped {
		p.scope, p.scoped = spans, true
		return searchKey{match: everything}
	}
	resolved := make(wire.Set, len(spans))
	for i, s := range spans {
		resolved[i] = wire.Range{Lo: uint32(s.lo), Hi: uint32(s.hi - 1)}
	}
	return searchKey{costNothing, func(m *candidate) (bool, error) { return resolved.Contains(uint32(m.index)), nil }}
}

func (p *searchParser) flagKey(name string) (searchKey, bool) {
	record := func(match func(f *storage.Flags) bool) (searchKey, bool) {
		return searchKey{costRecord, func(m *candidate) (bool, error) { return match(&m.Flags), nil }}, true
	}
	switch name {
	case "KEYWORD", "UNKEYWORD":
		p.cmd.SP()
		k := p.cmd.Flag()
		want := name == "KEYWORD"
		return record(func(f *storage.Flags) bool { return f.HasKeyword(k) == want })
	case "RECENT", "NEW": // nothing is \Recent (view.go)
		return searchKey{match: func(*candidate) (bool, error) { return false, nil }}, true
	case "OLD":
		return searchKey{match: everything}, true
	}
	plain, without := strings.CutPrefix(name, "UN")
	for _, s := range systemFlags {
		if plain == strings.ToUpper(s.name[1:]) {
			return record(func(f *storage.Flags) bool { return f.Has(s.flag) != without })
		}
	}
	return searchKey{}, false
}

func (p *searchParser) dateOrSizeKey(name string) (searchKey, bool) {
	switch name {
	case "LARGER", "SMALLER":
		p.cmd.SP()
		n := p.cmd.Number64()
		larger := name == "LARGER"
		return searchKey{costRecord, func(m *candidate) (bool, error) {
			return larger && m.Size > n || !larger && m.Size < n, nil
		}}, true
	case "BEFORE", "ON", "SINCE", "SENTBEFORE", "SENTON", "SENTSINCE":
		p.cmd.SP()
		want := p.cmd.Date()
		relation, sent := strings.CutPrefix(name, "SENT")
		if sent {
			return searchKey{costSummary, func(m *candidate) (bool, error) {
				t, ok, err := m.sent()
				return ok && dateIs(relation, t, want), err
			}}, true
		}
		return searchKey{costRecord, func(m *candidate) (bool, error) { return dateIs(relation, m.InternalDate, want), nil }}, true
	}
	return searchKey{}, false
}

// dateIs compares days, disregarding time and time zone (RFC 3501, section 6.4.4).
func dateIs(relation string, t, want time.Time) bool {
	y, mo, d := t.Date()
	c := time.Date(y, mo, d, 0, 0, 0, 0, time.UTC).Compare(want)
	switch relation {
	case "BEFORE":
		return c < 0
	case "ON":
		return c == 0
	}
	return c >= 0
}

func (p *searchParser) textKey(name string) searchKey {
	field := ""
	switch name {
	case "FROM", "TO", "CC", "BCC", "SUBJECT":
		field = name
	case "HEADER":
		p.cmd.SP()
		field = p.cmd.AString()
	case "BODY", "TEXT":
	default:
		p.cmd.Fail("a search key, not %s", name)
	}
	p.cmd.SP()
	needle := p.cmd.AString()
	if !utf8.ValidString(needle) {
		p.cmd.Fail("text in UTF-8")
	}
	needle = strings.ToLower(needle)
	switch {
	case field != "":
		return searchKey{fieldCost(field), func(m *candidate) (bool, error) { return m.fieldHas(field, needle) }}
	case name == "TEXT":
		return searchKey{costBody, func(m *candidate) (bool, error) {
			if ok, err := m.headerHas(needle); ok || err != nil {
				return ok, err
			}
			return m.bodyHas(needle)
		}}
	}
	return searchKey{costBody, func(m *candidate) (bool, error) { return m.bodyHas(needle) }}
}
