package main

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// figure is a constant of the code that a row of docs/LIMITS.md tells. name may also
// be a field that gets its default by orElse.
type figure struct{ file, name string }

// limitFigures are the rows of docs/LIMITS.md and the constants that they tell: what
// the row is about, a file, and names in it (' stands for a backtick). The table of
// the Store's door is made from its constants (storage/limits_test.go), and settings
// are compared with their defaults.
const limitFigures = `
keywords that a session is told of in FLAGS | imapd/select.go keywordsShownMax
recipients per delivery event | storage/local/deliver.go deliverRecipientsMax
one event | storage/event/records.go BytesMax
what a replica applies in one commit | storage/repl/queue.go applyMax applyBytesMax
address | storage/slot/address.go MaxAddressLen
UIDs per mailbox and unclean epoch | storage/event/ranges.go uidRange
freeing | node/upkeep.go freeRecordsPerSec
events per epoch | storage/slot/position.go PositionBits
disk reserve | storage/disk/disk.go ReserveBytes
the same | storage/disk/watchdog.go HangAfter
a node without a quorum, with 'fence_without_quorum' | node/fence.go fenceAfter
open table files of all indexes | storage/local/resources.go filesOpenMax
jobs | node/job/job.go queuedMax keptMax findingsMax
packs open for reading | storage/local/resources.go packFilesMax
body that compaction encodes | storage/blob/record.go EncodedBytesMax
message in memory on its way in | storage/spool.go spoolSmallBytes
group commit | storage/local/committer.go groupOpsMax groupBytesMax
damaged bodies remembered for repair | node/mender.go damagedMax
compaction | node/upkeep.go compactBytesPerSec
mail that compaction compresses | node/upkeep.go compressAfter
scrub | node/scrub.go scrubRateLeast
'slot audit' | node/audit.go auditRateDefault
'slot reindex' | node/reindex.go reindexBytesPerSec
bodies given up by themselves | node/mender.go giveUpMax
listings of opened mailboxes | storage/local/listing_cache.go listingIdle
remembered logins | storage/local/password.go verifiedMax
logins that wait to be proved | storage/local/password.go waitingMax
rest of a client after a wrong password | storage/local/password.go wrongRest
members | node/peer/join.go membersMax
slots changed at once by one confirm | failover/confirm.go inParallel
confirm waits for service | failover/confirm.go serveWait
replication frame | storage/repl/doc.go frameBytesMax bodyFrameBytes
handshakes under way on the peer port | node/peer/conn.go handshakesMax
bodies under way in a state transfer | storage/repl/transfer.go wantedMax
TLS handshakes under way | imapd/server.go handshakesMax handshakesPerIPMax
commands of a connection before login | imapd/readcommand.go commandsMaxBefore
command with its literals, before login | imapd/readcommand.go commandBytesBefore
command with its literals, after login; the message of an APPEND does not count | imapd/readcommand.go commandBytesAfter
tag | imapd/wire/decoder.go maxTagBytes
LIST patterns | imapd/list.go maxPatterns
header read for fields that the summary lacks | imapd/fetch.go headerBytesMax
BAD commands in a row | imapd/session.go badMax
failed logins of a connection | imapd/imapd.go Limits.LoginsMax Timeouts.BadLogin
TLS handshake | imapd/imapd.go Timeouts.Handshake
from connecting to logged in | imapd/imapd.go Timeouts.PreLogin
between commands, and in IDLE | imapd/imapd.go Timeouts.Idle
between two reads inside a command | imapd/imapd.go Timeouts.Read
text of one command | imapd/imapd.go Timeouts.Command
one write | imapd/imapd.go Timeouts.Write
passing a connection on | imapd/imapd.go Timeouts.Peer
recipients of a transaction | lmtpd/lmtpd.go RecipientsMax
command line | lmtpd/conn.go commandBytesMax
next bytes of a command or message | lmtpd/lmtpd.go DefaultTimeout
replies taken by the client | lmtpd/lmtpd.go DefaultTimeout
one look-up, one delivery | lmtpd/lmtpd.go DefaultTimeout
nesting | storage/mime/mime.go maxDepth
parts | storage/mime/mime.go maxParts
header of one part | storage/mime/mime.go maxHeaderBytes
one field | storage/mime/mime.go maxFieldBytes maxAddressBytes
parameters of a field | storage/mime/mime.go maxParams
language tags of a field | storage/mime/mime.go maxLanguages
boundary | storage/mime/mime.go maxBoundaryBytes
text kept of one message | storage/mime/mime.go maxTextBytes
header fields kept for lists | storage/mime/mime.go maxListHeaders
at the head until it is protected again | storage/repl/ack/ack.go EvictAfter
pause of a process that is noticed | node/lead.go pauseAfter
a replica without a heartbeat opens its stream anew | storage/repl/follower.go silentAfter
pause before the state is fetched for an event that could not be applied | storage/repl/follower.go poisonPause
one undelete of messages is waited for | node/accounts.go restoreWithin
lag that pages | node/duties.go lagPageAfter
clean stop waits for clients | node/node.go drainTimeout
`

