package cli_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// lab is three nodes on addresses of their own, 192.0.2.11 to 13, each in a network
// namespace, and a fourth namespace, 192.0.2.1, for clients and for what stands
// between. So the configurations of docs/operating/addresses.md run as they are printed.
type lab struct {
	t     *testing.T
	dir   string
	bin   string
	nodes map[string]*exec.Cmd
	users []string
}

func (l *lab) ns(name string) string { return fmt.Sprintf("mn%d%s", os.Getpid(), name) }

// sh runs a command, whose failure is the test's.
func (l *lab) sh(args ...string) string {
	l.t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// in makes a command that runs in a namespace.
func (l *lab) in(ns string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", l.ns(ns)}, args...)...)
}

// log is what a program says in a namespace, in all its lives.
func (l *lab) log(ns, program string) string {
	return filepath.Join(l.dir, fmt.Sprintf("%s.%s.log", ns, filepath.Base(program)))
}

// daemon runs a program in a namespace until the test ends; ip replaces itself by it,
// so the process is the program's.
func (l *lab) daemon(ns string, stop syscall.Signal, args ...string) *exec.Cmd {
	l.t.Helper()
	log, err := os.OpenFile(l.log(ns, args[0]), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		l.t.Fatal(err)
	}
	defer log.Close()
	cmd := l.in(ns, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // whatever ends the test
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		cmd.Process.Signal(stop)
		cmd.Wait()
		if l.t.Failed() {
			b, _ := os.ReadFile(log.Name())
			l.t.Logf("%s:\n%s", log.Name(), b[max(0, len(b)-3000):])
		}
	})
	return cmd
}

func (l *lab) eventually(what string, ok func() bool) {
	l.t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			l.t.Fatalf("not within 60 s: %s", what)
		}
	}
}

func (l *lab) socket(node string) string { return filepath.Join(l.dir, node+".sock") }

