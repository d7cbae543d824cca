package imapd

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"mailnode/storage"
)

// flagsClient is what a client believes of flags, by what it was told alone. It
// fails when it is shown a keyword that FLAGS did not name.
type flagsClient struct {
	*wireClient
	fail     func(format string, args ...any)
	tag      int
	uids     []int // by sequence number; 0 until told
	flags    map[int][]string
	keywords map[string]bool
}

func newFlagsClient(c *wireClient, fail func(format string, args ...any)) *flagsClient {
	return &flagsClient{wireClient: c, fail: fail, flags: map[int][]string{}}
}

// run sends a command, believes the answers, and returns the tagged one.
func (c *flagsClient) run(format string, args ...any) string {
	c.tag++
	lines := c.cmd(fmt.Sprintf("t%d ", c.tag) + fmt.Sprintf(format, args...))
	for _, line := range lines {
		c.hear(line)
	}
	_, answer, _ := strings.Cut(lines[len(lines)-1], " ")
	return answer
}

var (
	numberedResponse = regexp.MustCompile(`^\* (\d+) (EXISTS|EXPUNGE|FETCH)`)
	uidItem          = regexp.MustCompile(`[( ]UID (\d+)`)
	flagsItem        = regexp.MustCompile(`[( ]FLAGS \(([^)]*)\)`)
)

func (c *flagsClient) hear(line string) {
	if named, ok := strings.CutPrefix(line, "* FLAGS ("); ok {
		c.keywords = map[string]bool{}
		for _, k := range strings.Fields(strings.TrimSuffix(named, ")")) {
			c.keywords[strings.ToLower(k)] = true
		}
		return
	}
	m := numberedResponse.FindStringSubmatch(line)
	if m == nil {
		return
	}
	n, _ := strconv.Atoi(m[1])
	switch m[2] {
	case "EXISTS":
		for len(c.uids) < n {
			c.uids = append(c.uids, 0)
		}
	case "EXPUNGE":
		delete(c.flags, c.uids[n-1])
		c.uids = slices.Delete(c.uids, n-1, n)
	case "FETCH":
		if uid := uidItem.FindStringSubmatch(line); uid != nil {
			c.uids[n-1], _ = strconv.Atoi(uid[1])
		}
		if told := flagsItem.FindStringSubmatch(line); told != nil {
			for _, f := range strings.Fields(told[1]) {
				if !c.keywords[strings.ToLower(f)] {
					c.fail("%s: FLAGS never named %s, only %v", line, f, slices.Sorted(maps.Keys(c.keywords)))
				}
			}
			c.believe(c.uids[n-1], strings.Fields(told[1]))
		}
	}
}

func (c *flagsClient) believe(uid int, flags []string) {
	flags = slices.Clone(flags)
	slices.Sort(flags)
	c.flags[uid] = slices.Compact(flags)
}

// silently is STORE with .SILENT: the client computes the result itself.
func (c *flagsClient) silently(n int, op, flag string) string {
	uid := c.uids[n-1]
	if old, known := c.flags[uid]; known || op == "" {
		switch op {
		case "+":
			c.believe(uid, append(slices.Clone(old), flag))
		case "-":
			c.believe(uid, slices.DeleteFunc(slices.Clone(old), func(f string) bool { return f == flag }))
		case "":
			c.believe(uid, []string{flag})
		}
	}
	return c.run("STORE %d %sFLAGS.SILENT (%s)", n, op, flag)
}

// check compares with what the store has.
func (c *flagsClient) check(b *bench, box string, doing string) {
	ctx := context.Background()
	mbox, err := b.store.Mailbox(ctx, b.users["alice"].ID, box)
	if err != nil {
		c.fail("%s: %v", doing, err)
	}
	if err := b.store.Scan(ctx, storage.Ref{Account: b.users["alice"].ID, Mailbox: mbox.ID}, 1, ^storage.UID(0), func(m storage.Message) error {
		var want []string
		for _, s := range systemFlags {
			if m.Flags.Has(s.flag) {
				want = append(want, s.name)
			}
		}
		want = append(want, m.Flags.Keywords...)
		slices.Sort(want)
		if got, known := c.flags[int(m.UID)]; known && slices.Contains(c.uids, int(m.UID)) && !slices.Equal(got, want) {
			c.fail("after %s the client believes that UID %d has %v, the store has %v", doing, m.UID, got, want)
		}
		return nil
	}); err != nil {
		c.fail("%s: %v", doing, err)
	}
}

