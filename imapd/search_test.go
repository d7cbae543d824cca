package imapd

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"mailnode/storage"
)

// watchedStore counts what is read of bodies. Everything is done by the store below.
type watchedStore struct {
	storage.Store
	opened, reads, bytes atomic.Int64
	reading              func(uid storage.UID) // before each read
}

type watchedBody struct {
	storage.BodyReader
	store *watchedStore
	uid   storage.UID
}

func (w *watchedStore) OpenBody(ctx context.Context, r storage.Ref, uid storage.UID) (storage.BodyReader, error) {
	b, err := w.Store.OpenBody(ctx, r, uid)
	if err != nil {
		return nil, err
	}
	w.opened.Add(1)
	return &watchedBody{b, w, uid}, nil
}

func (b *watchedBody) ReadAt(p []byte, off int64) (int, error) {
	if b.store.reading != nil {
		b.store.reading(b.uid)
	}
	n, err := b.BodyReader.ReadAt(p, off)
	b.store.reads.Add(1)
	b.store.bytes.Add(int64(n))
	return n, err
}

func (w *watchedStore) reset() { w.opened.Store(0); w.reads.Store(0); w.bytes.Store(0) }

// watchedLogin logs everybody in to the watched store.
type watchedLogin struct {
	*bench
	store *watchedStore
}

func (l watchedLogin) Login(ctx context.Context, user string, try storage.Attempt) (Grant, error) {
	g, err := l.bench.Login(ctx, user, try)
	g.Store = l.store
	return g, err
}

func newWatchedBench(t *testing.T) (*bench, *watchedStore) {
	w := &watchedStore{}
	b := newBench(t, nil)
	w.Store = b.store
	b.srv = b.serve(func(c *Config) { c.Login = watchedLogin{b, w} })
	b.plain = b.listen(b.srv, ListenerOptions{PlainLogin: true})
	return b, w
}

// searched returns what a SEARCH finds.
func (c *wireClient) searched(keys string) string {
	c.t.Helper()
	for _, line := range c.ok("x SEARCH " + keys) {
		if found, ok := strings.CutPrefix(line, "* SEARCH"); ok {
			return strings.TrimPrefix(found, " ")
		}
	}
	c.t.Fatalf("no answer to SEARCH %.100s", keys)
	return ""
}

// TestSearchReadsABodyOnce: a message is opened and decoded once, whatever the number of keys.
func TestSearchReadsABodyOnce(t *testing.T) {
	b, w := newWatchedBench(t)
	var text strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&text, "line %d of a long text that is looked through\r\n", i)
	}
	coded := base64.StdEncoding.EncodeToString([]byte(text.String()))
	message := "Subject: long\r\nContent-Transfer-Encoding: base64\r\n\r\n" + coded + "\r\n"
	b.deliver("alice", message)
	c := b.login("alice")
	c.ok("s SELECT INBOX")
	for _, keys := range []int{1, 10, 490} {
		w.reset()
		if got := c.searched(strings.TrimSpace(strings.Repeat("NOT BODY absent TEXT \"line 19999 of\" ", keys))); got != "1" {
			t.Errorf("%d keys: found %q, want 1", keys, got)
		}
		if w.opened.Load() != 1 || w.bytes.Load() > int64(len(message)) {
			t.Errorf("%d keys: opened %d times, read %d bytes of %d", keys, w.opened.Load(), w.bytes.Load(), len(message))
		}
		w.reset()
		var different strings.Builder
		for i := range keys {
			fmt.Fprintf(&different, "NOT BODY absent%d ", i)
		}
		if got := c.searched(strings.TrimSpace(different.String())); got != "1" {
			t.Errorf("%d different keys: found %q, want 1", keys, got)
		}
		if w.opened.Load() != 1 || w.bytes.Load() != int64(len(message)) {
			t.Errorf("%d different keys: opened %d times, read %d bytes of %d", keys, w.opened.Load(), w.bytes.Load(), len(message))
		}
	}
}