func (l *lab) mailnode(node string, args ...string) string {
	l.t.Helper()
	return l.sh(append([]string{l.bin, "--socket", l.socket(node)}, args...)...)
}

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Getenv("MAILNODE_LONG") == "" {
		t.Skip("set MAILNODE_LONG to run it")
	}
	if os.Getuid() != 0 {
		t.Skip("only root makes network namespaces")
	}
	l := &lab{t: t, dir: shortDir(t), bin: filepath.Join(t.TempDir(), "mailnode"), nodes: map[string]*exec.Cmd{}}
	if err := os.Chmod(l.dir, 0o755); err != nil { // Postfix's own user works below it
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-trimpath", "-o", l.bin, "mailnode")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	l.network()
	for i, name := range []string{"n1", "n2", "n3"} {
		l.install(name, fmt.Sprintf("192.0.2.1%d", i+1))
		if i == 0 {
			l.mailnode(name, "cluster", "init", "--config", l.config(name), "--nodes", "3", "--slots", "6", "--yes")
		} else {
			token := filepath.Join(l.dir, name+".token")
			out, err := exec.Command(l.bin, "--socket", l.socket("n1"), "cluster", "token", name).Output()
			if err != nil {
				t.Fatal(err)
			}
			fields := strings.Fields(string(out))
			if err := os.WriteFile(token, []byte(longest(fields)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := l.in(name, l.bin, "cluster", "join", "--config", l.config(name), "--token-file", token).CombinedOutput(); err != nil {
				t.Fatalf("join %s: %v: %s", name, err, out)
			}
		}
		l.start(name)
	}
	l.eventually("every slot is served and protected", func() bool {
		out, _ := exec.Command(l.bin, "--socket", l.socket("n1"), "status", "--json").Output()
		return strings.Count(string(out), `"serving":true`) == 6 && strings.Count(string(out), `"protected":true`) == 6
	})
	for i := range 6 {
		u := fmt.Sprintf("u%d@example.test", i+1)
		add := exec.Command(l.bin, "--socket", l.socket("n1"), "user", "add", u)
		add.Stdin = strings.NewReader("pw\n")
		if out, err := add.CombinedOutput(); err != nil {
			t.Fatalf("add %s: %v: %s", u, err, out)
		}
		l.users = append(l.users, u)
	}
	return l
}

func longest(words []string) (out string) {
	for _, w := range words {
		if len(w) > len(out) {
			out = w
		}
	}
	return out
}

// network makes the namespaces and a bridge between them. It removes those that a test
// has left that was killed.
func (l *lab) network() {
	left, _ := filepath.Glob("/run/netns/mn*")
	for _, path := range left {
		name := filepath.Base(path)
		pid := regexp.MustCompile(`^mn([0-9]+)(c|n[1-3])$`).FindStringSubmatch(name)
		if pid == nil {
			continue
		}
		if _, err := os.Stat("/proc/" + pid[1]); os.IsNotExist(err) {
			_ = exec.Command("ip", "netns", "del", name).Run() // another test may do the same
		}
	}
	if out, err := exec.Command("ip", "netns", "add", l.ns("c")).CombinedOutput(); err != nil {
		l.t.Skipf("no network namespaces here: %v: %s", err, out)
	}
	l.t.Cleanup(func() { exec.Command("ip", "netns", "del", l.ns("c")).Run() })
	c := l.ns("c")
	l.sh("ip", "-n", c, "link", "add", "br0", "type", "bridge")
	l.sh("ip", "-n", c, "addr", "add", "192.0.2.1/24", "dev", "br0")
	l.sh("ip", "-n", c, "link", "set", "br0", "up")
	l.sh("ip", "-n", c, "link", "set", "lo", "up")
	for i, name := range []string{"n1", "n2", "n3"} {
		n := l.ns(name)
		l.sh("ip", "netns", "add", n)
		l.t.Cleanup(func() { exec.Command("ip", "netns", "del", n).Run() })
		l.sh("ip", "-n", n, "link", "set", "lo", "up")
		l.sh("ip", "-n", n, "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", c)
		l.sh("ip", "-n", n, "addr", "add", fmt.Sprintf("192.0.2.1%d/24", i+1), "dev", "eth0")
		l.sh("ip", "-n", n, "link", "set", "eth0", "up")
		l.sh("ip", "-n", c, "link", "set", name, "master", "br0", "up")
	}
}

func (l *lab) config(node string) string { return filepath.Join(l.dir, node+".toml") }

func (l *lab) install(name, address string) {
	text := fmt.Sprintf("name = %q\ndata = %q\nhostname = \"%s.example.test\"\npeer = \":7400\"\npeer_advertise = \"%s:7400\"\nsocket = %q\nmetrics = \":7401\"\nlmtp = \":24\"\nlmtp_socket = \"\"\nlmtp_allow = [\"192.0.2.0/24\"]\nsuspect_after = \"5s\"\n",
		name, filepath.Join(l.dir, name), name, address, l.socket(name))
	if err := os.WriteFile(l.config(name), []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// serve starts a node, which may be cut off.
func (l *lab) serve(name string) {
	l.t.Helper()
	l.nodes[name] = l.daemon(name, syscall.SIGTERM, l.bin, "serve", "--config", l.config(name))
	l.eventually(name+" answers", func() bool { return exec.Command(l.bin, "--socket", l.socket(name), "version").Run() == nil })
}

func (l *lab) start(name string) {
	l.t.Helper()
	l.serve(name)
	l.eventually(name+" takes clients", func() bool { return l.in("c", "curl", "-fs", "http://"+l.address(name)+":7401/healthz").Run() == nil })
}

func (l *lab) address(name string) string { return "192.0.2.1" + strings.TrimPrefix(name, "n") }

// without takes a node off the network, without a word, while fn runs.
func (l *lab) without(name string, fn func()) {
	l.t.Helper()
	l.sh("ip", "-n", l.ns("c"), "link", "set", name, "down")
	defer l.sh("ip", "-n", l.ns("c"), "link", "set", name, "up")
	fn()
}

// logIn reads a folder list with curl, as a mail client in the clients' namespace does.
func (l *lab) logIn(user string, args ...string) error {
	out, err := l.in("c", append([]string{"curl", "-sSk", "--ssl-reqd", "-m", "20", "-u", user + ":pw"}, args...)...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "INBOX") {
		return fmt.Errorf("%s: %w: %s", user, err, out)
	}
	return nil
}

// everyUser logs in all users, again and again, until it has worked for all.
func (l *lab) everyUser(what string, args ...string) {
	l.t.Helper()
	for _, u := range l.users {
		last := ""
		l.eventually(what+" for "+u, func() bool {
			err := l.logIn(u, args...)
			if err != nil && err.Error() != last {
				last = err.Error()
				l.t.Log(last)
			}
			return err == nil
		})
	}
}

// page returns the block of docs/operating/addresses.md that is a certain file.
func page(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/operating/addresses.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(b), "```\n# "+file+"\n")
	block, _, ended := strings.Cut(rest, "```")
	if !found || !ended {
		t.Fatalf("the page has no %s", file)
	}
	return block
}

func (l *lab) write(name, text string) string {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		l.t.Fatal(err)
	}
	return path
}

func need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("%s is not here", program)
	}
	return path
}