// TestFlagsModel: two sessions change flags at random, mail with keywords comes
// in; after each of its commands a client knows the flags of every message that
// it was ever told of, and the name of every keyword before it sees it.
func TestFlagsModel(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Limits.PerUserMax = 100_000 })
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		box := fmt.Sprintf("box%d", round)
		if _, err := b.store.CreateMailbox(context.Background(), b.users["alice"].ID, box, ""); err != nil {
			rt.Fatal(err)
		}
		clients := []*flagsClient{newFlagsClient(b.login("alice"), rt.Fatalf), newFlagsClient(b.login("alice"), rt.Fatalf)}
		for _, c := range clients {
			c.run("SELECT %s", box)
		}
		for range rapid.IntRange(5, 40).Draw(rt, "steps") {
			c := clients[rapid.IntRange(0, 1).Draw(rt, "session")]
			flag := rapid.SampledFrom([]string{`\Flagged`, `\Deleted`, `\Seen`, "$a", "$b", "c"}).Draw(rt, "flag")
			op := rapid.SampledFrom([]string{"+", "-", ""}).Draw(rt, "op")
			n := 0
			if len(c.uids) > 0 {
				n = rapid.IntRange(1, len(c.uids)).Draw(rt, "n")
			}
			act := rapid.IntRange(0, 9).Draw(rt, "act")
			switch {
			case n == 0 || act == 0:
				c.run("APPEND %s (%s) {6+}\r\nS: x\r\n", box, flag)
			case act <= 3 && c.uids[n-1] != 0:
				c.silently(n, op, flag)
			case act == 4:
				c.run("STORE %d %sFLAGS %s", n, op, flag)
			case act == 5:
				c.run("FETCH %d BODY[]", n)
			case act == 6:
				c.run("FETCH %d FLAGS", n)
			case act == 7:
				c.run("EXPUNGE")
			case act == 8:
				c.run("COPY %d %s", n, box)
			default:
				c.run("NOOP")
			}
			c.check(b, box, fmt.Sprintf("act %d %s%s on %d", act, op, flag, n))
			if slices.Contains(c.uids, 0) {
				c.run("FETCH 1:* (UID FLAGS)")
				c.check(b, box, "FETCH FLAGS")
			}
		}
		for _, c := range clients {
			c.run("LOGOUT")
			c.conn.Close()
		}
	})
}

// meddler is the store with another session's change just before, or just
// after, each change of flags.
type meddler struct {
	storage.Store
	before, after func()
}

func (m *meddler) SetFlags(ctx context.Context, r storage.Ref, uids []storage.UID, c storage.FlagChange) ([]storage.Reflagged, error) {
	m.before()
	defer m.after()
	return m.Store.SetFlags(ctx, r, uids, c)
}

type meddledLogin struct {
	*bench
	store *meddler
}

func (l meddledLogin) Login(ctx context.Context, user string, try storage.Attempt) (Grant, error) {
	g, err := l.bench.Login(ctx, user, try)
	g.Store = l.store
	return g, err
}

// meeting is another session's +FLAGS ($k) and a command.
type meeting struct {
	when, command string
	want          string // the flags of the FETCH responses, in order
}

