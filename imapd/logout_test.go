package imapd

import (
	"io"
	"testing"
)

// TestLogout: BYE comes before the tagged OK, and then the connection ends
// (RFC 3501, section 6.1.3). What is pipelined behind it does not run.
func TestLogout(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("LOGOUT", byState{"OK", "OK", "OK", "OK"})
	b.wantByState("LOGOUT x", byState{badState, badState, badState, badState})
	c := b.login("alice")
	c.ok("b SELECT INBOX")
	c.send("a LOGOUT\r\n" + injected)
	if bye := c.line(); bye != "* BYE logging out" {
		t.Errorf("before the tagged response: %q", bye)
	}
	if answer := c.line(); answer != "a OK LOGOUT completed" {
		t.Errorf("tagged response: %q", answer)
	}
	if line, err := c.tryLine(); err == nil {
		t.Errorf("behind it: %q", line)
	}
	b.login("alice").trashIsThere()
}

// TestLogoutExpungesNothing: only CLOSE and EXPUNGE remove messages.
func TestLogoutExpungesNothing(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 2)
	for _, leave := range []func(c *wireClient){
		func(c *wireClient) { c.ok("b LOGOUT") },
		func(c *wireClient) { c.conn.Close() },
	} {
		c := b.login("alice")
		c.ok("a SELECT INBOX")
		c.ok(`a STORE 1 +FLAGS (\Deleted)`)
		leave(c)
		io.Copy(io.Discard, c.r)
		if n := b.login("alice").status("INBOX", "MESSAGES"); n != 2 {
			t.Errorf("%d messages are left of 2", n)
		}
	}
}
