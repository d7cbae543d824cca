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

// TestList: references, wildcards and the special request for the separator
// (RFC 3501, section 6.3.8).
func TestList(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState(`LIST "" *`, byState{badState, "OK", "OK", "OK"})
	b.makeMailboxes("alice", "a/b/c", "a/bb", "A", "ab")
	c := b.login("alice")
	for _, tt := range []struct {
		arguments string
		want      []string
	}{
		{`"" a*`, []string{"a", "a/b", "a/b/c", "a/bb", "ab"}},
		{`"" a%`, []string{"a", "ab"}},
		{`"" a/%`, []string{"a/b", "a/bb"}},
		{`"" %/%`, []string{"a/b", "a/bb"}},
		{`"" */%/c`, []string{"a/b/c"}},
		{`"" a/*b`, []string{"a/b", "a/bb"}},
		{`a/ *`, []string{"a/b", "a/b/c", "a/bb"}},
		{`a/ /a%`, []string{"a", "ab"}}, // from the root, whatever the reference
		{`a *b`, []string{"a/b", "a/bb", "ab"}},
		{`a/b ""`, []string{`""`}}, // asks for the separator and the root
		{`"" ""`, []string{`""`}},
		{`"" A`, []string{"A"}},
		{`"" nothing`, nil},
		{`"" "a/b/"`, nil},
		{"{2+}\r\na/ {1+}\r\n%", []string{"a/b", "a/bb"}},
	} {
		var got []string
		for _, line := range c.ok("a LIST " + tt.arguments) {
			_, name, _ := strings.Cut(line, ` "/" `)
			got = append(got, name)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("LIST %s: %q, want %q", tt.arguments, got, tt.want)
		}
	}
}

// TestListWrong: what is no LIST or LSUB is BAD (RFC 3501, section 9; RFC 5258,
// section 6).
func TestListWrong(t *testing.T) {
	b := newBench(t, nil)
	for _, arguments := range []string{
		"", `""`, `"" (`, `"" ()`, `"" (a`, `"" a b`, `(NONSENSE) "" *`, `(SUBSCRIBED "" *`, `(RECURSIVEMATCH) "" *`, `(REMOTE RECURSIVEMATCH) "" *`,
		`"" * RETURN`, `"" * RETURN ()x`, `"" * RETURN (NONSENSE)`, `"" * RETURN (STATUS)`, `"" * RETURN (STATUS ())`, `"" * RETURN (STATUS (NONSENSE))`, `"" * NONSENSE ()`,
	} {
		b.wantByState("LIST "+arguments, byState{badState, badState, badState, badState})
	}
	for _, arguments := range []string{"", `""`, `"" *x y`, `(SUBSCRIBED) "" *`, `"" (* %)`, `"" * RETURN (CHILDREN)`} {
		b.wantByState("LSUB "+arguments, byState{badState, badState, badState, badState})
	}
	b.wantByState(`LSUB "" *`, byState{badState, "OK", "OK", "OK"})
}

// TestListExtended: options together (RFC 5258, section 3; RFC 5819; RFC 6154).
func TestListExtended(t *testing.T) {
	b := newBench(t, nil)
	b.makeMailboxes("alice", "top/leaf")
	c := b.login("alice")
	c.ok("a SUBSCRIBE top/leaf")
	c.ok("a SUBSCRIBE top/gone")
	c.ok("a APPEND top/leaf (\\Seen) {6+}\r\nS: x\r\n")
	for _, tt := range []struct {
		arguments string
		want      []string
	}{
		{`() "" top`, []string{`LIST (\HasChildren) "/" top`}},
		{`"" (top top %op)`, []string{`LIST (\HasChildren) "/" top`}}, // once, whatever matches: section 3
		{`"" top RETURN ()`, []string{`LIST (\HasChildren) "/" top`}},
		{`(REMOTE) "" top`, []string{`LIST (\HasChildren) "/" top`}},
		{`"" top/* RETURN (SUBSCRIBED CHILDREN)`, []string{`LIST (\HasNoChildren \Subscribed) "/" top/leaf`}},
		{`(SUBSCRIBED) "" top*`, []string{`LIST (\NonExistent \HasNoChildren \Subscribed) "/" top/gone`, `LIST (\HasNoChildren \Subscribed) "/" top/leaf`}},
		{`(SUBSCRIBED) "" top`, nil},
		{`(SUBSCRIBED RECURSIVEMATCH) "" top`, []string{`LIST (\HasChildren) "/" top ("CHILDINFO" ("SUBSCRIBED"))`}},
		{`(SUBSCRIBED RECURSIVEMATCH) "" top*`, []string{`LIST (\NonExistent \HasNoChildren \Subscribed) "/" top/gone`, `LIST (\HasNoChildren \Subscribed) "/" top/leaf`}},
		{`(SPECIAL-USE SUBSCRIBED) "" (Junk top*)`, []string{`LIST (\HasNoChildren \Subscribed \Junk) "/" Junk`}},
		{`"" (top top/leaf top/gone) RETURN (STATUS (MESSAGES UNSEEN SIZE))`, []string{
			`LIST (\HasChildren) "/" top`, "STATUS top (MESSAGES 0 UNSEEN 0 SIZE 0)", `LIST (\HasNoChildren) "/" top/leaf`, "STATUS top/leaf (MESSAGES 1 UNSEEN 0 SIZE 6)"}},
	} {
		var want []string
		for _, line := range tt.want {
			want = append(want, "* "+line)
		}
		c.says("b LIST "+tt.arguments, append(want, "OK")...)
	}
}
