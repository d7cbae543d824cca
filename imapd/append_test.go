package imapd

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mailnode/storage"
)

// TestAppendLeapSecond: 23:59:60 was a second, and mail of it can be copied from
// another server; it is kept as the second before.
func TestAppendLeapSecond(t *testing.T) {
	b := newBench(t, nil)
	c := b.login("alice")
	for _, date := range []string{"30-Jun-2015 23:59:60 +0000", "31-Dec-2016 18:59:60 -0500"} {
		c.want("a APPEND INBOX \""+date+"\" {6+}\r\nS: x\r\n", "OK [APPENDUID ")
	}
	c.want("a APPEND INBOX \"30-Jun-2015 23:59:61 +0000\" {6+}\r\nS: x\r\n", "BAD")
	c.ok("a SELECT INBOX")
	got := c.ok("a FETCH 1:* INTERNALDATE")
	want := []string{`* 1 FETCH (INTERNALDATE "30-Jun-2015 23:59:59 +0000")`, `* 2 FETCH (INTERNALDATE "31-Dec-2016 23:59:59 +0000")`}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestNUL: a message keeps its NULs, whoever brings it, and gives them back in
// an ordinary literal (GUARANTEES). No other response has one, and no argument.
func TestNUL(t *testing.T) {
	b := newBench(t, nil)
	c := b.login("alice")
	text := "From: \"a\x00b\" <x\x00y@example.test>\r\nSubject: s\x00t\r\nContent-Type: text/plain; name=\"n\x00m\"\r\n\r\nbody \x00\x00\r\n"
	b.deliver("alice", text)
	c.want(fmt.Sprintf("a APPEND INBOX {%d+}\r\n%s", len(text), text), "OK [APPENDUID ")
	c.ok("a SELECT INBOX")
	for n := 1; n <= 2; n++ {
		if got, want := c.ok(fmt.Sprintf("b FETCH %d BODY.PEEK[]", n)), fmt.Sprintf("* %d FETCH (BODY[] {%d}\r\n%s)", n, len(text), text); !slices.Equal(got, []string{want}) {
			t.Errorf("got %q, want %q", got, want)
		}
		if got := strings.Join(c.ok(fmt.Sprintf("c FETCH %d (ENVELOPE BODYSTRUCTURE RFC822.SIZE)", n)), ""); strings.Contains(got, "\x00") || !strings.Contains(got, fmt.Sprintf("RFC822.SIZE %d", len(text))) {
			t.Errorf("got %q", got)
		}
	}
	for _, command := range []string{"SEARCH BODY {3+}\r\na\x00b", "SELECT {3+}\r\na\x00b", "LIST \"\" \"a\x00b\"", "STORE 1 FLAGS (a\x00b)", "ID (\"a\" \"\x00\")"} {
		c.want("d "+command, "BAD")
	}
}

// announce announces a message of a size and returns the answer to that.
func (c *wireClient) announce(size int64) string {
	c.t.Helper()
	c.send(fmt.Sprintf("b APPEND INBOX {%d}\r\n", size))
	return c.line()
}

// What would go over the quota is refused before it is sent, together with what
// other sessions have announced and not sent yet (RFC 9208, section 4.1.3).
func TestAppendOverQuotaIsNotAskedFor(t *testing.T) {
	b := newBench(t, nil)
	if err := b.store.SetQuota(t.Context(), b.users["alice"].ID, 1<<20); err != nil {
		t.Fatal(err)
	}
	one, two := b.login("alice"), b.login("alice")
	if got := one.announce(1<<20 + 1); !strings.HasPrefix(got, "b NO [OVERQUOTA]") {
		t.Errorf("more than the quota: %q", got)
	}
	if got := one.announce(600 << 10); !strings.HasPrefix(got, "+ ") {
		t.Fatalf("less than the quota: %q", got)
	}
	if got := two.announce(600 << 10); !strings.HasPrefix(got, "b NO [OVERQUOTA]") {
		t.Errorf("beside what another session sends: %q", got)
	}
	// A message that comes unasked is read and dropped.
	two.send(fmt.Sprintf("c APPEND INBOX {%d+}\r\n%s\r\nd NOOP\r\n", 600<<10, strings.Repeat("x", 600<<10)))
	if got := two.line(); !strings.HasPrefix(got, "c NO [OVERQUOTA]") {
		t.Errorf("unasked: %q", got)
	}
	two.until("d OK")
	one.conn.Close()
	for tries := 0; ; tries++ { // until the server has noticed
		got := two.announce(600 << 10)
		if strings.HasPrefix(got, "+ ") {
			break
		}
		if tries > 1000 {
			t.Fatalf("when the other session has gone: %q", got)
		}
		<-time.After(time.Millisecond)
	}
	two.send(strings.Repeat("x", 600<<10) + "\r\n")
	two.until("b OK")
}

// One account may not have more on its way than its share, over all its sessions;
// others may go on.
func TestAppendsOfOneAccountShare(t *testing.T) {
	b := newBench(t, nil)
	var open []*wireClient
	for range storage.SpoolsOwnerMax {
		c := b.login("alice")
		if got := c.announce(10); !strings.HasPrefix(got, "+ ") {
			t.Fatalf("session %d: %q", len(open), got)
		}
		open = append(open, c)
	}
	if got := b.login("alice").announce(10); !strings.HasPrefix(got, "b NO [LIMIT]") {
		t.Errorf("one more: %q", got)
	}
	other := b.login("bob")
	if got := other.announce(10); !strings.HasPrefix(got, "+ ") {
		t.Errorf("another user: %q", got)
	}
	open[0].send("0123456789\r\n")
	open[0].until("b OK")
	if got := b.login("alice").announce(10); !strings.HasPrefix(got, "+ ") {
		t.Errorf("when one has ended: %q", got)
	}
}

// Whoever sends a message too slowly is cut off, although bytes come all the time.
func TestAppendTooSlowIsCut(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Timeouts.Pace = 200 * time.Millisecond })
	c := b.login("alice")
	if got := c.announce(1 << 20); !strings.HasPrefix(got, "+ ") {
		t.Fatal(got)
	}
	stop := make(chan struct{})
	go func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				c.conn.Write([]byte("x"))
			case <-stop:
				return
			}
		}
	}()
	c.wantBye("[UNAVAILABLE]")
	close(stop)
	if got := b.login("alice").announce(10); !strings.HasPrefix(got, "+ ") {
		t.Errorf("the next one: %q", got)
	}
}
