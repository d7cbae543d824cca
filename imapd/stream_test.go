package imapd

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"
)

// heapBytes is what lives now.
func heapBytes() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
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

// TestSearchResultIsStreamed: neither is a long line without a literal held whole.
func TestSearchResultIsStreamed(t *testing.T) {
	var sizes []int
	w := newTestWriter(func(p []byte) { sizes = append(sizes, len(p)) })
	w.Str("* SEARCH")
	for i := range 1_000_000 {
		w.Byte(' ').Uint(uint64(i))
	}
	w.Str(strings.Repeat("x", 1<<20))
	w.CRLF()
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, n := range sizes {
		if total += n; n > 128<<10 {
			t.Errorf("%d bytes waited to be sent", n)
		}
	}
	if want := 8 + 6_888_890 + 1<<20 + 2; total != want {
		t.Errorf("%d bytes came out, want %d", total, want)
	}
}

// TestInterject: what is said beside the answers never comes inside of one.
func TestInterject(t *testing.T) {
	var sent strings.Builder
	w := newTestWriter(func(p []byte) { sent.Write(p) })
	w.Interject("* OK one\r\n")
	w.Str("* 1 FETCH (BODY[] ").LiteralSize(200_000).Str(strings.Repeat("x", 200_000))
	if sent.Len() < 100_000 {
		t.Fatalf("%d bytes are sent: the writer does not stand inside of a response", sent.Len())
	}
	w.Interject("* OK two\r\n")
	w.Str(")").CRLF()
	w.Flush()
	w.Interject("* OK three\r\n")
	if got, want := strings.ReplaceAll(sent.String(), "x", ""), "* OK one\r\n* 1 FETCH (BODY[] {200000}\r\n)\r\n* OK three\r\n"; got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
}
