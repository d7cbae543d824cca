package imapd

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"mailnode/storage"
)

// announce announces a message of a size and returns the answer to that.
func (c *wireClient) announce(size int64) string {
	c.t.Helper()
	c.send(fmt.Sprintf("b APPEND INBOX {%d}\r\n", size))
	return c.line()
}

// What would go over the quota is refused before it is sent, together with what
// other sessions have announced and not sent yet (RFC 9208, section 4.1.3).
func TestAppendOverQuotaIsNotAskedFor(t *testing.T) {
	b := newBench(t, nil)
	if err := b.store.SetQuota(t.Context(), b.users["alice"].ID, 1<<20); err != nil {
		t.Fatal(err)
	}
	one, two := b.login("alice"), b.login("alice")
	if got := one.announce(1<<20 + 1); !strings.HasPrefix(got, "b NO [OVERQUOTA]") {
		t.Errorf("more than the quota: %q", got)
	}
	if got := one.announce(600 << 10); !strings.HasPrefix(got, "+ ") {
		t.Fatalf("less than the quota: %q", got)
	}
	if got := two.announce(600 << 10); !strings.HasPrefix(got, "b NO [OVERQUOTA]") {
		t.Errorf("beside what another session sends: %q", got)
	}
	// A message that comes unasked is read and dropped.
	two.send(fmt.Sprintf("c APPEND INBOX {%d+}\r\n%s\r\nd NOOP\r\n", 600<<10, strings.Repeat("x", 600<<10)))
	if got := two.line(); !strings.HasPrefix(got, "c NO [OVERQUOTA]") {
		t.Errorf("unasked: %q", got)
	}
	two.until("d OK")
	one.conn.Close()
	for tries := 0; ; tries++ { // until the server has noticed
		got := two.announce(600 << 10)
		if strings.HasPrefix(got, "+ ") {
			break
		}
		if tries > 1000 {
			t.Fatalf("when the other session has gone: %q", got)
		}
		<-time.After(time.Millisecond)
	}
	two.send(strings.Repeat("x", 600<<10) + "\r\n")
	two.until("b OK")
}

// One account may not have more on its way than its share, over all its sessions;
// others may go on.
func TestAppendsOfOneAccountShare(t *testing.T) {
	b := newBench(t, nil)
	var open []*wireClient
	for range storage.SpoolsOwnerMax {
		c := b.login("alice")
		if got := c.announce(10); !strings.HasPrefix(got, "+ ") {
			t.Fatalf("session %d: %q", len(open), got)
		}
		open = append(open, c)
	}
	if got := b.login("alice").announce(10); !strings.HasPrefix(got, "b NO [LIMIT]") {
		t.Errorf("one more: %q", got)
	}
	other := b.login("bob")
	if got := other.announce(10); !strings.HasPrefix(got, "+ ") {
		t.Errorf("another user: %q", got)
	}
	open[0].send("0123456789\r\n")
	open[0].until("b OK")
	if got := b.login("alice").announce(10); !strings.HasPrefix(got, "+ ") {
		t.Errorf("when one has ended: %q", got)
	}
}

// Whoever sends a message too slowly is cut off, although bytes come all the time.
func TestAppendTooSlowIsCut(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Timeouts.Pace = 200 * time.Millisecond })
	c := b.login("alice")
	if got := c.announce(1 << 20); !strings.HasPrefix(got, "+ ") {
		t.Fatal(got)
	}
	stop := make(chan struct{})
	go func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				c.conn.Write([]byte("x"))
			case <-stop:
				return
			}
		}
	}()
	c.wantBye("[UNAVAILABLE]")
	close(stop)
	if got := b.login("alice").announce(10); !strings.HasPrefix(got, "+ ") {
		t.Errorf("the next one: %q", got)
	}
}

// The line behind a message has the time of a command, however long the message took.
func TestAppendEndIsAwaitedLikeACommand(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Timeouts.Command = 100 * time.Millisecond })
	c := b.login("alice")
	if got := c.announce(10); !strings.HasPrefix(got, "+ ") {
		t.Fatal(got)
	}
	c.send("0123456789")
	c.wantBye("autologout")
}
