package main

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// figure is a constant of the code that a row of docs/LIMITS.md tells: the folder of
// its package, and its name. name may also be a field that is given its default there,
// a sum of such names, or, of a unit of systemd, a directive.
type figure struct{ dir, name string }

// limitFigures are the rows of docs/LIMITS.md and the constants that they tell: what
// the row is about, with ' for backticks, a package, and names in it. The table of
// the Store's door is made from its constants (storage/limits_test.go), and settings
// are compared with their defaults.
const limitFigures = `
address | storage/slot MaxAddressLen
keywords that a session is told of in FLAGS | imapd keywordsShownMax
recipients per delivery event | storage/local deliverRecipientsMax
one event | storage/event BytesMax
changes in one commit | storage/local groupOpsMax groupBytesMax groupKeysMax
keys that one change reads and writes in the committer | storage/local closureKeysMax
large changes | storage/local copyMax smallMax largeTries largeWaitMax
large changes of a node that hold much | storage/local largeAloneBytes largeAtOnce
positions left free before a large change | storage/local largeAheadMin
what a replica applies in one commit | storage/repl applyMax applyBytesMax
UIDs per mailbox and unclean epoch | storage/event uidRange
UIDVALIDITYs per address and unclean epoch | storage/event uidValidityRange
unclean epochs of a slot | storage/event (1<<32-seedMin-seeds*seedsStep)/uidValidityRange
epochs of a slot | storage/slot MaxEpoch
events per epoch | storage/slot PositionBits
freeing, compaction | node upkeepEvery upkeepFirst
freeing | node freeRecordsPerSec
compaction | node compactBytesPerSec
mail that compaction compresses | node compressAfter
pack file | storage/blob PackBytesMax
packs open for reading | storage/local packFilesMax
open table files of all indexes | storage/index filesOpenMax
listings of opened mailboxes | storage/local listingIdle
jobs | node/job queuedMax keptMax findingsMax
damaged bodies remembered for repair | node damagedMax
bodies given up by themselves | node giveUpMax giveUpAfter
missing messages are looked for | node lookEvery
scrub | node scrubRateLeast
'slot audit' | node auditRateDefault
moves of copies | failover MovesAtOnce
a move's target that is silent, broken or full | failover GiveUpMoveAfter
lag of a copy that replaces another | failover movedLagMax
copies filled from their masters | node fillsMax
a dropped copy | node dropAskEvery dropBytesPerSec dropShown
'slot reindex' | node rebuildBytesPerSec
remembered logins | storage/local provedMax
logins that wait to be proved | storage/local waitingMax
rest of a client after a wrong password | storage/local wrongRest
disk reserve, which whatever grows leaves free: mail, COPY, MOVE, CREATE, RENAME, SUBSCRIBE, new keywords, 'user add', undelete | storage/disk ReserveBytes
any other change: flags, expunging, deleting | storage/disk FloorBytes
ballast, the file 'BALLAST' of each volume's folders | storage/disk BallastBytes ballastRoomBytes
how old the answer of a disk is, when it is asked what is free | storage/disk lookEvery
a write of an index that finds no room is tried again | storage/local roomAgainEvery
a write of Raft that finds no room is tried again | raftfsm roomAgainEvery
Raft's files that found no room at a start are opened again | raftfsm openAgainEvery
a copy that was not opened for want of room is opened again | node roomAgainAfter
message in memory on its way in | storage spoolSmallBytes
messages on their way in, by announced size | storage SpoolBytesMax spoolSmallBytes
messages on their way in to one account, by APPEND | storage SpoolOwnerBytesMax SpoolsOwnerMax
messages on their way in from one LMTP client's address | lmtpd frontBytesMax
a message without SIZE | storage spoolSmallBytes spoolStepBytes
speed of a message that comes in | storage SpoolFloorBytesPerSec
stretch over which that speed is measured | imapd Timeouts.Pace
stretch over which that speed is measured | lmtpd Timeouts.Pace
a read, write or sync that does not return, until it counts as failed | storage/disk HangAfter
a disk counts as slow | storage/disk SlowSync SlowSyncsMin SlowWindows StrainWindow
a slow disk counts as well | storage/disk EasySync EasyWindows
a disk counts as failing | storage/disk UnreadMax unreadBytes UnreadFor
a copy that stopped, and what stopped it has passed (room, a disk that did not answer), is opened again | node reopenAfter reopenAfterMax
'mailnode slot serve' waits for what the disk has of the copy that stopped | storage/local releaseWithin
'mailnode slot serve' waits for the copy to be open, then for its role | node reopenWithin roleWithin
a folder deleted under a running node is noticed | node mendTick
a page of 'raft.db' with its overflow; pages from its root to an entry | raftfsm boltRunMaxBytes boltDepthMax
one operation on Raft's files | raftfsm StallLimit
proof of Raft's files at a start | raftfsm openStalls
what a server remembers of Raft | raftfsm memoryRecordLen
members | raftfsm/cluster MaxMembers
slots | storage/slot MaxSlots
replicas of a slot | raftfsm/cluster MaxReplicas
ownership changes remembered | raftfsm/cluster MaxHistory
closed proposals remembered | raftfsm/cluster MaxClosed
commands in one entry of Raft's log | raftfsm/cluster MaxGroup MaxGroupBytes
recovery waits for service | node serveWithin
slots handed over at once by one confirm | failover inParallel
slots that change at once by one confirm, without their masters | failover changeMax
confirm waits for service | failover serveWait
join token | node tokenFor tokenForMin tokenAgeEvery
voters | raftfsm/cluster MaxVoters
a silent voter keeps its vote while another member could have it | node voteKeptFor
installations remembered that have left | raftfsm/cluster MaxFormer
entries of Raft's log that a server may lack which is to have a vote | node voteLagMax
'cluster remove' waits | node leftWithin selfWithin
a node that has left | node cutAfter
join tokens that wait | raftfsm/cluster MaxTokens
request of a joiner, its decision | node/peer joinRequestTimeout joinDecisionTimeout
joiners at one time | node/peer joinersMax
'cluster init' asks the peers | node/admin probeWithin
MTA's question or message for a master that is not heard | node cutOffAfter
question about an account, at its master | node accountWithin
digest for 'slot show' | node digestWithin
'mailnode' waits for the node on its machine | node/admin probeTimeout questionTimeout requestTimeout confirmTimeout
an order waits for a leader | node quorumWithin
'mailnode fo' waits for copies that a node is opening | node/cli openingWithin
replication frame | storage/repl frameBytesMax bodyFrameBytes
bodies under way in a state transfer | storage/repl wantedMax
messages that a slot has had, so that a new copy gets them as events | storage/repl streamedBirthsMax
handshakes under way on the peer port | node/peer handshakesMax
TLS handshake between nodes, then the greeting | node/peer handshakeTimeout helloTimeout
connections that have not begun their TLS handshake | imapd helloShare
TLS handshakes under way | imapd handshakesMax
commands of a connection before login | imapd commandsMaxBefore
command with its literals, before login | imapd commandBytesBefore
command with its literals, after login; the message of an APPEND does not count | imapd commandBytesAfter
tag | imapd/wire maxTagBytes
ID | imapd idPairsMax idFieldBytesMax idValueBytesMax
texts of one SEARCH, as they are compared | imapd searchWordsBytesMax
a turn of a SEARCH | imapd searchBatch searchPieceBytes
a turn of such a FETCH | imapd headerPieceBytes fieldBytes
bodies that are proved for clients in turns | storage/local proveAtOnceMax
combining marks behind one character, as they are compared | imapd/match segmentRunesMax
LIST patterns | imapd maxPatterns maxListBytes
names that LIST or LSUB holds at once | imapd listPage
sections of one FETCH | imapd maxSections maxPartDepth maxHeaderFields
header read for fields that the summary lacks, and by SEARCH | imapd headerBytesMax
answers that wait to be sent, per session | imapd/wire spillBytes
BAD commands in a row | imapd badMax
failed logins of a connection | imapd Limits.LoginsMax Timeouts.BadLogin
TLS handshake | imapd Timeouts.Handshake
from connecting to logged in | imapd Timeouts.PreLogin
between commands, and in IDLE | imapd Timeouts.Idle
between two reads inside a command | imapd Timeouts.Read
text of one command | imapd Timeouts.Command
one write | imapd Timeouts.Write
a command that runs when its session must end (shutdown, another master, closed account) | imapd kickGrace
a client that does not read when its session must end | imapd byeWithin
a client that closes its connection while a command runs | imapd watchEvery
passing a connection on | imapd Timeouts.Peer
recipients of a transaction | lmtpd RecipientsMax
command line | lmtpd commandBytesMax
next bytes of a command | lmtpd DefaultTimeout
next bytes of a message | lmtpd Timeouts.Pace
replies taken by the client | lmtpd DefaultTimeout
one look-up, one delivery | lmtpd DefaultTimeout
nesting | storage/mime maxDepth
parts | storage/mime maxParts
header of one part | storage/mime maxHeaderBytes
one field | storage/mime maxFieldBytes maxAddressBytes
parameters of a field, pieces (RFC 2231) counted each | storage/mime maxParams
language tags of a field | storage/mime maxLanguages
boundary | storage/mime maxBoundaryBytes
text kept of one message | storage/mime maxTextBytes
header fields kept for lists | storage/mime maxListHeaders
reports between nodes | node reportEvery
Raft's word that a slot is unprotected is waited for | storage/repl/ack RecordWithin
report of a replica at work | storage/repl ackEvery
at the head until it is protected again | storage/repl ProtectAfter
a replica that stands still, until another that holds everything takes its place | storage/repl/ack EvictAfter
an unprotected slot whose replica can be reached | node unprotectedAfter
a node without a quorum, with 'fence_without_quorum' | node fenceAfter
pause of a process that is noticed | node pauseAfter
pause of a process that is noticed | failover pauseAfter
a replica without a heartbeat opens its stream again | storage/repl silentAfter
pause before the state is fetched for an event that could not be applied | storage/repl poisonPause
lag that pages | node lagPageAfter
one undelete of messages is waited for | node restoreWithin
log lines of one kind (message, slot, node, client, user) | node/monitor linesPerKind linesWindow
diary of a node | node/diary fileMax keptMax TextMax
happenings that wait for a disk that takes none | node/diary pendingMax
one node's answer for 'incident report' | node diaryWithin diaryAnswerMax
the same note of the same person | node noteAgain
command of '[hooks] on_change' | node hookWithin hookPauseMin hookPauseMax
last call of that command, when the node stops | node hookLast
output of that command in the log | node hookOutputMax
clients in a transaction when the node stops | node drainTimeout cutWithin
jobs, and what the node does by itself | node settleWithin
streams to other nodes, Raft | node closePeers
handshakes of the peer port | node leaveWithin
all that together, whatever clients do | node drainTimeout+cutWithin+2*settleWithin+2*closePeers+leaveWithin
closing the copies, behind clients and jobs | node closeWithin
the unit's 'TimeoutStopSec' | packaging/mailnode.service TimeoutStopSec
the unit's pause before a failed node is started again | packaging/mailnode.service RestartSec RestartMaxDelaySec
the unit's limit of starts | packaging/mailnode.service StartLimitBurst StartLimitIntervalSec
the unit's 'MemoryMax' | packaging/mailnode.service MemoryMax
`

