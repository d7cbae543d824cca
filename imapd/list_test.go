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
