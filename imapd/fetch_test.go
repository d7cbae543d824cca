package imapd

import "testing"

// TestFetchWantsItems: an empty list would make an empty response, which RFC
// 3501, section 9, has no form for.
func TestFetchWantsItems(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 1)
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	for _, items := range []string{"()", "( )", "", "(BODY[HEADER.FIELDS ()])", "(ALL)", "(FLAGS ())"} {
		c.want("a FETCH 1 "+items, "BAD")
		c.want("a UID FETCH 1 "+items, "BAD")
	}
	c.want("a STATUS INBOX ()", "BAD")
	c.want(`a LIST "" ()`, "BAD")
}