func readLimitFigures() map[string][]figure {
	out := map[string][]figure{}
	for line := range strings.Lines(strings.ReplaceAll(limitFigures, "'", "\x60")) {
		what, where, ok := strings.Cut(strings.TrimSpace(line), " | ")
		if names := strings.Fields(where); ok {
			for _, name := range names[1:] {
				out[what] = append(out[what], figure{names[0], name})
			}
		}
	}
	return out
}

// limitWords are the rows that tell no constant of one name: what they say is a rule,
// or a sum. The list gets shorter, not longer.
var limitWords = []string{
	"UIDVALIDITYs per address and unclean epoch", "unclean epochs of a slot", "epochs of a slot", "copies opened at once",
	"index compactions at once", "pack file", "a folder deleted under a running node is noticed", "missing messages are looked for",
	"cores that prove the passwords of one client, or of one account", "slots", "replicas of a slot", "ownership changes remembered",
	"closed proposals remembered", "line of a message", "clients over TCP", "reports between nodes",
}

// TestLintLimits: each figure of docs/LIMITS.md is the code's. A new row names its
// constant in limitFigures.
func TestLintLimits(t *testing.T) {
	page, err := os.ReadFile("docs/LIMITS.md")
	if err != nil {
		t.Fatal(err)
	}
	settings, err := os.ReadFile("node/config/settings.go")
	if err != nil {
		t.Fatal(err)
	}
	figures, seen := readLimitFigures(), map[string]bool{}
	door := false
	for line := range strings.Lines(string(page)) {
		door = door && !strings.HasPrefix(line, "<!-- end") || strings.HasPrefix(line, "<!-- begin")
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if door || len(cells) < 2 || !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "| ---") {
			continue
		}
		what, told := strings.TrimSpace(cells[0]), cells[1]
		if what == "what" || what == "timeout" {
			continue
		}
		seen[what] = true
		checked := slices.Contains(limitWords, what) || strings.Contains(told, "`message_max_bytes`") || strings.Contains(told, "`suspect_after`")
		for _, f := range figures[what] {
			checked = true
			if forms := tellings(t, f); !slices.ContainsFunc(forms, func(s string) bool { return tells(told, s) }) {
				t.Errorf("docs/LIMITS.md: %q tells %q, %s %s is %s", what, strings.TrimSpace(told), f.file, f.name, strings.Join(forms, ", or "))
			}
		}
		if m := regexp.MustCompile("`([a-z_]+)`, setting, ([0-9][0-9,]*(?: s|h| MiB)?)").FindStringSubmatch(told); m != nil {
			checked = true
			if d := regexp.MustCompile(`\{"` + m[1] + "\", `\"?([^`\"]+)").FindSubmatch(settings); d == nil || !sameDefault(string(d[1]), m[2]) {
				t.Errorf("docs/LIMITS.md: %q tells %s of the setting %s, its default is %s", what, m[2], m[1], d)
			}
		}
		if !checked {
			t.Errorf("docs/LIMITS.md: nothing proves %q: name its constant in limitFigures", what)
		}
	}
	for what := range figures {
		if !seen[what] {
			t.Errorf("docs/LIMITS.md has no row %q", what)
		}
	}
}

