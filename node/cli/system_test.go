package cli_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"mailnode/node/testport"
)

// The system tier: the real static binary, real processes on loopback, kill -9
// and SIGSTOP, real clients. One demo serves all of TestSystem's parts, in order.

type demoNode struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	IMAP  string `json:"imap"`
	IMAPS string `json:"imaps"`
	LMTP  string `json:"lmtp"`
	Admin string `json:"admin_socket"`
}

type demoFile struct {
	Nodes []demoNode `json:"nodes"`
	Users []string   `json:"users"`
}

type system struct {
	t   *testing.T
	bin string
	dir string
	out *bytes.Buffer

	// connect opens a connection to a node. The test's own network is the ordinary one.
	connect func(address string) (net.Conn, error)

	mu    sync.Mutex
	acked map[string]ack               // by Message-ID: 250 was read
	uids  map[string]map[string]string // user -> UIDVALIDITY/UID -> Message-ID
	next  int
}

// ack is a delivery that was acknowledged: after its last line was sent, and before 250
// was read.
type ack struct {
	user         string
	began, ended time.Time
}

// startSystem builds the binary and starts a demo with its data in dir/d.
func startSystem(t *testing.T, dir string, args ...string) *system {
	t.Helper()
	return startSystemOf(t, buildIn(t, "."), dir, args...)
}

// newSystem knows of nodes that something else starts, by dir/demo.json.
func newSystem(t *testing.T, bin, dir string) *system {
	return &system{t: t, bin: bin, dir: dir, out: &bytes.Buffer{}, acked: map[string]ack{}, uids: map[string]map[string]string{},
		connect: func(address string) (net.Conn, error) { return net.DialTimeout("tcp", address, 2*time.Second) }}
}

// buildIn builds the binary from the sources that the module in a folder has.
func buildIn(t *testing.T, dir string) (bin string) {
	t.Helper()
	bin = filepath.Join(t.TempDir(), "mailnode")
	build := exec.Command("go", "build", "-trimpath", "-o", bin, "mailnode")
	build.Dir, build.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

// startSystemOf starts a demo of a binary.
func startSystemOf(t *testing.T, bin, dir string, args ...string) *system {
	t.Helper()
	s := newSystem(t, bin, filepath.Join(dir, "d"))
	demo := exec.Command(s.bin, append([]string{"demo", "--dir", s.dir, "--base-port", strconv.Itoa(testport.Take(t).Base())}, args...)...)
	pipe, err := demo.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	demo.Stderr = s.out
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		sc := bufio.NewScanner(pipe)
		for sc.Scan() {
			if sc.Text() == "ready" {
				close(ready)
			}
		}
	}()
	t.Cleanup(func() {
		demo.Process.Signal(syscall.SIGINT)
		<-drained
		if err := demo.Wait(); err != nil {
			t.Errorf("the demo did not stop cleanly: %v\n%s", err, s.out)
		}
		if t.Failed() {
			s.dumpLogs()
		}
	})
	select {
	case <-ready:
	case <-drained:
		t.Fatalf("the demo ended: %s", s.out)
	case <-time.After(60 * time.Second):
		t.Fatal("the demo is not ready after 60 s")
	}
	return s
}

// shortDir is a folder whose name leaves room for socket paths (108 bytes).
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mnsys")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (s *system) dumpLogs() {
	logs, _ := filepath.Glob(filepath.Join(s.dir, "n*", "log"))
	for _, l := range logs {
		if b, err := os.ReadFile(l); err == nil {
			s.t.Logf("%s:\n%s", l, b[max(0, len(b)-6000):])
		}
	}
}

func (s *system) demo() demoFile {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, "demo.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	var d demoFile
	if err := json.Unmarshal(b, &d); err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *system) node(name string) demoNode {
	s.t.Helper()
	for _, n := range s.demo().Nodes {
		if n.Name == name {
			return n
		}
	}
	s.t.Fatalf("no node %s", name)
	return demoNode{}
}

