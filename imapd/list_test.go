package imapd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"mailnode/storage"
)

// matchSlowly is the plain reading of RFC 3501, section 6.3.8.
func matchSlowly(name, pattern string) bool {
	if pattern == "" {
		return name == ""
	}
	if w := pattern[0]; w == '*' || w == '%' {
		return matchSlowly(name, pattern[1:]) ||
			name != "" && (w == '*' || name[0] != storage.Separator) && matchSlowly(name[1:], pattern)
	}
	return name != "" && name[0] == pattern[0] && matchSlowly(name[1:], pattern[1:])
}

func matchAnySlowly(name, reference string, patterns []string) bool {
	for _, p := range patterns {
		if rest, alone := strings.CutPrefix(p, "/"); alone {
			p = rest
		} else {
			p = reference + p
		}
		if matchSlowly(name, p) {
			return true
		}
		if name == inbox || strings.HasPrefix(name, inbox+"/") { // in each of the cases that its letters can have
			for bits := range 1 << len(inbox) {
				some := []byte(name)
				for i := range inbox {
					some[i] |= byte(bits>>i&1) << 5
				}
				if matchSlowly(string(some), p) {
					return true
				}
			}
		}
	}
	return false
}

// FuzzListMatch: the automaton agrees with the plain reading.
func FuzzListMatch(f *testing.F) {
	for _, s := range [][4]string{
		{"INBOX", "", "inbox*", "x"}, {"INBOX/a", "", "InBox/%", "%"}, {"a/b/c", "a/", "%", "*c"}, {"a", "%%*%", "%*", "/a"},
		{"Work/2024", "Work", "/%", "%/%"}, {"", "", "", "*"}, {"inboxes", "", "INBOXES", "I*"}, {"aab", "", "*ab", "a%ab"},
	} {
		f.Add(s[0], s[1], s[2], s[3])
	}
	f.Fuzz(func(t *testing.T, name, reference, p, q string) {
		if len(name) > 12 || len(reference)+len(p) > 12 || len(reference)+len(q) > 12 {
			return // the plain reading takes exponential time
		}
		m, err := newMatcher(reference, []string{p, q})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // a name leaves nothing behind
			if got, want := m.match(name), matchAnySlowly(name, reference, []string{p, q}); got != want {
				t.Fatalf("name %q, reference %q, patterns %q and %q: %t, want %t", name, reference, p, q, got, want)
			}
		}
	})
}

// TestListMatchAcrossWords: the same with patterns of many words of bits.
func TestListMatchAcrossWords(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	some := func(from string, n int) string {
		out := make([]byte, n)
		for i := range out {
			out[i] = from[rnd.IntN(len(from))]
		}
		return string(out)
	}
	matched := 0
	for range 2000 {
		var patterns []string
		for range 1 + rnd.IntN(40) {
			patterns = append(patterns, some("aab/%*", rnd.IntN(12)))
		}
		m, err := newMatcher("", patterns)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			name := some("aab/", rnd.IntN(14))
			got := m.match(name)
			if want := matchAnySlowly(name, "", patterns); got != want {
				t.Fatalf("name %q, patterns %q: %t, want %t", name, patterns, got, want)
			}
			if got {
				matched++
			}
		}
	}
	if matched < 1000 || matched > 19_000 {
		t.Errorf("%d of 20,000 names matched: the test proves nothing", matched)
	}
}

// TestListMatcherIsSmall: what a client can send makes an automaton of bounded
// size, or is refused.
func TestListMatcherIsSmall(t *testing.T) {
	c := newBench(t, nil).login("alice")
	many := "(" + strings.Repeat("x* ", maxPatterns-1) + "x*)"
	c.want(fmt.Sprintf("a LIST {63000+}\r\n%s %s", strings.Repeat("%", 63_000), many), "OK")
	c.want(fmt.Sprintf("b LIST {63000+}\r\n%s %s", strings.Repeat("a", 63_000), many), "OK")
	c.want(fmt.Sprintf("c LIST {900+}\r\n%s %s", strings.Repeat("%a", 450), many), "NO [LIMIT]")
	c.want(fmt.Sprintf("d LIST {900+}\r\n%s \"*\"", strings.Repeat("%a", 450)), "OK")
	m, err := newMatcher(strings.Repeat("%", 63_000), slices.Repeat([]string{"x*"}, maxPatterns))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := 64*len(m.now), (len("%x*")+1)*maxPatterns+63; got > want {
		t.Errorf("the automaton has %d bits, want at most %d", got, want)
	}
}

func (b *bench) makeMailboxes(user string, names ...string) {
	b.t.Helper()
	for _, n := range names {
		if _, err := b.store.CreateMailbox(context.Background(), b.users[user].ID, n, ""); err != nil {
			b.t.Fatal(err)
		}
	}
}

// TestListInboxInAnyCase: INBOX and what is below it, however it is written.
func TestListInboxInAnyCase(t *testing.T) {
	b := newBench(t, nil)
	b.makeMailboxes("alice", "INBOX/Sub", "inboxes")
	c := b.login("alice")
	for pattern, want := range map[string][]string{
		"inbox*":    {"INBOX", "INBOX/Sub", "inboxes"},
		"inbox":     {"INBOX"},
		"InBoX/%":   {"INBOX/Sub"},
		"inbox/sub": nil,
		"%nbox":     {"INBOX"},
		"INBOXES":   nil,
		"*box/S*":   {"INBOX/Sub"},
	} {
		var got []string
		for _, line := range c.ok(`a LIST "" ` + pattern) {
			got = append(got, line[strings.LastIndexByte(line, ' ')+1:])
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", pattern, got, want)
		}
	}
}

