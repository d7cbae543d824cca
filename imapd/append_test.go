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

// TestAppendForms: flags and dates in each form that may come, and what the message
// then has (RFC 3501, sections 6.3.11 and 9).
func TestAppendForms(t *testing.T) {
	b := newBench(t, nil)
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	const now = "02-Jan-2026 03:04:05 +0000"
	kept := 0
	for _, tt := range []struct{ arguments, want, flags, date string }{
		{"INBOX", "OK", "", now},
		{"inbox ()", "OK", "", now},
		{`"INBOX" (\Seen)`, "OK", `\Seen`, now},
		{`{5+}` + "\r\nINBOX" + ` (\SEEN \answered \Flagged \Deleted \Draft)`, "OK", `\Answered \Flagged \Deleted \Seen \Draft`, now},
		{`INBOX ($Forwarded custom Custom)`, "OK", `$Forwarded custom`, now},
		{`INBOX (\Recent)`, "OK", "", now}, // no client can set it: section 2.3.2
		{`INBOX (\Nonsense)`, "NO [CANNOT]", "", ""},
		{`INBOX (\*)`, "NO [CANNOT]", "", ""},
		{`INBOX \Seen`, "BAD", "", ""},
		{`INBOX (\Seen`, "BAD", "", ""},
		{`INBOX "17-Jul-1996 02:44:25 -0700"`, "OK", "", "17-Jul-1996 09:44:25 +0000"},
		{`INBOX (\Seen) " 1-Feb-2024 23:59:59 +1400"`, "OK", `\Seen`, "01-Feb-2024 09:59:59 +0000"},
		{`INBOX "29-feb-2024 00:00:00 +0000"`, "OK", "", "29-Feb-2024 00:00:00 +0000"},
		{`INBOX "01-Jan-0001 00:00:01 +0000"`, "OK", "", "01-Jan-0001 00:00:01 +0000"},
		{`INBOX "31-Dec-9999 23:59:59 +0000"`, "OK", "", "31-Dec-9999 23:59:59 +0000"},
		{`INBOX "29-Feb-2023 00:00:00 +0000"`, "BAD", "", ""},
		{`INBOX "00-Jan-2024 00:00:00 +0000"`, "BAD", "", ""},
		{`INBOX "01-Jan-2024 24:00:00 +0000"`, "BAD", "", ""},
		{`INBOX "01-Jan-2024 00:00:00"`, "BAD", "", ""},
		{`INBOX "01-Jan-2024"`, "BAD", "", ""},
		{`INBOX "Mon, 01 Jan 2024 00:00:00 +0000"`, "BAD", "", ""},
		{`INBOX "1-Jan-2024 00:00:00 +0000"`, "OK", "", "01-Jan-2024 00:00:00 +0000"},
		{`INBOX "17-Jul-1996 02:44:25 -0700" (\Seen)`, "BAD", "", ""},
		{`Nowhere`, "NO [TRYCREATE]", "", ""},
		{`bad&name`, "NO [CANNOT]", "", ""},
		{``, "BAD", "", ""},
	} {
		c.want("a APPEND "+tt.arguments+" {6+}\r\nS: x\r\n", tt.want)
		c.ok("n NOOP")
		if tt.want != "OK" {
			continue
		}
		kept++
		got := c.ok(fmt.Sprintf("b FETCH %d (UID FLAGS INTERNALDATE RFC822.SIZE)", kept))
		want := fmt.Sprintf("* %d FETCH (UID %d FLAGS (%s) INTERNALDATE \"%s\" RFC822.SIZE 6)", kept, kept, tt.flags, tt.date)
		if got[len(got)-1] != want {
			t.Errorf("APPEND %s: %q, want %q", tt.arguments, got, want)
		}
	}
	if n := c.status("INBOX", "MESSAGES"); n != kept {
		t.Errorf("%d messages are there, %d were accepted", n, kept)
	}
}

// TestAppendLiterals: the message waits to be asked for, or comes unasked; its bytes
// are kept as they are, none at all is no message, and what follows it is no
// part of it.
func TestAppendLiterals(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("APPEND INBOX {6+}\r\nS: x\r\n", byState{badState, "OK [APPENDUID ", "OK [APPENDUID ", "OK [APPENDUID "})
	b.wantByState("APPEND INBOX", byState{badState, badState, badState, badState})
	b.wantByState(`APPEND INBOX "S: x"`, byState{badState, badState, badState, badState})
	c := b.login("alice")
	c.ok("a SELECT Archive")
	for n, text := range []string{"x", "\n", "\r", "no header", "a NOOP\r\n", "S: \xff\xfe\r\n\r\n\x00\x80", "S: {5+}\r\n\r\n{5}"} {
		sync := n%2 == 0
		if sync {
			c.send(fmt.Sprintf("b APPEND Archive {%d}\r\n", len(text)))
			if got := c.line(); !strings.HasPrefix(got, "+ ") {
				t.Fatalf("APPEND: %q, want to be asked for the message", got)
			}
			c.send(text + "\r\n")
		} else {
			c.send(fmt.Sprintf("b APPEND Archive {%d+}\r\n%s\r\n", len(text), text))
		}
		if got := c.line(); got != fmt.Sprintf("* %d EXISTS", n+1) { // section 6.3.11: of the selected mailbox it SHOULD be told
			t.Errorf("APPEND to the selected mailbox told %q", got)
		}
		c.until("b OK [APPENDUID ")
		c.says(fmt.Sprintf("c FETCH %d BODY.PEEK[]", n+1), fmt.Sprintf("* %d FETCH (BODY[] {%d}\r\n%s)", n+1, len(text), text), "OK")
	}
	c.want("d APPEND Archive {0}", "NO [CANNOT]")
	c.want("d APPEND Archive {0+}\r\n", "NO [CANNOT]")
	c.send("e APPEND Archive {3+}\r\nabc {3+}\r\nabc\r\n")
	c.wantBye("[CLIENTBUG] one message at a time")
}

// TestAppendUID: the UID that is told is the message's (RFC 4315, section 3), and
// UIDs rise, whoever appends.
func TestAppendUID(t *testing.T) {
	b := newBench(t, nil)
	one, two := b.pair()
	validity := one.status("INBOX", "UIDVALIDITY")
	for uid := 1; uid <= 6; uid++ {
		by, other := one, two
		if uid%2 == 0 {
			by, other = two, one
		}
		next := by.status("INBOX", "UIDNEXT")
		by.want(fmt.Sprintf("b APPEND INBOX ($k%d) {6+}\r\nS: x\r\n", uid), fmt.Sprintf("OK [APPENDUID %d %d]", validity, uid))
		if next != uid {
			t.Errorf("UIDNEXT was %d before UID %d", next, uid)
		}
		got := other.ok("c NOOP")
		if !slices.Contains(got, fmt.Sprintf("* %d EXISTS", uid)) || !namesKeyword(got, fmt.Sprintf("$k%d", uid)) {
			t.Errorf("another session was told %q", got)
		}
	}
}

// The line behind a message has the time of a command, however long the message took.
func TestAppendEndIsAwaitedLikeACommand(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Timeouts.Command = 100 * time.Millisecond })
	c := b.login("alice")
	if got := c.announce(10); !strings.HasPrefix(got, "+ ") {
		t.Fatal(got)
	}
	c.send("0123456789")
	c.wantBye("autologout")
}
