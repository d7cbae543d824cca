package imapd

import (
	"fmt"
	"slices"
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

// TestPipelined: commands that depend on each other may be sent at once; they run
// in their order, each against what the one before it left (RFC 3501, section 5.5).
func TestPipelined(t *testing.T) {
	b := newBench(t, nil)
	c := dial(t, b.plain)
	c.line()
	commands := []string{
		"LOGIN {18+}\r\nalice@example.test {6+}\r\nsecret",
		"CREATE box",
		"APPEND box {6+}\r\nS: x\r\n",
		"APPEND box (\\Deleted) {6+}\r\nS: y\r\n",
		"SELECT box",
		"FETCH 2 FLAGS",
		"EXPUNGE",
		"FETCH 2 FLAGS", // there is none any more
		"COPY 1 INBOX",
		"STORE 1 +FLAGS.SILENT (\\Deleted)",
		"CLOSE",
		"STATUS box (MESSAGES)",
		"DELETE box",
		"SELECT box",
		"SELECT INBOX",
		"FETCH 1 FLAGS",
		"LOGOUT",
	}
	var all strings.Builder
	for i, command := range commands {
		fmt.Fprintf(&all, "t%d %s\r\n", i, command)
	}
	c.send(all.String())
	failures := map[int]string{7: "BAD", 13: "NO [NONEXISTENT]"}
	var told []string
	for i, command := range commands {
		lines := c.until(fmt.Sprintf("t%d ", i))
		want := failures[i]
		if want == "" {
			want = "OK"
		}
		if answer := lines[len(lines)-1]; !strings.HasPrefix(answer, fmt.Sprintf("t%d %s", i, want)) {
			t.Errorf("%s: %q, want %s", command, answer, want)
		}
		for _, line := range lines[:len(lines)-1] {
			if strings.Contains(line, " FETCH ") || strings.Contains(line, " EXPUNGE") || strings.Contains(line, "* STATUS ") {
				told = append(told, line)
			}
		}
	}
	want := []string{`* 2 FETCH (FLAGS (\Deleted))`, "* 2 EXPUNGE", "* STATUS box (MESSAGES 0)", "* 1 FETCH (FLAGS ())"}
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

// TestTags: any tag of the grammar comes back as it was (RFC 3501, section 9), and
// what has none, or a wrong one, is refused without harm.
func TestTags(t *testing.T) {
	c := newBench(t, nil).login("alice")
	for _, tag := range []string{"a", "A001", "1", ".", "a]b", "<x>", "-_=!?", "OK", "NIL", strings.Repeat("t", 100)} {
		c.send(tag + " NOOP\r\n")
		if got, want := c.line(), tag+" OK NOOP completed"; got != want {
			t.Errorf("tag %.20q: %q", tag, got)
		}
	}
	for _, line := range []string{"", " ", "NOOP", "a", "a ", "+ NOOP", "a+b NOOP", "(a) NOOP", `"a" NOOP`, "a{3} NOOP", "a* NOOP", "a% NOOP", `a\ NOOP`, "\x00 NOOP", "\xe9 NOOP", "* NOOP", strings.Repeat("t", 101) + " NOOP"} {
		c.send(line + "\r\n")
		if got := c.line(); !strings.Contains(got, " BAD ") {
			t.Errorf("%q: %q, want BAD", line, got)
		}
		c.ok("n NOOP")
	}
	c.send("a nOoP\nb NOOP\r\n") // a command's name has no case; a bare LF ends a line, too
	c.until("a OK")
	c.until("b OK")
}

// TestLiteralForms: an argument may come as an atom, quoted, or as a literal that is
// waited for or not (RFC 3501, section 4.3; RFC 7888).
func TestLiteralForms(t *testing.T) {
	c := newBench(t, nil).login("alice")
	for _, name := range []string{"INBOX", `"INBOX"`, `"in\box"`, "{5}\r\nINBOX", "{5+}\r\nINBOX", "{005+}\r\nINBOX"} {
		lines := c.cmd("a STATUS " + name + " (MESSAGES)")
		want := "a OK"
		if strings.Contains(name, `\b`) {
			want = "a BAD" // only " and \ may be quoted so: section 9
		}
		if answer := lines[len(lines)-1]; !strings.HasPrefix(answer, want) {
			t.Errorf("STATUS of %q: %q, want %s", name, answer, want)
		}
		if asked := strings.HasPrefix(lines[0], "+ "); asked != strings.Contains(name, "5}") {
			t.Errorf("STATUS of %q: asked to go on: %t", name, asked)
		}
	}
	c.ok("n NOOP")
	for _, name := range []string{"{5-}\r\n", "{-5}\r\n", "{5\r\n", "{}\r\n", "{x}\r\n", "{5}x\r\n", "~{5+}\r\nINBOX"} {
		c.send("a STATUS " + strings.TrimSuffix(name, "\r\n") + " (MESSAGES)\r\n")
		if got := c.line(); !strings.HasPrefix(got, "a BAD") {
			t.Errorf("STATUS of %q: %q, want BAD", name, got)
		}
		c.ok("n NOOP")
	}
}
