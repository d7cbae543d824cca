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
		t.Errorf("FETCH of a %d byte set returned %d messages, want 3", len(set), len(got))
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

// TestFetchReadsAHeaderOnce: however many sections are filtered out of it, in whatever
// order they are asked for.
func TestFetchReadsAHeaderOnce(t *testing.T) {
	b, w := newWatchedBench(t)
	b.deliver("alice", crlf("From: a@b\nX-A: 1\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: message/rfc822\n\nX-B: 2\n\nhi\n--b--\n"))
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	var items strings.Builder
	for i := range maxSections / 4 {
		fmt.Fprintf(&items, " BODY.PEEK[HEADER.FIELDS (From)]<0.%d> BODY.PEEK[HEADER.FIELDS (X-%d)] BODY.PEEK[HEADER.FIELDS.NOT (X-%[1]d)] BODY.PEEK[1.HEADER.FIELDS (X-B)]<0.%[1]d>", i+1, i+1)
	}
	c.ok("b FETCH 1 (UID" + items.String() + ")")
	if got := w.reads.Load(); w.opened.Load() != 1 || got > 4 {
		t.Errorf("opened %d times, %d reads of two headers, for their lengths and for their lines", w.opened.Load(), got)
	}
}

// TestFetchOfLargeHeadersWaitsForItsTurn: without a turn no large header is looked
// through; other commands go on, FETCH of small headers too; and whoever is waiting ends
// with the session.
func TestFetchOfLargeHeadersWaitsForItsTurn(t *testing.T) {
	b, _ := newWatchedBench(t)
	b.srv.turns = make(turns, 1)
	b.srv.turns <- struct{}{}
	b.deliver("alice", strings.Repeat("X-Filler: x\r\n", headerPieceBytes/10)+"X-A: 1\r\n\r\n")
	b.deliver("alice", "X-A: 2\r\n\r\n")
	c, other := b.pair()
	const items = " BODY.PEEK[HEADER.FIELDS (X-A)]"
	c.send("x FETCH 1" + items + "\r\n")
	other.says("f FETCH 2"+items, "* 2 FETCH (BODY[HEADER.FIELDS (X-A)] {10}\r\nX-A: 2\r\n\r\n)", "OK")
	<-b.srv.turns
	if got := c.until("x "); got[0] != "* 1 FETCH (BODY[HEADER.FIELDS (X-A)] {10}\r\nX-A: 1\r\n\r\n)" {
		t.Errorf("got %q", got)
	}
	b.srv.turns <- struct{}{}
	c.send("y FETCH 1" + items + "\r\n")
	other.ok("n NOOP")
	b.srv.cancel(errKicked)
	c.wantBye("[UNAVAILABLE]")
	<-b.srv.turns
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

// TestFetchItems: each item and macro of RFC 3501, section 6.4.5, and the names
// that their answers have (section 7.4.2).
func TestFetchItems(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("FETCH 1:* FLAGS", byState{badState, badState, "OK", "OK"})
	b.wantByState("UID FETCH 1 FLAGS", byState{badState, badState, "OK", "OK"})
	const header, body = "From: a@example.test\r\nSubject: s\r\nX-One: 1\r\n\r\n", "text of it\r\n"
	b.deliver("alice", header+body)
	c := b.login("alice")
	c.ok("a EXAMINE INBOX") // nothing is marked as read
	const (
		date      = `INTERNALDATE "02-Jan-2026 03:04:05 +0000"`
		size      = "RFC822.SIZE 58"
		envelope  = `ENVELOPE (NIL "s" ((NIL NIL "a" "example.test")) ((NIL NIL "a" "example.test")) ((NIL NIL "a" "example.test")) NIL NIL NIL NIL NIL)`
		structure = `("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 12 1`
	)
	literal := func(label, text string) string { return fmt.Sprintf("%s {%d}\r\n%s", label, len(text), text) }
	for _, tt := range []struct{ items, want string }{
		{"FLAGS", "FLAGS ()"},
		{"flags", "FLAGS ()"},
		{"(FLAGS FLAGS)", "FLAGS ()"},
		{"UID", "UID 1"},
		{"INTERNALDATE", date},
		{"RFC822.SIZE", size},
		{"ENVELOPE", envelope},
		{"BODY", "BODY " + structure + ")"},
		{"BODYSTRUCTURE", "BODYSTRUCTURE " + structure + " NIL NIL NIL NIL)"},
		{"FAST", "FLAGS () " + date + " " + size},
		{"ALL", "FLAGS () " + date + " " + size + " " + envelope},
		{"FULL", "FLAGS () " + date + " " + size + " " + envelope + " BODY " + structure + ")"},
		{"RFC822", literal("RFC822", header+body)},
		{"RFC822.HEADER", literal("RFC822.HEADER", header)},
		{"RFC822.TEXT", literal("RFC822.TEXT", body)},
		{"BODY[]", literal("BODY[]", header+body)},
		{"body.peek[]", literal("BODY[]", header+body)},
		{"BODY[HEADER]", literal("BODY[HEADER]", header)},
		{"BODY[TEXT]", literal("BODY[TEXT]", body)},
		{"BODY[1]", literal("BODY[1]", body)},
		{"BODY[2]", "BODY[2] NIL"},
		{"BODY[1.1]", "BODY[1.1] NIL"},
		{"BODY[1.HEADER]", "BODY[1.HEADER] NIL"}, // of a message/rfc822 only
		{"BODY[HEADER.FIELDS (subject Missing)]", literal("BODY[HEADER.FIELDS (subject Missing)]", "Subject: s\r\n\r\n")},
		{"BODY[HEADER.FIELDS (Missing)]", literal("BODY[HEADER.FIELDS (Missing)]", "\r\n")},
		{`BODY[HEADER.FIELDS.NOT ("From" {7+}` + "\r\nSubject)]", literal("BODY[HEADER.FIELDS.NOT (From Subject)]", "X-One: 1\r\n\r\n")},
		{"BODY[]<0.4>", literal("BODY[]<0>", "From")},
		{"BODY[TEXT]<5.100>", literal("BODY[TEXT]<5>", body[5:])},
		{"BODY[TEXT]<12.1>", literal("BODY[TEXT]<12>", "")},
		{"BODY[TEXT]<4294967295.4294967295>", literal("BODY[TEXT]<4294967295>", "")},
		{"(BODY[TEXT]<0.4> BODY[TEXT]<5.2>)", literal("BODY[TEXT]<0>", "text") + " " + literal("BODY[TEXT]<5>", "of")},
		{"(UID FLAGS RFC822.SIZE)", "UID 1 FLAGS () " + size},
	} {
		c.says("b FETCH 1 "+tt.items, "* 1 FETCH ("+tt.want+")", "OK")
		want := tt.want // a UID FETCH tells the UID, asked or not: section 6.4.8
		if !strings.HasPrefix(want, "UID 1") {
			want = "UID 1 " + want
		}
		c.says("c UID FETCH 1 "+tt.items, "* 1 FETCH ("+want+")", "OK")
	}
}

// TestFetchWrong: what is no FETCH is BAD and answers nothing.
func TestFetchWrong(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 2)
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	for _, arguments := range []string{
		"", "1", "1 ", "FLAGS", "0 FLAGS", "1: FLAGS", ":1 FLAGS", "1,,2 FLAGS", "1:2:3 FLAGS", "** FLAGS", "-1 FLAGS", "1.5 FLAGS", "4294967296 FLAGS",
		"1 NONSENSE", "1 FLAGS UID", "1 (FLAGS", "1 FLAGS)", "1 (FLAGS,UID)", "1 BODY.PEEK", "1 BODY[", "1 BODY[]<0>", "1 BODY[]<0.0>", "1 BODY[]<-1.1>", "1 BODY[]<1.4294967296>",
		"1 BODY[0]", "1 BODY[1.]", "1 BODY[MIME]", "1 BODY[HEADER.FIELDS]", "1 BODY[HEADER.FIELDS Subject]", "1 RFC822.PEEK", "1 BODYSTRUCTURE[]", "1 MODSEQ",
	} {
		c.says("b FETCH "+arguments, "BAD")
		c.ok("n NOOP")
		c.says("b UID FETCH "+arguments, "BAD")
		c.ok("n NOOP")
	}
	for _, set := range []string{"3", "1:3", "3:*", "2,3", "1,4294967295"} {
		c.says("c FETCH "+set+" UID", "BAD")
		c.ok("n NOOP")
	}
	c.says("d UID FETCH 3 FLAGS", "OK")
	c.says("d UID FETCH 3:4294967295 FLAGS", "OK")
	c.says("d UID FETCH 4294967295:* UID", "* 2 FETCH (UID 2)", "OK") // section 6.4.8: always the last one
	c.says("e FETCH *:1,2,1:* UID", "* 1 FETCH (UID 1)", "* 2 FETCH (UID 2)", "OK")
}