// cli runs a verb at a node and returns its exit code and output.
func (s *system) cli(at demoNode, args ...string) (int, string) {
	s.t.Helper()
	out, err := exec.Command(s.bin, append([]string{"--socket", at.Admin}, args...)...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	if exit != nil {
		return exit.ExitCode(), string(out)
	}
	return 0, string(out)
}

type statusJSON struct {
	Leader string
	Nodes  []struct{ Name, State string }
	Slots  []struct {
		Slot, Master       string
		Epoch              int
		Serving, Protected bool
	}
	Proposals []struct {
		ID, Node string
		Slots    []struct {
			Slot string
			Safe bool
		}
	}
}

func (s *system) status(at demoNode) statusJSON {
	s.t.Helper()
	code, out := s.cli(at, "status", "--json")
	var st statusJSON
	if err := json.Unmarshal([]byte(out), &st); code != 0 || err != nil {
		s.t.Fatalf("status at %s: exit %d, %v: %s", at.Name, code, err, out)
	}
	return st
}

func (s *system) within(d time.Duration, what string, ok func() bool) time.Duration {
	s.t.Helper()
	began := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(began) > d {
			s.t.Fatalf("not within %s: %s", d, what)
		}
		<-tick.C
	}
	return time.Since(began)
}

// deliver sends one message over LMTP; nil means that 250 was read.
func (s *system) deliver(at demoNode, user string) error {
	s.mu.Lock()
	s.next++
	id := fmt.Sprintf("<%d.system@example.test>", s.next)
	s.mu.Unlock()
	c, err := s.connect(at.LMTP)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(15 * time.Second))
	r := bufio.NewReader(c)
	step := func(send, want string) error {
		if _, err := io.WriteString(c, send); err != nil {
			return err
		}
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return err
			}
			if len(line) > 3 && line[3] == '-' {
				continue
			}
			if !strings.HasPrefix(line, want) {
				return fmt.Errorf("%.20q: %s", send, strings.TrimSpace(line))
			}
			return nil
		}
	}
	var began time.Time
	for _, x := range [][2]string{{"", "220"}, {"LHLO test.invalid\r\n", "250"}, {"MAIL FROM:<s@sender.test>\r\n", "250"},
		{"RCPT TO:<" + user + ">\r\n", "250"}, {"DATA\r\n", "354"},
		{"Subject: system\r\nMessage-ID: " + id + "\r\n\r\n" + strings.Repeat("some text\r\n", 200) + ".\r\n", "250"}} {
		began = time.Now()
		if err := step(x[0], x[1]); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked[id] = ack{user, began, time.Now()}
	return nil
}

// verify reads every user's INBOX through a node with a real client: what was
// acknowledged is there once, and no UID names another message than before.
func (s *system) verify(at demoNode) {
	s.t.Helper()
	seen := map[string]int{}
	for _, user := range s.demo().Users {
		for key, id := range s.readInbox(at, user) {
			seen[id]++
			if s.uids[user] == nil {
				s.uids[user] = map[string]string{}
			}
			if was, ok := s.uids[user][key]; ok && was != id {
				s.t.Errorf("%s at %s: UID %s named %s and names %s now (law 2)", user, at.Name, key, was, id)
			}
			s.uids[user][key] = id
		}
	}
	for id, a := range s.acked {
		if seen[id] != 1 {
			s.t.Errorf("%s of %s was acknowledged and is there %d times at %s (law 1)", id, a.user, seen[id], at.Name)
		}
	}
}

func (s *system) readInbox(at demoNode, user string) map[string]string {
	s.t.Helper()
	conn, err := s.connect(at.IMAPS)
	if err != nil {
		s.t.Fatalf("%s at %s: %v", user, at.Name, err)
	}
	c := imapclient.New(tls.Client(conn, &tls.Config{InsecureSkipVerify: true}), nil)
	defer c.Close()
	if err := c.Login(user, "pw").Wait(); err != nil {
		s.t.Fatalf("log in %s at %s: %v", user, at.Name, err)
	}
	box, err := c.Select("INBOX", nil).Wait()
	if err != nil {
		s.t.Fatal(err)
	}
	out := map[string]string{}
	if box.NumMessages == 0 {
		return out
	}
	msgs, err := c.Fetch(imap.SeqSet{imap.SeqRange{Start: 1, Stop: box.NumMessages}}, &imap.FetchOptions{UID: true, Envelope: true}).Collect()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, m := range msgs {
		out[fmt.Sprintf("%d/%d", box.UIDValidity, m.UID)] = "<" + m.Envelope.MessageID + ">"
	}
	return out
}

