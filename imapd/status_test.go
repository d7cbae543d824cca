package imapd

import (
	"fmt"
	"strings"
	"testing"
)

// TestStatus: each item, in any order and case, of a mailbox that is not selected
// and of the one that is (RFC 3501, section 6.3.10: servers must answer that).
func TestStatus(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("STATUS INBOX (MESSAGES)", byState{badState, "OK", "OK", "OK"})
	for _, wrong := range []string{"", " INBOX", " INBOX ()", " INBOX MESSAGES", " INBOX (NONSENSE)", " INBOX (MESSAGES) x", " (MESSAGES)", " INBOX (MESSAGES"} {
		b.wantByState("STATUS"+wrong, byState{badState, badState, badState, badState})
	}
	for name, want := range map[string]string{"Nowhere": "NO [NONEXISTENT]", "bad&name": "NO [CANNOT]", "INBOX/x": "NO [NONEXISTENT]", "a//b": "NO ["} {
		b.wantByState("STATUS "+name+" (MESSAGES)", byState{badState, want, want, want})
	}
	c := b.login("alice")
	c.ok("a APPEND INBOX (\\Seen) {10+}\r\n0123456789")
	c.ok("a APPEND INBOX {7+}\r\n0123456")
	validity := c.status("INBOX", "UIDVALIDITY")
	want := fmt.Sprintf("* STATUS INBOX (MESSAGES 2 RECENT 0 UIDNEXT 3 UIDVALIDITY %d UNSEEN 1 SIZE 17 APPENDLIMIT 52428800)", validity)
	items := "(appendlimit Size UNSEEN uidvalidity UIDNEXT RECENT MESSAGES MESSAGES)"
	c.says("b STATUS iNbOx "+items, want, "OK")
	c.ok("b SELECT INBOX")
	c.says("c STATUS INBOX "+items, want, "OK")
	c.ok(`d STORE 1:2 FLAGS.SILENT (\Deleted)`)
	c.says("e STATUS INBOX (MESSAGES UNSEEN)", "* STATUS INBOX (MESSAGES 2 UNSEEN 2)", "OK")
	c.ok("f EXPUNGE")
	c.says("g STATUS INBOX (MESSAGES UIDNEXT UNSEEN SIZE)", "* STATUS INBOX (MESSAGES 0 UIDNEXT 3 UNSEEN 0 SIZE 0)", "OK")
}

// TestStatusSelectsNothing: it changes neither which mailbox is selected nor what
// is in the one asked about (RFC 3501, section 6.3.10), and its numbers are of now.
func TestStatusSelectsNothing(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 1)
	one, two := b.login("alice"), b.login("alice")
	one.ok("a SELECT Archive")
	two.ok("a APPEND Archive {6+}\r\nS: x\r\n")
	one.says("b STATUS INBOX (MESSAGES)", "* STATUS INBOX (MESSAGES 1)", "* 1 EXISTS", "OK")
	two.ok("b APPEND INBOX {6+}\r\nS: x\r\n")
	one.says("c STATUS INBOX (MESSAGES)", "* STATUS INBOX (MESSAGES 2)", "OK")
	one.says("d FETCH 1:* UID", "* 1 FETCH (UID 1)", "OK")
}

// TestStatusOfOddNames: the answer has the name as it can be sent (RFC 3501,
// section 5.1.3).
func TestStatusOfOddNames(t *testing.T) {
	c := newBench(t, nil).login("alice")
	for _, name := range oddNames {
		c.ok("a CREATE " + name.sent)
		c.says("b STATUS "+name.sent+" (MESSAGES)", "* STATUS "+name.shown+" (MESSAGES 0)", "OK")
		if !strings.Contains(strings.Join(c.names("*"), "\n")+"\n", name.shown+"\n") {
			t.Errorf("LIST does not show %s", name.shown)
		}
		c.ok("c SELECT " + name.sent)
		c.want("d DELETE "+name.sent, "OK")
	}
}
