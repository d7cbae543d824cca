package imapd

import (
	"strings"
	"time"
	"unicode/utf8"

	"mailnode/imapd/match"
	"mailnode/imapd/wire"
	"mailnode/storage"
	"mailnode/storage/mime"
)

// searchWordsBytesMax bounds the texts of one SEARCH as they are compared. A command of 64 KiB goes beyond it only with
// characters that become many when they are taken apart.
const searchWordsBytesMax = 256 << 10

// searchParser parses search keys (RFC 3501, section 6.4.4).
type searchParser struct {
	cmd     *command
	view    *view
	charset string
	sources sources
	keys    searchKeys
	open    []openGroup
	members [][]int // of the groups that are not closed, as indices of keys
	// scope is the first set on the highest level: only these are looked at.
	scope  []span
	scoped bool
	failed error // what is wrong with a key other than its syntax
}

// openGroup is a NOT, an OR or a list whose end has not come. The list that is the whole command is the first.
type openGroup struct {
	not, either bool
	missing     int  // keys that must come, of NOT and OR
	shares      bool // an OR in an OR, or a list in a list: its members are the outer group's
}

// parse reads all keys up to the end of the command.
func (p *searchParser) parse() {
	p.push(openGroup{})
	for len(p.open) > 0 && p.cmd.Err() == nil {
		p.key()
	}
}

// push begins a group.
func (p *searchParser) push(g openGroup) {
	if n := len(p.open); n > 0 {
		outer := p.open[n-1]
		g.shares = !g.not && !outer.not && g.either == outer.either
	}
	p.open = append(p.open, g)
	if !g.not && !g.shares {
		p.members = append(p.members, nil)
	}
}

// key reads one key, or the beginning of a group.
func (p *searchParser) key() {
	switch c := p.cmd.Peek(); {
	case c == '(':
		p.cmd.Expect('(')
		p.push(openGroup{})
		return
	case c == '*' || c >= '0' && c <= '9':
		p.complete(p.set(false))
		return
	}
	switch name := p.cmd.Keyword(); name {
	case "NOT":
		p.cmd.SP()
		p.push(openGroup{not: true, missing: 1})
	case "OR":
		p.cmd.SP()
		p.push(openGroup{either: true, missing: 2})
	case "UID":
		p.cmd.SP()
		p.complete(p.set(true))
	default:
		p.complete(p.simpleKey(name))
	}
}

// complete takes a key into the innermost group, and closes the groups that are complete with it.
func (p *searchParser) complete(k searchKey) {
	p.keys = append(p.keys, k)
	at, isNew := len(p.keys)-1, true // isNew: key at belongs to no group yet
	for p.cmd.Err() == nil {
		g := &p.open[len(p.open)-1]
		if isNew && !g.not {
			n := len(p.members) - 1
			p.members[n] = append(p.members[n], at)
		}
		switch {
		case g.not:
			p.keys[at].negated = !p.keys[at].negated
		case g.either:
			if g.missing--; g.missing > 0 {
				p.cmd.SP()
				return
			}
		case len(p.open) == 1:
			if !p.cmd.AtEnd() {
				p.cmd.SP()
			}
			if !p.cmd.AtEnd() {
				return
			}
		case !p.cmd.Try(')'):
			p.cmd.SP()
			return
		}
		closed := *g
		p.open = p.open[:len(p.open)-1]
		switch {
		case closed.not: // the key goes on
		case closed.shares:
			isNew = false
		default:
			at, isNew = p.group(closed.either), true
		}
		if len(p.open) == 0 {
			return
		}
	}
}

// group makes a key of the innermost group's members. One alone needs no group.
func (p *searchParser) group(either bool) int {
	last := len(p.members) - 1
	members := p.members[last]
	p.members = p.members[:last]
	if len(members) == 1 {
		return members[0]
	}
	at := len(p.keys)
	for _, i := range members {
		p.keys[i].parent = at
	}
	p.keys = append(p.keys, searchKey{either: either})
	return at
}

func everything(*candidate) truth { return isTrue }

func nothing(*candidate) truth { return isFalse }

// set parses a set of sequence numbers or UIDs.
func (p *searchParser) set(isUID bool) searchKey {
	set := p.cmd.Set()
	if p.cmd.Err() != nil {
		return searchKey{match: everything}
	}
	spans, err := p.view.spans(set, isUID)
	if err != nil && p.failed == nil {
		p.failed = err
	}
	if innermost := p.open[len(p.open)-1]; len(p.members) == 1 && !innermost.not && !p.scoped {
		p.scope, p.scoped = spans, true
		return searchKey{match: everything}
	}
	resolved := make(wire.Set, len(spans))
	for i, s := range spans {
		resolved[i] = wire.Range{Lo: uint32(s.lo), Hi: uint32(s.hi - 1)}
	}
	return searchKey{match: func(m *candidate) truth { return truthOf(resolved.Contains(uint32(m.index))) }}
}

