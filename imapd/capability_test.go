package imapd

import (
	"strings"
	"testing"
)

// capabilitiesOf returns what CAPABILITY names.
func (c *wireClient) capabilitiesOf() []string {
	c.t.Helper()
	got := c.ok("a CAPABILITY")
	if len(got) != 1 || !strings.HasPrefix(got[0], "* CAPABILITY ") {
		c.t.Fatalf("CAPABILITY: %q, want one untagged response", got)
	}
	return strings.Fields(got[0])[2:]
}

func TestCapability(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("CAPABILITY", byState{"OK", "OK", "OK", "OK"})
	b.wantByState("CAPABILITY x", byState{badState, badState, badState, badState})
	for _, addr := range []string{b.plain, b.strict} {
		c := dial(t, addr)
		greeting := c.line()
		listed := strings.Join(c.capabilitiesOf(), " ")
		if !strings.Contains(greeting, "[CAPABILITY "+listed+"]") {
			t.Errorf("the greeting %q names others than CAPABILITY, %s", greeting, listed)
		}
		if !strings.HasPrefix(listed, "IMAP4rev1 ") { // RFC 3501, section 6.1.1: MUST
			t.Errorf("CAPABILITY begins with %q", listed)
		}
		if offers := strings.Contains(listed, "AUTH="); offers == strings.Contains(listed, "LOGINDISABLED") {
			t.Errorf("LOGIN is offered and disabled, or neither: %q", listed)
		}
	}
}

// TestCapabilitiesAreServed: what is named after the login is served, each by its
// own standard.
func TestCapabilitiesAreServed(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 1)
	proofs := map[string]string{
		"IMAP4rev1":          "FETCH 1 FAST",
		"LITERAL+":           "STATUS {5+}\r\nINBOX (MESSAGES)",
		"SASL-IR":            "", // before the login
		"ID":                 "ID NIL",
		"ENABLE":             "ENABLE X-NONE",
		"IDLE":               "IDLE\r\nDONE",
		"NAMESPACE":          "NAMESPACE",
		"CHILDREN":           `LIST "" *`,
		"UIDPLUS":            "UID EXPUNGE 1",
		"UNSELECT":           "UNSELECT",
		"MOVE":               "MOVE 1 INBOX",
		"ESEARCH":            "SEARCH RETURN (COUNT) ALL",
		"LIST-EXTENDED":      `LIST (SUBSCRIBED) "" (* %) RETURN (CHILDREN)`,
		"LIST-STATUS":        `LIST "" * RETURN (STATUS (MESSAGES))`,
		"SPECIAL-USE":        `LIST (SPECIAL-USE) "" * RETURN (SPECIAL-USE)`,
		"CREATE-SPECIAL-USE": `CREATE made (USE (\Junk))`,
		"STATUS=SIZE":        "STATUS INBOX (SIZE)",
		"APPENDLIMIT":        "STATUS INBOX (APPENDLIMIT)",
	}
	c := b.login("alice")
	for _, name := range c.capabilitiesOf() {
		if strings.HasPrefix(name, "APPENDLIMIT=") {
			name = "APPENDLIMIT"
		}
		command, known := proofs[name]
		if !known {
			t.Errorf("nothing proves %s", name)
		}
		if command != "" {
			c.ok("s SELECT INBOX")
			c.want("a "+command, "OK")
		}
	}
}
