// Package config is the only list of mailnode's settings: one flat TOML file,
// one table (settings.go) from which reading, checking and the printed example
// are all derived. No environment variable changes a setting.
package config

import (
	"log/slog"
	"net/netip"
	"time"

	"mailnode/storage/slot"
)

// Config is a checked configuration. Whoever has one has gone through Load,
// Parse or Default: every field holds a usable value.
type Config struct {
	Node        Node
	IMAP        IMAP
	LMTP        LMTP
	Replication Replication
	Log         Log
	Volumes     []Volume // at least one

	CacheBytes      int64 // Pebble block cache of the whole node
	JournalMax      int64 // events kept per slot for a replica that is behind
	MessageMaxBytes int64
	FillBytesPerSec int64 // of one copy
	ReindexWorkers  int
	ScrubEvery      time.Duration // every copy is read whole in that time
}

// Node says who this node is and where it listens for its peers and operators.
type Node struct {
	Name          slot.NodeName
	Data          string // absolute path
	Hostname      string // in greetings and Received
	Zone          string
	Standby       bool
	Witness       bool
	Peer          string   // host:port to listen on
	PeerAdvertise string   // host:port that other nodes dial
	Peers         []string // host:port of other nodes, for `cluster init`
	Metrics       string   // host:port, "" is off
	Socket        string   // absolute path of the admin socket
	TLSCert       string   // absolute path, "" means self-signed
	TLSKey        string   // absolute path, "" means self-signed
}

// IMAP holds the settings of the IMAP frontend.
type IMAP struct {
	Plain                 string // host:port with STARTTLS, "" is off
	TLS                   string // host:port, "" is off
	ConnectionsMax        int
	ConnectionsPerUserMax int
	ConnectionsPerIPMax   int
}

// LMTP holds the settings of the LMTP frontend.
type LMTP struct {
	TCP            string         // host:port, "" is off
	Socket         string         // absolute path, "" is off
	Allow          []netip.Prefix // who may use TCP
	ConnectionsMax int            // over TCP, and as many over the socket
	PerIPMax       int            // over TCP, from one address
	Postmaster     slot.Address   // who gets mail for <postmaster>, "" is nobody
}

// Ack says what must hold a change before it is acknowledged (law 1).
type Ack string

// The two values of Ack.
const (
	AckReplica Ack = "replica" // durable here and on one viable replica
	AckLocal   Ack = "local"   // durable here
)

// Replication holds the settings that a slot takes from its master's node
// (Ack, AckTimeout, Undelete) and proposals from the leader's (SuspectAfter).
type Replication struct {
	Ack                Ack
	AckTimeout         time.Duration
	SuspectAfter       time.Duration
	FenceWithoutQuorum bool
	Undelete           time.Duration // of slot clock, not of wall clock (law 11)
}

// Log says what is logged and in which form.
type Log struct {
	Level slog.Level
	JSON  bool
}