// TestSearchOpensWhatIsUndecided: cheap keys are asked first, wherever they stand, and a body is read no further than
// to the word that decides.
func TestSearchOpensWhatIsUndecided(t *testing.T) {
	b, w := newWatchedBench(t)
	head := "From: ann@example.test\r\nSubject: alpha\r\nX-Other: yes\r\n\r\n"
	b.deliver("alice", head+"first words\r\n"+strings.Repeat("0123456789abcde\r\n", 100_000))
	c := b.login("alice")
	c.ok("s SELECT INBOX")
	for _, tt := range []struct {
		keys         string
		found        string
		opened, most int64 // bodies, bytes
	}{
		{"BODY first NOT ALL", "", 0, 0},
		{"OR BODY first UNSEEN", "1", 0, 0},
		{"BODY first SEEN", "", 0, 0},
		{"BODY first SUBJECT beta", "", 0, 0},
		{"OR BODY absent FROM ann@example", "1", 0, 0},
		{"OR BODY absent BODY first (OR SEEN (BODY first FLAGGED))", "", 0, 0},
		{"TEXT alpha", "1", 0, 0},
		{"SENTON 1-Jan-2020 BODY first", "", 0, 0},
		{"HEADER X-Other yes", "1", 1, 1000},
		{"HEADER X-Other no BODY first", "", 1, 1000},
		{"BODY first", "1", 1, searchPieceBytes + 1000},
		{"NOT BODY absent", "1", 1, 1 << 30},
	} {
		w.reset()
		if got := c.searched(tt.keys); got != tt.found {
			t.Errorf("%s: found %q, want %q", tt.keys, got, tt.found)
		}
		if w.opened.Load() != tt.opened || w.bytes.Load() > tt.most {
			t.Errorf("%s: opened %d bodies and read %d bytes, want %d and at most %d", tt.keys, w.opened.Load(), w.bytes.Load(), tt.opened, tt.most)
		}
	}
}

// TestSearchHasNoTurnWhileItReads: a disk that hangs in one SEARCH does not hold up another, however few turns there
// are.
func TestSearchHasNoTurnWhileItReads(t *testing.T) {
	b, w := newWatchedBench(t)
	b.srv.turns = make(turns, 1)
	b.deliverMany("alice", 2)
	hangs, release := make(chan struct{}), make(chan struct{})
	first := true
	w.reading = func(uid storage.UID) {
		if uid == 1 && first {
			first = false
			close(hangs)
			<-release
		}
	}
	slow, quick := b.login("alice"), b.login("alice")
	slow.ok("s SELECT INBOX")
	quick.ok("s SELECT INBOX")
	slow.send("x SEARCH BODY body\r\n")
	<-hangs
	if got := quick.searched("2 BODY body"); got != "2" {
		t.Errorf("found %q, want 2", got)
	}
	close(release)
	if got := slow.until("x "); got[0] != "* SEARCH 1 2" {
		t.Errorf("found %q", got)
	}
}

// TestSearchWaitsForItsTurn: without a turn nothing is searched; other commands go on.
func TestSearchWaitsForItsTurn(t *testing.T) {
	b, w := newWatchedBench(t)
	b.srv.turns = make(turns, 1)
	b.srv.turns <- struct{}{}
	b.deliverMany("alice", 1)
	c, other := b.login("alice"), b.login("alice")
	c.ok("s SELECT INBOX")
	c.send("x SEARCH BODY body\r\n")
	other.ok("s SELECT INBOX")
	other.ok("f FETCH 1 FLAGS")
	if n := w.reads.Load(); n != 0 {
		t.Errorf("%d reads without a turn", n)
	}
	<-b.srv.turns
	if got := c.until("x "); got[0] != "* SEARCH 1" {
		t.Errorf("found %q", got)
	}
}

// TestSearchEndsWithItsContext: once the session's context ends, not one more piece is read.
func TestSearchEndsWithItsContext(t *testing.T) {
	b, w := newWatchedBench(t)
	b.deliver("alice", "Subject: s\r\n\r\n"+strings.Repeat("0123456789abcde\r\n", 100*searchPieceBytes/17))
	b.deliver("alice", "Subject: s\r\n\r\nnext\r\n")
	c := b.login("alice")
	c.ok("s SELECT INBOX")
	w.reading = func(storage.UID) {
		if w.reads.Load() == 3 {
			b.srv.cancel(errKicked)
		}
	}
	c.send("x SEARCH BODY absent\r\n")
	for err := error(nil); err == nil; {
		_, err = c.tryLine() // to the end of the connection
	}
	if n := w.reads.Load(); n != 4 {
		t.Errorf("%d reads, want 4", n)
	}
}