// The ways of docs/operating/addresses.md, with the real programs and the page's own
// configurations: n1, which each of them takes first, has no master any more, and is
// cut off; clients log in and mail comes in all the same. Then it comes back.
func TestLongAddresses(t *testing.T) {
	l := newLab(t)
	l.mailnode("n2", "fo", "-a", "n1", "--yes")
	t.Run("SeveralARecords", func(t *testing.T) { l.t = t; l.severalRecords() })
	t.Run("HAProxy", func(t *testing.T) { l.t = t; l.haproxy() })
	t.Run("Postfix", func(t *testing.T) { l.t = t; l.postfix() })
	t.Run("Keepalived", func(t *testing.T) { l.t = t; l.keepalived() })
	l.t = t
}

func (l *lab) severalRecords() {
	need(l.t, "curl")
	records := []string{"--resolve", "mail.example.org:993:192.0.2.11,192.0.2.12,192.0.2.13", "imaps://mail.example.org:993/"}
	l.everyUser("several records", records...)
	l.without("n1", func() {
		if err := l.logIn(l.users[0], records...); err != nil { // at the first try: that is the point
			l.t.Error(err)
		}
	})
}

func (l *lab) haproxy() {
	program := need(l.t, "haproxy")
	l.daemon("c", syscall.SIGTERM, program, "-db", "-f", l.write("haproxy.cfg", page(l.t, "/etc/haproxy/haproxy.cfg")))
	l.everyUser("HAProxy", "imap://192.0.2.1:143/")
	l.without("n1", func() {
		l.everyUser("HAProxy without n1", "imap://192.0.2.1:143/")
		l.everyUser("HAProxy without n1, with TLS", "imaps://192.0.2.1:993/")
		for range 5 { // n1 is known to be down: nobody is sent there
			for _, u := range l.users {
				if err := l.logIn(u, "imap://192.0.2.1:143/"); err != nil {
					l.t.Fatal(err)
				}
			}
		}
	})
}

