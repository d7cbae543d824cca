package config

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if rewrite := flag.Lookup("rewrite"); rewrite != nil && rewrite.Value.String() == "true" {
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

func TestMain(m *testing.M) {
	flag.Bool("rewrite", false, "rewrite the golden files")
	flag.Parse()
	os.Exit(m.Run())
}

func TestExample(t *testing.T) {
	golden(t, "example.toml", Example())
	fromExample, problems := parse("example", Example(), "mail1.example.org")
	if problems != nil {
		t.Fatal(problems)
	}
	fromNothing, problems := parse("nothing", "", "mail1.example.org")
	if problems != nil {
		t.Fatal(problems)
	}
	comparePrefix := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if diff := cmp.Diff(fromNothing, fromExample, comparePrefix); diff != "" {
		t.Errorf("the example means something else than an empty file:\n%s", diff)
	}
}

func TestSettingsStayFew(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range settings() {
		if seen[s.name] {
			t.Errorf("%s is listed twice", s.name)
		}
		seen[s.name] = true
		if !strings.HasSuffix(s.doc, ".") {
			t.Errorf("%s: the explanation is no sentence: %q", s.name, s.doc)
		}
	}
	if len(seen) >= 40 {
		t.Errorf("%d settings, want under 40", len(seen))
	}
}

// TestWrongFiles holds each *.wrong file of testdata against its report.
func TestWrongFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/*.wrong")
	if err != nil || len(files) == 0 {
		t.Fatalf("no wrong files: %v", err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(path)
		config, problems := parse(name, string(text), "mail1.example.org")
		if len(problems) == 0 {
			t.Errorf("%s was accepted", name)
		}
		if config.Node.Data != "" {
			t.Errorf("%s: a refused file still gave a Config", name)
		}
		var b strings.Builder
		for _, p := range problems {
			b.WriteString(p.Error() + "\n")
		}
		golden(t, strings.TrimSuffix(name, ".wrong")+".report", b.String())
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mailnode.toml")
	text := `
name = "n1"
data = "/srv/mail"
hostname = "mail.example.org"
peer = "0.0.0.0:7500"
imap = ""
lmtp = "192.0.2.1:24"
lmtp_allow = ["192.0.2.9", "2001:db8::/32"]
ack = "local"
ack_timeout = "500ms"
undelete = "24h"
log_format = "json"
`
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if c.Node.Name != "n1" || c.Node.PeerAdvertise != "mail.example.org:7500" || c.IMAP.Plain != "" || c.IMAP.TLS != ":993" ||
		c.Replication.Ack != AckLocal || c.Replication.AckTimeout != 500*time.Millisecond || c.Replication.Undelete != 24*time.Hour || !c.Log.JSON {
		t.Errorf("got %+v", c)
	}
	want := []string{"192.0.2.9/32", "2001:db8::/32"}
	var got []string
	for _, p := range c.LMTP.Allow {
		got = append(got, p.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLoadMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "no.toml")
	problems := Check(path)
	if len(problems) != 1 || problems[0].Line != 0 || !strings.Contains(problems[0].Error(), "config example") {
		t.Errorf("got %v", problems)
	}
	if _, err := Load(path); err == nil {
		t.Error("a missing file was loaded")
	}
}

func TestHostNameThatMakesNoNodeName(t *testing.T) {
	for _, host := range []string{"", "_x"} {
		if _, problems := parse("f", "", host); len(problems) == 0 {
			t.Errorf("host name %q was accepted as a node name", host)
		}
		if _, problems := parse("f", "name = \"n1\"\nhostname = \"m.example.org\"\n", host); problems != nil {
			t.Errorf("host name %q matters although both names are written: %v", host, problems)
		}
	}
}

// TestEnvironmentChangesNothing guards LAWS §8.4: no hidden environment variables.
func TestEnvironmentChangesNothing(t *testing.T) {
	before, _ := parse("f", "", "mail1.example.org")
	for _, s := range settings() {
		t.Setenv("MAILNODE_"+strings.ToUpper(s.name), "1")
	}
	after, _ := parse("f", "", "mail1.example.org")
	if diff := cmp.Diff(before, after, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestIsLoopback(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:143": true, "127.8.9.1:1": true, "[::1]:143": true, "localhost:143": true, "::1": true, "127.0.0.1": true,
		"[::ffff:127.0.0.1]:5": true, ":143": false, "0.0.0.0:143": false, "[::]:143": false, "192.0.2.1:143": false,
		"mail.example.org:143": false, "localhost.example.org:1": false, "": false, "/run/x.sock": false,
	} {
		if got := IsLoopback(address); got != want {
			t.Errorf("IsLoopback(%q) = %v, want %v", address, got, want)
		}
	}
}

// FuzzParse: whatever the text, there is a Config or a Problem, and every
// Problem names a line of the file.
func FuzzParse(f *testing.F) {
	f.Add(Example())
	for _, path := range []string{"testdata/values.wrong", "testdata/syntax.wrong", "testdata/blocks.wrong"} {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		config, problems := parse("f", text, "mail1.example.org")
		if len(problems) == 0 && config.Node.Data == "" {
			t.Error("neither a Config nor a Problem")
		}
		for _, p := range problems {
			if p.Line < 0 || p.Line > strings.Count(text, "\n")+1 || p.Text == "" {
				t.Errorf("problem %+v", p)
			}
		}
	})
}