// TestSearchKeys: random keys find what a plain reading of them finds.
func TestSearchKeys(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	b, _ := newWatchedBench(t)
	const messages = 16 // message i has word w if bit w of i is set: two in the subject, one in the body, one as a flag
	for i := range messages {
		text := "Subject: x"
		for w, word := range []string{" alpha", " beta"} {
			if i>>w&1 == 1 {
				text += word
			}
		}
		if text += "\r\n\r\n"; i>>2&1 == 1 {
			text += "gamma"
		}
		b.deliver("alice", text+"\r\n")
	}
	c := b.login("alice")
	c.ok("s SELECT INBOX")
	for i := range messages {
		if i>>3&1 == 1 {
			c.ok(fmt.Sprintf(`f STORE %d +FLAGS.SILENT (\Flagged)`, i+1))
		}
	}
	type key struct {
		text string
		is   func(i int) bool
	}
	var random func(depth int) key
	random = func(depth int) key {
		choice := rng.IntN(5)
		if depth == 0 {
			choice += 3
		}
		switch choice {
		case 0:
			k := random(depth - 1)
			return key{"NOT " + k.text, func(i int) bool { return !k.is(i) }}
		case 1:
			k, l := random(depth-1), random(depth-1)
			return key{"OR " + k.text + " " + l.text, func(i int) bool { return k.is(i) || l.is(i) }}
		case 2:
			k, l := random(depth-1), random(depth-1)
			return key{"(" + k.text + " " + l.text + ")", func(i int) bool { return k.is(i) && l.is(i) }}
		case 3:
			n := 1 + rng.IntN(messages)
			return key{fmt.Sprintf("%d:*", n), func(i int) bool { return i+1 >= n }}
		}
		w := rng.IntN(4)
		return key{[]string{"SUBJECT alpha", "TEXT beta", "BODY gamma", "FLAGGED"}[w], func(i int) bool { return i>>w&1 == 1 }}
	}
	for range 300 {
		k, l := random(5), random(3)
		want := []string{}
		for i := range messages {
			if k.is(i) && l.is(i) {
				want = append(want, fmt.Sprint(i+1))
			}
		}
		if got := c.searched(k.text + " " + l.text); got != strings.Join(want, " ") {
			t.Fatalf("seed %d: SEARCH %s %s: %s, want %s", seed, k.text, l.text, got, want)
		}
	}
}

// TestSearchNesting: nothing but the length of a command limits ORs, NOTs and parentheses.
func TestSearchNesting(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 3)
	c := b.login("alice")
	c.ok("s SELECT INBOX")
	for _, tt := range []struct{ keys, want string }{
		{strings.Repeat("OR FROM zz ", 5_000) + "SUBJECT \"number 2\"", "2"},
		{strings.Repeat("OR ", 4_000) + "2" + strings.Repeat(" ANSWERED", 4_000), "2"},
		{strings.Repeat("NOT ", 16_001) + "2", "1 3"},
		{strings.Repeat("(", 32_000) + "2" + strings.Repeat(")", 32_000), "2"},
		{strings.Repeat("NOT (", 10_000) + "2" + strings.Repeat(")", 10_000), "2"},
		{strings.Repeat("OR (ALL NOT ", 2_000) + "2" + strings.Repeat(") NOT ALL", 1_000) + strings.Repeat(") ALL", 1_000), "1 2 3"},
		{strings.Repeat("1:* ", 15_000) + "2", "2"},
	} {
		if len(tt.keys) > commandBytesAfter {
			t.Fatalf("%d bytes of keys", len(tt.keys))
		}
		if got := c.searched(tt.keys); got != tt.want {
			t.Errorf("%.40s: found %q, want %q", tt.keys, got, tt.want)
		}
	}
	// Characters that become eleven letters each are over the one limit that is left.
	many := strings.Repeat("\ufdfa", 10_000)
	c.want(fmt.Sprintf("x SEARCH OR BODY {%d+}\r\n%s BODY {%d+}\r\n%sx", len(many), many, len(many)+1, many), "NO [LIMIT]")
}

func TestFieldForms(t *testing.T) {
	for _, tt := range []struct{ name, value, want string }{
		{"subject", " plain\r\n", "plain"},
		{"subject", " trailing  \r\n", "trailing  |trailing"},
		{"subject", " a\r\n  b\r\n\tc\r\n", "a  b c|a b c"},
		{"subject", "=?utf-8?q?a_?=\r\n =?utf-8?q?b?=", "a b"},
		{"subject", " \r\n", " |"},
		{"to", ` "Q \"N\"" <q@z>, (c) d . e@f, G: h@i;` + "\r\n", `"Q \"N\"" <q@z>, (c) d . e@f, G: h@i;|Q "N" <q@z>|c <d.e@f>|G|h@i`},
		{"content-type", ` a/b; name*1=d; name*0*=''%63` + "\r\n", `a/b; name*1=d; name*0*=''%63|name=cd`},
	} {
		if got := strings.Join(fieldForms(tt.name, []byte(tt.value)), "|"); got != tt.want {
			t.Errorf("forms of %s %q: %s, want %s", tt.name, tt.value, got, tt.want)
		}
	}
}

