package imapd

import "testing"

// TestEnable: only what was enabled is named; extensions that nobody knows are
// passed over (RFC 5161, section 3.1).
func TestEnable(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("ENABLE CONDSTORE", byState{badState, "OK", "OK", "OK"})
	b.wantByState("ENABLE", byState{badState, badState, badState, badState})
	b.wantByState("ENABLE (X)", byState{badState, badState, badState, badState})
	c := b.login("alice")
	c.says("a ENABLE X-GOOD-IDEA", "* ENABLED", "OK")
	c.says("a ENABLE CONDSTORE QRESYNC UTF8=ACCEPT", "* ENABLED", "OK")
	c.says("a ENABLE imap4rev1", "* ENABLED", "OK") // no extension that ENABLE turns on
}
