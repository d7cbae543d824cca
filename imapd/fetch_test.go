package imapd

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// TestFetchWantsItems: an empty list would make an empty response, which RFC
// 3501, section 9, has no form for.
func TestFetchWantsItems(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 1)
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	for _, items := range []string{"()", "( )", "", "(BODY[HEADER.FIELDS ()])", "(ALL)", "(FLAGS ())"} {
		c.want("a FETCH 1 "+items, "BAD")
		c.want("a UID FETCH 1 "+items, "BAD")
	}
	c.want("a STATUS INBOX ()", "BAD")
	c.want(`a LIST "" ()`, "BAD")
}

// TestExploitLongSet: a long set is served, a longer line ends the connection,
// and none of it runs. An empty line is no reason to hang up.
func TestExploitLongSet(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 3)
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	set := strings.TrimSuffix(strings.Repeat("1,2:3,", 9_000), ",")
	if got := c.ok("b UID FETCH " + set + " FLAGS"); len(got) != 3 {
		t.Errorf("FETCH of a %d byte set gave %d messages, want 3", len(set), len(got))
	}
	c.send("\r\n")
	c.until("* BAD")
	c.want("c NOOP", "OK")
	c.send("d UID FETCH " + strings.Repeat("1,", 40_000) + "1 FLAGS\r\n" + injected)
	c.until("d BAD [LIMIT]")
	c.wantBye("[LIMIT]")
	b.login("alice").trashIsThere()
}

// TestFetchIsStreamed: what a FETCH holds does not grow with what it answers. The
// client reads bit by bit, so that the session stands in its middle.
func TestFetchIsStreamed(t *testing.T) {
	const headerBytes, answersMin, heldMax = 256 << 10, 45 << 20, 6 << 20
	line := "X-Filler: " + strings.Repeat("x", 60) + "\r\n"
	header := strings.Repeat(line, headerBytes/len(line))
	var not, parts strings.Builder
	for i := range maxSections {
		fmt.Fprintf(&not, " BODY.PEEK[HEADER.FIELDS.NOT (x-%d)]", i)
		fmt.Fprintf(&parts, " BODY.PEEK[HEADER]<%d.%d>", i, headerBytes)
	}
	for _, items := range []string{not.String(), parts.String()} {
		t.Run(items[:24], func(t *testing.T) {
			b := newBench(t, nil)
			b.deliver("alice", header+"\r\nbody")
			c := b.login("alice")
			c.conn.SetDeadline(time.Now().Add(2 * time.Minute))
			c.ok("a SELECT INBOX")
			before := heapBytes()
			c.send("b FETCH 1 (UID" + items + ")\r\n")
			const step = 4 << 20
			var got, held int64
			for got < answersMin {
				n, err := io.CopyN(io.Discard, c.r, step)
				if got += n; err != nil {
					t.Fatalf("after %d bytes: %v", got, err)
				}
				held = max(held, heapBytes()-before)
			}
			if held > heldMax {
				t.Errorf("%d bytes are held at once, want at most %d", held, heldMax)
			}
			for line := ""; !strings.HasPrefix(line, "b OK"); {
				var err error
				if line, err = c.r.ReadString('\n'); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestFilteredSections: filtered headers have the length that was announced,
// whole and in part, of the message and of one inside of it.
func TestFilteredSections(t *testing.T) {
	b := newBench(t, nil)
	b.deliver("alice", crlf("Subject: outer\nX-A: 1\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: message/rfc822\n\nSubject: inner\nX-B: 2\n\nhi\n--b--\n"))
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	for items, want := range map[string]string{
		"BODY.PEEK[HEADER.FIELDS (X-a)]":                                                         "BODY[HEADER.FIELDS (X-a)] {10}\r\nX-A: 1\r\n\r\n",
		"BODY.PEEK[HEADER.FIELDS (X-a)]<2.3>":                                                    "BODY[HEADER.FIELDS (X-a)]<2> {3}\r\nA: ",
		"BODY.PEEK[HEADER.FIELDS (X-a)]<8.9>":                                                    "BODY[HEADER.FIELDS (X-a)]<8> {2}\r\n\r\n",
		"BODY.PEEK[HEADER.FIELDS (X-a)]<99.9>":                                                   "BODY[HEADER.FIELDS (X-a)]<99> {0}\r\n",
		"BODY.PEEK[1.HEADER.FIELDS.NOT (X-b)]":                                                   "BODY[1.HEADER.FIELDS.NOT (X-b)] {18}\r\nSubject: inner\r\n\r\n",
		"(BODY.PEEK[1.HEADER.FIELDS (X-b)] BODY.PEEK[HEADER.FIELDS.NOT (Subject CONTENT-type)])": "BODY[1.HEADER.FIELDS (X-b)] {10}\r\nX-B: 2\r\n\r\n BODY[HEADER.FIELDS.NOT (Subject CONTENT-type)] {10}\r\nX-A: 1\r\n\r\n",
		"(BODY.PEEK[2.MIME] BODY.PEEK[2.MIME])":                                                  "BODY[2.MIME] NIL",
	} {
		if got := c.ok("b FETCH 1 " + items); len(got) != 1 || got[0] != "* 1 FETCH ("+want+")" {
			t.Errorf("%s: %q, want %q", items, got, want)
		}
	}
}

// TestFetchSectionsAreBounded: a section is answered once however often it is
// asked for, and different ones are counted.
func TestFetchSectionsAreBounded(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 1)
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	got := c.ok("b FETCH 1 (" + strings.Repeat("BODY[] ", 5_000) + "UID)")
	if n := strings.Count(strings.Join(got, ""), "BODY[]"); n != 1 {
		t.Errorf("one section was answered %d times", n)
	}
	var sections strings.Builder
	for i := range maxSections + 1 {
		fmt.Fprintf(&sections, "BODY[]<0.%d> ", i+1)
	}
	c.want("c FETCH 1 ("+sections.String()+"UID)", "BAD")
}
