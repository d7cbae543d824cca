package imapd

import (
	"slices"
	"strings"
	"testing"
)

// TestExpunge: each EXPUNGE counts those before it (RFC 3501, sections 6.4.3 and
// 7.4.1), and only \Deleted messages go.
func TestExpunge(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("EXPUNGE", byState{badState, badState, "OK", "NO [NOPERM]"})
	b.wantByState("EXPUNGE 1", byState{badState, badState, badState, "NO [NOPERM]"})
	b.deliverMany("alice", 11)
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	c.says("a EXPUNGE", "OK")
	c.ok(`a STORE 3,4,7,11 +FLAGS.SILENT (\Deleted)`)
	// The example of section 6.4.3.
	c.says("b EXPUNGE", "* 3 EXPUNGE", "* 3 EXPUNGE", "* 5 EXPUNGE", "* 8 EXPUNGE", "OK")
	c.says("c UID SEARCH ALL", "* SEARCH 1 2 5 6 8 9 10", "OK")
	c.says("d EXPUNGE", "OK")
}

// TestUIDExpunge: only what is \Deleted and named goes (RFC 4315, section 2.1).
func TestUIDExpunge(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("UID EXPUNGE 1", byState{badState, badState, "OK", "NO [NOPERM]"})
	b.wantByState("UID EXPUNGE", byState{badState, badState, badState, "NO [NOPERM]"})
	b.deliverMany("alice", 6)
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	c.ok(`a STORE 1:4 +FLAGS.SILENT (\Deleted)`)
	for _, set := range []string{"0", "x", "1,", "1:", "-1", "4294967296", "(1)"} {
		c.want("a UID EXPUNGE "+set, "BAD")
	}
	for _, step := range []struct {
		set  string
		want []string
	}{
		{"5:6", []string{"OK"}}, // not \Deleted
		{"77:99", []string{"OK"}},
		{"2,5", []string{"* 2 EXPUNGE", "OK"}},
		{"2", []string{"OK"}}, // gone already
		{"*:3", []string{"* 2 EXPUNGE", "* 2 EXPUNGE", "OK"}},
		{"4294967295:1", []string{"* 1 EXPUNGE", "OK"}},
		{"1:*", []string{"OK"}},
	} {
		c.says("b UID EXPUNGE "+step.set, step.want...)
	}
	c.says("c UID SEARCH ALL", "* SEARCH 5 6", "OK")
}

// TestExpungeOfTwo: what another session has expunged is told by the commands
// that may, and no number shifts under those that may not (RFC 3501, section
// 7.4.1).
func TestExpungeOfTwo(t *testing.T) {
	for _, tt := range []struct {
		command string
		tells   bool
	}{
		{"FETCH 4 UID", false},
		{"STORE 4 +FLAGS.SILENT (x)", false},
		{"SEARCH UID 4", false},
		{"SEARCH RETURN (COUNT) ALL", false},
		{"UID FETCH 4 UID", true},
		{"UID STORE 4 +FLAGS.SILENT (x)", true},
		{"UID SEARCH 4", true},
		{"COPY 4 Archive", true},
		{"UID COPY 4 Archive", true},
		{"EXPUNGE", true},
		{"UID EXPUNGE 4", true},
		{"NOOP", true},
		{"CHECK", true},
		{"STATUS Archive (MESSAGES)", true},
		{`LIST "" INBOX`, true},
		{"APPEND Archive {6+}\r\nS: x\r\n", true},
		{"CREATE made", true},
		{"IDLE\r\nDONE", true},
	} {
		b := newBench(t, nil)
		b.deliverMany("alice", 4)
		one, two := b.pair()
		two.ok(`a STORE 1:2 +FLAGS.SILENT (\Deleted)`)
		two.ok("a EXPUNGE")
		expunges, expungeAtEnd := 0, 0
		for i, line := range one.ok("b " + tt.command) {
			if line == "* 1 EXPUNGE" {
				expunges++
				expungeAtEnd = i
			} else if expunges > 0 && expungeAtEnd == i-1 && expunges < 2 {
				t.Errorf("%s: %q between two EXPUNGEs of one change", tt.command, line)
			}
		}
		if want := map[bool]int{true: 2}[tt.tells]; expunges != want {
			t.Errorf("%s told %d EXPUNGEs, want %d", tt.command, expunges, want)
		}
		if !tt.tells {
			one.says("c FETCH 4 UID", "* 4 FETCH (UID 4)", "OK") // the number is what it was
			one.ok("d NOOP")
		}
		one.says("e FETCH 2 UID", "* 2 FETCH (UID 4)", "OK")
	}
}

