package node

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"mailnode/node/admin"
)

// fetchingClient has asked for all bodies of its INBOX, and has read the first response's
// first line.
type fetchingClient struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func (s *site) fetching(at *running, user string) *fetchingClient {
	s.t.Helper()
	conn, err := net.Dial("tcp", at.cfg.IMAP.Plain)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	conn.(*net.TCPConn).SetReadBuffer(64 << 10) // else the whole answer fits between the two
	c := &fetchingClient{t: s.t, conn: conn, r: bufio.NewReader(conn)}
	conn.SetDeadline(time.Now().Add(time.Minute))
	for _, line := range []string{"", "a LOGIN " + user + " pw\r\n", "b SELECT INBOX\r\n"} {
		io.WriteString(conn, line)
		c.until(func(got string) bool { return line == "" || strings.HasPrefix(got, line[:2]+"OK") })
	}
	io.WriteString(conn, "c FETCH 1:* BODY.PEEK[]\r\n")
	if _, err := c.r.Peek(1); err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (c *fetchingClient) line() string {
	c.t.Helper()
	got, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("behind %q: %v", got, err)
	}
	return got
}

func (c *fetchingClient) until(ok func(string) bool) {
	c.t.Helper()
	for !ok(c.line()) {
	}
}

var fetchLine = regexp.MustCompile(`^\* \d+ FETCH \(BODY\[\] \{(\d+)\}\r\n$`)

// end reads to the end: every body whole, then BYE, and nothing behind it. It returns the
// number of bodies.
func (c *fetchingClient) end(body func(i int) string) (bodies int) {
	c.t.Helper()
	for ; ; bodies++ {
		line := c.line()
		if strings.HasPrefix(line, "* BYE [UNAVAILABLE] ") {
			if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
				c.t.Errorf("behind BYE: %q, %v", rest, err)
			}
			return bodies
		}
		m := fetchLine.FindStringSubmatch(line)
		if m == nil {
			c.t.Fatalf("behind %d bodies: %q", bodies, line)
		}
		size, _ := strconv.Atoi(m[1])
		got := make([]byte, size)
		if _, err := io.ReadFull(c.r, got); err != nil {
			c.t.Fatalf("body %d of %d bytes: %v", bodies, size, err)
		}
		if !strings.HasSuffix(string(got), body(bodies)) {
			c.t.Fatalf("body %d is not what was delivered", bodies)
		}
		if end := c.line(); end != ")\r\n" {
			c.t.Fatalf("behind body %d: %q", bodies, end)
		}
	}
}

// A slot is handed over while clients are in the middle of a large answer, at the master
// and passed on by another node. The response that has begun is sent to its end, then the
// session ends with BYE: no client takes half a message for a whole one.
func TestHandOverEndsSessionsBetweenResponses(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	users := s.users(ctx, 3)
	n1 := s.nodes[0]
	id := servedBy(t, s.status(ctx, n1), "n1")
	const messages = 6
	body := func(i int) string { return strings.Repeat(fmt.Sprintf("line of message %d\r\n", i), 4<<20/19) }
	for i := range messages {
		if err := s.deliver(n1, users[id], "Subject: large\r\n\r\n"+body(i)); err != nil {
			t.Fatal(err)
		}
	}
	clients := []*fetchingClient{s.fetching(n1, users[id]), s.fetching(s.nodes[1], users[id]), s.fetching(s.nodes[2], users[id])}
	sl, _ := n1.node.State().Slot(id)
	s.move(ctx, s.nodes[2], admin.ProposeRequest{Slot: &id, To: sl.Replicas[0]})
	for i, c := range clients {
		if n := c.end(body); n == 0 || n == messages {
			t.Errorf("client %d got %d of %d bodies: the hand-over was not in the middle", i, n, messages)
		}
	}
}
