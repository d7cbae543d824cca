package imapd

import (
	"fmt"
	"strings"
	"testing"
)

// copies are the commands that bring messages into another mailbox.
var copies = []string{"COPY", "UID COPY", "MOVE", "UID MOVE"}

// TestCopyRefused: each of the four, whatever is wrong with it, changes nothing
// (RFC 3501, section 6.4.7: the target must be as before).
func TestCopyRefused(t *testing.T) {
	b := newBench(t, nil)
	for _, verb := range copies {
		examined := "OK"
		if strings.HasSuffix(verb, "MOVE") {
			examined = "NO [NOPERM]"
		}
		b.wantByState(verb+" 1", byState{badState, badState, badState, map[string]string{"OK": badState}[examined]})
	}
	b.deliverMany("alice", 2)
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	for _, verb := range copies {
		isUID := strings.HasPrefix(verb, "UID")
		outside := "BAD" // RFC 3501, section 9: seq-number
		if isUID {
			outside = "OK" // section 6.4.8: a UID that is not there is passed over
		}
		for _, tt := range []struct{ arguments, want string }{
			{"1 Nowhere", "NO [TRYCREATE]"},
			{"1:* Nowhere/below", "NO [TRYCREATE]"},
			{"99:100 Archive", outside},
			{"0 Archive", "BAD"},
			{"1", "BAD"},
			{"1 ", "BAD"},
			{"1 Archive x", "BAD"},
			{"(1) Archive", "BAD"},
			{"1,,2 Archive", "BAD"},
			{"1 bad&name", "NO [CANNOT]"},
			{"1 a//b", "NO ["},
		} {
			c.want("b "+verb+" "+tt.arguments, tt.want)
			c.ok("n NOOP")
		}
		if isUID {
			c.want("b "+verb+" 99 Nowhere", "NO [TRYCREATE]") // also when there is nothing to do
		}
	}
	for name, want := range map[string]int{"INBOX": 2, "Archive": 0} {
		if got := c.status(name, "MESSAGES"); got != want {
			t.Errorf("%s has %d messages, want %d", name, got, want)
		}
	}
}

// TestCopyKeeps: a copy has the flags, the date and the bytes of its original
// (RFC 3501, section 6.4.7), and COPYUID pairs them (RFC 4315, section 3).
func TestCopyKeeps(t *testing.T) {
	b := newBench(t, nil)
	c := b.login("alice")
	c.ok("a CREATE other")
	for _, verb := range copies {
		c.ok("a SELECT INBOX")
		c.ok("a APPEND INBOX (\\Seen \\Flagged $k) \"17-Jul-1996 02:44:25 -0700\" {6+}\r\nS: x\r\n")
		c.ok("a APPEND INBOX (\\Draft) \"18-Jul-1996 02:44:25 -0700\" {6+}\r\nS: y\r\n")
		from, to := c.status("INBOX", "UIDNEXT"), c.status("other", "UIDNEXT")
		exists := c.status("INBOX", "MESSAGES")
		set := fmt.Sprintf("%d:%d", exists, exists-1)
		if strings.HasPrefix(verb, "UID") {
			set = fmt.Sprintf("%d,%d:*", from-1, from-2)
		}
		lines := c.cmd("b " + verb + " " + set + " other")
		pairs := fmt.Sprintf("[COPYUID %d %d:%d %d:%d] ", c.status("other", "UIDVALIDITY"), from-2, from-1, to, to+1)
		if told := strings.Join(lines, "\n"); strings.Count(told, pairs) != 1 {
			t.Errorf("%s: %q, want %s once", verb, lines, pairs)
		}
		c.ok("c SELECT other")
		c.says(fmt.Sprintf("d UID FETCH %d:* (FLAGS INTERNALDATE BODY.PEEK[])", to),
			fmt.Sprintf(`* %d FETCH (UID %d FLAGS (\Flagged \Seen $k) INTERNALDATE "17-Jul-1996 09:44:25 +0000" BODY[] {6}`+"\r\nS: x\r\n)", to, to),
			fmt.Sprintf(`* %d FETCH (UID %d FLAGS (\Draft) INTERNALDATE "18-Jul-1996 09:44:25 +0000" BODY[] {6}`+"\r\nS: y\r\n)", to+1, to+1), "OK")
	}
}

// TestCopyToItself: the copies are new messages with new UIDs.
func TestCopyToItself(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 2)
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	validity := c.status("INBOX", "UIDVALIDITY")
	c.says("b COPY 1:2 inbox", "* 4 EXISTS", fmt.Sprintf("OK [COPYUID %d 1:2 3:4]", validity))
	c.says("c MOVE 2:3 INBOX", fmt.Sprintf("* OK [COPYUID %d 2:3 5:6] moved", validity), "* 2 EXPUNGE", "* 2 EXPUNGE", "* 4 EXISTS", "OK")
	c.says("d UID SEARCH ALL", "* SEARCH 1 4 5 6", "OK")
}

// TestMoveOrder: COPYUID comes before the EXPUNGEs (RFC 6851, section 4.3), and
// another session hears both ends.
func TestMoveOrder(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 4)
	one, two := b.pair()
	three := b.login("alice")
	three.ok("a SELECT Archive")
	validity := three.status("Archive", "UIDVALIDITY")
	one.says("a MOVE 4,1:2 Archive", fmt.Sprintf("* OK [COPYUID %d 1:2,4 1:3] moved", validity), "* 1 EXPUNGE", "* 1 EXPUNGE", "* 2 EXPUNGE", "OK")
	two.says("a NOOP", "* 1 EXPUNGE", "* 1 EXPUNGE", "* 2 EXPUNGE", "OK")
	three.says("b NOOP", "* 3 EXISTS", "OK")
	// What has been moved away already is passed over, and said to be.
	two.ok("b COPY 1 Archive")
	one.ok("b UID MOVE 3 Archive")
	two.want("c MOVE 1 Archive", "OK [EXPUNGEISSUED]")
}

// TestCopyOverQuota: nothing of it is copied. A move needs no room (RFC 6851,
// section 4.1).
func TestCopyOverQuota(t *testing.T) {
	b := newBench(t, nil)
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	for range 3 {
		c.ok("a APPEND INBOX {10000+}\r\n" + strings.Repeat("x", 10_000))
	}
	if err := b.store.SetQuota(t.Context(), b.users["alice"].ID, 45_000); err != nil {
		t.Fatal(err)
	}
	c.says("b COPY 1:2 Archive", "NO [OVERQUOTA]")
	c.says("b UID COPY 1:2 Nowhere", "NO [TRYCREATE]")
	if n := c.status("Archive", "MESSAGES"); n != 0 {
		t.Errorf("%d messages were copied", n)
	}
	c.want("c COPY 1 Archive", "OK [COPYUID ")
	c.ok("d MOVE 1:3 Archive")
	if n := c.status("Archive", "MESSAGES"); n != 4 {
		t.Errorf("Archive has %d messages, want 4", n)
	}
}
