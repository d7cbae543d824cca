package config

import "log/slog"

// setting is one row of the table: its key in the file, its default as TOML,
// what an operator reads about it, and how a value gets into a Config.
type setting struct {
	name   string
	preset string // TOML text
	doc    string
	set    setter
}

// setter checks a decoded TOML value and stores it. Its error says what is
// wrong and what to write instead.
type setter func(c *Config, v any) error

// settings returns the table, in the order in which the example prints it.
func settings() []setting {
	var all []setting
	for _, part := range [][]setting{nodeSettings(), clientSettings(), safetySettings(), sizeSettings()} {
		all = append(all, part...)
	}
	return all
}

func nodeSettings() []setting {
	return []setting{
		{"name", `""`, `Name of this node in the cluster: a-z, 0-9 and "-". "" is the host name up to its first dot. It is fixed when the node is initialised or joins.`,
			text(func(c *Config, s string) { c.Node.Name = nodeName(s) }, checkNodeName)},
		{"data", `"/var/lib/mailnode"`, `Folder for everything that this node stores: its slots, its Raft log, its cluster keys.`,
			text(func(c *Config, s string) { c.Node.Data = s }, checkPath)},
		{"hostname", `""`, `Full host name, for the greetings and the Received line. "" asks the system.`,
			text(func(c *Config, s string) { c.Node.Hostname = s }, checkHostname)},
		{"zone", `""`, `Room, rack or site of this node. Copies of a slot are spread over zones.`,
			text(func(c *Config, s string) { c.Node.Zone = s }, checkWord)},
		{"standby", `false`, `A far spare: its copies are proposed as master only when there is no other viable copy.`,
			boolean(func(c *Config, b bool) { c.Node.Standby = b })},
		{"witness", `false`, `A node that votes and holds no mail: the third vote of a site with two servers.`,
			boolean(func(c *Config, b bool) { c.Node.Witness = b })},
		{"peer", `":7400"`, `Where the other nodes reach this one. One port carries Raft, replication and passed-on client connections, all under mutual TLS.`,
			text(func(c *Config, s string) { c.Node.Peer = s }, checkListen)},
		{"peer_advertise", `""`, `The address under which other nodes dial the peer port. "" is the value of peer, with the host name when that names no host.`,
			text(func(c *Config, s string) { c.Node.PeerAdvertise = s }, optional(checkDial))},
		{"peers", `[]`, `Peer ports of the other nodes of this site. "cluster init" asks them first, so that a node which has lost its disk does not found a second cluster beside the living one.`,
			addresses(func(c *Config, list []string) { c.Node.Peers = list })},
		{"socket", `"/run/mailnode/admin.sock"`, `Unix socket on which the mailnode command talks to this node.`,
			text(func(c *Config, s string) { c.Node.Socket = s }, checkSocket)},
		{"metrics", `"127.0.0.1:7401"`, `Where /metrics is served for Prometheus, without TLS. "" is off.`,
			text(func(c *Config, s string) { c.Node.Metrics = s }, optional(checkListen))},
		{"tls_cert", `""`, `Certificate chain for IMAP and LMTP clients, PEM. When tls_cert and tls_key are both "", a self-signed one is made in the data folder and a condition says so.`,
			text(func(c *Config, s string) { c.Node.TLSCert = s }, optional(checkPath))},
		{"tls_key", `""`, `Private key that belongs to tls_cert, PEM.`,
			text(func(c *Config, s string) { c.Node.TLSKey = s }, optional(checkPath))},
		{"log_level", `"info"`, `Least severe lines that are logged: "debug", "info", "warn" or "error".`,
			choice(func(c *Config, l slog.Level) { c.Log.Level = l }, logLevels())},
		{"log_format", `"text"`, `"text" or "json".`,
			choice(func(c *Config, j bool) { c.Log.JSON = j }, []option[bool]{{"text", false}, {"json", true}})},
	}
}

