package imapd

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestAppendLeapSecond: 23:59:60 was a second, and mail of it can be copied from
// another server; it is kept as the second before.
func TestAppendLeapSecond(t *testing.T) {
	b := newBench(t, nil)
	c := b.login("alice")
	for _, date := range []string{"30-Jun-2015 23:59:60 +0000", "31-Dec-2016 18:59:60 -0500"} {
		c.want("a APPEND INBOX \""+date+"\" {6+}\r\nS: x\r\n", "OK [APPENDUID ")
	}
	c.want("a APPEND INBOX \"30-Jun-2015 23:59:61 +0000\" {6+}\r\nS: x\r\n", "BAD")
	c.ok("a SELECT INBOX")
	got := c.ok("a FETCH 1:* INTERNALDATE")
	want := []string{`* 1 FETCH (INTERNALDATE "30-Jun-2015 23:59:59 +0000")`, `* 2 FETCH (INTERNALDATE "31-Dec-2016 23:59:59 +0000")`}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestNUL: a message keeps its NULs, whoever brings it, and gives them back in
// an ordinary literal (GUARANTEES). No other response has one, and no argument.
func TestNUL(t *testing.T) {
	b := newBench(t, nil)
	c := b.login("alice")
	text := "From: \"a\x00b\" <x\x00y@example.test>\r\nSubject: s\x00t\r\nContent-Type: text/plain; name=\"n\x00m\"\r\n\r\nbody \x00\x00\r\n"
	b.deliver("alice", text)
	c.want(fmt.Sprintf("a APPEND INBOX {%d+}\r\n%s", len(text), text), "OK [APPENDUID ")
	c.ok("a SELECT INBOX")
	for n := 1; n <= 2; n++ {
		if got, want := c.ok(fmt.Sprintf("b FETCH %d BODY.PEEK[]", n)), fmt.Sprintf("* %d FETCH (BODY[] {%d}\r\n%s)", n, len(text), text); !slices.Equal(got, []string{want}) {
			t.Errorf("got %q, want %q", got, want)
		}
		if got := strings.Join(c.ok(fmt.Sprintf("c FETCH %d (ENVELOPE BODYSTRUCTURE RFC822.SIZE)", n)), ""); strings.Contains(got, "\x00") || !strings.Contains(got, fmt.Sprintf("RFC822.SIZE %d", len(text))) {
			t.Errorf("got %q", got)
		}
	}
	for _, command := range []string{"SEARCH BODY {3+}\r\na\x00b", "SELECT {3+}\r\na\x00b", "LIST \"\" \"a\x00b\"", "STORE 1 FLAGS (a\x00b)", "ID (\"a\" \"\x00\")"} {
		c.want("d "+command, "BAD")
	}
}
