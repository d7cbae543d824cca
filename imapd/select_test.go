package imapd

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

const (
	systemFlagsTold = `(\Answered \Flagged \Deleted \Seen \Draft)`
	flagsTold       = "* FLAGS " + systemFlagsTold
	permanentTold   = `* OK [PERMANENTFLAGS (\Answered \Flagged \Deleted \Seen \Draft \*)] flags are kept`
	noneIsPermanent = "* OK [PERMANENTFLAGS ()] read-only"
)

// TestSelect: the responses that must come (RFC 3501, sections 6.3.1 and 6.3.2),
// of a mailbox that is empty, all read and not.
func TestSelect(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("SELECT INBOX", byState{badState, "OK [READ-WRITE]", "OK [READ-WRITE]", "OK [READ-WRITE]"})
	b.wantByState("EXAMINE INBOX", byState{badState, "OK [READ-ONLY]", "OK [READ-ONLY]", "OK [READ-ONLY]"})
	for _, verb := range []string{"SELECT", "EXAMINE"} {
		b.wantByState(verb, byState{badState, badState, badState, badState})
		b.wantByState(verb+" INBOX x", byState{badState, badState, badState, badState})
		b.wantByState(verb+" Nowhere", byState{badState, "NO [NONEXISTENT]", "NO [NONEXISTENT]", "NO [NONEXISTENT]"})
	}
	c := b.login("alice")
	validity := c.status("INBOX", "UIDVALIDITY")
	told := func(exists, unseen, next int) []string {
		lines := []string{flagsTold, permanentTold, fmt.Sprintf("* %d EXISTS", exists), "* 0 RECENT"}
		if unseen > 0 {
			lines = append(lines, fmt.Sprintf("* OK [UNSEEN %d] first unseen message", unseen))
		}
		return append(lines, fmt.Sprintf("* OK [UIDVALIDITY %d] UIDs valid", validity), fmt.Sprintf("* OK [UIDNEXT %d] next UID", next))
	}
	c.says("a SELECT INBOX", append(told(0, 0, 1), "OK [READ-WRITE]")...)
	b.deliverMany("alice", 3)
	c.ok("a SELECT INBOX")
	c.ok(`a STORE 1 FLAGS.SILENT (\Seen)`)
	c.ok(`a STORE 2 FLAGS.SILENT (\Deleted)`)
	c.says("a SELECT inBOX", append(told(3, 2, 4), "OK [READ-WRITE]")...)
	c.ok("a EXPUNGE")
	c.ok(`a STORE 1:2 FLAGS.SILENT (\Seen)`)
	read := append(told(2, 0, 4), "OK [READ-ONLY]")
	read[1] = noneIsPermanent
	c.says("a EXAMINE {5+}\r\nINBOX", read...)
}

// TestSelectThatFails leaves no mailbox selected (RFC 3501, section 6.3.1), and
// tells nothing of the one before.
func TestSelectThatFails(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 1)
	one, two := b.login("alice"), b.login("alice")
	for _, verb := range []string{"SELECT", "EXAMINE"} {
		for name, want := range map[string]string{"Nowhere": "NO [NONEXISTENT]", "bad&name": "NO [CANNOT]", "a//b": "NO [", `""`: "NO ["} {
			one.ok("a SELECT INBOX")
			two.ok("a SELECT INBOX")
			two.ok("b APPEND INBOX {6+}\r\nS: x\r\n")
			one.says("b "+verb+" "+name, want)
			one.want("c FETCH 1 FLAGS", badState)
		}
	}
}

