package imapd

import "testing"

// TestNamespace: one personal namespace, and what it says is what LIST does
// (RFC 2342, section 5).
func TestNamespace(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("NAMESPACE", byState{badState, "OK", "OK", "OK"})
	b.wantByState("NAMESPACE x", byState{badState, badState, badState, badState})
	c := b.login("alice")
	c.says("a NAMESPACE", `* NAMESPACE (("" "/")) NIL NIL`, "OK")
	c.says(`a LIST "" ""`, `* LIST (\Noselect) "/" ""`, "OK")
	c.ok("a CREATE a/b")
	c.says("a LIST a/ %", `* LIST (\HasNoChildren) "/" a/b`, "OK")
}
