package imapd

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestID: everything that RFC 2971, section 3.3, allows is taken, also before
// login; what is beyond it is BAD.
func TestID(t *testing.T) {
	b := newBench(t, nil)
	pairs := func(n, field, value int) string {
		var out []string
		for i := range n {
			out = append(out, fmt.Sprintf("%q %q", fmt.Sprintf("%02d%s", i, strings.Repeat("f", field-2)), strings.Repeat("v", value)))
		}
		return "(" + strings.Join(out, " ") + ")"
	}
	long := strings.Repeat("v", 1024)
	for _, tt := range []struct{ arguments, want string }{
		{"NIL", "OK"},
		{"nil", "OK"},
		{"()", "OK"},
		{`("name" NIL)`, "OK"},
		{`("name" "x" "version" nil)`, "OK"},
		{`("name" "")`, "OK"},
		{pairs(30, 30, 1024), "OK"},
		{fmt.Sprintf("({4+}\r\nname {%d+}\r\n%s)", len(long), long), "OK"},
		{pairs(31, 4, 1), "BAD"},
		{pairs(1, 31, 1), "BAD"},
		{pairs(1, 30, 1025), "BAD"},
		{`("name")`, "BAD"},
		{`(NIL "x")`, "BAD"},
		{`(name "x")`, "BAD"},
		{`("name" x)`, "BAD"},
		{"", "BAD"},
	} {
		c := dial(t, b.plain)
		c.line()
		c.want("a ID "+tt.arguments, tt.want)
		c.conn.Close()
		c = b.login("alice")
		c.want("a ID "+tt.arguments, tt.want)
		c.conn.Close()
	}
}

// TestIDChangesNothing: what a client says of itself changes no answer (RFC 2971,
// section 1), and ours says no version to act on.
func TestIDChangesNothing(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("ID NIL", byState{"OK", "OK", "OK", "OK"})
	b.wantByState("ID", byState{badState, badState, badState, badState})
	b.wantByState("ID NIL x", byState{badState, badState, badState, badState})
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	before := c.capabilitiesOf()
	for range 2 {
		c.says(`b ID ("name" "Thunderbird" "version" "1")`, `* ID ("name" "mailnode")`, "OK")
	}
	if after := c.capabilitiesOf(); !slices.Equal(before, after) {
		t.Errorf("capabilities went from %q to %q", before, after)
	}
	c.ok("c FETCH 1:* FLAGS")
}
