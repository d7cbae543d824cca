package imapd

import "testing"

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

// TestLogoutExpungesNothing: only CLOSE and EXPUNGE remove messages, whichever way
// a session ends.
func TestLogoutExpungesNothing(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 2)
	one, two := b.pair()
	one.ok(`a STORE 1:2 +FLAGS (\Deleted)`)
	one.ok("b LOGOUT")
	two.conn.Close()
	if err := b.srv.Shutdown(t.Context()); err != nil { // both sessions have ended
		t.Fatal(err)
	}
	inbox, err := b.store.Mailbox(t.Context(), b.users["alice"].ID, "INBOX")
	if err != nil || inbox.Messages != 2 {
		t.Errorf("%d messages are left of 2, %v", inbox.Messages, err)
	}
}