func (l *lab) postfix() {
	need(l.t, "postfix")
	dir := filepath.Join(l.dir, "postfix")
	main := page(l.t, "/etc/postfix/main.cf") + fmt.Sprintf("compatibility_level = 3.6\nqueue_directory = %s/queue\ndata_directory = %s/data\nmaillog_file = %s/log\nmaillog_file_prefixes = %s\nmyhostname = mx.example.test\nmydestination =\nalias_maps =\nlocal_recipient_maps =\ninet_protocols = ipv4\nmynetworks = 192.0.2.0/24 127.0.0.0/8\nsmtpd_relay_restrictions = permit_mynetworks, reject\n",
		dir, dir, dir, dir)
	l.write("postfix/main.cf", main)
	l.write("postfix/master.cf", `25 inet n - n - - smtpd
postlog unix-dgram n - n - 1 postlogd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
`)
	for _, d := range []string{"queue", "data"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			l.t.Fatal(err)
		}
	}
	l.sh("chown", "postfix", filepath.Join(dir, "data"))
	if out, err := l.in("c", "postfix", "-c", dir, "start").CombinedOutput(); err != nil {
		l.t.Fatalf("postfix start: %v: %s", err, out)
	}
	l.t.Cleanup(func() { // by its own pid file
		l.in("c", "postfix", "-c", dir, "stop").Run()
		if l.t.Failed() {
			b, _ := os.ReadFile(filepath.Join(dir, "log"))
			l.t.Logf("postfix:\n%s", b[max(0, len(b)-6000):])
		}
	})
	sent := 0
	send := func() {
		l.t.Helper()
		for _, u := range l.users {
			sent++
			l.submit(u, fmt.Sprintf("Subject: %d\r\n\r\nhello\r\n", sent))
		}
	}
	arrived := func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "log"))
		return err == nil && len(regexp.MustCompile(`postfix/lmtp.*status=sent`).FindAll(b, -1)) == sent
	}
	send()
	l.eventually("mail through the first next hop", arrived)
	l.without("n1", func() {
		send()
		l.eventually("mail through the second next hop", arrived)
	})
	b, err := os.ReadFile(filepath.Join(dir, "log"))
	for _, hop := range []string{"relay=192.0.2.11[192.0.2.11]:24", "relay=192.0.2.12[192.0.2.12]:24"} {
		if err != nil || !bytes.Contains(b, []byte(hop)) {
			l.t.Errorf("nothing went by %s, %v", hop, err)
		}
	}
}

// submit hands a message to Postfix from within the clients' namespace, with curl.
func (l *lab) submit(to, text string) {
	l.t.Helper()
	cmd := l.in("c", "curl", "-sS", "-m", "30", "smtp://192.0.2.1:25", "--mail-from", "s@sender.test", "--mail-rcpt", to, "-T", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("submit for %s: %v: %s", to, err, out)
	}
}

func (l *lab) keepalived() {
	program := need(l.t, "keepalived")
	for i, name := range []string{"n1", "n2", "n3"} {
		text := strings.Replace(page(l.t, "/etc/keepalived/keepalived.conf"), "priority 103", fmt.Sprintf("priority %d", 103-i), 1)
		f := l.write(name+".keepalived.conf", text)
		l.daemon(name, syscall.SIGTERM, program, "-n", "-l", "-P", "-f", f, "-p", f+".pid", "-r", f+".vrrp.pid")
	}
	has := func(name string) bool {
		return strings.Contains(l.sh("ip", "-n", l.ns(name), "-4", "addr", "show", "eth0"), "192.0.2.10/24")
	}
	l.eventually("n1 has the address", func() bool { return has("n1") && !has("n2") && !has("n3") })
	l.everyUser("keepalived", "imap://192.0.2.10:143/")
	l.without("n1", func() {
		l.eventually("n2 has the address, the machine of n1 is gone", func() bool { return has("n2") && !has("n3") })
		l.everyUser("keepalived without n1", "imap://192.0.2.10:143/")
	})
	l.eventually("n1 has the address again", func() bool { return has("n1") && !has("n2") && !has("n3") })
	n1 := l.nodes["n1"]
	n1.Process.Signal(syscall.SIGTERM)
	l.eventually("n2 has the address, /healthz of n1 is gone", func() bool { return has("n2") && !has("n1") })
	l.everyUser("keepalived while n1 is stopped", "imap://192.0.2.10:143/")
}