// limitWords are the rows that tell no constant, and why. The list gets shorter, not
// longer.
const limitWords = `
copies opened at once | a function of the cores
index compactions at once | a function of the cores
cores that prove the passwords of one client, or of one account | a function of the cores
SEARCHes, and FETCHes of fields of large headers, that compute at once | a function of the cores
bodies that a replica takes, compactions of the index | a part of another row
a read, write or sync that does not return, until the slot is proposed | a setting of another row
search keys, and their nesting | there is no limit
line of a message | there is no limit
clients over TCP | a setting that is a list
`

// limitRows reads rows of two cells, "what | the rest".
func limitRows(table string) (what, rest []string) {
	for line := range strings.Lines(table) {
		if a, b, ok := strings.Cut(strings.TrimSpace(line), " | "); ok {
			what, rest = append(what, a), append(rest, b)
		}
	}
	return what, rest
}

// TestLintLimits: each figure of docs/LIMITS.md is the code's, and no row is there
// twice. A new row names its constant in limitFigures.
func TestLintLimits(t *testing.T) {
	told := limitsPage(t)
	checked := map[string]bool{}
	rows, names := limitRows(limitFigures)
	for i, what := range rows {
		checked[what] = true
		dir, rest, _ := strings.Cut(names[i], " ")
		for _, name := range strings.Fields(rest) {
			f := figure{dir, name}
			if forms := tellings(t, f); told[what] != "" && !slices.ContainsFunc(forms, func(s string) bool { return tells(told[what], s) }) {
				t.Errorf("docs/LIMITS.md: %q tells %q, %s %s is %s", what, told[what], f.dir, f.name, strings.Join(forms, ", or "))
			}
		}
	}
	words, reasons := limitRows(limitWords)
	for i, what := range words {
		if checked[what] || reasons[i] == "" {
			t.Errorf("limitWords: %q has a constant, or no reason", what)
		}
		checked[what] = true
	}
	for what := range checked {
		if told[what] == "" {
			t.Errorf("docs/LIMITS.md has no row %q", what)
		}
	}
	settings, err := os.ReadFile("node/config/settings.go")
	if err != nil {
		t.Fatal(err)
	}
	ofSetting := regexp.MustCompile("`([a-z_]+)`, setting, ([0-9][0-9,]*(?: s|h| MiB)?)")
	for what, cell := range told {
		if m := ofSetting.FindStringSubmatch(cell); m != nil {
			checked[what] = true
			if d := regexp.MustCompile(`\{"` + m[1] + "\", `\"?([^`\"]+)").FindSubmatch(settings); d == nil || !sameDefault(string(d[1]), m[2]) {
				t.Errorf("docs/LIMITS.md: %q tells %s of the setting %s, its default is %s", what, m[2], m[1], d)
			}
		}
		if !checked[what] {
			t.Errorf("docs/LIMITS.md: nothing proves %q: name its constant in limitFigures", what)
		}
	}
}

