package imapd

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"mailnode/storage"
)

// oddNames are mailbox names as a client may send them, and as they are shown.
var oddNames = []struct{ sent, shown string }{
	{"plain", "plain"},
	{`"two words"`, `"two words"`},
	{`"quo\"te"`, `"quo\"te"`},
	{`"back\\slash"`, `"back\\slash"`},
	{"{3+}\r\na b", `"a b"`},
	{`"a(b)c{d"`, `"a(b)c{d"`},
	{`"per%cent*"`, `"per%cent*"`},
	{"close]bracket", `"close]bracket"`},
	{"NIL", `"NIL"`},
	{`"nil"`, `"nil"`},
	{"tilde~", "tilde~"},
	{"R&-D", "R&-D"},
	{"Entw&APw-rfe", "Entw&APw-rfe"},
	{"~peter/mail/&U,BTFw-/&ZeVnLIqe-", "~peter/mail/&U,BTFw-/&ZeVnLIqe-"}, // RFC 3501, section 5.1.3
	{"&2D3cqQ-", "&2D3cqQ-"}, // beyond the basic plane
	{"Case", "Case"},
	{"case", "case"}, // another one: only INBOX has no case
	{"inbox/below", "INBOX/below"},
	{"with/end/", "with/end"}, // section 6.3.3: a trailing separator is no part of the name
}

// TestCreate: what may be made, and the codes of what may not (RFC 3501, section
// 6.3.3; RFC 5530, section 3).
func TestCreate(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("CREATE", byState{badState, badState, badState, badState})
	b.wantByState("CREATE INBOX", byState{badState, "NO [ALREADYEXISTS]", "NO [ALREADYEXISTS]", "NO [ALREADYEXISTS]"})
	c := b.login("alice")
	for _, tt := range []struct{ arguments, want string }{
		{"work", "OK"},
		{"work", "NO [ALREADYEXISTS]"},
		{"work/", "NO [ALREADYEXISTS]"},
		{"Work", "OK"},
		{"inbox", "NO [ALREADYEXISTS]"},
		{"InBox/", "NO [ALREADYEXISTS]"},
		{"inBOX/one", "OK"},
		{"INBOX/one", "NO [ALREADYEXISTS]"},
		{`""`, "NO [CANNOT]"},
		{"/", "NO [CANNOT]"},
		{"/root", "NO [CANNOT]"},
		{"a//b", "NO [CANNOT]"},
		{"&AAo-", "NO [CANNOT]"}, // a line feed
		{"work x", "BAD"},
		{fmt.Sprintf("{%d}", commandBytesAfter), "BAD [TOOBIG]"},
		{strings.Repeat("x", storage.MaxMailboxNameBytes), "OK"},
		{strings.Repeat("x", storage.MaxMailboxNameBytes+1), "NO [LIMIT]"},
		{strings.TrimSuffix(strings.Repeat("l/", storage.MaxMailboxLevels), "/"), "OK"},
		{strings.TrimSuffix(strings.Repeat("m/", storage.MaxMailboxLevels+1), "/"), "NO [LIMIT]"},
	} {
		c.want("a CREATE "+tt.arguments, tt.want)
	}
}

// TestCreateMakesTheLevelsAbove: they are mailboxes, too (RFC 3501, section
// 6.3.3), and what is made is empty and not selected.
func TestCreateMakesTheLevelsAbove(t *testing.T) {
	b := newBench(t, nil)
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	c.ok("b CREATE a/b/c")
	if got := c.names("a*"); !slices.Equal(got, []string{"a", "a/b", "a/b/c"}) {
		t.Errorf("made: %q", got)
	}
	for _, name := range []string{"a", "a/b", "a/b/c"} {
		c.says("c STATUS "+name+" (MESSAGES UIDNEXT)", "* STATUS "+name+" (MESSAGES 0 UIDNEXT 1)", "OK")
	}
	c.want("d FETCH 1:* FLAGS", "OK")
	c.says(`e LSUB "" a*`, "OK") // nobody subscribed them
	b.login("bob").says(`a LIST "" a*`, "OK")
}

// TestCreateAfterDelete: a name that is made a second time has a greater
// UIDVALIDITY, whatever happened between (RFC 3501, sections 2.3.1.1 and 6.3.3).
func TestCreateAfterDelete(t *testing.T) {
	b := newBench(t, nil)
	c := b.login("alice")
	last := 0
	for _, again := range []string{"CREATE box", "CREATE box/below", "RENAME other box"} {
		c.ok("a CREATE other")
		c.ok("b " + again)
		if validity := c.status("box", "UIDVALIDITY"); validity <= last {
			t.Errorf("%s: UIDVALIDITY %d after %d", again, validity, last)
		} else {
			last = validity
		}
		c.ok("c APPEND box {6+}\r\nS: x\r\n")
		c.ok("d DELETE box")
		c.cmd("e DELETE box/below")
		c.cmd("e DELETE other")
	}
}

// TestCreateSpecialUse: RFC 6154, section 3.
func TestCreateSpecialUse(t *testing.T) {
	c := newBench(t, nil).login("alice")
	for _, tt := range []struct{ arguments, want string }{
		{`a (USE (\Drafts))`, "OK"},
		{`b (use (\SENT))`, "OK"},
		{"c (USE ())", "OK"},
		{`d (USE (\All))`, "NO [USEATTR]"},
		{`e (USE (\Flagged))`, "NO [USEATTR]"},
		{`f (USE (\Nonsense))`, "NO [USEATTR]"},
		{`g (USE (\Sent \Trash))`, "NO [USEATTR]"},
		{`h (USE \Sent)`, "BAD"},
		{`i (NONSENSE (\Sent))`, "BAD"},
		{`j ()`, "BAD"},
		{`k (USE (\Sent)`, "BAD"},
	} {
		c.want("a CREATE "+tt.arguments, tt.want)
	}
	c.says(`b LIST "" %`, `* LIST (\HasNoChildren \Archive) "/" Archive`, `* LIST (\HasNoChildren \Drafts) "/" Drafts`, `* LIST (\HasNoChildren) "/" INBOX`,
		`* LIST (\HasNoChildren \Junk) "/" Junk`, `* LIST (\HasNoChildren \Sent) "/" Sent`, `* LIST (\HasNoChildren \Trash) "/" Trash`,
		`* LIST (\HasNoChildren \Drafts) "/" a`, `* LIST (\HasNoChildren \Sent) "/" b`, `* LIST (\HasNoChildren) "/" c`, "OK")
}
