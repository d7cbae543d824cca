package demo

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"mailnode/node/admin"
	"mailnode/node/config"
	"mailnode/node/testport"
)

// TestMain is also the node process of these tests: one that lives until
// SIGTERM. The real one is started by the end-to-end test of the repository.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		end := make(chan os.Signal, 1)
		signal.Notify(end, syscall.SIGTERM)
		fmt.Println("up")
		<-end
		fmt.Println("down")
		return
	}
	goleak.VerifyTestMain(m)
}

func options(t *testing.T) Options {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Options{Dir: t.TempDir(), Nodes: 3, Replicas: 9, Slots: 4, Users: 2, Password: "pw", BasePort: testport.Take(t).Base(), Ack: "replica", Executable: program, Out: io.Discard}
}

func exitOf(err error) int {
	var refusal *admin.Error
	if err == nil {
		return admin.ExitDone
	} else if errors.As(err, &refusal) {
		return refusal.Exit
	}
	return admin.ExitFailed
}

func TestOpen(t *testing.T) {
	d := &demo{o: options(t), out: io.Discard}
	d.dir = d.o.Dir
	s, err := d.open()
	if err != nil {
		t.Fatal(err)
	}
	base := d.o.BasePort
	want := Node{Name: "n2", IMAP: fmt.Sprintf("127.0.0.1:%d", base+10), IMAPS: fmt.Sprintf("127.0.0.1:%d", base+11), LMTP: fmt.Sprintf("127.0.0.1:%d", base+12),
		Peer: fmt.Sprintf("127.0.0.1:%d", base+13), Metrics: fmt.Sprintf("127.0.0.1:%d", base+14),
		AdminSocket: d.dir + "/n2/admin.sock", LMTPSocket: d.dir + "/n2/lmtp.sock", DataDir: d.dir + "/n2/data"}
	if diff := cmp.Diff(want, s.Nodes[1]); diff != "" {
		t.Error(diff)
	}
	if s.Replicas != 2 {
		t.Errorf("%d replicas on three nodes", s.Replicas)
	}
	if diff := cmp.Diff([]string{"u1@example.test", "u2@example.test"}, s.Users); diff != "" {
		t.Error(diff)
	}
	for _, n := range s.Nodes {
		c, err := config.Load(n.config(d.dir))
		if err != nil {
			t.Fatal(err)
		}
		if string(c.Node.Name) != n.Name || c.Node.PeerAdvertise != n.Peer || c.IMAP.Plain != n.IMAP || c.LMTP.TCP != n.LMTP || c.Node.Data != n.DataDir || c.Replication.Ack != config.AckReplica {
			t.Errorf("node %s reads %+v", n.Name, c)
		}
	}
	written, err := readState(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, written); diff != "" {
		t.Error(diff)
	}
}

func TestSecondStartMustFit(t *testing.T) {
	o := options(t)
	s := newState(o.Dir, o)
	for flag, change := range map[string]func(*Options){
		"nodes": func(o *Options) { o.Nodes = 5 }, "slots": func(o *Options) { o.Slots = 5 }, "replicas": func(o *Options) { o.Replicas = 1 },
		"base-port": func(o *Options) { o.BasePort++ }, "password": func(o *Options) { o.Password = "other" },
	} {
		other := o
		change(&other)
		if _, err := s.resume(o.Dir, other); err != nil {
			t.Errorf("--%s was not typed: %v", flag, err)
		}
		other.Given = []string{flag}
		if _, err := s.resume(o.Dir, other); exitOf(err) != admin.ExitUsage || !strings.Contains(err.Error(), "--"+flag) {
			t.Errorf("--%s: %v", flag, err)
		}
	}
	other := o
	other.Users, other.Ack, other.Given = 4, "local", []string{"users", "ack"}
	got, err := s.resume(o.Dir, other)
	if err != nil || len(got.Users) != 4 || got.Ack != "local" {
		t.Errorf("got %v, %q, %v", got.Users, got.Ack, err)
	}
}