// limitsPage returns the rows of docs/LIMITS.md, but for the Store's door: what each
// is about, and what it tells.
func limitsPage(t *testing.T) map[string]string {
	page, err := os.ReadFile("docs/LIMITS.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]string{}
	door := false
	for line := range strings.Lines(string(page)) {
		door = door && !strings.HasPrefix(line, "<!-- end") || strings.HasPrefix(line, "<!-- begin")
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if door || len(cells) < 2 || !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "| ---") {
			continue
		}
		what := strings.ReplaceAll(strings.TrimSpace(cells[0]), "\x60", "'")
		if what == "what" || what == "timeout" {
			continue
		}
		if told[what] != "" {
			t.Errorf("docs/LIMITS.md has two rows %q", what)
		}
		told[what] = strings.TrimSpace(cells[1])
	}
	return told
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
	if n%1e6 == 0 {
		out = append(out, fmt.Sprintf("%d MB", n/1e6))
	}
	for shift, unit := range map[int]string{10: "KiB", 20: "MiB", 30: "GiB"} {
		if n>>shift > 0 && n>>shift<<shift == n {
			out = append(out, fmt.Sprintf("%d %s", n>>shift, unit))
		}
	}
	return out
}

// valueOf computes a constant, or a default, from its source.
func valueOf(t *testing.T, f figure) (n int64, duration bool) {
	t.Helper()
	if strings.HasSuffix(f.dir, ".service") {
		unit, err := os.ReadFile(f.dir)
		if m := regexp.MustCompile(`(?m)^` + f.name + `=(\d+)(s?)`).FindSubmatch(unit); err == nil && m != nil {
			n, _ = strconv.ParseInt(string(m[1]), 10, 64)
			if duration = len(m[2]) > 0; duration {
				n *= int64(time.Second)
			}
			return n, duration
		}
		t.Fatalf("%s has no %s (%v)", f.dir, f.name, err)
	}
	v := constant.MakeUnknown()
	if e, err := parser.ParseExpr(f.name); err == nil {
		if _, isSum := e.(*ast.BinaryExpr); isSum {
			v = constantOf(t, f.dir, e, &duration)
		}
	}
	if v.Kind() == constant.Unknown {
		v = constantNamed(t, f, &duration)
	}
	n, _ = constant.Int64Val(constant.ToInt(v))
	return n, duration
}