// TestSelectAnother: the new mailbox's numbers count from the moment it is
// selected, and the old one's changes are no longer told.
func TestSelectAnother(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 3)
	one, two := b.pair()
	two.ok("a COPY 1 Archive")
	two.ok(`a STORE 1 +FLAGS.SILENT (\Deleted)`)
	two.ok("a EXPUNGE")
	lines := one.ok("b SELECT Archive")
	if !slices.Contains(lines, "* 1 EXISTS") || strings.Contains(strings.Join(lines, "\n"), "EXPUNGE") {
		t.Errorf("SELECT of another mailbox: %q", lines)
	}
	two.ok(`b STORE 1 +FLAGS.SILENT (\Deleted)`)
	two.ok("b EXPUNGE")
	one.says("c NOOP", "OK")
	one.says("c FETCH 1 UID", "* 1 FETCH (UID 1)", "OK")
	if lines := one.ok("d SELECT INBOX"); !slices.Contains(lines, "* 1 EXISTS") {
		t.Errorf("SELECT of the first one again: %q", lines)
	}
}

// TestExamineChangesNothing: not by what is refused, not by reading (RFC 3501,
// section 6.3.2).
func TestExamineChangesNothing(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 2)
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	c.ok(`a STORE 1 FLAGS.SILENT (\Deleted)`)
	c.ok("a EXAMINE INBOX")
	for _, command := range []string{
		`STORE 1 +FLAGS (x)`, `UID STORE 1 FLAGS.SILENT ()`, "EXPUNGE", "UID EXPUNGE 1", "MOVE 1 Archive", "UID MOVE 1 Archive",
	} {
		c.says("b "+command, "NO [NOPERM]")
	}
	c.says("c FETCH 2 (BODY[TEXT]<0.4> RFC822.TEXT FLAGS)", "* 2 FETCH (FLAGS () BODY[TEXT]<0> {4}\r\nbody RFC822.TEXT {8}\r\nbody 2\r\n)", "OK")
	c.want("d COPY 2 Archive", "OK [COPYUID ")
	c.want("d APPEND INBOX {6+}\r\nS: x\r\n", "OK [APPENDUID ")
	c.ok("e CLOSE")
	c.says("f EXAMINE INBOX", flagsTold, noneIsPermanent, "* 3 EXISTS", "* 0 RECENT", "* OK [UNSEEN 1] first unseen message",
		fmt.Sprintf("* OK [UIDVALIDITY %d] UIDs valid", c.status("INBOX", "UIDVALIDITY")), "* OK [UIDNEXT 4] next UID", "OK [READ-ONLY]")
	c.says("g FETCH 1:2 FLAGS", `* 1 FETCH (FLAGS (\Deleted))`, "* 2 FETCH (FLAGS ())", "OK")
}

// TestClose expunges and tells this session nothing (RFC 3501, section 6.4.2);
// another one hears it.
func TestClose(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("CLOSE", byState{badState, badState, "OK", "OK"})
	b.wantByState("CLOSE x", byState{badState, badState, badState, badState})
	b.deliverMany("alice", 3)
	one, two := b.pair()
	two.ok(`a STORE 1,3 +FLAGS.SILENT (\Deleted)`)
	one.says("a CLOSE", "OK")
	one.want("b FETCH 1 FLAGS", badState)
	two.says("b NOOP", "* 1 EXPUNGE", "* 2 EXPUNGE", "OK")
	one.says("c STATUS INBOX (MESSAGES)", "* STATUS INBOX (MESSAGES 1)", "OK")
}

// TestUnselect is CLOSE without the expunge (RFC 3691, section 2).
func TestUnselect(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("UNSELECT", byState{badState, badState, "OK", "OK"})
	b.wantByState("UNSELECT x", byState{badState, badState, badState, badState})
	b.deliverMany("alice", 2)
	one, two := b.pair()
	one.ok(`a STORE 1 +FLAGS.SILENT (\Deleted)`)
	one.says("a UNSELECT", "OK")
	one.want("b NOOP", "OK")
	one.want("b FETCH 1 FLAGS", badState)
	two.says("b NOOP", `* 1 FETCH (UID 1 FLAGS (\Deleted))`, "OK")
	one.ok("c SELECT INBOX")
	one.says("c FETCH 1:* FLAGS", `* 1 FETCH (FLAGS (\Deleted))`, "* 2 FETCH (FLAGS ())", "OK")
}
