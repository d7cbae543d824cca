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
