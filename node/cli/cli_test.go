package cli

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"go.uber.org/goleak"

	"mailnode/node/admin"
	"mailnode/node/config"
	"mailnode/storage"
	"mailnode/storage/slot"
)

func TestMain(m *testing.M) {
	flag.Bool("rewrite", false, "rewrite the golden files")
	flag.Parse()
	goleak.VerifyTestMain(m)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if flag.Lookup("rewrite").Value.String() == "true" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); -rewrite accepts it:\n%s", name, diff)
	}
}

// call runs the command as an operator without a terminal would.
func call(t *testing.T, socket, stdin string, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	t.Setenv("MAILNODE_SOCKET", socket)
	var out, errs bytes.Buffer
	exit = Run(args, strings.NewReader(stdin), &out, &errs, nil)
	return exit, out.String(), errs.String()
}

// transcript writes calls as a terminal would show them.
func transcript(t *testing.T, socket string, calls ...string) string {
	t.Helper()
	var b strings.Builder
	for _, line := range calls {
		command, stdin, _ := strings.Cut(line, " < ")
		exit, out, errs := call(t, socket, stdin, strings.Fields(command)...)
		fmt.Fprintf(&b, "$ mailnode %s\n%s%s[%d]\n\n", line, out, errs, exit)
	}
	return strings.ReplaceAll(b.String(), filepath.Dir(socket), "/run/mailnode")
}

func TestHelp(t *testing.T) {
	a := &app{}
	var all []string
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		path := strings.Fields(c.CommandPath())[1:]
		all = append(all, strings.TrimSpace(strings.Join(path, " ")+" --help"))
		for _, v := range c.Commands() {
			if !v.Hidden {
				walk(v)
			}
		}
	}
	walk(a.root())
	golden(t, "help.txt", transcript(t, admin.DefaultSocket, all...))
}

func TestScreens(t *testing.T) {
	for name, s := range map[string]*site{"forty": forty(), "crowded": crowded(), "nothing": nothingKnown()} {
		golden(t, name+".txt", transcript(t, s.serve(t), "status", "status --verbose", "slot show s007", "slot show s007 --verbose"))
	}
	for name, s := range map[string]*site{"calm": calm(), "broken": broken()} {
		golden(t, name+".txt", transcript(t, s.serve(t),
			"status", "status --verbose", "slot show s007 --verbose", "failover", "failover list", "slot list", "slot show s007", "cluster members", "user list", "user show u1@example.org"))
	}
	golden(t, "failover.txt", transcript(t, broken().serve(t), "failover show", "failover show p3", "failover confirm", "failover confirm p3 --slot s001 --accept-loss",
		"failover confirm --yes", "fo confirm p3 --yes --json", "failover reject p3", "failover list --json"))
}

// TestScreensAreNarrow: a phone shows them at 3:30 am, whatever the names, and no
// name is cut.
func TestScreensAreNarrow(t *testing.T) {
	var screens strings.Builder
	for name, s := range map[string]*site{"calm": calm(), "broken": broken(), "forty": forty(), "crowded": crowded(), "nothing": nothingKnown()} {
		s.status.Verdict, s.status.First = admin.Verdict(s.status, 4), admin.FirstCommand(s.status)
		texts := map[string]string{}
		for _, verbose := range []bool{false, true} {
			texts[fmt.Sprint("status ", verbose)] = statusScreen(s.status, false, verbose)
			d, err := slotBook{s}.Show(t.Context(), 7)
			if err != nil {
				t.Fatal(err)
			}
			texts[fmt.Sprint("slot show ", verbose)] = slotScreen(d, verbose)
		}
		for what, text := range texts {
			for line := range strings.Lines(text) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > screenWidth {
					t.Errorf("%s, %s: %d columns: %s", name, what, n, line)
				}
			}
			screens.WriteString(text)
		}
		for _, n := range s.status.Nodes {
			if !strings.Contains(texts["status false"], string(n.Name)) {
				t.Errorf("%s: %s was cut", name, n.Name)
			}
		}
		if strings.Contains(texts["status false"], "\x1b") || !strings.Contains(statusScreen(s.status, true, false), "\x1b[") {
			t.Error("colour is for terminals, and only for them")
		}
	}
	if screens.Len() < 10_000 {
		t.Errorf("only %d bytes of screens were looked at", screens.Len())
	}
}