// TestSearchCharset: keys come in any charset that mail comes in.
func TestSearchCharset(t *testing.T) {
	b := newBench(t, nil)
	b.deliver("alice", "Subject: =?koi8-r?b?8NLJ18XU?=\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nгород Привет\r\n")
	b.deliver("alice", "Subject: =?utf-8?q?K=C3=B6ln?=\r\n\r\nK\xf6ln without a charset\r\n")
	c := b.login("alice")
	c.ok("s SELECT INBOX")
	for _, tt := range []struct{ charset, key, text, want string }{
		{"KOI8-R", "BODY", "\xf0\xd2\xc9\xd7\xc5\xd4", "1"},
		{"koi8-r", "SUBJECT", "\xd0\xd2\xc9\xd7\xc5\xd4", "1"},
		{"ISO-8859-1", "TEXT", "K\xd6LN", "2"},
		{"iso-8859-15", "BODY", "k\xf6ln", "2"},
		{"UTF-8", "BODY", "KÖLN", "2"},
	} {
		if got := c.searched(fmt.Sprintf("CHARSET %s %s {%d+}\r\n%s", tt.charset, tt.key, len(tt.text), tt.text)); got != tt.want {
			t.Errorf("%s %s %q: found %q, want %q", tt.charset, tt.key, tt.text, got, tt.want)
		}
	}
	c.want("x SEARCH CHARSET X-UNKNOWN BODY a", "NO [BADCHARSET (US-ASCII UTF-8)]")
	c.want("x SEARCH CHARSET UTF-8 BODY {2+}\r\n\xf6a", "BAD")
	c.want("x SEARCH BODY {2+}\r\n\xf6a", "BAD")
}

// TestHostileSearch: nesting costs no more than its length.
func TestHostileSearch(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 2)
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	c.want("b SEARCH "+strings.Repeat("NOT ", 10_000)+"ALL", "OK")
	c.want("c SEARCH "+strings.Repeat("(", 60_000), "BAD")
	c.want("d SEARCH"+strings.Repeat(" ALL", 10_000), "OK")
}

// TestSearchResultIsStreamed: neither is a long line without a literal held whole.
func TestSearchResultIsStreamed(t *testing.T) {
	var sizes []int
	w := newTestWriter(func(p []byte) { sizes = append(sizes, len(p)) })
	w.Str("* SEARCH")
	for i := range 1_000_000 {
		w.Byte(' ').Uint(uint64(i))
	}
	w.Str(strings.Repeat("x", 1<<20))
	w.CRLF()
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, n := range sizes {
		if total += n; n > 128<<10 {
			t.Errorf("%d bytes waited to be sent", n)
		}
	}
	if want := 8 + 6_888_890 + 1<<20 + 2; total != want {
		t.Errorf("%d bytes came out, want %d", total, want)
	}
}