func tells(cell, form string) bool {
	return regexp.MustCompile(`(^|[^0-9,.^])` + regexp.QuoteMeta(form) + `($|[^0-9A-Za-z])`).MatchString(cell)
}

func sameDefault(value, told string) bool {
	told = strings.NewReplacer(",", "", " ", "").Replace(told)
	if n, err := strconv.ParseInt(value, 10, 64); err == nil && strings.HasSuffix(told, "MiB") {
		return told == fmt.Sprintf("%dMiB", n>>20)
	}
	return told == value
}

// tellings are the ways in which a page may tell a figure.
func tellings(t *testing.T, f figure) []string {
	t.Helper()
	n, duration := valueOf(t, f)
	if duration {
		d := time.Duration(n)
		return []string{fmt.Sprintf("%g s", d.Seconds()), fmt.Sprintf("%g min", d.Minutes()), fmt.Sprintf("%g h", d.Hours()), fmt.Sprintf("%g days", d.Hours()/24), fmt.Sprintf("%g", d.Seconds())}
	}
	plain := strconv.FormatInt(n, 10)
	for i := len(plain) - 3; i > 0; i -= 3 {
		plain = plain[:i] + "," + plain[i:]
	}
	out := []string{plain, strings.ReplaceAll(plain, ",", ""), fmt.Sprintf("2^%d", n)}
	for shift, unit := range map[int]string{10: "KiB", 20: "MiB"} {
		if n>>shift > 0 && n>>shift<<shift == n {
			out = append(out, fmt.Sprintf("%d %s", n>>shift, unit), fmt.Sprintf("%d MB", n>>shift))
		}
	}
	return out
}

// valueOf computes a constant, or a default given by orElse, from its source.
func valueOf(t *testing.T, f figure) (n int64, duration bool) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), f.file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var found ast.Expr
	ast.Inspect(parsed, func(x ast.Node) bool {
		switch x := x.(type) {
		case *ast.ValueSpec:
			for i, name := range x.Names {
				if name.Name == f.name && i < len(x.Values) {
					found = x.Values[i]
				}
			}
		case *ast.CallExpr:
			if fn, ok := x.Fun.(*ast.Ident); ok && fn.Name == "orElse" && strings.HasSuffix(exprText(x.Args[0]), "."+f.name) {
				found = x.Args[1]
			}
		}
		return true
	})
	if found == nil {
		t.Fatalf("%s has no constant %s", f.file, f.name)
	}
	v := constantOf(t, found, &duration)
	n, _ = constant.Int64Val(constant.ToInt(v))
	return n, duration
}

func exprText(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.UnaryExpr:
		return exprText(e.X)
	case *ast.SelectorExpr:
		return exprText(e.X) + "." + e.Sel.Name
	case *ast.Ident:
		return e.Name
	}
	return ""
}

func constantOf(t *testing.T, e ast.Expr, duration *bool) constant.Value {
	t.Helper()
	switch e := e.(type) {
	case *ast.BasicLit:
		return constant.MakeFromLiteral(e.Value, e.Kind, 0)
	case *ast.ParenExpr:
		return constantOf(t, e.X, duration)
	case *ast.BinaryExpr:
		a, b := constantOf(t, e.X, duration), constantOf(t, e.Y, duration)
		if e.Op == token.SHL {
			s, _ := constant.Uint64Val(b)
			return constant.Shift(a, token.SHL, uint(s))
		}
		return constant.BinaryOp(a, e.Op, b)
	case *ast.SelectorExpr:
		units := map[string]time.Duration{"Millisecond": time.Millisecond, "Second": time.Second, "Minute": time.Minute, "Hour": time.Hour}
		if d := units[e.Sel.Name]; d > 0 && exprText(e.X) == "time" {
			*duration = true
			return constant.MakeInt64(int64(d))
		}
	}
	t.Fatalf("a constant that is not written in numbers: %s", exprText(e))
	return nil
}
