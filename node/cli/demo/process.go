package demo

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"mailnode/node/admin"
)

// process is a node that this program started.
type process struct {
	name string
	done chan struct{} // closed when it has ended
	end  string        // how; valid after done
}

// start runs a node in a session of its own, so that neither Ctrl-C nor the
// death of this program ends it, and writes its pid to demo.json.
func start(dir, executable string, n Node, ended chan<- *process) (*process, error) {
	if err := os.MkdirAll(filepath.Dir(n.AdminSocket), 0o700); err != nil {
		return nil, fmt.Errorf("start node %q: %w", n.Name, err)
	}
	log, err := os.OpenFile(n.log(dir), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start node %q: %w", n.Name, err)
	}
	defer log.Close()
	cmd := exec.Command(executable, "serve", "--config", n.config(dir))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start node %q: %w", n.Name, err)
	}
	p := &process{name: n.Name, done: make(chan struct{})}
	go func() {
		err := cmd.Wait()
		p.end = "it stopped by itself"
		if err != nil {
			p.end = err.Error()
		}
		close(p.done)
		if ended != nil {
			ended <- p // has room for every start
		}
	}()
	err = changeState(dir, func(s *State) {
		for i := range s.Nodes {
			if s.Nodes[i].Name == n.Name {
				s.Nodes[i].PID = cmd.Process.Pid
			}
		}
	})
	if err != nil {
		return nil, errors.Join(err, cmd.Process.Kill())
	}
	return p, nil
}

// alive reports whether a pid is the node with that configuration file: pids are
// used again. A process that ended and was not waited for does not live.
func alive(pid int, configFile string) bool {
	if pid <= 1 || syscall.Kill(pid, 0) != nil {
		return false
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		_, noProc := os.Stat("/proc/self/cmdline")
		return noProc != nil // no such file system here: the pid is all there is
	}
	for arg := range bytes.SplitSeq(line, []byte{0}) {
		if string(arg) == configFile {
			return true
		}
	}
	return false
}

// stopAll ends nodes: SIGTERM, and SIGKILL after stopTimeout. The error names
// those that had to be killed.
func stopAll(dir string, nodes []Node) error {
	signal := func(sig ...syscall.Signal) (left []string) {
		for _, n := range nodes {
			if alive(n.PID, n.config(dir)) {
				for _, s := range sig {
					_ = syscall.Kill(n.PID, s) // gone meanwhile: the next look shows it
				}
				left = append(left, n.Name)
			}
		}
		return left
	}
	gone := func(limit time.Duration) bool {
		tick := time.NewTicker(pause / 2)
		defer tick.Stop()
		for deadline := time.Now().Add(limit); len(signal()) > 0; <-tick.C {
			if time.Now().After(deadline) {
				return false
			}
		}
		return true
	}
	signal(syscall.SIGTERM, syscall.SIGCONT) // a paused node hears SIGTERM only when it goes on
	if gone(stopTimeout) {
		return nil
	}
	killed := strings.Join(signal(syscall.SIGKILL), ", ")
	if !gone(stopTimeout) {
		return &admin.Error{Text: fmt.Sprintf("stop %s: still there after SIGKILL", killed), Exit: admin.ExitFailed}
	}
	return &admin.Error{Text: fmt.Sprintf("stop %s: no end within %s of SIGTERM, killed; see %s", killed, stopTimeout, filepath.Join(dir, "n*", "log")), Exit: admin.ExitFailed}
}

// lastLine returns the end of a node's log, for an error.
func lastLine(path string) string {
	const enough = 4096
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > enough {
		if _, err := f.Seek(-enough, 2); err != nil {
			return ""
		}
	}
	b := make([]byte, enough)
	n, _ := f.Read(b)
	lines := strings.Split(strings.TrimSpace(string(b[:n])), "\n")
	return lines[len(lines)-1]
}