func storeMeetsStore() []meeting {
	return []meeting{
		{"never", "STORE 1 FLAGS.SILENT (x)", ""},
		{"pending", "STORE 1 +FLAGS.SILENT (x)", "[$k x]"},
		{"pending", "STORE 1 -FLAGS.SILENT (x)", "[$k]"},
		{"pending", "STORE 1 FLAGS.SILENT (x)", "[x]"},
		{"pending", "STORE 1 +FLAGS (x)", "[$k x]"},
		{"pending", "UID STORE 1 +FLAGS.SILENT (x)", "[$k x]"},
		{"pending", "UID STORE 1 FLAGS (x)", "[x]"},
		{"pending", "FETCH 1 BODY[TEXT]", `[\Seen $k]`},
		{"pending", "FETCH 1 (FLAGS BODY[TEXT])", `[\Seen $k]`},
		{"before", "STORE 1 +FLAGS.SILENT (x)", "[$k x]"},
		{"before", "UID STORE 1 FLAGS.SILENT (x)", "[x]"},
		{"before", "STORE 1 +FLAGS (x)", "[$k x]"},
		{"before", "FETCH 1 BODY[TEXT]", `[\Seen $k]`},
		{"after", "STORE 1 +FLAGS.SILENT (x)", "[$k x]"},
		{"after", "STORE 1 FLAGS (x)", "[x] [$k x]"},
		{"after", "FETCH 1 BODY[TEXT]", `[\Seen] [\Seen $k]`},
		{"after", "STORE 1 +FLAGS.SILENT ($k)", ""}, // changes nothing
	}
}

// TestStoreTellsTheStateAfter: whenever another session's change comes, a STORE
// shows no older flags and leaves its client with those that the store has (RFC
// 3501, section 6.4.6).
func TestStoreTellsTheStateAfter(t *testing.T) {
	b := newBench(t, nil)
	nothing := func() {}
	m := &meddler{Store: b.store, before: nothing, after: nothing}
	at := b.listen(b.serve(func(c *Config) { c.Login = meddledLogin{b, m} }), ListenerOptions{PlainLogin: true})
	inbox, err := b.store.Mailbox(context.Background(), b.users["alice"].ID, "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	ref := storage.Ref{Account: b.users["alice"].ID, Mailbox: inbox.ID}
	other := func(op storage.FlagOp, word string) func() {
		return func() {
			if _, err := b.store.SetFlags(context.Background(), ref, []storage.UID{1}, storage.FlagChange{Op: op, Flags: storage.Flags{Keywords: []string{word}}}); err != nil {
				t.Error(err)
			}
		}
	}
	b.deliver("alice", "Subject: x\r\n\r\nbody\r\n")
	for i, tt := range storeMeetsStore() {
		t.Run(fmt.Sprintf("%d %s %s", i, tt.when, tt.command), func(t *testing.T) {
			if _, err := b.store.SetFlags(context.Background(), ref, []storage.UID{1}, storage.FlagChange{Op: storage.FlagsReplace}); err != nil {
				t.Fatal(err)
			}
			c := newFlagsClient(dial(t, at), t.Fatalf)
			c.line()
			c.run("LOGIN alice@example.test secret")
			c.run("SELECT INBOX")
			c.run("FETCH 1 (UID FLAGS)")
			add := other(storage.FlagsAdd, "$k")
			switch tt.when {
			case "pending":
				add()
			case "before":
				m.before = add
			case "after":
				m.after = add
			}
			c.send("s " + tt.command + "\r\n")
			var told []string
			for _, line := range c.until("s ") {
				c.hear(line)
				if f := flagsItem.FindStringSubmatch(line); f != nil && numberedResponse.MatchString(line) {
					told = append(told, "["+f[1]+"]")
				}
			}
			m.before, m.after = nothing, nothing
			if got := strings.Join(told, " "); got != tt.want {
				t.Errorf("told %s, want %s", got, tt.want)
			}
			if len(told) > 0 {
				c.check(b, "INBOX", tt.command)
			}
			told = nil
			for _, line := range c.ok("n NOOP") {
				t.Errorf("NOOP afterwards: %s", line)
			}
		})
	}
}

// TestStoreOfAMessageThatIsGone: it is passed over, said to be so, and its
// EXPUNGE waits for a command without numbers (RFC 2180, section 4.2.1).
func TestStoreOfAMessageThatIsGone(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 2)
	one, two := b.login("alice"), b.login("alice")
	one.ok("a SELECT INBOX")
	two.ok("a SELECT INBOX")
	two.ok(`b STORE 1 +FLAGS.SILENT (\Deleted)`)
	two.ok("c EXPUNGE")
	one.want("b STORE 1:2 +FLAGS (x)", "OK [EXPUNGEISSUED]")
	one.want("c STORE 1 +FLAGS.SILENT (y)", "OK [EXPUNGEISSUED]")
	if got := one.ok("d NOOP"); !slices.Contains(got, "* 1 EXPUNGE") {
		t.Errorf("NOOP: %q, want the EXPUNGE", got)
	}
}