// TestFetchSetsSeen: what reads a body does, told in the same response, and what
// peeks does not (RFC 3501, section 6.4.5).
func TestFetchSetsSeen(t *testing.T) {
	b := newBench(t, nil)
	for _, tt := range []struct {
		items string
		sets  bool
	}{
		{"BODY[]", true}, {"BODY[HEADER]", true}, {"BODY[TEXT]<0.1>", true}, {"BODY[1]", true}, {"BODY[HEADER.FIELDS (Subject)]", true}, {"RFC822", true}, {"RFC822.TEXT", true},
		{"(BODY.PEEK[HEADER] BODY[TEXT])", true}, {"(BODY.PEEK[] BODY[])", true},
		{"BODY.PEEK[]", false}, {"RFC822.HEADER", false}, {"RFC822.SIZE", false}, {"BODY", false}, {"BODYSTRUCTURE", false}, {"FULL", false},
	} {
		one, two := b.pair()
		one.ok(`a APPEND INBOX (\Flagged) {14+}` + "\r\nS: x\r\n\r\nbody\r\n")
		two.ok("a NOOP")
		got := strings.Join(one.ok("b FETCH * "+tt.items), "")
		if tells := strings.Contains(got, `FLAGS (\Flagged \Seen)`); tells != tt.sets {
			t.Errorf("FETCH %s: %q, want \\Seen: %t", tt.items, got, tt.sets)
		}
		if seen := len(two.ok("b NOOP")) > 0; seen != tt.sets {
			t.Errorf("FETCH %s: another session is told of it: %t, want %t", tt.items, seen, tt.sets)
		}
		if again := strings.Join(one.ok("c FETCH * "+tt.items), ""); tt.items != "FULL" && strings.Contains(again, "FLAGS") {
			t.Errorf("FETCH %s again: %q, want no flags", tt.items, again)
		}
		one.conn.Close()
		two.conn.Close()
	}
}

// TestFetchOfWhatIsGone: its number stays, nothing is made up for it (RFC 2180,
// section 4.1.2), and what is behind it keeps its own.
func TestFetchOfWhatIsGone(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 3)
	one, two := b.pair()
	two.ok(`a STORE 2 +FLAGS.SILENT (\Deleted)`)
	two.ok("a EXPUNGE")
	one.says("b FETCH 2 BODY[]", "OK [EXPUNGEISSUED]")
	one.says("b FETCH 1:3 (UID BODY.PEEK[TEXT])", "* 1 FETCH (UID 1 BODY[TEXT] {8}\r\nbody 1\r\n)", "* 3 FETCH (UID 3 BODY[TEXT] {8}\r\nbody 3\r\n)", "OK [EXPUNGEISSUED]")
	one.says("c FETCH 2 FLAGS", "OK [EXPUNGEISSUED]")
	one.says("d UID FETCH 2 FLAGS", "* 2 EXPUNGE", "OK")
	one.says("e UID FETCH 2 FLAGS", "OK")
	one.says("f FETCH 2 UID", "* 2 FETCH (UID 3)", "OK")
}
