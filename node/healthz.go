package node

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"mailnode/failover"
	"mailnode/node/monitor"
)

// takesNone says in one line why this node takes no clients, "" when it does. It
// waits for nothing: load balancers ask each second. A node that is master of nothing
// takes clients all the same, it passes them on.
func (n *Node) takesNone() string {
	c := n.cfg
	switch {
	case c.Node.Witness:
		return "it is a witness"
	case n.stopping.Load():
		return "it is stopping"
	case !n.clientsOpen.Load():
		return "it is starting"
	case c.IMAP.Plain == "" && c.IMAP.TLS == "" && c.LMTP.TCP == "" && c.LMTP.Socket == "":
		return "it has no port for clients"
	case n.conditions.Holds(monitor.RaftRemoved, ""):
		return "the cluster removed it"
	case n.fenced.Load():
		return "it has no quorum, and fence_without_quorum makes its slots read-only"
	}
	// ledAt is a second old at most while a leader is known; an election is no reason.
	if n.clock.Mono()-time.Duration(n.ledAt.Load()) < fenceAfter || n.servesAny() {
		return ""
	}
	if err := n.raft.Err(); err != nil {
		return fmt.Sprintf("it serves no slot, and Raft does not run on it: %v", err)
	}
	return "it serves no slot, and knows no Raft leader"
}

// servesAny reports whether this node serves a slot as its master.
func (n *Node) servesAny() bool {
	for _, k := range n.copies.all() {
		if r := k.report(); r.Role == failover.RoleMaster && r.Serving {
			return true
		}
	}
	return false
}

// healthz answers load balancers: 200 while this node takes clients, else 503 and why.
func (n *Node) healthz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if why := n.takesNone(); why != "" {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintf(w, "%s takes no clients: %s\n", n.cfg.Node.Name, strings.Join(strings.Fields(why), " "))
		return
	}
	fmt.Fprintf(w, "%s takes clients\n", n.cfg.Node.Name)
}
