package imapd

import (
	"testing"
	"time"
)

// TestTwoSessionsIdle: IDLE tells deliveries, flags and expunges as they happen.
func TestTwoSessionsIdle(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 2)
	idler, other := b.login("alice"), b.login("alice")
	idler.ok("a SELECT INBOX")
	other.ok("a SELECT INBOX")
	idler.send("i IDLE\r\n")
	idler.until("+ ")
	began := time.Now()
	b.deliver("alice", "Subject: new\r\n\r\nx")
	idler.until("* 3 EXISTS")
	if took := time.Since(began); took > time.Second {
		t.Errorf("EXISTS came after %v", took)
	}
	other.ok(`b STORE 1 +FLAGS (\Deleted)`)
	idler.until(`* 1 FETCH (UID 1 FLAGS (\Deleted))`)
	other.ok("c EXPUNGE")
	idler.until("* 1 EXPUNGE")
	idler.send("DONE\r\n")
	idler.until("i OK")
	// The next command of the session is served as ever.
	idler.want("n NOOP", "OK")
	idler.send("j IDLE\r\n")
	idler.until("+ ")
	idler.send("nonsense\r\n")
	idler.until("j BAD")
}
