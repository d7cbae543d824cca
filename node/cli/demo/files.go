package demo

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"mailnode/node/admin"
	"mailnode/storage/disk"
)

// cacheBytes keeps many nodes on a small machine modest.
const cacheBytes = 64 << 20

// writeConfig writes a node's configuration file, at each start of the demo.
func (s State) writeConfig(dir string, n Node) error {
	for _, folder := range []string{filepath.Join(dir, n.Name), n.DataDir, filepath.Dir(n.AdminSocket)} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return fmt.Errorf("make folder of node %q: %w", n.Name, err)
		}
	}
	var b strings.Builder
	b.WriteString("# Written by `mailnode demo` at each start. `mailnode config example` explains every setting.\n")
	for _, line := range [][2]string{
		{"name", n.Name}, {"data", n.DataDir}, {"hostname", n.Name + ".example.test"}, {"peer", n.Peer}, {"socket", n.AdminSocket}, {"metrics", n.Metrics},
		{"imap", n.IMAP}, {"imaps", n.IMAPS}, {"lmtp", n.LMTP}, {"lmtp_socket", n.LMTPSocket}, {"ack", s.Ack},
	} {
		fmt.Fprintf(&b, "%s = %s\n", line[0], quoted(line[1]))
	}
	// hostname resolves nowhere: what is dialled is the address itself.
	fmt.Fprintf(&b, "peer_advertise = %s\ncache_bytes = %d\n", quoted(n.Peer), cacheBytes)
	return disk.ReplaceFile(n.config(dir), []byte(b.String()))
}

// quoted writes a TOML basic string: \u for what may not stand in one as it is.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		if r == '"' || r == '\\' || r < ' ' || r == 0x7f {
			fmt.Fprintf(&b, `\u%04X`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String() + `"`
}

// checkPorts refuses when a port is in use, before anything is started.
func (s State) checkPorts() error {
	for _, n := range s.Nodes {
		for _, p := range [][2]string{{"imap", n.IMAP}, {"imaps", n.IMAPS}, {"lmtp", n.LMTP}, {"peer", n.Peer}, {"metrics", n.Metrics}} {
			ln, err := net.Listen("tcp", p[1])
			if err == nil {
				ln.Close()
				continue
			}
			_, port, _ := net.SplitHostPort(p[1])
			why := err.Error()
			if errors.Is(err, syscall.EADDRINUSE) {
				why = "it is in use"
			}
			return &admin.Error{Text: fmt.Sprintf("port %s (%s of %s): %s: choose other ports with --base-port (now %d)%s", port, p[0], n.Name, why, s.BasePort, s.portAdvice()), Exit: admin.ExitFailed}
		}
	}
	return nil
}

// portAdvice says what --base-port cannot do.
func (s State) portAdvice() string {
	for _, n := range s.Nodes {
		if _, err := os.Stat(filepath.Join(n.DataDir, "cluster")); err == nil {
			return "; a cluster keeps its ports, so that takes another --dir"
		}
	}
	return ""
}

// guide says what a newcomer can do now.
func (s State) guide(dir, program string) string {
	n1, n := s.Nodes[0], len(s.Nodes)
	_, port, _ := net.SplitHostPort(n1.IMAP)
	_, portTLS, _ := net.SplitHostPort(n1.IMAPS)
	var b strings.Builder
	fmt.Fprintf(&b, "\nnodes %d, slots %d, replicas of each %d, in %s\n", n, s.Slots, s.Replicas, dir)
	if len(s.Users) > 0 {
		last := ""
		if len(s.Users) > 1 {
			last = " to " + s.Users[len(s.Users)-1]
		}
		fmt.Fprintf(&b, "\nread mail, at any node\n  users     %s%s, password %s\n", s.Users[0], last, s.Password)
		fmt.Fprintf(&b, "  IMAP      127.0.0.1 port %s without TLS (on loopback only), port %s with TLS\n", port, portTLS)
		fmt.Fprintf(&b, "  or type   curl -u %s:%s 'imap://%s/INBOX;MAILINDEX=1'\n", s.Users[0], s.Password, n1.IMAP)
	}
	fmt.Fprintf(&b, "\nlook at it\n  %s --socket %s status\n", program, n1.AdminSocket)
	if n > 2 && s.Replicas > 0 {
		n2 := s.Nodes[1]
		fmt.Fprintf(&b, "\ntry a failover\n  kill -9 %s\n", strconv.Itoa(n1.PID))
		fmt.Fprintf(&b, "  export MAILNODE_SOCKET=%s\n", n2.AdminSocket)
		fmt.Fprintf(&b, "  %s failover            after 15 s there is a proposal\n", program)
		fmt.Fprintf(&b, "  %s failover confirm    shows the plan and asks\n", program)
		fmt.Fprintf(&b, "  %s demo --dir %s --restart %s\n", program, dir, n1.Name)
	}
	b.WriteString("\nCtrl-C stops everything\n\n")
	return b.String()
}
