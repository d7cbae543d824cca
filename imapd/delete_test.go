package imapd

import "testing"

// TestSelectedMailboxDeleted: the other session's mailbox is gone.
func TestSelectedMailboxDeleted(t *testing.T) {
	b := newBench(t, nil)
	one, two, idler := b.login("alice"), b.login("alice"), b.login("alice")
	one.ok("a CREATE box")
	two.ok("a SELECT box")
	idler.ok("a SELECT box")
	idler.send("i IDLE\r\n")
	idler.until("+ ")
	one.ok("b DELETE box")
	two.send("c NOOP\r\n")
	two.wantBye("selected mailbox was deleted")
	idler.wantBye("selected mailbox was deleted")
}

// TestDelete: what may be deleted, and the codes of what may not (RFC 3501,
// section 6.3.4; RFC 5530, section 3).
func TestDelete(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("DELETE", byState{badState, badState, badState, badState})
	b.wantByState("DELETE INBOX", byState{badState, "NO [CANNOT]", "NO [CANNOT]", "NO [CANNOT]"})
	c := b.login("alice")
	c.ok("a CREATE a/b/c")
	c.ok("a SUBSCRIBE a/b")
	for _, tt := range []struct{ arguments, want string }{
		{"inbox", "NO [CANNOT]"},
		{"INBOX/", "NO [CANNOT]"},
		{"Nowhere", "NO [NONEXISTENT]"},
		{"bad&name", "NO [CANNOT]"},
		{`""`, "NO ["},
		{"a b", "BAD"},
		{"a/b", "OK"},
		{"a/b", "NO [NONEXISTENT]"}, // a level with something below it, no mailbox
		{"a/b/c", "OK"},
		{"a/b", "NO [NONEXISTENT]"}, // nothing at all
		{"a/", "OK"},
	} {
		c.want("b DELETE "+tt.arguments, tt.want)
	}
	c.says(`c LSUB "" a*`, `* LSUB () "/" a/b`, "OK") // section 6.3.6: not the server's to take away
}

// TestDeleteKeepsWhatIsBelow: the name stays as a level (RFC 3501, section 6.3.4).
func TestDeleteKeepsWhatIsBelow(t *testing.T) {
	b := newBench(t, nil)
	c := b.login("alice")
	c.ok("a CREATE a/b")
	c.ok("a APPEND a {6+}\r\nS: x\r\n")
	c.ok("a APPEND a/b {6+}\r\nS: y\r\n")
	c.says("b DELETE a", "OK")
	c.says(`c LIST "" a*`, `* LIST (\Noselect \HasChildren) "/" a`, `* LIST (\HasNoChildren) "/" a/b`, "OK")
	c.says("d SELECT a", "NO [NONEXISTENT]")
	c.says("e STATUS a (MESSAGES)", "NO [NONEXISTENT]")
	c.says("f STATUS a/b (MESSAGES)", "* STATUS a/b (MESSAGES 1)", "OK")
	c.want("g APPEND a {6+}\r\nS: x\r\n", "NO [TRYCREATE]")
	c.says("h CREATE a", "OK")
	c.says("i STATUS a (MESSAGES)", "* STATUS a (MESSAGES 0)", "OK")
}