// TestFortySlotsAreFewLines: slots that stand alike are one line each.
func TestFortySlotsAreFewLines(t *testing.T) {
	s := forty()
	s.status.Verdict = admin.Verdict(s.status, 4)
	if lines := strings.Count(statusScreen(s.status, false, false), "\n"); lines > 45 {
		t.Errorf("%d lines for forty slots", lines)
	}
	if text := slotLines(calm().status.Slots, false); strings.Count(text, "\n") != 3 {
		t.Errorf("slots that are well are more than one line:\n%s", text)
	}
	some := calm()
	some.status.Slots[3].Copies[1].LagS = nil
	if text := slotLines(some.status.Slots, false); !strings.Contains(text, "  s003\n") || !strings.Contains(text, "the other 11 protected, lag 0.1 s\n") {
		t.Errorf("the lag of one slot is not known, and it is said of others:\n%s", text)
	}
}

// TestLaw08DigestsThatDifferAreSaid: copies at one position that differ are said,
// and no others.
func TestLaw08DigestsThatDifferAreSaid(t *testing.T) {
	copies := func(digests ...string) admin.SlotDetail {
		d := admin.SlotDetail{SlotStatus: admin.SlotStatus{Slot: 7}}
		for i, x := range digests {
			d.Copies = append(d.Copies, admin.CopyStatus{Node: slot.NodeName(fmt.Sprint("n", i)), Digest: x[1:], DigestAt: slot.At(2, uint64(x[0]-'0'))})
		}
		return d
	}
	for _, c := range []struct {
		d    admin.SlotDetail
		says bool
	}{{copies("1aa", "1aa"), false}, {copies("1aa", "2bb"), false}, {copies("1", "1bb"), false}, {copies("1aa", "2bb", "2bb", "1cc"), true}} {
		if says := strings.Contains(digestLine(c.d), "digests differ at 2/1"); says != c.says {
			t.Errorf("%+v: said %v", c.d.Copies, says)
		}
	}
}

func TestErrorLines(t *testing.T) {
	golden(t, "errors.txt", transcript(t, calm().serve(t),
		"statsu", "status now", "status --jsno", "failover confrim", "failover confirm", "failover confirm --accept-loss", "failover confirm p3 --slot 7",
		"failover reject", "user", "user add", "user add nobody < pw", "user add u@example.org", "user add u@example.org --quota 5X < pw", "user show u9@example.org",
		"slot show", "slot show 7", "slot show s099", "cluster token N1", "cluster token n1", "cluster token n4", "cluster init", "cluster join --config /nowhere.toml",
		"serve", "serve --config /nowhere.toml", "config", "config check /nowhere.toml", "demo --nodes 0", "demo --ack both", "demo --restart n1", "help statsu", "--socket /nowhere/a.sock status"))
}