// constantNamed looks a constant up in its package.
func constantNamed(t *testing.T, f figure, duration *bool) constant.Value {
	t.Helper()
	files, err := filepath.Glob(f.dir + "/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var found ast.Expr
	is := func(e ast.Expr) bool { return strings.HasSuffix(exprText(e), "."+f.name) }
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		short := f.name[strings.LastIndexByte(f.name, '.')+1:]
		if strings.HasSuffix(path, "_test.go") || !strings.Contains(string(text), short) {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, text, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(x ast.Node) bool {
			switch x := x.(type) {
			case *ast.ValueSpec:
				for i, name := range x.Names {
					if name.Name == f.name && i < len(x.Values) {
						found = x.Values[i]
					}
				}
			case *ast.AssignStmt: // of a default
				if _, isCall := x.Rhs[0].(*ast.CallExpr); x.Tok == token.ASSIGN && is(x.Lhs[0]) && !isCall {
					found = x.Rhs[0]
				}
			case *ast.CallExpr:
				if fn, ok := x.Fun.(*ast.Ident); ok && fn.Name == "orElse" && is(x.Args[0]) {
					found = x.Args[1]
				}
			}
			return true
		})
	}
	if found == nil {
		t.Fatalf("%s has no constant %s", f.dir, f.name)
	}
	return constantOf(t, f.dir, found, duration)
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

// constantOf computes an expression of the package in dir. A constant of another
// package is one of storage's.
func constantOf(t *testing.T, dir string, e ast.Expr, duration *bool) constant.Value {
	t.Helper()
	switch e := e.(type) {
	case *ast.BasicLit:
		return constant.MakeFromLiteral(e.Value, e.Kind, 0)
	case *ast.ParenExpr:
		return constantOf(t, dir, e.X, duration)
	case *ast.Ident:
		return constantNamed(t, figure{dir, e.Name}, duration)
	case *ast.BinaryExpr:
		a, b := constantOf(t, dir, e.X, duration), constantOf(t, dir, e.Y, duration)
		if e.Op == token.SHL {
			s, _ := constant.Uint64Val(b)
			return constant.Shift(a, token.SHL, uint(s))
		}
		if e.Op == token.QUO && a.Kind() == constant.Int && b.Kind() == constant.Int {
			return constant.BinaryOp(a, token.QUO_ASSIGN, b) // of integers
		}
		return constant.BinaryOp(a, e.Op, b)
	case *ast.SelectorExpr:
		units := map[string]time.Duration{"Millisecond": time.Millisecond, "Second": time.Second, "Minute": time.Minute, "Hour": time.Hour}
		if d := units[e.Sel.Name]; d > 0 && exprText(e.X) == "time" {
			*duration = true
			return constant.MakeInt64(int64(d))
		}
		if exprText(e.X) == "storage" {
			return constantNamed(t, figure{"storage", e.Sel.Name}, duration)
		}
	}
	t.Fatalf("%s: a constant that is not written in numbers: %s", dir, exprText(e))
	return nil
}
