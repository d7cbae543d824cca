package demo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"mailnode/node/admin"
	"mailnode/storage/disk"
)

const (
	stateFile = "demo.json"
	lockFile  = "demo.lock"
	// socketPathMax is what fits into sun_path everywhere, and the node's
	// configuration refuses more, in bytes.
	socketPathMax = 103
)

// State is demo.json: who runs, and what was chosen when the cluster was made.
type State struct {
	Nodes    []Node   `json:"nodes"`
	Users    []string `json:"users"`
	Password string   `json:"password"`
	Slots    int      `json:"slots"`

	Replicas int    `json:"replicas"`
	Ack      string `json:"ack"`
	BasePort int    `json:"base_port"`
}

// Node is one node of the demo.
type Node struct {
	Name        string `json:"name"`
	PID         int    `json:"pid"` // 0 before its first start
	IMAP        string `json:"imap"`
	IMAPS       string `json:"imaps"`
	LMTP        string `json:"lmtp"`
	LMTPSocket  string `json:"lmtp_socket"`
	Peer        string `json:"peer"`
	Metrics     string `json:"metrics"`
	AdminSocket string `json:"admin_socket"`
	DataDir     string `json:"data_dir"`
}

func (n Node) config(dir string) string { return filepath.Join(dir, n.Name, "mailnode.toml") }
func (n Node) log(dir string) string    { return filepath.Join(dir, n.Name, "log") }
func (n Node) client() *admin.Client    { return admin.NewClient(n.AdminSocket) }

// newState lays out a cluster that is not there yet.
func newState(dir string, o Options) State {
	s := State{Password: o.Password, Slots: o.Slots, Replicas: min(o.Replicas, o.Nodes-1), Ack: o.Ack, BasePort: o.BasePort, Users: users(o.Users)}
	for i := range o.Nodes {
		at := func(port int) string { return fmt.Sprintf("127.0.0.1:%d", o.BasePort+i*portsOfNode+port) }
		name := fmt.Sprintf("n%d", i+1)
		s.Nodes = append(s.Nodes, Node{Name: name, IMAP: at(0), IMAPS: at(1), LMTP: at(2), Peer: at(3), Metrics: at(4), DataDir: filepath.Join(dir, name, "data")})
	}
	return s
}

func users(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("u%d@example.test", i+1)
	}
	return list
}

// resume takes over a cluster that dir holds. What was typed must fit it.
func (s State) resume(dir string, o Options) (State, error) {
	for _, c := range []struct {
		flag      string
		have, got any
	}{
		{"nodes", len(s.Nodes), o.Nodes}, {"slots", s.Slots, o.Slots}, {"replicas", s.Replicas, min(o.Replicas, len(s.Nodes)-1)},
		{"base-port", s.BasePort, o.BasePort}, {"password", s.Password, o.Password},
	} {
		if slices.Contains(o.Given, c.flag) && c.have != c.got {
			return s, usage("--%s: %q holds a cluster with %v: leave the flag out, or name another --dir", c.flag, dir, c.have)
		}
	}
	if slices.Contains(o.Given, "ack") {
		s.Ack = o.Ack
	}
	if more := users(o.Users); slices.Contains(o.Given, "users") && len(more) > len(s.Users) {
		s.Users = more
	}
	for i := range s.Nodes { // the folder may have been moved
		s.Nodes[i].DataDir = filepath.Join(dir, s.Nodes[i].Name, "data")
	}
	return s, nil
}

// placeSockets chooses where the unix sockets are: beside the data, or in a
// short temporary folder when dir is too long for them.
func (s *State) placeSockets(dir string) error {
	longest := filepath.Join(dir, s.Nodes[len(s.Nodes)-1].Name, "admin.sock")
	base := dir
	if len(longest) > socketPathMax {
		var err error
		temporary := os.TempDir()
		if len(temporary) > socketPathMax/2 {
			temporary = "/tmp"
		}
		if base, err = os.MkdirTemp(temporary, "mailnode-demo-"); err != nil {
			return fmt.Errorf("make folder for sockets: %w", err)
		}
	}
	for i, n := range s.Nodes {
		s.Nodes[i].AdminSocket = filepath.Join(base, n.Name, "admin.sock")
		s.Nodes[i].LMTPSocket = filepath.Join(base, n.Name, "lmtp.sock")
	}
	return nil
}

// removeSockets removes a temporary folder that placeSockets made.
func (s State) removeSockets(dir string) {
	for _, n := range s.Nodes {
		folder := filepath.Dir(n.AdminSocket)
		if folder == filepath.Join(dir, n.Name) || !strings.HasPrefix(filepath.Base(filepath.Dir(folder)), "mailnode-demo-") {
			return
		}
		// What is not empty stays: it is not ours alone.
		_ = os.Remove(n.AdminSocket)
		_ = os.Remove(n.LMTPSocket)
		_ = os.Remove(folder)
		_ = os.Remove(filepath.Dir(folder))
	}
}

// readState reads demo.json; fs.ErrNotExist when there is none.
func readState(dir string) (State, error) {
	var s State
	path := filepath.Join(dir, stateFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return s, fmt.Errorf("read demo: %w", err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("read demo %q: %w", path, err)
	}
	if len(s.Nodes) == 0 || s.Slots < 1 {
		return s, fmt.Errorf("read demo %q: it names no nodes", path)
	}
	return s, nil
}

func (s State) write(dir string) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write demo: %w", err)
	}
	return disk.ReplaceFile(filepath.Join(dir, stateFile), append(text, '\n'))
}

// changeState reads, changes and replaces demo.json; a demo and a --restart may
// do so at the same time.
func changeState(dir string, change func(*State)) error {
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock demo: %w", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock demo: %w", err)
	}
	s, err := readState(dir)
	if err != nil {
		return err
	}
	change(&s)
	return s.write(dir)
}

// open returns the cluster that dir holds, or a new one, and writes demo.json. It
// refuses when nodes of it are running.
func (d *demo) open() (State, error) {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return State{}, fmt.Errorf("make folder of the demo: %w", err)
	}
	s, err := readState(d.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s = newState(d.dir, d.o)
	case err != nil:
		return s, err
	default:
		if names, pids := s.running(d.dir); len(pids) > 0 {
			return s, &admin.Error{Text: fmt.Sprintf("the cluster in %q is running: %s", d.dir, strings.Join(names, ", ")), Exit: admin.ExitFailed,
				Next: "kill " + strings.Join(pids, " ")}
		}
		if s, err = s.resume(d.dir, d.o); err != nil {
			return s, err
		}
	}
	if err := s.checkPorts(); err != nil {
		return s, err
	}
	if err := s.placeSockets(d.dir); err != nil {
		return s, err
	}
	for i := range s.Nodes {
		s.Nodes[i].PID = 0
		if err := s.writeConfig(d.dir, s.Nodes[i]); err != nil {
			return s, err
		}
	}
	return s, s.write(d.dir)
}

// running names the nodes that live, with their pids.
func (s State) running(dir string) (names, pids []string) {
	for _, n := range s.Nodes {
		if alive(n.PID, n.config(dir)) {
			names = append(names, fmt.Sprintf("%s (pid %d)", n.Name, n.PID))
			pids = append(pids, fmt.Sprint(n.PID))
		}
	}
	return names, pids
}

// named finds a node.
func (s State) named(name string) (Node, error) {
	var names []string
	for _, n := range s.Nodes {
		if n.Name == name {
			return n, nil
		}
		names = append(names, n.Name)
	}
	return Node{}, usage("find node %q: there are: %s", name, strings.Join(names, ", "))
}