// TestExpungeOfTheSame: two sessions expunge the same messages; each hears each
// of them once.
func TestExpungeOfTheSame(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 3)
	one, two := b.pair()
	one.ok(`a STORE 1:2 +FLAGS.SILENT (\Deleted)`)
	two.says("a EXPUNGE", "* 1 EXPUNGE", "* 1 EXPUNGE", "OK")
	one.says("b EXPUNGE", "* 1 EXPUNGE", "* 1 EXPUNGE", "OK")
	one.says("c NOOP", "OK")
	two.says("b NOOP", "OK")
	one.says("d FETCH 1:* UID", "* 1 FETCH (UID 3)", "OK")
}

// TestExpungeOfTheUnseen: EXPUNGE and CLOSE take every \Deleted message, also one
// that this client was never told of; then it hears of neither.
func TestExpungeOfTheUnseen(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 2)
	one, two := b.pair()
	two.ok("a APPEND INBOX (\\Deleted) {6+}\r\nS: x\r\n")
	two.ok("a APPEND INBOX {6+}\r\nS: y\r\n")
	two.ok(`a STORE 1 +FLAGS.SILENT (\Deleted)`)
	one.says("b EXPUNGE", "* 1 EXPUNGE", "* 2 EXISTS", "OK")
	one.says("c FETCH 1:* UID", "* 1 FETCH (UID 2)", "* 2 FETCH (UID 4)", "OK")
	two.says("b NOOP", "* 1 EXPUNGE", "* 2 EXPUNGE", "OK")
	two.ok("c APPEND INBOX (\\Deleted) {6+}\r\nS: z\r\n")
	one.says("d CLOSE", "OK")
	two.says("d NOOP", "* 3 EXPUNGE", "OK")
	two.says("e FETCH 1:* UID", "* 1 FETCH (UID 2)", "* 2 FETCH (UID 4)", "OK")
}

// TestExpungeAfterOneThatWaits: an EXPUNGE that a FETCH could not tell comes with
// the session's own, each number right when it comes.
func TestExpungeAfterOneThatWaits(t *testing.T) {
	for _, own := range []string{"EXPUNGE", "UID EXPUNGE 3", "MOVE 3 Archive", "UID MOVE 3 Archive"} {
		b := newBench(t, nil)
		b.deliverMany("alice", 4)
		one, two := b.pair()
		one.ok(`a STORE 3 +FLAGS.SILENT (\Deleted)`)
		two.ok(`a UID STORE 1 +FLAGS.SILENT (\Deleted)`)
		two.ok("b UID EXPUNGE 1")
		one.says("b FETCH 1:4 UID", "* 2 FETCH (UID 2)", "* 3 FETCH (UID 3)", "* 4 FETCH (UID 4)", "OK [EXPUNGEISSUED]")
		var told []string
		for _, line := range one.ok("c " + own) {
			if strings.HasSuffix(line, " EXPUNGE") {
				told = append(told, line)
			}
		}
		if want := []string{"* 3 EXPUNGE", "* 1 EXPUNGE"}; !slices.Equal(told, want) {
			t.Errorf("%s told %q, want %q", own, told, want)
		}
		one.says("d FETCH 1:* UID", "* 1 FETCH (UID 2)", "* 2 FETCH (UID 4)", "OK")
	}
}