// TestExitCodes holds the verbs against LAWS §8: 0 done, 1 failed, 2 wrong usage or no
// such thing, 3 nothing to do, 4 refused or nobody there to ask.
func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	wrong, good := filepath.Join(dir, "wrong.toml"), filepath.Join(dir, "good.toml")
	goodText := fmt.Sprintf("name = \"n1\"\nhostname = \"m.example.org\"\ndata = %q\nsocket = %q\n", filepath.Join(dir, "data"), filepath.Join(dir, "a.sock"))
	for path, text := range map[string]string{wrong: "nothing = 1\n", good: goodText} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "data", "slots", "s000"), 0o700); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing.toml")
	calmAt, brokenAt := calm().serve(t), broken().serve(t)
	for _, row := range []struct {
		socket, call string
		exit         int
	}{
		{calmAt, "status", 0}, {calmAt, "status --verbose", 0}, {calmAt, "status now", 2}, {filepath.Join(dir, "none.sock"), "status", 1},
		{calmAt, "failover confirm", 3}, {calmAt, "failover reject", 2}, {calmAt, "failover show", 3}, {calmAt, "failover list", 0},
		{brokenAt, "failover confirm", 4}, {brokenAt, "failover confirm --yes", 4}, {brokenAt, "failover confirm --accept-loss", 2},
		{calmAt, "cluster token n1", 4}, {calmAt, "cluster token n4", 0}, {calmAt, "cluster token N1", 2}, {calmAt, "cluster token n4 --expires 0s", 2}, {calmAt, "cluster members", 0}, {calmAt, "cluster remove n1", 4}, {calmAt, "cluster remove n9", 2}, {calmAt, "cluster remove", 2}, {calmAt, "cluster remove w1", 4}, {calmAt, "cluster remove w1 --yes", 0}, {calmAt, "cluster place", 4}, {calmAt, "cluster place --yes", 3},
		{calmAt, "cluster init", 2}, {calmAt, "cluster init --config " + missing, 2}, {calmAt, "cluster init --config " + good, 4}, {calmAt, "cluster init --config " + good + " --yes", 4},
		{calmAt, "cluster join --config " + good, 2}, {calmAt, "cluster join --config " + good + " --token - < half a token", 2},
		{calmAt, "cluster join --config " + good + " --token-file " + missing, 2}, {calmAt, "cluster join --config " + good + " --token x --token-file y", 2},
		{calmAt, "cluster join --config " + good + " --replace n2 --token x", 2}, {calmAt, "cluster join --config " + good + " --wipe --token x", 2},
		{calmAt, "config check " + missing, 2}, {calmAt, "serve --config " + missing, 2}, {calmAt, "cluster join --config " + missing, 2},
		{calmAt, "config check " + wrong, 1}, {calmAt, "config check " + good, 0}, {calmAt, "config example", 0},
		{calmAt, "user show u1@example.org", 0}, {calmAt, "user show u9@example.org", 2}, {calmAt, "user show nobody", 2}, {calmAt, "user enable u1@example.org", 3},
		{calmAt, "user disable gone@example.org", 4}, {calmAt, "user delete u1@example.org", 4}, {calmAt, "user erase gone@example.org", 4}, {calmAt, "user quota u1@example.org 5X", 2},
		{calmAt, "user undelete u1@example.org --mailbox empty", 3},
		{calmAt, "slot show s007", 0}, {calmAt, "slot show s099", 2}, {calmAt, "slot show 7", 2}, {calmAt, "slot", 2}, {calmAt, "version", 0},
	} {
		verb, stdin, _ := strings.Cut(row.call, " < ")
		if exit, out, errs := call(t, row.socket, stdin, strings.Fields(verb)...); exit != row.exit {
			t.Errorf("%s: exit %d, want %d\n%s%s", row.call, exit, row.exit, out, errs)
		} else if exit == admin.ExitRefused && !strings.Contains(out+errs, "mailnode ") {
			t.Errorf("%s: refused, and no command goes on: %s%s", row.call, out, errs)
		}
	}
}

// TestEveryWrongCallIsOneLine: no dump of the usage, and an exit code of 2.
func TestEveryWrongCallIsOneLine(t *testing.T) {
	for _, args := range [][]string{{"x"}, {"status", "--x"}, {"slot", "x"}, {"user", "show"}, {"user", "show", "a@b", "c"}, {"failover", "show", "--json=maybe"}, {"cluster", "init", "--slots", "many"}} {
		exit, out, errs := call(t, "/nowhere/a.sock", "", args...)
		if exit != admin.ExitUsage || out != "" || strings.Count(errs, "\n") != 1 {
			t.Errorf("%q: exit %d, %q, %q", args, exit, out, errs)
		}
	}
}

// TestLaw04NothingIsConfirmedUnasked: without a terminal and without --yes no
// master is changed.
func TestLaw04NothingIsConfirmedUnasked(t *testing.T) {
	s := broken()
	socket := s.serve(t)
	exit, _, _ := call(t, socket, "y\n", "failover", "confirm")
	if exit != admin.ExitRefused || len(s.confirmed) != 0 {
		t.Fatalf("exit %d, confirmed %+v", exit, s.confirmed)
	}
	exit, out, _ := call(t, socket, "", "failover", "confirm", "--yes", "--slot", "s000", "--slot", "s001")
	want := []admin.ConfirmRequest{{ID: "p3", Slots: []slot.ID{0, 1}}}
	if diff := cmp.Diff(want, s.confirmed); diff != "" || exit != s.outcome.Exit {
		t.Errorf("exit %d: %s", exit, diff)
	}
	if !strings.HasPrefix(out, "plan of p3\n") {
		t.Errorf("the plan was not shown first: %s", out)
	}
}

