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
	for name, s := range map[string]*site{"calm": calm(), "broken": broken()} {
		golden(t, name+".txt", transcript(t, s.serve(t),
			"status", "failover", "failover list", "slot list", "slot show s007", "cluster members", "user list", "user show u1@example.org"))
	}
	golden(t, "failover.txt", transcript(t, broken().serve(t), "failover show", "failover show p3", "failover confirm", "failover confirm p3 --slot s001 --accept-loss",
		"failover confirm --yes", "fo confirm p3 --yes --json", "failover reject p3", "failover list --json"))
}

// TestStatusIsNarrow: a phone shows it at 3:30 am.
func TestStatusIsNarrow(t *testing.T) {
	for _, s := range []*site{calm(), broken()} {
		s.status.Verdict = admin.Verdict(s.status)
		for line := range strings.Lines(statusScreen(s.status, false)) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > screenWidth {
				t.Errorf("%d columns: %s", n, line)
			}
		}
		if strings.Contains(statusScreen(s.status, false), "\x1b") || !strings.Contains(statusScreen(s.status, true), "\x1b[") {
			t.Error("colour is for terminals, and only for them")
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
		{age(17), "17 s"}, {age(600), "10 min"}, {age(7200), "2 h"}, {age(3 * 86400), "3 days"},
		{size(1023), "1023 B"}, {size(1536), "1.5 KiB"}, {size(5 << 30), "5.0 GiB"}, {size(1<<63 - 1), "8.0 EiB"},
		{clean("a\x1b[31mb\u009b"), "a?[31mb?"},
		{wrap("  ", strings.Repeat("x", 70)+" y"), "  " + strings.Repeat("x", 70) + "\n  y\n"},
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