// TestRecursiveMatch is example 9 of RFC 5258, section 5.
func TestRecursiveMatch(t *testing.T) {
	b := newBench(t, nil)
	c := b.login("alice")
	c.ok("x LSUB \"\" *")
	b.makeMailboxes("alice", "foo2/bar1", "foo2/bar2", "baz2/bar2", "baz2/bar22", "baz2/bar222", "eps2/mamba", "qux2/bar2")
	c.ok("x DELETE qux2")
	for _, n := range []string{"foo2/bar1", "foo2/bar2", "baz2/bar2", "baz2/bar22", "baz2/bar222", "eps2", "eps2/mamba", "qux2/bar2"} {
		c.ok("s SUBSCRIBE " + n)
	}
	for command, want := range map[string][]string{
		`LIST (RECURSIVEMATCH SUBSCRIBED) "" "*2"`: {
			`(\HasNoChildren \Subscribed) "/" baz2/bar2`, `(\HasNoChildren \Subscribed) "/" baz2/bar22`, `(\HasNoChildren \Subscribed) "/" baz2/bar222`,
			`(\HasChildren \Subscribed) "/" eps2 ("CHILDINFO" ("SUBSCRIBED"))`,
			`(\HasChildren) "/" foo2 ("CHILDINFO" ("SUBSCRIBED"))`, `(\HasNoChildren \Subscribed) "/" foo2/bar2`,
			`(\HasNoChildren \Subscribed) "/" qux2/bar2`,
		},
		`LIST (SUBSCRIBED RECURSIVEMATCH) "" "qux%"`: {`(\NonExistent \HasChildren) "/" qux2 ("CHILDINFO" ("SUBSCRIBED"))`},
		`LIST (SUBSCRIBED) "" "qux%"`:                nil,
	} {
		var got []string
		for _, line := range c.ok("a " + command) {
			if line = strings.TrimPrefix(line, "* LIST "); !strings.Contains(line, inbox) {
				got = append(got, line)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant\n%s", command, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// TestListAgainstModel: random trees over several pages, against the whole list
// in memory.
func TestListAgainstModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	b := newBench(t, nil)
	ctx, id := context.Background(), b.users["bob"].ID
	level := func() string {
		return []string{"a", "a b", "a-b", "ab", "b", "0", "z"}[rnd.IntN(7)] + strings.Repeat("x", rnd.IntN(3))
	}
	random := func() string {
		levels := []string{level()}
		for rnd.IntN(3) > 0 && len(levels) < 5 {
			levels = append(levels, level())
		}
		return strings.Join(levels, "/")
	}
	for range 900 {
		n := random()
		switch rnd.IntN(4) {
		case 0:
			b.store.Subscribe(ctx, id, n, true)
		case 1:
			b.store.DeleteMailbox(ctx, id, n)
		default:
			b.store.CreateMailbox(ctx, id, n, "")
		}
	}
	boxes, err := b.store.Mailboxes(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	exists, children := map[string]bool{}, map[string]bool{}
	for _, box := range boxes {
		exists[box.Name] = true
		for at, c := range box.Name {
			if c == storage.Separator {
				children[box.Name[:at]] = true
			}
		}
	}
	if len(boxes) <= listPage {
		t.Fatalf("%d mailboxes: too few for several pages", len(boxes))
	}
	c := b.login("bob")
	for _, pattern := range []string{"*", "%", "%/%", "a*", "*x"} {
		got := map[string]string{}
		for _, line := range c.ok(`a LIST "" "` + pattern + `"`) {
			attrs, name, _ := strings.Cut(strings.TrimPrefix(line, "* LIST "), ` "/" `)
			if name = strings.Trim(name, `"`); got[name] != "" {
				t.Errorf("%s: %q is listed twice", pattern, name)
			}
			got[name] = attrs
		}
		want := 0
		for n := range union(exists, children) {
			if !matchAnySlowly(n, "", []string{pattern}) {
				continue
			}
			want++
			if attrs := got[n]; strings.Contains(attrs, `\Noselect`) == exists[n] || strings.Contains(attrs, `\HasChildren`) != children[n] {
				t.Errorf("%s: %q has %q, it exists: %t, has children: %t", pattern, n, attrs, exists[n], children[n])
			}
		}
		if len(got) != want {
			t.Errorf("%s: %d names, want %d", pattern, len(got), want)
		}
	}
}

func union(sets ...map[string]bool) map[string]bool {
	all := map[string]bool{}
	for _, s := range sets {
		for k := range s {
			all[k] = true
		}
	}
	return all
}

// TestListHoldsAPage: what a walk over many mailboxes holds does not grow with
// them.
func TestListHoldsAPage(t *testing.T) {
	b := newBench(t, nil)
	id := b.users["alice"].ID
	for i := range 1000 {
		b.makeMailboxes("alice", fmt.Sprintf("%0200d", i))
	}
	s := &session{ctx: context.Background()}
	s.store, s.account = b.store, id
	walk, err := s.walkNames("", []string{"*"})
	if err != nil {
		t.Fatal(err)
	}
	names := 0
	for _, err := range walk.names() {
		if err != nil {
			t.Fatal(err)
		}
		names++
		if len(walk.page) > listPage+storage.MaxMailboxLevels || len(walk.open) > storage.MaxMailboxNameBytes {
			t.Fatalf("%d names and %d levels are held at once", len(walk.page), len(walk.open))
		}
	}
	if names < 1000 {
		t.Errorf("%d names, want 1,000 and more", names)
	}
}
