package peer

import "time"

// How long a silent path is believed. Keepalive probes an idle connection;
// TCP_USER_TIMEOUT limits how long sent bytes may stay unacknowledged, which
// without it is a quarter of an hour.
const (
	keepAliveIdle     = 10 * time.Second
	keepAliveInterval = 5 * time.Second
	keepAliveCount    = 2
	userTimeout       = 20 * time.Second
)