// namesKeyword reports whether FLAGS and PERMANENTFLAGS among lines have word.
func namesKeyword(lines []string, word string) bool {
	has := func(prefix string) bool {
		return slices.ContainsFunc(lines, func(l string) bool {
			list, ok := strings.CutPrefix(l, prefix)
			list, _, _ = strings.Cut(list, ")")
			return ok && slices.Contains(strings.Fields(list), word)
		})
	}
	return has("* FLAGS (") && has("* OK [PERMANENTFLAGS (")
}

// TestKeywordsAreNamed: FLAGS comes before whatever shows a keyword, and as soon
// as a message that has it is announced (RFC 3501, section 7.2.6).
func TestKeywordsAreNamed(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 2)
	c, other := b.login("alice"), b.login("alice")
	c.ok("a SELECT INBOX")
	other.ok("a SELECT INBOX")
	for i, tt := range []struct {
		by      *wireClient
		change  string // made with keyword %s
		command string // the client's, in whose answer it must be named; "" is its own change
	}{
		{c, "STORE 1 +FLAGS.SILENT (%s)", ""},
		{c, "STORE 1 +FLAGS (%s)", ""},
		{c, "APPEND INBOX (%s) {6+}\r\nS: x\r\n", ""},
		{other, "STORE 1 +FLAGS.SILENT (%s)", "FETCH 1 FLAGS"},
		{other, "STORE 1 FLAGS.SILENT (%s)", "UID FETCH 1 (FLAGS BODY.PEEK[])"},
		{other, "STORE 2 FLAGS.SILENT (%s)", "FETCH 2 BODY[]"},
		{other, "STORE 1 +FLAGS.SILENT (%s)", "NOOP"},
		{other, "STORE 1 +FLAGS.SILENT (%s)", "SEARCH ALL"},
		{other, "APPEND INBOX (%s) {6+}\r\nS: x\r\n", "NOOP"},
		{other, "APPEND INBOX (%s) {6+}\r\nS: x\r\n", "FETCH 1 UID"},
	} {
		word := fmt.Sprintf("$word%d", i)
		lines := tt.by.ok("b " + fmt.Sprintf(tt.change, word))
		if tt.command != "" {
			lines = c.ok("c " + tt.command)
		}
		at := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "* FLAGS (") })
		shown := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, " FETCH (") && strings.Contains(l, word) })
		if !namesKeyword(lines, word) || shown >= 0 && shown < at {
			t.Errorf("%s, then %q: %q", fmt.Sprintf(tt.change, word), tt.command, lines)
		}
	}
}

// TestKeywordsAreNamedInIdle: a copy brings its keywords, too.
func TestKeywordsAreNamedInIdle(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 2)
	c, other := b.login("alice"), b.login("alice")
	c.ok("a SELECT INBOX")
	other.ok("a CREATE box")
	c.send("i IDLE\r\n")
	c.until("+ ")
	other.ok("d SELECT box")
	other.ok("d APPEND box ($copied) {6+}\r\nS: x\r\n")
	other.ok("e COPY 1 INBOX")
	lines := c.until("* 3 EXISTS")
	if !namesKeyword(lines, "$copied") {
		t.Errorf("IDLE after a COPY: %q", lines)
	}
	other.ok("f SELECT INBOX")
	other.ok("g STORE 1 +FLAGS.SILENT ($idle)")
	if lines := c.until("* 1 FETCH"); !namesKeyword(lines, "$idle") {
		t.Errorf("IDLE after a STORE: %q", lines)
	}
	c.send("DONE\r\n")
	c.until("i OK")
}