func TestPortInUse(t *testing.T) {
	o := options(t)
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", o.BasePort+12))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	err = Run(t.Context(), o)
	want := fmt.Sprintf("port %d (lmtp of n2): it is in use: choose other ports with --base-port (now %d)", o.BasePort+12, o.BasePort)
	if exitOf(err) != admin.ExitFailed || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestDirTooLongForASocket: a unix socket has no room for every path.
func TestDirTooLongForASocket(t *testing.T) {
	dir := filepath.Join("/", strings.Repeat("long/", 30))
	s := newState(dir, Options{Nodes: 3, BasePort: 30000})
	if err := s.placeSockets(dir); err != nil {
		t.Fatal(err)
	}
	base := filepath.Dir(filepath.Dir(s.Nodes[0].AdminSocket))
	for _, n := range s.Nodes {
		if len(n.AdminSocket) > socketPathMax || len(n.LMTPSocket) > socketPathMax {
			t.Errorf("%q is too long", n.AdminSocket)
		}
		if err := os.Mkdir(filepath.Dir(n.AdminSocket), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.removeSockets(dir)
	if _, err := os.Stat(base); !os.IsNotExist(err) {
		t.Errorf("%q is left behind: %v", base, err)
	}
}

func TestQuoted(t *testing.T) {
	for _, path := range []string{"/a b", `/a"b\c`, "/ä/日", "/a\tb\nc"} {
		c, problems := config.Parse("f", "name = \"n1\"\nhostname = \"m.example.org\"\ndata = "+quoted(path)+"\n")
		if problems != nil || c.Node.Data != path {
			t.Errorf("%q came back as %q: %v", path, c.Node.Data, problems)
		}
	}
}

// TestProcesses: nodes live in a session of their own, are known by pid and
// configuration file, refuse a second demo, and are stopped by name.
func TestProcesses(t *testing.T) {
	d := &demo{o: options(t), out: io.Discard, own: make(map[string]*process), deaths: make(chan *process, nodesMax)}
	d.dir = d.o.Dir
	s, err := d.open()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range s.Nodes[:2] {
		if err := d.start(n); err != nil {
			t.Fatal(err)
		}
	}
	s, err = readState(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	names, pids := s.running(d.dir)
	if len(pids) != 2 || !strings.HasPrefix(names[1], "n2 (pid ") || s.Nodes[2].PID != 0 {
		t.Errorf("running: %v", names)
	}
	if sid, err := syscall.Getpgid(s.Nodes[0].PID); err != nil || sid != s.Nodes[0].PID {
		t.Errorf("n1 is in process group %d: %v", sid, err)
	}
	if alive(s.Nodes[0].PID, s.Nodes[1].config(d.dir)) || alive(os.Getpid(), s.Nodes[0].config(d.dir)) {
		t.Error("a pid was taken for another node's")
	}
	err = Run(t.Context(), d.o)
	if exitOf(err) != admin.ExitFailed || !strings.Contains(err.Error(), fmt.Sprintf("n1 (pid %d), n2 (pid %d)", s.Nodes[0].PID, s.Nodes[1].PID)) {
		t.Errorf("a second demo: %v", err)
	}
	if err := Restart(t.Context(), d.dir, "n1", d.o.Executable, io.Discard); exitOf(err) != admin.ExitNothing {
		t.Errorf("restart of a running node: %v", err)
	}
	if err := Restart(t.Context(), d.dir, "n9", d.o.Executable, io.Discard); exitOf(err) != admin.ExitUsage || !strings.Contains(err.Error(), "n1, n2, n3") {
		t.Errorf("restart of an unknown node: %v", err)
	}
	// A node that dies by itself is told of with the end of its log.
	if err := syscall.Kill(s.Nodes[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-d.own["n1"].done
	if alive(s.Nodes[0].PID, s.Nodes[0].config(d.dir)) {
		t.Error("n1 lives on")
	}
	err = d.until(t.Context(), "the moon falls", func() error { return errors.New("it stays") })
	if err == nil || !strings.Contains(err.Error(), "node n1 ended (signal: killed)") {
		t.Errorf("got %v", err)
	}
	if err := stopAll(d.dir, s.Nodes); err != nil {
		t.Error(err)
	}
	<-d.own["n2"].done
	if _, pids := s.running(d.dir); len(pids) != 0 {
		t.Errorf("left over: %v", pids)
	}
}

func TestStateThatIsNotOurs(t *testing.T) {
	o := options(t)
	if err := os.WriteFile(filepath.Join(o.Dir, stateFile), []byte(`{"nodes":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "it names no nodes") {
		t.Errorf("got %v", err)
	}
	if err := Restart(t.Context(), t.TempDir(), "n1", o.Executable, io.Discard); exitOf(err) != admin.ExitUsage {
		t.Errorf("restart without a demo: %v", err)
	}
}

// TestTransaction plays the server's side of RFC 2033: who got what answer.
func TestTransaction(t *testing.T) {
	for _, c := range []struct {
		rcpt2, after1, after2 string
		left                  []string
		permanent             bool
	}{
		{"250 ok", "250 ok", "250 ok", nil, false},
		{"451 later", "250 ok", "", []string{"b@x.test"}, false},
		{"250 ok", "250 ok", "451 later", []string{"b@x.test"}, false},
		{"550 no", "", "", []string{"a@x.test", "b@x.test"}, true},
		{"250 ok", "552 full", "", []string{"a@x.test", "b@x.test"}, true},
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		heard := make(chan string, 1)
		go func() {
			defer close(heard)
			raw, err := ln.Accept()
			if err != nil {
				return
			}
			s := textproto.NewConn(raw)
			defer s.Close()
			for _, answer := range []string{"220 hi", "250 lhlo", "250 mail", "250 rcpt", c.rcpt2, "354 go"} {
				if s.PrintfLine("%s", answer) != nil {
					return
				}
				if answer == "354 go" {
					break
				}
				if _, err := s.ReadLine(); err != nil {
					return
				}
			}
			body, err := s.ReadDotBytes()
			if err != nil {
				return
			}
			for _, answer := range []string{c.after1, c.after2, "221 bye"} {
				if answer != "" && s.PrintfLine("%s", answer) != nil {
					return
				}
			}
			heard <- string(body)
		}()
		left, err := transaction(t.Context(), ln.Addr().String(), "Subject: x\r\n\r\n.dot\r\n", []string{"a@x.test", "b@x.test"})
		ln.Close()
		var permanent permanentError
		if errors.As(err, &permanent) != c.permanent || err != nil && !c.permanent {
			t.Errorf("%+v: %v", c, err)
		}
		if diff := cmp.Diff(c.left, left); diff != "" {
			t.Errorf("%+v: %s", c, diff)
		}
		if body := <-heard; body != "" && body != "Subject: x\n\n.dot\n" {
			t.Errorf("the server heard %q", body)
		}
	}
}