func TestPasswords(t *testing.T) {
	s := calm()
	socket := s.serve(t)
	for _, args := range [][]string{{"user", "add", "U1@example.org", "--quota", "5G"}, {"user", "passwd", "u1@example.org", "--password-stdin"}} {
		if exit, out, errs := call(t, socket, "hunter2\nsecond line\n", args...); exit != 0 || strings.Contains(out+errs, "hunter2") {
			t.Errorf("%q: exit %d, %s%s", args, exit, out, errs)
		}
	}
	if diff := cmp.Diff([]admin.AddUser{{Address: "u1@example.org", Password: "hunter2", QuotaBytes: 5 << 30}}, s.added); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]admin.SetPassword{{Address: "u1@example.org", Password: "hunter2"}}, s.passwords); diff != "" {
		t.Error(diff)
	}
	for line, want := range map[string]string{
		"\n":        "the password is empty",
		"p\xe4ss\n": "a password must be UTF-8",
		"a\x00b\n":  "want 1 to 1000 bytes",
		"a\rb\n":    "want 1 to 1000 bytes",
		strings.Repeat("x", storage.MaxPasswordBytes+1) + "\n": "want 1 to 1000 bytes",
	} {
		for _, verb := range []string{"passwd", "add"} {
			exit, _, errs := call(t, socket, line, "user", verb, "u1@example.org", "--password-stdin")
			if exit != admin.ExitUsage || !strings.Contains(errs, want) || len(s.passwords) != 1 || len(s.added) != 1 {
				t.Errorf("user %s with %.10q: exit %d, %s, want %q", verb, line, exit, errs, want)
			}
		}
	}
	if exit, _, errs := call(t, socket, strings.Repeat("x", storage.MaxPasswordBytes), "user", "passwd", "u1@example.org", "--password-stdin"); exit != 0 {
		t.Errorf("the longest password: exit %d, %s", exit, errs)
	}
}

func TestInitAndServe(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "mailnode.toml")
	text := fmt.Sprintf("name = \"n1\"\nhostname = \"m.example.org\"\ndata = %q\nsocket = %q\nlog_format = \"json\"\n", filepath.Join(dir, "data"), filepath.Join(dir, "a.sock"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	exit, out, errs := call(t, "", "", "cluster", "init", "--config", file, "--slots", "4", "--replicas", "0")
	if exit != 0 || !strings.HasPrefix(out, "making a new cluster: first node n1, 4 slots, 0 replicas each, in "+dir) {
		t.Errorf("exit %d: %s%s", exit, out, errs)
	}
	if exit, _, _ := call(t, "", "", "cluster", "init", "--config", file); exit != admin.ExitRefused {
		t.Errorf("a second init: exit %d", exit)
	}
	var served config.Config
	serve := func(_ context.Context, c config.Config, log *slog.Logger, release string, ready func()) error {
		served = c
		log.Info("hello", slog.String("release", release))
		ready()
		return nil
	}
	var stdout, stderr bytes.Buffer
	if exit := Run([]string{"serve", "--config", file}, strings.NewReader(""), &stdout, &stderr, serve); exit != 0 || served.Node.Name != "n1" {
		t.Errorf("serve: exit %d, %+v", exit, served.Node)
	}
	if !strings.Contains(stderr.String(), `"msg":"hello","release":"dev"`) {
		t.Errorf("logged: %s", stderr.String())
	}
}

func TestTexts(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{slotRanges([]slot.ID{7, 0, 1, 2, 9, 10}), "s000-s002 s007 s009-s010"},
		{slotRanges(nil), ""},
		{age(17), "17 s"}, {age(3 * 86400), "3 days"},
		{clean("a\x1b[31mb\u009b"), "a?[31mb?"},
		{wrap("  ", strings.Repeat("x", 70)+" y"), "  " + strings.Repeat("x", 46) + "\n  " + strings.Repeat("x", 24) + " y\n"},
		{someSlots([]slot.ID{7, 0, 1, 2, 9, 10}, 24), "s000-s002 s007 s009-s010"},
		{someSlots([]slot.ID{7, 0, 1, 2, 9, 10, 20}, 26), "s000-s002 and 4 more"},
		{someSlots([]slot.ID{7, 0, 1, 2, 9, 10}, 10), "6 slots"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
	for text, want := range map[string]int64{"0": 0, "17": 17, "5k": 5 << 10, "2T": 2 << 40} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1", "G", "1.5G", "99999999T", "5GB"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("parseSize(%q) = %d", text, got)
		}
	}
}
