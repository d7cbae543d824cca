package imapd

import (
	"strings"
	"testing"
)

// TestTwoSessionsIdle: IDLE tells deliveries, flags and expunges as they happen.
func TestTwoSessionsIdle(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 2)
	idler, other := b.login("alice"), b.login("alice")
	idler.ok("a SELECT INBOX")
	other.ok("a SELECT INBOX")
	idler.send("i IDLE\r\n")
	idler.until("+ ")
	b.deliver("alice", "Subject: new\r\n\r\nx")
	idler.until("* 3 EXISTS")
	other.ok(`b STORE 1 +FLAGS (\Deleted)`)
	idler.until(`* 1 FETCH (UID 1 FLAGS (\Deleted))`)
	other.ok("c EXPUNGE")
	idler.until("* 1 EXPUNGE")
	idler.send("DONE\r\n")
	idler.until("i OK")
	// The next command of the session is served as ever.
	idler.want("n NOOP", "OK")
	idler.send("j IDLE\r\n")
	idler.until("+ ")
	idler.send("nonsense\r\n")
	idler.until("j BAD")
}

// TestIdleForms: IDLE with and without a mailbox, and the ways to end it
// (RFC 2177, section 3).
func TestIdleForms(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("IDLE x", byState{badState, badState, badState, badState})
	b.wantByState("IDLE\r\nDONE", byState{badState, "OK", "OK", "OK"})
	for _, open := range []string{"NOOP", "SELECT INBOX", "EXAMINE INBOX"} {
		for _, tt := range []struct{ end, want string }{
			{"DONE\r\n", "i OK"},
			{"done\r\n", "i OK"},
			{"DONE \r\n", "i OK"},
			{"DONE\n", "i OK"},
			{"\r\n", "i BAD"},
			{"DONE x\r\n", "i BAD"},
			{"n NOOP\r\n", "i BAD"},
			{"i DONE\r\n", "i BAD"},
		} {
			c := b.login("alice")
			c.ok("a " + open)
			c.send("i IDLE\r\n")
			if got := c.line(); !strings.HasPrefix(got, "+ ") {
				t.Fatalf("IDLE: %q", got)
			}
			c.send(tt.end)
			if got := c.line(); !strings.HasPrefix(got, tt.want) {
				t.Errorf("IDLE after %s, ended by %q: %q", open, tt.end, got)
			}
			c.says("z NOOP", "OK")
			c.conn.Close()
		}
	}
}

// TestIdlePipelined: DONE and what comes behind it may be sent at once, and IDLE
// may follow IDLE.
func TestIdlePipelined(t *testing.T) {
	b := newBench(t, nil)
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	c.send("i IDLE\r\nDONE\r\nb NOOP\r\nj IDLE\r\nDONE\r\nc NOOP\r\n")
	var got []string
	for _, line := range c.until("c ") {
		word, _, _ := strings.Cut(line, " ")
		got = append(got, word)
	}
	if want := "+ i b + j c"; strings.Join(got, " ") != want {
		t.Errorf("answers %q, want %s", got, want)
	}
}

// TestIdleTellsTheBacklog: what changed before IDLE is told at its beginning, and
// what EXPUNGE had to wait for.
func TestIdleTellsTheBacklog(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 3)
	one, two := b.pair()
	two.ok(`a STORE 1 +FLAGS.SILENT (\Deleted)`)
	two.ok("a EXPUNGE")
	two.ok(`a STORE 2 +FLAGS.SILENT (\Seen)`)
	one.want("a FETCH 3 UID", "OK")
	one.send("i IDLE\r\n")
	if got := one.line(); !strings.HasPrefix(got, "+ ") {
		t.Fatalf("IDLE: %q", got)
	}
	if got := one.line(); got != "* 1 EXPUNGE" {
		t.Errorf("IDLE begins with %q, want the EXPUNGE that FETCH could not tell", got)
	}
	one.send("DONE\r\n")
	one.until("i OK")
	one.says("b FETCH 1:* UID", "* 1 FETCH (UID 2)", "* 2 FETCH (UID 3)", "OK")
}

// TestIdleAlone: without a mailbox nothing is told; a connection that ends in IDLE
// ends the session.
func TestIdleAlone(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Limits.PerUserMax = 2 })
	one, two := b.login("alice"), b.login("alice")
	one.send("i IDLE\r\n")
	one.until("+ ")
	b.deliver("alice", "Subject: x\r\n\r\nx")
	two.ok("a SELECT INBOX")
	two.ok(`a STORE 1 +FLAGS (x)`)
	one.send("DONE\r\n")
	if got := one.until("i "); len(got) != 1 {
		t.Errorf("IDLE without a mailbox told %q", got)
	}
	one.send("i IDLE\r\n")
	one.until("+ ")
	one.conn.Close()
	// Its place is free as soon as the server has noticed.
	for tries := 0; ; tries++ {
		c := dial(t, b.plain)
		c.line()
		got := c.cmd("l LOGIN alice@example.test secret")
		c.conn.Close()
		if strings.HasPrefix(got[len(got)-1], "l OK") {
			break
		}
		if tries > 1000 {
			t.Fatalf("the place is taken: %q", got)
		}
	}
}