func TestSystem(t *testing.T) {
	s := startSystem(t, shortDir(t), "--users", "6", "--slots", "6")
	t.Run("HandOverFetchesNothingAgain", s.handOverFetchesNothingAgain)
	t.Run("LoadAndKill9", s.loadAndKill)
	t.Run("RestartedNodeFollows", s.restartFollows)
	t.Run("PausedMasterAsksFirst", s.pausedMaster)
	t.Run("CommandLine", s.commandLine)
	t.Run("OrderWaitsForALeader", s.orderWaits)
	if t.Failed() {
		t.Logf("demo says: %s", s.out)
	}
}

// loadAndKill is the main job: mail in anywhere, out anywhere, kill -9 of a
// master under load, a proposal within 20 s, nothing changes until the confirm,
// mail flows within 2 s, nothing acknowledged is missing.
func (s *system) loadAndKill(t *testing.T) {
	s.t = t
	nodes, users := s.demo().Nodes, s.demo().Users
	for i := range 60 {
		if err := s.deliver(nodes[i%3], users[i%len(users)]); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nodes {
		s.verify(n)
	}
	dead, n2, n3 := nodes[0], nodes[1], nodes[2]
	s.underLoad(func() {
		s.within(10*time.Second, "load", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.acked) > 150 })
		if err := syscall.Kill(dead.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		took := s.within(20*time.Second, "a proposal about n1 at both survivors", func() bool {
			for _, n := range []demoNode{n2, n3} {
				if st := s.status(n); len(st.Proposals) != 1 || st.Proposals[0].Node != "n1" {
					return false
				}
			}
			return true
		})
		t.Logf("proposal after %s", took.Round(time.Millisecond))
	})
	affected := s.affected(n3, "n1")
	if code, out := s.cli(n2, "failover", "confirm"); code != 4 {
		t.Fatalf("confirm without a terminal and without --yes: exit %d: %s", code, out)
	}
	for _, sl := range s.status(n2).Slots {
		if affected[sl.Slot] && sl.Master != "n1" {
			t.Fatalf("slot %s changed masters although nobody confirmed (law 4)", sl.Slot)
		}
	}
	began := time.Now()
	if code, out := s.cli(n2, "failover", "confirm", "--yes"); code != 0 {
		t.Fatalf("confirm: exit %d: %s", code, out)
	}
	for _, u := range users {
		s.within(10*time.Second, "mail for "+u, func() bool { return s.deliver(n3, u) == nil })
		s.readInbox(n2, u)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("%s from confirm until every user has received and read, want at most 2 s", took)
	} else {
		t.Logf("from confirm to all users served: %s", took.Round(time.Millisecond))
	}
	s.verify(n2)
	s.verify(n3)
}

// underLoad delivers to all nodes while fn runs: what got a 250 counts.
func (s *system) underLoad(fn func()) {
	nodes, users := s.demo().Nodes, s.demo().Users
	stop := make(chan struct{})
	var load sync.WaitGroup
	defer load.Wait()
	defer close(stop)
	for w := range 4 {
		load.Go(func() {
			for i := w; ; i++ {
				select {
				case <-stop:
					return
				default:
					s.deliver(nodes[i%3], users[i%len(users)])
				}
			}
		})
	}
	fn()
}

// affected lists the slots of a dead master, which the only proposal must name.
func (s *system) affected(at demoNode, dead string) map[string]bool {
	s.t.Helper()
	st := s.status(at)
	out := map[string]bool{}
	for _, sl := range st.Slots {
		if sl.Master == dead {
			out[sl.Slot] = true
			if sl.Serving {
				s.t.Errorf("slot %s is said to be served by a dead node", sl.Slot)
			}
		}
	}
	if len(out) == 0 || len(st.Proposals) != 1 || len(st.Proposals[0].Slots) != len(out) {
		s.t.Fatalf("affected %v, proposals %+v", out, st.Proposals)
	}
	return out
}

func (s *system) allProtected(at demoNode) {
	s.t.Helper()
	s.within(45*time.Second, "every slot served and protected", func() bool {
		for _, sl := range s.status(at).Slots {
			if !sl.Serving || !sl.Protected {
				return false
			}
		}
		return true
	})
}