func clientSettings() []setting {
	return []setting{
		{"imap", `":143"`, `IMAP with STARTTLS; logging in before TLS is possible from loopback only. "" is off.`,
			text(func(c *Config, s string) { c.IMAP.Plain = s }, optional(checkListen))},
		{"imaps", `":993"`, `IMAP over TLS from the first byte. "" is off.`,
			text(func(c *Config, s string) { c.IMAP.TLS = s }, optional(checkListen))},
		{"imap_connections_max", `10000`, `IMAP connections to this node at one time.`,
			count(func(c *Config, n int64) { c.IMAP.ConnectionsMax = int(n) }, 1, 1_000_000)},
		{"imap_connections_per_user_max", `100`, `IMAP connections of one user to this node at one time.`,
			count(func(c *Config, n int64) { c.IMAP.ConnectionsPerUserMax = int(n) }, 1, 1_000_000)},
		{"imap_connections_per_ip_max", `1000`, `IMAP connections from one address at one time, an IPv6 /64 being one; a webmail server needs many.`,
			count(func(c *Config, n int64) { c.IMAP.ConnectionsPerIPMax = int(n) }, 1, 1_000_000)},
		{"lmtp", `""`, `LMTP over TCP, for MTAs on other hosts (STARTTLS is offered). "" is off.`,
			text(func(c *Config, s string) { c.LMTP.TCP = s }, optional(checkListen))},
		{"lmtp_socket", `"/run/mailnode/lmtp.sock"`, `LMTP on a unix socket, for the MTA on this host. "" is off.`,
			text(func(c *Config, s string) { c.LMTP.Socket = s }, optional(checkSocket))},
		{"lmtp_allow", `["127.0.0.0/8", "::1/128"]`, `Addresses and networks that may deliver over LMTP/TCP. List your MTAs: whoever is allowed here can put mail into every mailbox.`,
			prefixes(func(c *Config, p prefixList) { c.LMTP.Allow = p })},
		{"lmtp_connections_max", `256`, `LMTP connections over TCP to this node at one time; the unix socket has as many of its own.`,
			count(func(c *Config, n int64) { c.LMTP.ConnectionsMax = int(n) }, 1, 100_000)},
		{"lmtp_connections_per_ip_max", `100`, `LMTP connections over TCP from one address (IPv6: one /64) at one time. Not below what your MTA opens.`,
			count(func(c *Config, n int64) { c.LMTP.PerIPMax = int(n) }, 1, 100_000)},
		{"lmtp_postmaster", `""`, `The address that gets mail for <postmaster> without a domain. "" refuses it.`,
			address(func(c *Config, a mailAddr) { c.LMTP.Postmaster = a })},
	}
}

func safetySettings() []setting {
	return []setting{
		{"ack", `"replica"`, `What must hold a message before it is acknowledged: "replica" (this node's disk and a replica's) or "local" (this node's disk alone: the death of this node loses the newest mail).`,
			choice(func(c *Config, a Ack) { c.Replication.Ack = a },
				[]option[Ack]{{"replica", AckReplica}, {"local", AckLocal}})},
		{"ack_timeout", `"2s"`, `How long every replica of a slot may stand still before the slot is recorded as unprotected and goes on alone.`,
			duration(func(c *Config, d span) { c.Replication.AckTimeout = d }, "100ms", "1m")},
		{"suspect_after", `"15s"`, `Silence of a node after which a failover is proposed. An operator confirms it, never a machine.`,
			duration(func(c *Config, d span) { c.Replication.SuspectAfter = d }, "1s", "1h")},
		{"fence_without_quorum", `false`, `true makes this node's slots read-only when it has had no quorum for 5 s, until it has one: mail can be read, changes and deliveries wait. false lets mail flow; should an operator have changed masters meanwhile, what came in is set aside.`,
			boolean(func(c *Config, b bool) { c.Replication.FenceWithoutQuorum = b })},
		{"undelete", `"168h"`, `How long expunged mail, deleted mailboxes and deleted accounts can be brought back, counted while the slot is in service.`,
			duration(func(c *Config, d span) { c.Replication.Undelete = d }, "0s", "87600h")},
	}
}

func sizeSettings() []setting {
	return []setting{
		{"message_max_bytes", `104857600`, `Largest message that is accepted.`,
			count(func(c *Config, n int64) { c.MessageMaxBytes = n }, 1024, 1<<31-1)},
		{"journal_max_events", `2000000`, `Events that a slot keeps for a replica that is behind. A replica further behind than that fetches the whole state instead.`,
			count(func(c *Config, n int64) { c.JournalMax = n }, 1000, 1<<40)},
		{"cache_bytes", `268435456`, `Memory for the cache of indexes, shared by all slots of this node.`,
			count(func(c *Config, n int64) { c.CacheBytes = n }, 1<<20, 1<<40)},
		{"scrub_every", `"336h"`, `How often every byte of this node's copies is read and proved, at least, all the time and slowly. What is damaged is taken from another copy.`,
			duration(func(c *Config, d span) { c.ScrubEvery = d }, "1h", "8760h")},
		{"fill_bytes_per_sec", `104857600`, `How fast one copy is filled from its master: records and messages together. Two copies of a node are filled at the same time.`,
			count(func(c *Config, n int64) { c.FillBytesPerSec = n }, 1<<16, 1<<40)},
		{"reindex_workers", `1`, `Indexes that are rebuilt at the same time on this node.`,
			count(func(c *Config, n int64) { c.ReindexWorkers = int(n) }, 1, 64)},
	}
}
