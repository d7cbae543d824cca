package node

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"mailnode/failover"
	"mailnode/node/admin"
	"mailnode/storage/slot"
)

// stopMax is how long a node may take to stop, whatever its clients do.
const stopMax = 30 * time.Second

// rude is an IMAP client that has logged in and goes on as it likes.
func (s *site) rude(r *running, user, say string) net.Conn {
	s.t.Helper()
	c, err := net.Dial("tcp", r.cfg.IMAP.Plain)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(50 * time.Second))
	in := bufio.NewReader(c)
	for _, line := range []string{"", "a LOGIN " + user + " pw\r\n", "b SELECT INBOX\r\n"} {
		if _, err := io.WriteString(c, line); err != nil {
			s.t.Fatal(err)
		}
		want := "* OK"
		if line != "" {
			want = line[:1] + " OK"
		}
		for got := ""; !strings.HasPrefix(got, want); {
			if got, err = in.ReadString('\n'); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	if _, err := io.WriteString(c, say); err != nil {
		s.t.Fatal(err)
	}
	return c
}

func stateOfNode(st admin.Status, name slot.NodeName) string {
	for _, n := range st.Nodes {
		if n.Name == name {
			return n.State
		}
	}
	return ""
}

// A node stops cleanly in time although its clients read nothing, stand in the
// middle of an APPEND or of DATA, ask for much, or idle, at their master and
// passed on. Meanwhile the others see that it is stopping, and its copies are
// marked clean: no position jumps at the next start (LAWS §4.9).
func TestLongStopWhateverClientsDo(t *testing.T) {
	onlyLong(t)
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	users := s.users(ctx, 3)
	n1, last := s.nodes[0], s.nodes[2]
	for _, u := range users {
		for range 4 {
			if err := s.deliver(n1, u, "Subject: big\r\n\r\n"+strings.Repeat("0123456789abcde\r\n", 300_000)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, u := range users { // one of them is served by last itself, the others are passed on
		s.rude(last, u, "c FETCH 1:* BODY.PEEK[]\r\n")
		s.rude(last, u, "c APPEND INBOX {100000+}\r\nSubject: half")
		s.rude(last, u, "c APPEND IN")
		s.rude(last, u, "c IDLE\r\n")
		s.rude(last, u, strings.Repeat("c SEARCH BODY nowhere\r\nd LIST \"\" *\r\n", 500))
	}
	w, err := s.begun(last, users[0]).Data()
	if err == nil {
		_, err = io.WriteString(w, "Subject: half\r\n\r\n")
	}
	if err != nil {
		t.Fatal(err)
	}
	before := positions(s.status(ctx, n1), "n3")
	began := time.Now()
	last.stop()
	s.eventuallyAt(last, "it says itself that it is stopping", func(st admin.Status) bool { return st.State == "stopping" })
	s.eventually("n3 is shown as stopping", func(st admin.Status) bool { return stateOfNode(st, "n3") == failover.Stopping })
	last.ended.Wait()
	if took := time.Since(began); took > stopMax {
		t.Errorf("the node stopped after %v, want at most %v", took, stopMax)
	}
	s.eventually("n3 is shown as stopped", func(st admin.Status) bool { return stateOfNode(st, "n3") == "stopped" })
	s.start(last)
	s.eventually("n3 serves again", func(st admin.Status) bool {
		now := positions(st, "n3")
		return len(now) == len(before) && stateOfNode(st, "n3") == "up"
	})
	const jump = 1 << 20
	for id, p := range positions(s.status(ctx, n1), "n3") {
		if p >= before[id]+jump {
			t.Errorf("%s: position %d before, %d after: it was not marked clean", id, before[id], p)
		}
	}
}

// positions are those of a node's copies.
func positions(st admin.Status, name slot.NodeName) map[string]slot.Position {
	out := map[string]slot.Position{}
	for _, sl := range st.Slots {
		for _, c := range sl.Copies {
			if c.Node == name && c.Position != nil {
				out[fmt.Sprint(sl.Slot)] = *c.Position
			}
		}
	}
	return out
}
