package imapd

import (
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

// TestListOfManyWildcards: they cost no more than their length.
func TestListOfManyWildcards(t *testing.T) {
	c := newBench(t, nil).login("alice")
	c.ok("a CREATE " + strings.Repeat("a", 60))
	c.want(`b LIST "" "`+strings.Repeat("*a", 200)+`b"`, "OK")
}