func (s *system) restartFollows(t *testing.T) {
	s.t = t
	if out, err := exec.Command(s.bin, "demo", "--dir", s.dir, "--restart", "n1").CombinedOutput(); err != nil {
		t.Fatalf("restart n1: %v: %s", err, out)
	}
	err := exec.Command(s.bin, "demo", "--dir", s.dir, "--restart", "n1").Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("restart of a running node: %v, want exit 3", err)
	}
	s.allProtected(s.node("n1"))
	for _, n := range s.demo().Nodes {
		s.verify(n)
	}
}

// pausedMaster freezes a master until it has been replaced: when it goes on it
// must not acknowledge anything as a master (law 4, LAWS row 20).
func (s *system) pausedMaster(t *testing.T) {
	s.t = t
	n2, n3 := s.node("n2"), s.node("n3")
	for _, n := range s.demo().Nodes { // each has heard that n3 is not alone any more: a plan goes by what was heard last
		s.allProtected(n)
	}
	if err := syscall.Kill(n3.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	awake := false
	defer func() {
		if !awake {
			syscall.Kill(n3.PID, syscall.SIGCONT)
		}
	}()
	s.hungNode(n2, n3)
	s.within(25*time.Second, "a proposal about n3", func() bool {
		st := s.status(n2)
		return len(st.Proposals) == 1 && st.Proposals[0].Node == "n3"
	})
	if code, out := s.cli(n2, "failover", "confirm", "--yes"); code != 0 {
		t.Fatalf("confirm: exit %d: %s", code, out)
	}
	for _, u := range s.demo().Users {
		if err := s.deliver(n2, u); err != nil {
			t.Fatalf("%s after the failover: %v", u, err)
		}
	}
	syscall.Kill(n3.PID, syscall.SIGCONT)
	awake = true
	for range 10 { // at once, at the node that still believes that it is master
		for _, u := range s.demo().Users {
			s.deliver(n3, u)
		}
	}
	s.allProtected(n2)
	for _, n := range s.demo().Nodes {
		s.verify(n)
	}
	if st := s.status(n3); len(st.Proposals) != 0 {
		t.Errorf("proposals are left: %+v", st.Proposals)
	}
}

// orderWaits gives an order just after the leader was killed: it waits for the next one.
func (s *system) orderWaits(t *testing.T) {
	s.t = t
	st := s.status(s.node("n1"))
	var others []demoNode
	for _, n := range s.demo().Nodes {
		if n.Name != st.Leader {
			others = append(others, n)
		}
	}
	if len(others) != 2 {
		t.Fatalf("the leader is %q", st.Leader)
	}
	if err := syscall.Kill(s.node(st.Leader).PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code, out := s.cli(others[0], "failover", "propose", "--node", others[1].Name); code != 0 && code != 3 {
		t.Errorf("just after the leader's death: exit %d: %s", code, out)
	}
	if out, err := exec.Command(s.bin, "demo", "--dir", s.dir, "--restart", st.Leader).CombinedOutput(); err != nil {
		t.Errorf("restart %s: %v: %s", st.Leader, err, out)
	}
}

// commandLine checks exit codes and single clear lines of wrong input.
func (s *system) commandLine(t *testing.T) {
	s.t = t
	at := s.node("n2")
	for _, c := range []struct {
		args []string
		exit int
		says string // on one of few lines
	}{
		{[]string{"failover", "confirm", "--yes"}, 3, "no proposal is open"},
		{[]string{"failover", "confirm", "p999", "--yes"}, 2, "p999"},
		{[]string{"slot", "show", "s999"}, 2, "s999"},
		{[]string{"cluster", "token", "N_1"}, 2, "N_1"},
		{[]string{"rescue", "dismiss", "s001", "--yes"}, 3, "no open loss"},
		{[]string{"status", "--wrong"}, 2, "--wrong"},
		{[]string{"stauts"}, 2, "stauts"},
		{[]string{"user", "show", "nobody@example.test"}, 2, "nobody@example.test"},
	} {
		code, out := s.cli(at, c.args...)
		if code != c.exit || !strings.Contains(out, c.says) || strings.Count(out, "\n") > 6 {
			t.Errorf("mailnode %s: exit %d, want %d, with %q in a few lines:\n%s", strings.Join(c.args, " "), code, c.exit, c.says, out)
		}
	}
	if err := s.deliver(at, "nobody@example.test"); err == nil || !strings.Contains(err.Error(), "550 5.1.1") {
		t.Errorf("unknown user: %v, want 550 5.1.1", err)
	}
}
