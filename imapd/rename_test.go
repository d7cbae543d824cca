package imapd

import (
	"fmt"
	"slices"
	"testing"
)

// TestRename: what may be renamed, and the codes of what may not (RFC 3501,
// section 6.3.5; RFC 5530, section 3).
func TestRename(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("RENAME", byState{badState, badState, badState, badState})
	b.wantByState("RENAME Nowhere x", byState{badState, "NO [NONEXISTENT]", "NO [NONEXISTENT]", "NO [NONEXISTENT]"})
	c := b.login("alice")
	c.ok("a CREATE a/b")
	c.ok("a CREATE c")
	c.ok("a CREATE d/b")
	for _, tt := range []struct{ arguments, want string }{
		{"a", "BAD"},
		{"a x y", "BAD"},
		{"a c", "NO [ALREADYEXISTS]"},
		{"a INBOX", "NO [ALREADYEXISTS]"},
		{"a inbox", "NO [ALREADYEXISTS]"},
		{"a a", "NO [ALREADYEXISTS]"},
		{"a a/", "NO [ALREADYEXISTS]"},
		{"a a/b", "NO [ALREADYEXISTS]"},
		{"a a/below", "NO [CANNOT]"}, // inside of itself
		{"a/ c", "NO [ALREADYEXISTS]"},
		{"Nowhere Nowhere", "NO [NONEXISTENT]"},
		{"a bad&name", "NO [CANNOT]"},
		{"bad&name a", "NO [CANNOT]"},
		{`a ""`, "NO [CANNOT]"},
		{"a x//y", "NO [CANNOT]"},
	} {
		c.want("b RENAME "+tt.arguments, tt.want)
	}
	if got, want := c.names("%*"), []string{"Archive", "Drafts", "INBOX", "Junk", "Sent", "Trash", "a", "a/b", "c", "d", "d/b"}; !slices.Equal(got, want) {
		t.Errorf("after renames that failed: %q, want %q", got, want)
	}
}

// TestRenameTree: what is below goes along, the levels above the new name are
// made, and messages keep their UIDs (RFC 3501, section 6.3.5).
func TestRenameTree(t *testing.T) {
	b := newBench(t, nil)
	c := b.login("alice")
	c.ok("a CREATE foo/bar/&APw-")
	c.ok("a CREATE foobar")
	c.ok("a APPEND foo/bar {6+}\r\nS: x\r\n")
	validity := c.status("foo/bar", "UIDVALIDITY")
	c.ok("b RENAME foo new/zap")
	if got, want := c.names("foo*"), []string{"foobar"}; !slices.Equal(got, want) {
		t.Errorf("LIST: %q, want %q", got, want)
	}
	if got, want := c.names("new*"), []string{"new", "new/zap", "new/zap/bar", "new/zap/bar/&APw-"}; !slices.Equal(got, want) {
		t.Errorf("LIST: %q, want %q", got, want)
	}
	c.says("c STATUS new/zap/bar (MESSAGES UIDNEXT UIDVALIDITY)", fmt.Sprintf("* STATUS new/zap/bar (MESSAGES 1 UIDNEXT 2 UIDVALIDITY %d)", validity), "OK")
	c.says("d STATUS foo (MESSAGES)", "NO [NONEXISTENT]")
	// A level that is no mailbox is renamed with what is below it.
	c.ok("e DELETE new/zap")
	c.ok("f RENAME new/zap old")
	if got, want := c.names("old*"), []string{"old", "old/bar", "old/bar/&APw-"}; !slices.Equal(got, want) {
		t.Errorf("LIST: %q, want %q", got, want)
	}
	c.says("g STATUS old (MESSAGES)", "NO [NONEXISTENT]")
}

// TestRenameOfALevel: a name that is no mailbox takes no other mailbox's place,
// though what is below it would find its names free.
func TestRenameOfALevel(t *testing.T) {
	c := newBench(t, nil).login("alice")
	c.ok("a CREATE level/below")
	c.ok("a CREATE taken")
	c.ok("a DELETE level")
	c.says("b RENAME level taken", "NO [ALREADYEXISTS]")
	c.says("b RENAME level level", "NO [CANNOT]")
	c.says("b RENAME level level/below", "NO [ALREADYEXISTS]")
	c.says("b RENAME level level/x", "NO [CANNOT]")
	c.says("c STATUS level/below (MESSAGES)", "* STATUS level/below (MESSAGES 0)", "OK")
}

// TestRenameInbox moves its messages and leaves an empty INBOX; what is below it
// stays (RFC 3501, section 6.3.5).
func TestRenameInbox(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 2)
	one, two := b.pair()
	one.ok("a CREATE INBOX/below")
	validity := one.status("INBOX", "UIDVALIDITY")
	one.says("b RENAME inbox Archive", "NO [ALREADYEXISTS]")
	one.says("b RENAME inbox old/2026", "* 1 EXPUNGE", "* 1 EXPUNGE", "OK")
	two.says("b NOOP", "* 1 EXPUNGE", "* 1 EXPUNGE", "OK")
	one.says("c STATUS INBOX (MESSAGES UIDNEXT UIDVALIDITY)", fmt.Sprintf("* STATUS INBOX (MESSAGES 0 UIDNEXT 3 UIDVALIDITY %d)", validity), "OK")
	one.says("d STATUS old/2026 (MESSAGES)", "* STATUS old/2026 (MESSAGES 2)", "OK")
	if got, want := one.names("INBOX*"), []string{"INBOX", "INBOX/below"}; !slices.Equal(got, want) {
		t.Errorf("LIST: %q, want %q", got, want)
	}
	one.says("d RENAME INBOX INBOX/below", "NO [ALREADYEXISTS]")
	one.says("d RENAME INBOX INBOX/old", "OK")
	one.says("d RENAME INBOX bad&name", "NO [CANNOT]")
	b.deliver("alice", "Subject: new\r\n\r\nx")
	two.says("e NOOP", "* 1 EXISTS", "OK")
	two.says("f FETCH 1 UID", "* 1 FETCH (UID 3)", "OK")
}

// TestRenameOfTheSelected: sessions go on in the mailbox, under its new name.
func TestRenameOfTheSelected(t *testing.T) {
	b := newBench(t, nil)
	one, two := b.login("alice"), b.login("alice")
	one.ok("a CREATE box")
	one.ok("a APPEND box {6+}\r\nS: x\r\n")
	one.ok("a SELECT box")
	two.ok("a SELECT box")
	two.ok("b RENAME box other")
	one.says("b NOOP", "OK")
	one.ok("c STORE 1 +FLAGS.SILENT (x)")
	two.says("d NOOP", `* FLAGS (\Answered \Flagged \Deleted \Seen \Draft x)`,
		`* OK [PERMANENTFLAGS (\Answered \Flagged \Deleted \Seen \Draft x \*)] flags are kept`, "* 1 FETCH (UID 1 FLAGS (x))", "OK")
	two.ok("e APPEND other {6+}\r\nS: y\r\n")
	one.says("f NOOP", "* 2 EXISTS", "OK")
}
