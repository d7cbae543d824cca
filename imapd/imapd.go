// Package imapd serves IMAP4rev1 (RFC 3501) over a storage.Store.
//
// # What is served
//
//	RFC 3501  all commands and responses; \Recent is never set (see view.go)
//	RFC 2177  IDLE                          idle.go
//	RFC 2342  NAMESPACE, one personal one   namespace.go
//	RFC 2971  ID                            id.go
//	RFC 3348  CHILDREN                      list.go
//	RFC 3691  UNSELECT                      select.go
//	RFC 4315  UIDPLUS                       append.go copy.go expunge.go
//	RFC 4731  ESEARCH                       search.go
//	RFC 4959  SASL-IR                       login.go
//	RFC 5161  ENABLE (nothing to enable)    enable.go
//	RFC 5258  LIST-EXTENDED                 list.go
//	RFC 5530  response codes                reply.go
//	RFC 5819  LIST-STATUS                   list.go
//	RFC 6154  SPECIAL-USE, CREATE-SPECIAL-USE   list.go create.go
//	RFC 6851  MOVE                          copy.go
//	RFC 7888  LITERAL+                      readcommand.go
//	RFC 7889  APPENDLIMIT                   append.go
//	RFC 8438  STATUS=SIZE                   status.go
//
// # How a session works
//
// One goroutine at a time serves one connection, one command after another; IDLE
// has a second one that reads. commands.go names each command, the states in which it
// is allowed, and its handler; a command's file is named after it. The state is
// checked before an argument is read (readcommand.go).
//
// While a session waits it holds no buffers, and a small stack: it goes on in a
// fresh goroutine (session.goOn). Whoever must end a waiting session
// (the store's Done, Shutdown) sets a flag and a read deadline in the past, so
// that BYE is written by the session itself, between two responses. A command
// that runs longer is ended through session.ctx, as is one whose client has gone
// (watch.go): so every loop that may take long looks at it.
//
// A session sees its mailbox through a view: the UIDs in the order of their
// sequence numbers, as the client was told. Others' changes come from
// Store.Changes and are told where RFC 3501, sections 5.5 and 7.4.1, allows.
//
// Messages are written to the client in windows: the store's iterators are
// never held open while a slow client is waited for.
package imapd

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"time"

	"mailnode/storage"
)

// Config is what a Server needs. Login, Spool and Logger must be set.
type Config struct {
	Hostname string
	TLS      *tls.Config // nil: no STARTTLS, no implicit TLS
	Logger   *slog.Logger
	Limits   Limits
	Timeouts Timeouts
	Spool    *storage.SpoolDir
	Login    Authenticator
	Metrics  Metrics // nil: none
}

// Limits bound what clients may use. Zero means the default.
type Limits struct {
	MessageBytesMax int64 // of one APPEND; 50 MiB
	ConnectionsMax  int   // in all; 20,000
	PerUserMax      int   // sessions of one account at its master; 100
	PerIPMax        int   // connections from one client (fair.Network); 500
	LoginsMax       int   // failed logins of one connection; 4
}

// Timeouts are the deadlines of a session. Zero means the default.
type Timeouts struct {
	Handshake time.Duration // TLS; 10 s
	PreLogin  time.Duration // from connecting to having logged in; 60 s
	Idle      time.Duration // between commands and in IDLE; 30 min (RFC 3501, section 5.4)
	Read      time.Duration // between two reads inside one command; 60 s
	Pace      time.Duration // within which a message must come at storage.SpoolFloorBytesPerSec; 60 s
	Command   time.Duration // for one command's text without a message; 5 min
	Write     time.Duration // one write; 60 s
	Peer      time.Duration // to pass a connection on; 10 s
	BadLogin  time.Duration // delay after a first failed login, more after the next; 2 s
}

// Authenticator finds the user's store. A wrong password or unknown user is
// storage.ErrAuth; a home slot without master, and more logins at once than can be
// proved, are storage.ErrUnavailable. When the user's master is another node, and
// has found the password right, the error is an *Elsewhere.
type Authenticator interface {
	Login(ctx context.Context, user string, try storage.Attempt) (Grant, error)
}

// Grant is what a login has opened.
type Grant struct {
	Store      storage.Store
	Account    storage.AccountID
	Credential storage.Credential // what the password was proved against
}

// Elsewhere is the error that says on which node the user's master is, and how
// to get there.
type Elsewhere struct {
	Dial func(ctx context.Context) (net.Conn, error)
	Node string
}

func (e *Elsewhere) Error() string { return "log in: the user's master is node " + e.Node }

// Metrics hears what the server does. Its methods are called by many goroutines.
type Metrics interface {
	// Command is called after each command; verb comes from the closed list of
	// commands, status is OK, NO, BAD or BYE.
	Command(verb, status string, took time.Duration)
	Login(ok bool)
	// Connection is called with +1 and -1.
	Connection(delta int)
	// Refused is called when a connection is not let in; reason comes from a closed
	// list.
	Refused(reason string)
}

// noMetrics hears nothing.
type noMetrics struct{}

func (noMetrics) Command(string, string, time.Duration) {}
func (noMetrics) Login(bool)                            {}
func (noMetrics) Connection(int)                        {}
func (noMetrics) Refused(string)                        {}

// ErrShutdown is what Serve returns after Shutdown.
var ErrShutdown = errors.New("serve imap: shut down")

func orElse[T comparable](v *T, or T) {
	var zero T
	if *v == zero {
		*v = or
	}
}

func (c *Config) setDefaults() {
	orElse(&c.Hostname, "localhost")
	orElse(&c.Limits.MessageBytesMax, 50<<20)
	orElse(&c.Limits.ConnectionsMax, 20_000)
	orElse(&c.Limits.PerUserMax, 100)
	orElse(&c.Limits.PerIPMax, 500)
	orElse(&c.Limits.LoginsMax, 4)
	orElse(&c.Timeouts.Handshake, 10*time.Second)
	orElse(&c.Timeouts.PreLogin, time.Minute)
	orElse(&c.Timeouts.Idle, 30*time.Minute)
	orElse(&c.Timeouts.Read, time.Minute)
	orElse(&c.Timeouts.Pace, time.Minute)
	orElse(&c.Timeouts.Command, 5*time.Minute)
	orElse(&c.Timeouts.Write, time.Minute)
	orElse(&c.Timeouts.Peer, 10*time.Second)
	orElse(&c.Timeouts.BadLogin, 2*time.Second)
	if c.Metrics == nil {
		c.Metrics = noMetrics{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}