// TestSearchAnswers: the forms of the answer (RFC 3501, section 7.2.5; RFC 4731,
// section 3.1), of what is found and of nothing.
func TestSearchAnswers(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("SEARCH ALL", byState{badState, badState, "OK", "OK"})
	b.wantByState("UID SEARCH ALL", byState{badState, badState, "OK", "OK"})
	b.deliverMany("alice", 7)
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	c.ok(`a STORE 2 +FLAGS.SILENT (\Deleted)`)
	c.ok("a EXPUNGE") // numbers 1 to 6 are UIDs 1 and 3 to 7
	for _, tt := range []struct{ arguments, numbers, uids string }{
		{"ALL", "SEARCH 1 2 3 4 5 6", "SEARCH 1 3 4 5 6 7"},
		{"2,4:5", "SEARCH 2 4 5", "SEARCH 3 5 6"},
		{"*", "SEARCH 6", "SEARCH 7"},
		{"*:5", "SEARCH 5 6", "SEARCH 6 7"},
		{"UID 2", "SEARCH", "SEARCH"},
		{"UID 2:3,99:*", "SEARCH 2 6", "SEARCH 3 7"},
		{"UID *", "SEARCH 6", "SEARCH 7"},
		{"NOT UID 1:5", "SEARCH 5 6", "SEARCH 6 7"},
		{"2 UID 3", "SEARCH 2", "SEARCH 3"},
		{"2 UID 4", "SEARCH", "SEARCH"},
		{"OR 1 UID 7", "SEARCH 1 6", "SEARCH 1 7"},
		{"SEEN", "SEARCH", "SEARCH"},
		{"RETURN () ALL", `ESEARCH (TAG "t") ALL 1:6`, `ESEARCH (TAG "t") UID ALL 1,3:7`},
		{"RETURN (ALL) 1,3,5:6", `ESEARCH (TAG "t") ALL 1,3,5:6`, `ESEARCH (TAG "t") UID ALL 1,4,6:7`},
		{"RETURN (COUNT MAX MIN) 2:4", `ESEARCH (TAG "t") MIN 2 MAX 4 COUNT 3`, `ESEARCH (TAG "t") UID MIN 3 MAX 5 COUNT 3`},
		{"RETURN (MIN) ALL", `ESEARCH (TAG "t") MIN 1`, `ESEARCH (TAG "t") UID MIN 1`},
		{"return (min count count) ALL", `ESEARCH (TAG "t") MIN 1 COUNT 6`, `ESEARCH (TAG "t") UID MIN 1 COUNT 6`},
		{"RETURN (MIN MAX ALL COUNT) SEEN", `ESEARCH (TAG "t") COUNT 0`, `ESEARCH (TAG "t") UID COUNT 0`},
		{"RETURN () SEEN", `ESEARCH (TAG "t")`, `ESEARCH (TAG "t") UID`},
	} {
		c.says("t SEARCH "+tt.arguments, "* "+tt.numbers, "OK")
		c.says("t UID SEARCH "+tt.arguments, "* "+tt.uids, "OK")
	}
}

// TestSearchWrong: what is no SEARCH is BAD, also behind what decides already.
func TestSearchWrong(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 2)
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	for _, arguments := range []string{
		"", "NONSENSE", "ALL NONSENSE", "NOT", "OR SEEN", "OR", "()", "(SEEN", "SEEN)", "KEYWORD", `KEYWORD "x"`, "UID", "UID 0", "UID x", "0", "3", "2:3", "NOT 3", "OR ALL 3",
		"LARGER", "LARGER x", "LARGER -1", "SMALLER 1.5", "ON", "ON 2026-01-02", "ON 32-Jan-2026", "ON 1-Foo-2026", "ON 30-Feb-2026", "SINCE 1-Jan-26", "SENTON x",
		"FROM", "SUBJECT", "HEADER", "HEADER X-A", "BODY", "TEXT (x)", "CHARSET", "CHARSET UTF-8", "RETURN", "RETURN ALL", "RETURN (NONSENSE) ALL", "RETURN (ALL)", "ALL RETURN (ALL)", "SEEN CHARSET UTF-8",
	} {
		for _, verb := range []string{"SEARCH ", "UID SEARCH "} {
			c.says("b "+verb+arguments, "BAD")
			c.ok("n NOOP")
		}
	}
	c.says("c SEARCH CHARSET X-NONE SEEN", "NO [BADCHARSET (US-ASCII UTF-8)]")
}

// TestSearchSeesTheView: what another session did counts as the client was told;
// a message that it does not know has no number (RFC 3501, section 7.4.1).
func TestSearchSeesTheView(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 3)
	one, two := b.pair()
	two.ok("a APPEND INBOX {6+}\r\nS: x\r\n")
	one.says("a SEARCH ALL", "* SEARCH 1 2 3", "* 4 EXISTS", "OK")
	one.says("b SEARCH ALL", "* SEARCH 1 2 3 4", "OK")
	two.ok(`b STORE 1 +FLAGS.SILENT (\Deleted)`)
	two.ok("b EXPUNGE")
	one.says("c SEARCH SUBJECT number", "* SEARCH 2 3", "OK")
	one.says("d SEARCH ALL", "* SEARCH 2 3 4", "OK")
	one.says("e UID SEARCH SUBJECT number", "* SEARCH 2 3", "* 1 EXPUNGE", "OK")
	one.says("f SEARCH SUBJECT number", "* SEARCH 1 2", "OK")
}