func (p *searchParser) simpleKey(name string) searchKey {
	if k, ok := p.flagKey(name); ok {
		return k
	}
	if k, ok := p.dateOrSizeKey(name); ok {
		return k
	}
	return p.textKey(name)
}

func (p *searchParser) flagKey(name string) (searchKey, bool) {
	record := func(is func(f *storage.Flags) bool) (searchKey, bool) {
		return searchKey{needs: readRecord, match: func(m *candidate) truth { return truthOf(is(&m.Flags)) }}, true
	}
	switch name {
	case "ALL", "OLD":
		return searchKey{match: everything}, true
	case "RECENT", "NEW": // nothing is \Recent (view.go)
		return searchKey{match: nothing}, true
	case "KEYWORD", "UNKEYWORD":
		p.cmd.SP()
		k := p.cmd.Flag()
		want := name == "KEYWORD"
		return record(func(f *storage.Flags) bool { return f.HasKeyword(k) == want })
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
		return searchKey{needs: readRecord, match: func(m *candidate) truth {
			return truthOf(larger && m.Size > n || !larger && m.Size < n)
		}}, true
	case "BEFORE", "ON", "SINCE", "SENTBEFORE", "SENTON", "SENTSINCE":
		p.cmd.SP()
		want := p.cmd.Date()
		relation, sent := strings.CutPrefix(name, "SENT")
		if !sent {
			return searchKey{needs: readRecord, match: func(m *candidate) truth {
				return truthOf(dateIs(relation, m.InternalDate, want))
			}}, true
		}
		p.sources.field("date") // so that the field is read
		return searchKey{needs: readHeader, match: func(m *candidate) truth {
			if m.read < readHeader && !m.listed() {
				return unknown
			}
			// Of a message without a Date that can be read, none of the three is true.
			return truthOf(m.sent.known && dateIs(relation, m.sent.at, want))
		}}, true
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
	field := name
	switch name {
	case "FROM", "TO", "CC", "BCC", "SUBJECT", "BODY", "TEXT":
	case "HEADER":
		p.cmd.SP()
		field = p.cmd.AString()
	default:
		p.cmd.Fail("a search key, not %s", name)
	}
	p.cmd.SP()
	text := p.text()
	s := &p.sources
	switch {
	case p.cmd.Err() != nil || field == "": // no field has an empty name
		return searchKey{match: nothing}
	case name == "BODY" || name == "TEXT":
		if text == "" {
			return searchKey{match: everything}
		}
		return p.bodyKey(text, name == "TEXT")
	}
	src := s.field(strings.ToLower(field))
	word := src.Add(text)
	return searchKey{needs: readHeader, match: func(m *candidate) truth { return src.has(m, word) }}
}

// bodyKey is BODY or, with the headers, TEXT.
func (p *searchParser) bodyKey(text string, headers bool) searchKey {
	s := &p.sources
	if s.body == nil {
		s.body = &source{readAt: readBody}
	}
	body, word := s.body, s.body.Add(text)
	if !headers {
		return searchKey{needs: readBody, match: func(m *candidate) truth { return body.has(m, word) }}
	}
	if s.header == nil {
		s.header = &source{readAt: readBody} // the headers of parts are in the body
	}
	header, headerWord := s.header, s.header.Add(text)
	return searchKey{needs: readBody, match: func(m *candidate) truth { return max(header.has(m, headerWord), body.has(m, word)) }}
}

// text takes a string in the charset of the command and returns it in UTF-8.
func (p *searchParser) text() string {
	s := p.cmd.AString()
	if p.charset != "" {
		s, _ = mime.DecodeText(p.charset, []byte(s))
	} else if !utf8.ValidString(s) {
		p.cmd.Fail("text in UTF-8")
	}
	return s
}

// finish makes the finders, or reports what is wrong with the keys.
func (p *searchParser) finish() error {
	if err := p.cmd.Err(); err != nil {
		return err
	}
	total := 0
	p.sources.each(func(s *source) { total += s.Bytes() })
	if total > searchWordsBytesMax {
		return no("LIMIT", "too much text to search for")
	}
	p.sources.each(func(s *source) { s.finder = match.NewFinder(&s.Words) })
	return p.failed
}
