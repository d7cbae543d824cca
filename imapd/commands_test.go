package imapd

import (
	"fmt"
	"strings"
	"testing"
)

// TestSpaces: further spaces where one may stand, at the ends of lists and
// before the end of the line change no command's answer.
func TestSpaces(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 2)
	for _, command := range []string{
		"CAPABILITY", "NOOP", `ID ("name" "x")`, "ID NIL", "ENABLE CONDSTORE", "NAMESPACE", `LIST "" "*"`, `LIST (SUBSCRIBED) "" (* INBOX) RETURN (CHILDREN STATUS (MESSAGES))`,
		`LSUB "" "*"`, "CREATE new (USE (\\Junk))", "CREATE new2", "RENAME box other", "DELETE box", "SUBSCRIBE INBOX", "UNSUBSCRIBE INBOX",
		"STATUS INBOX (MESSAGES UNSEEN)", "SELECT INBOX", "EXAMINE INBOX", "CHECK", "CLOSE", "UNSELECT", "EXPUNGE", "UID EXPUNGE 1:2",
		"FETCH 1:2 (FLAGS UID)", "FETCH 1 FLAGS", "UID FETCH 1 (BODY.PEEK[HEADER.FIELDS (Subject From)])",
		`STORE 1 FLAGS \Seen`, `STORE 1 +FLAGS \Seen $x`, `UID STORE 1:2 -FLAGS.SILENT (\Seen $x)`,
		"SEARCH ALL", "SEARCH RETURN (MIN COUNT) OR (SEEN UID 1) NOT SUBJECT x", "UID SEARCH CHARSET UTF-8 (ALL)",
		"COPY 1:2 INBOX", "UID COPY 1 INBOX", "UID MOVE 1 INBOX",
		"APPEND INBOX (\\Seen $x) {6+}\r\nS:xx\r\n",
	} {
		for _, spaced := range []string{
			command + "  ",
			strings.ReplaceAll(command, " ", "  "),
			strings.ReplaceAll(strings.ReplaceAll(command, "(", "( "), ")", " )"),
		} {
			c := b.login("alice")
			c.cmd("s CREATE box")
			c.ok("s SELECT INBOX")
			c.want("a "+spaced, "OK")
			c.cmd("z DELETE new")
			c.cmd("z DELETE new2")
			c.cmd("z DELETE other")
			c.conn.Close()
		}
	}
	c := b.login("alice")
	c.send("i IDLE  \r\n")
	c.until("+ ")
	c.send("DONE \r\n")
	c.until("i OK")
	c.want("a  LOGOUT  ", "OK")
	c = b.login("alice")
	for _, wrong := range []string{" NOOP", "a\tNOOP", "a NOOP\t", "a LOGIN", "a CREATE  "} {
		c.send(wrong + "\r\n")
		if got := c.line(); !strings.Contains(got, " BAD ") {
			t.Errorf("%q: %q, want BAD", wrong, got)
		}
	}
}

// TestNamesThatAreNone: a well-formed command with a name that is not modified
// UTF-7, or that no mailbox can have, is answered NO (RFC 3501, section 7.1: BAD
// is for what cannot be understood).
func TestNamesThatAreNone(t *testing.T) {
	b := newBench(t, nil)
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	message := "S: x\r\n\r\n" + strings.Repeat("a NOOP\r\n", 50_000)
	for _, name := range []string{"bad&name", "&AAA", "&-&AGE-", "&2AA-", "\"caf\xc3\xa9\"", "{4+}\r\ncaf\xe9"} {
		for _, command := range []string{
			"CREATE %s", "DELETE %s", "SELECT %s", "EXAMINE %s", "SUBSCRIBE %s", "UNSUBSCRIBE %s", "STATUS %s (MESSAGES)",
			"RENAME %s x", "RENAME INBOX %s", `LIST "" %s`, `LSUB "" %s`, "LIST %s *",
		} {
			c.want("a "+fmt.Sprintf(command, name), "NO [CANNOT]")
		}
		c.want(fmt.Sprintf("a APPEND %s (x) {%d+}\r\n%s", name, len(message), message), "NO [CANNOT]")
		c.want(fmt.Sprintf("a APPEND %s {10}", name), "NO [CANNOT]")
		c.want(fmt.Sprintf("a CREATE %s )", name), "BAD")
	}
	for _, name := range []string{"a//b", "/a", "&AAc-", "\"\""} {
		c.want("a CREATE "+name, "NO [CANNOT]")
	}
	c.ok("a SELECT INBOX")
	b.deliverMany("alice", 1)
	c.ok("a NOOP")
	c.want("a COPY 1 bad&name", "NO [CANNOT]")
	c.want("a UID MOVE 1 bad&name", "NO [CANNOT]")
}
