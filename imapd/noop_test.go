package imapd

import "testing"

// TestNoop: NOOP and CHECK tell what another session did, once, in an order in
// which each number is right when it comes (RFC 3501, sections 6.1.2, 6.4.1 and 7.4.1).
func TestNoop(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("NOOP", byState{"OK", "OK", "OK", "OK"})
	b.wantByState("NOOP x", byState{badState, badState, badState, badState})
	b.wantByState("CHECK", byState{badState, badState, "OK", "OK"})
	b.wantByState("CHECK x", byState{badState, badState, badState, badState})
	for _, verb := range []string{"NOOP", "CHECK"} {
		b := newBench(t, nil)
		b.deliverMany("alice", 4)
		one, two := b.pair()
		two.ok(`b STORE 1,3 +FLAGS.SILENT (\Deleted)`)
		two.ok(`b STORE 4 +FLAGS.SILENT (\Flagged)`)
		two.ok("b EXPUNGE")
		two.ok("b APPEND INBOX (\\Seen) {6+}\r\nS: x\r\n")
		one.says("a "+verb, "* 1 EXPUNGE", "* 2 EXPUNGE", "* 3 EXISTS", `* 2 FETCH (UID 4 FLAGS (\Flagged))`, "OK")
		one.says("a "+verb, "OK")
		one.says("a FETCH 1:* (UID FLAGS)", `* 1 FETCH (UID 2 FLAGS ())`, `* 2 FETCH (UID 4 FLAGS (\Flagged))`, `* 3 FETCH (UID 5 FLAGS (\Seen))`, "OK")
	}
}

// TestNoopOfWhatCameAndWent: a message that was never shown is never expunged.
func TestNoopOfWhatCameAndWent(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 1)
	one, two := b.pair()
	two.ok("b APPEND INBOX (\\Deleted) {6+}\r\nS: x\r\n")
	two.ok("b EXPUNGE")
	one.says("a NOOP", "OK")
	one.says("a FETCH 1:* UID", "* 1 FETCH (UID 1)", "OK")
}