// TestKeywordsBeyondTheLimit: a session keeps a bounded number of names; what is
// over it still works.
func TestKeywordsBeyondTheLimit(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 1)
	c, other := b.login("alice"), b.login("alice")
	c.ok("a SELECT INBOX")
	other.ok("a SELECT INBOX")
	for i := range keywordsShownMax/50 + 1 {
		var words []string
		for j := range 50 {
			words = append(words, fmt.Sprintf("w%d-%d", i, j))
		}
		other.ok("h STORE 1 FLAGS.SILENT (" + strings.Join(words, " ") + ")")
		c.ok("h NOOP")
	}
	last := c.ok("j FETCH 1 FLAGS")
	if len(last) != 1 || !strings.Contains(last[0], "-49 ") {
		t.Errorf("beyond the limit of names: %q", last)
	}
}

// TestFlagsOfManyWriters: sessions that store at the same time, silently too,
// all end with the flags that the store has.
func TestFlagsOfManyWriters(t *testing.T) {
	b := newBench(t, nil)
	b.deliver("alice", "Subject: x\r\n\r\nbody\r\n")
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	var clients []*flagsClient
	for range 4 {
		c := newFlagsClient(b.login("alice"), t.Errorf)
		c.run("SELECT INBOX")
		c.run("FETCH 1 (UID FLAGS)")
		clients = append(clients, c)
	}
	for round := range 100 {
		var running sync.WaitGroup
		var doing []string
		for _, c := range clients {
			op, flag := []string{"+", "-", ""}[rng.IntN(3)], []string{`\Flagged`, `\Seen`, "$a", "b"}[rng.IntN(4)]
			act := rng.IntN(6)
			doing = append(doing, fmt.Sprint(act, op, flag))
			running.Go(func() {
				switch act {
				case 0:
					c.run("STORE 1 %sFLAGS %s", op, flag)
				case 1:
					c.run("FETCH 1 BODY[HEADER]")
				default:
					c.silently(1, op, flag)
				}
			})
		}
		running.Wait()
		for i, c := range clients {
			c.run("NOOP")
			c.check(b, "INBOX", fmt.Sprintf("round %d, client %d, %v (seed %d)", round, i, doing, seed))
		}
	}
}

// TestOwnFlagsAreSeen: what a session stored, it reads, however late the disk is.
func TestOwnFlagsAreSeen(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 1)
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	for i := range 50 {
		c.ok(fmt.Sprintf("b STORE 1 FLAGS.SILENT ($k%d)", i))
		if got, want := c.ok("c FETCH 1 FLAGS")[0], fmt.Sprintf("* 1 FETCH (FLAGS ($k%d))", i); got != want {
			t.Fatalf("after STORE: %s, want %s", got, want)
		}
		if got := c.ok(fmt.Sprintf("d SEARCH KEYWORD $k%d", i)); got[0] != "* SEARCH 1" {
			t.Fatalf("after STORE: %v", got)
		}
	}
}

// TestStore: each way to change flags, and what it tells (RFC 3501, section 6.4.6).
func TestStore(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("STORE 1:* FLAGS ()", byState{badState, badState, "OK", "NO [NOPERM]"})
	b.wantByState("UID STORE 1 FLAGS ()", byState{badState, badState, "OK", "NO [NOPERM]"})
	b.deliverMany("alice", 2)
	one, two := b.pair()
	for _, tt := range []struct{ arguments, flags string }{
		{`1 FLAGS (\Seen k1)`, `\Seen k1`},
		{`1 +FLAGS (\Flagged)`, `\Flagged \Seen k1`},
		{`1 +flags (\FLAGGED K1)`, `\Flagged \Seen k1`}, // both are there
		{`1 -FLAGS (\Seen \Draft)`, `\Flagged k1`},
		{`1 +FLAGS ()`, `\Flagged k1`},
		{`1 -FLAGS K1`, `\Flagged`},
		{`1 FLAGS \Answered \Deleted $k`, `\Answered \Deleted $k`},
		{`1 +FLAGS (\Recent)`, `\Answered \Deleted $k`}, // no client can change it
		{`1 FLAGS ()`, ``},
	} {
		for _, silent := range []bool{false, true} {
			arguments := tt.arguments
			if silent {
				arguments = strings.Replace(strings.Replace(arguments, "FLAGS", "FLAGS.SILENT", 1), "flags", "Flags.Silent", 1)
			}
			var told []string
			for _, line := range one.ok("a STORE " + arguments) {
				if strings.Contains(line, " FETCH ") {
					told = append(told, line)
				}
			}
			if want := []string{"* 1 FETCH (UID 1 FLAGS (" + tt.flags + "))"}; !silent && !slices.Equal(told, want) || silent && told != nil {
				t.Errorf("STORE %s told %q, want %q unless it is silent", arguments, told, want)
			}
		}
		one.says("b FETCH 1 FLAGS", "* 1 FETCH (FLAGS ("+tt.flags+"))", "OK")
		two.ok("b NOOP")
		two.says("c FETCH 1 FLAGS", "* 1 FETCH (FLAGS ("+tt.flags+"))", "OK")
	}
	one.says("c UID STORE 2:99 FLAGS (x)", "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $k k1 x)",
		`* OK [PERMANENTFLAGS (\Answered \Flagged \Deleted \Seen \Draft $k k1 x \*)] flags are kept`, "* 2 FETCH (UID 2 FLAGS (x))", "OK")
	one.says("d UID STORE 77 FLAGS (y)", "OK")
}

