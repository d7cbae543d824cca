//go:build !linux

package peer

import (
	"net"
	"time"
)

// setUserTimeout has no counterpart here; keepalive and the heartbeats of Raft
// and of replication find a dead path.
func setUserTimeout(*net.TCPConn, time.Duration) error { return nil }
