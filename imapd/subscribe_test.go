package imapd

import "testing"

// TestSubscribe: any name may be subscribed, and stays so until it is taken back
// (RFC 3501, section 6.3.6: the server must not take it away by itself).
func TestSubscribe(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("SUBSCRIBE INBOX", byState{badState, "OK", "OK", "OK"})
	for _, verb := range []string{"SUBSCRIBE", "UNSUBSCRIBE"} {
		b.wantByState(verb, byState{badState, badState, badState, badState})
		b.wantByState(verb+" a b", byState{badState, badState, badState, badState})
		b.wantByState(verb+" bad&name", byState{badState, "NO [CANNOT]", "NO [CANNOT]", "NO [CANNOT]"})
		b.wantByState(verb+" Nowhere", byState{badState, "OK", "OK", "OK"})
	}
	c := b.login("alice")
	subscribed := func(want ...string) {
		t.Helper()
		var lines []string
		for _, name := range want {
			lines = append(lines, `* LSUB `+name)
		}
		c.says(`z LSUB "" "m*"`, append(lines, "OK")...)
	}
	c.ok("a CREATE m/one")
	subscribed()
	c.ok("b SUBSCRIBE m/one")
	c.ok("b SUBSCRIBE m/one/")
	c.ok("b SUBSCRIBE m/missing")
	subscribed(`() "/" m/missing`, `(\HasNoChildren) "/" m/one`)
	c.ok("c DELETE m/one")
	subscribed(`() "/" m/missing`, `() "/" m/one`)
	c.ok("d CREATE m/missing")
	subscribed(`(\HasNoChildren) "/" m/missing`, `() "/" m/one`)
	c.ok("e RENAME m/missing m/two")
	c.ok("f UNSUBSCRIBE m/one")
	c.ok("f UNSUBSCRIBE m/one")
	c.ok("f UNSUBSCRIBE m/missing")
	c.ok("f UNSUBSCRIBE m/two")
	subscribed()
	c.says(`g LIST (SUBSCRIBED) "" "INBOX"`, `* LIST (\HasNoChildren \Subscribed) "/" INBOX`, "OK")
	c.ok("h UNSUBSCRIBE inbox")
	c.says(`i LIST (SUBSCRIBED) "" "INBOX"`, "OK")
	c.says(`j LIST "" "INBOX"`, `* LIST (\HasNoChildren) "/" INBOX`, "OK")
	b.login("bob").says(`a LSUB "" INBOX`, `* LSUB (\HasNoChildren) "/" INBOX`, "OK") // everyone's own
}