// TestStoreRefused: it changes no message, not the first ones of its set either.
func TestStoreRefused(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 2)
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	many := strings.Repeat("k", storage.MaxKeywordBytes)
	var tooMany []string
	for i := range storage.MaxKeywordsPerMessage + 1 {
		tooMany = append(tooMany, fmt.Sprint("k", i))
	}
	for _, tt := range []struct{ arguments, want string }{
		{"1", "BAD"},
		{"1 FLAGS", "BAD"},
		{"1 FLAGS (", "BAD"},
		{"1 FLAGS (x) y", "BAD"},
		{"1 * FLAGS (x)", "BAD"},
		{"1 + FLAGS (x)", "BAD"},
		{"1 FLAGS.LOUD (x)", "BAD"},
		{"1 ANNOTATION (x)", "BAD"},
		{`1 FLAGS ("x")`, "BAD"},
		{`1 FLAGS (\)`, "BAD"},
		{"1:3 +FLAGS (x)", "BAD"},
		{"0 +FLAGS (x)", "BAD"},
		{"1:2 +FLAGS (\\Nonsense)", "NO [CANNOT]"},
		{"1:2 +FLAGS (" + many + "k)", "NO [CANNOT]"},
		{"1:2 +FLAGS (" + strings.Join(tooMany, " ") + ")", "NO [LIMIT]"},
	} {
		c.want("b STORE "+tt.arguments, tt.want)
		c.ok("n NOOP")
	}
	c.says("c FETCH 1:* FLAGS", "* 1 FETCH (FLAGS ())", "* 2 FETCH (FLAGS ())", "OK")
	c.ok("d STORE 1 +FLAGS.SILENT (" + many + " " + strings.Join(tooMany[2:], " ") + ")")
	c.want("e STORE 1:2 +FLAGS.SILENT (k0)", "NO [LIMIT]") // one more than a message can have
	c.says("f SEARCH KEYWORD k0", "* SEARCH", "OK")
}

// TestStoreIsNoNewMail: a change of flags moves neither numbers nor UIDs.
func TestStoreIsNoNewMail(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 3)
	one, two := b.pair()
	next := one.status("INBOX", "UIDNEXT")
	one.says(`a STORE 3:1 +FLAGS (\Seen)`, `* 1 FETCH (UID 1 FLAGS (\Seen))`, `* 2 FETCH (UID 2 FLAGS (\Seen))`, `* 3 FETCH (UID 3 FLAGS (\Seen))`, "OK")
	two.says("a SEARCH SEEN", "* SEARCH 1 2 3", `* 1 FETCH (UID 1 FLAGS (\Seen))`, `* 2 FETCH (UID 2 FLAGS (\Seen))`, `* 3 FETCH (UID 3 FLAGS (\Seen))`, "OK")
	if got := one.status("INBOX", "UIDNEXT"); got != next {
		t.Errorf("UIDNEXT went from %d to %d", next, got)
	}
}
