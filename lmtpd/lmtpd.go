// Package lmtpd takes mail in over LMTP (RFC 2033) and answers each recipient
// by itself: 250 only when law 1 allows it, and never a 5xx for our own trouble.
//
// go-smtp keeps the order of the commands; everything that crosses the network
// goes through conn, which hands it one command line at a time, reads message
// bytes itself, and takes care of what go-smtp v0.25.0 lacks: BDAT cannot be
// switched off there and a refused chunk would run as commands, paths and
// parameters are read too narrowly (envelope), a size limit there leaves the
// rest of the message to run as commands, a long line in a message ends the
// connection, TLS is not seen by a wrapper, nothing can be shut down politely.
package lmtpd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/emersion/go-smtp"

	"mailnode/storage"
	"mailnode/storage/fair"
	"mailnode/storage/slot"
)

// Mail is what lmtpd needs of a node.
type Mail interface {
	// Resolve finds who is behind an address, and whether a message of so many bytes (0:
	// not known, more than none) fits into his quota, where his master can tell.
	// storage.ErrNotFound becomes 550 5.1.1, ErrOverQuota 452 4.2.2, any other error
	// 451 4.3.0: ErrUnavailable and ErrNotMaster are for a home slot without a master
	// or with an open loss (LAWS §7.4).
	Resolve(ctx context.Context, a slot.Address, bytes int64) (Recipient, error)
	// Deliver stores one body for all rcpts, each account once, and returns one
	// result per recipient in the order of rcpts. nil is returned only when law 1
	// allows the 250. It must return soon after ctx ends.
	Deliver(ctx context.Context, body storage.Body, date time.Time, rcpts []Recipient) []error
}

// Recipient is who gets a message, and in which slot.
type Recipient struct {
	Address slot.Address // Deliver gets the envelope's, with its +detail
	Account storage.AccountID
	Slot    slot.ID
}

// Limits that hold without a setting.
const (
	DefaultMessageBytesMax = 50 << 20
	DefaultConnectionsMax  = 1000
	DefaultTimeout         = 5 * time.Minute // RFC 5321, section 4.5.3.2
	// RecipientsMax is over the 100 of RFC 5321, section 4.5.3.1.8, and keeps a
	// transaction of one slot inside storage.MaxTxnRecords.
	RecipientsMax = 300
)

// Config is what a Server is made of. Hostname, Mail, Spool and Logger must be set.
type Config struct {
	Hostname string
	Mail     Mail
	Spool    *storage.SpoolDir
	// MessageBytesMax is the largest message, as it comes in; 0: DefaultMessageBytesMax.
	MessageBytesMax int64
	// ConnectionsMax is how many connections are open over TCP, and how many over
	// unix sockets; 0: DefaultConnectionsMax.
	ConnectionsMax int
	// PerIPMax is how many of TCP's come from one address; 0: no limit of their own.
	PerIPMax   int
	Postmaster slot.Address   // who gets mail for <postmaster> without a domain; "": nobody
	Allow      []netip.Prefix // TCP clients; empty: loopback only; unix sockets are always allowed
	TLS        *tls.Config    // STARTTLS is offered when set
	Logger     *slog.Logger
	Metrics    Metrics
	Timeouts   Timeouts
	Now        func() time.Time // nil: time.Now; shown and stored only (law 11)
}

// Timeouts of a connection; 0 is DefaultTimeout, but for Pace.
type Timeouts struct {
	Read  time.Duration // until the next bytes of a command or a message
	Pace  time.Duration // within which a message must come at storage.SpoolFloorBytesPerSec; 60 s
	Write time.Duration // until replies are taken
	Mail  time.Duration // for one Resolve or Deliver; 451 afterwards
}

// Why a connection was refused, as Metrics.Refused gets it.
const (
	RefusedAddress     = "address"
	RefusedConnections = "connections"
	RefusedPerIP       = "connections-per-ip"
)

// Metrics are called as things happen, from many goroutines; nil ones are not.
type Metrics struct {
	Connections func(delta int)                  // +1 and -1
	Refused     func(reason string)              // a connection, see RefusedAddress
	Received    func(size int64)                 // bytes of one message
	Replied     func(code int, tk time.Duration) // per recipient, after the message; time since its last byte
	Resolved    func(code int, tk time.Duration) // per RCPT
}

// Server serves LMTP on any number of listeners.
type Server struct {
	cfg    Config
	smtp   *smtp.Server
	queue  *queue
	base   context.Context // ends when Shutdown's patience ends
	cancel context.CancelFunc
	start  sync.Once
	run    sync.WaitGroup // go-smtp's accept loop
	chunks chunks

	mu        sync.Mutex // guards what follows
	leaving   bool
	listeners map[net.Listener]struct{}
	conns     map[*conn]place
	taken     map[place]int
	left      sync.Once
	gone      chan struct{} // closed, by left, when leaving and the last conn is gone
}

// New makes a Server; it does nothing before Serve. A Server that has served
// must be ended with Shutdown.
func New(cfg Config) *Server {
	if cfg.MessageBytesMax <= 0 {
		cfg.MessageBytesMax = DefaultMessageBytesMax
	}
	if cfg.ConnectionsMax <= 0 {
		cfg.ConnectionsMax = DefaultConnectionsMax
	}
	if cfg.Timeouts.Pace == 0 {
		cfg.Timeouts.Pace = time.Minute
	}
	for _, d := range []*time.Duration{&cfg.Timeouts.Read, &cfg.Timeouts.Write, &cfg.Timeouts.Mail} {
		if *d <= 0 {
			*d = DefaultTimeout
		}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Metrics = cfg.Metrics.filled()
	s := &Server{
		cfg:       cfg,
		queue:     &queue{conns: make(chan *conn), closed: make(chan struct{})},
		listeners: map[net.Listener]struct{}{},
		conns:     map[*conn]place{},
		taken:     map[place]int{},
		gone:      make(chan struct{}),
	}
	s.base, s.cancel = context.WithCancel(context.Background())
	s.smtp = smtp.NewServer(smtp.BackendFunc(s.newSession))
	s.smtp.LMTP = true
	s.smtp.Domain = cfg.Hostname
	s.smtp.EnableSMTPUTF8 = true
	s.smtp.MaxRecipients = RecipientsMax
	// 0, because over its own limit go-smtp v0.25.0 runs the rest of a message
	// as commands; session counts instead. Time limits are conn's for the same
	// reason: go-smtp would set one for a whole message.
	s.smtp.MaxMessageBytes = 0
	s.smtp.MaxLineLength = 64 << 10 // conn's limit for a command is lower, message bytes don't pass here
	s.smtp.ErrorLog = smtpLog{cfg.Logger}
	return s
}

func (m Metrics) filled() Metrics {
	if m.Connections == nil {
		m.Connections = func(int) {}
	}
	if m.Refused == nil {
		m.Refused = func(string) {}
	}
	if m.Received == nil {
		m.Received = func(int64) {}
	}
	if m.Replied == nil {
		m.Replied = func(int, time.Duration) {}
	}
	if m.Resolved == nil {
		m.Resolved = func(int, time.Duration) {}
	}
	return m
}

// Serve accepts connections of one listener until Shutdown (nil) or until the
// listener breaks. It closes the listener.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	if s.leaving {
		s.mu.Unlock()
		return nil
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	s.start.Do(func() { s.run.Go(func() { s.smtp.Serve(s.queue) }) })
	for {
		c, err := l.Accept()
		if err == nil {
			s.admit(c)
			continue
		}
		if s.isLeaving() {
			return nil
		}
		if !passing(err) {
			return fmt.Errorf("accept LMTP connections on %q: %w", l.Addr(), err)
		}
		s.cfg.Logger.Warn("LMTP connection not accepted", "error", err)
		select {
		case <-time.After(50 * time.Millisecond): // descriptors come back when others hang up
		case <-s.queue.closed:
		}
	}
}

// passing reports whether the next Accept may work again.
func passing(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOBUFS) ||
		errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.ECONNABORTED)
}

// admit refuses a connection before the greeting, or queues it for go-smtp.
func (s *Server) admit(nc net.Conn) {
	if !s.allowed(nc.RemoteAddr()) {
		s.refuse(nc, RefusedAddress, "421 4.7.1 "+s.cfg.Hostname+" this client may not send mail here")
		return
	}
	c := newConn(s, nc)
	if reason := s.seat(c); reason != "" {
		s.refuse(nc, reason, "421 4.3.2 "+s.cfg.Hostname+" too many connections, try again later")
		return
	}
	s.cfg.Metrics.Connections(+1)
	s.queue.put(c)
}

// place is what a connection takes one of: unix sockets have places of their
// own, so that no TCP client keeps this host's MTA out.
type place struct {
	unix   bool
	client string // the fair.Network of a TCP client, or "": all of the kind
}

// seat gives a connection its place, or returns why it has none.
func (s *Server) seat(c *conn) (reason string) {
	var p place
	switch a := c.RemoteAddr().(type) {
	case *net.TCPAddr:
		p.client = fair.NetworkOf(a.String())
	case *net.UnixAddr:
		p.unix = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.leaving || s.taken[place{unix: p.unix}] >= s.cfg.ConnectionsMax:
		return RefusedConnections
	case !p.unix && s.cfg.PerIPMax > 0 && s.taken[p] >= s.cfg.PerIPMax:
		return RefusedPerIP
	}
	s.conns[c] = p
	s.count(p, +1)
	return ""
}

// count counts a connection of a place. mu is held.
func (s *Server) count(p place, delta int) {
	for _, p := range []place{p, {unix: p.unix}} {
		if s.taken[p] += delta; s.taken[p] == 0 {
			delete(s.taken, p)
		}
		if p.client == "" {
			return // the two are one
		}
	}
}

func (s *Server) refuse(nc net.Conn, reason, reply string) {
	s.cfg.Metrics.Refused(reason)
	s.cfg.Logger.Warn("LMTP connection refused", "client", clientName(nc.RemoteAddr()), "reason", reason)
	// One line fits into a new socket's buffer; the deadline is for a peer that
	// shrank it, because the accept loop waits here.
	nc.SetWriteDeadline(time.Now().Add(time.Second))
	nc.Write([]byte(reply + "\r\n"))
	nc.Close()
}

// allowed applies the address list to TCP; a unix socket's file mode is its list.
func (s *Server) allowed(a net.Addr) bool {
	switch a := a.(type) {
	case *net.UnixAddr:
		return true
	case *net.TCPAddr:
		ip := a.AddrPort().Addr().Unmap().WithZone("")
		if len(s.cfg.Allow) == 0 {
			return ip.IsLoopback()
		}
		for _, p := range s.cfg.Allow {
			if p.Contains(ip) {
				return true
			}
		}
	}
	return false
}

func (s *Server) isLeaving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaving
}

// forget is called once per admitted conn, by its Close.
func (s *Server) forget(c *conn) {
	s.mu.Lock()
	s.count(s.conns[c], -1)
	delete(s.conns, c)
	if s.leaving && len(s.conns) == 0 {
		s.left.Do(func() { close(s.gone) })
	}
	s.mu.Unlock()
	s.cfg.Metrics.Connections(-1)
}

// swap puts the TLS connection in the place of the one that it grew out of.
func (s *Server) swap(old, c *conn) {
	s.mu.Lock()
	s.conns[c] = s.conns[old]
	delete(s.conns, old)
	leaving := s.leaving
	s.mu.Unlock()
	if leaving {
		c.leave()
	}
}

// Shutdown closes the listeners, says 421 to clients that are between
// transactions, and waits for those inside one. When ctx ends first, deliveries
// are cancelled (their clients get 451 or nothing, and send again), connections
// are closed, and ctx's error is returned without waiting for a Mail that
// ignores its context.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if s.leaving {
		s.mu.Unlock()
		return errors.New("shut down LMTP: was shut down before")
	}
	s.leaving = true
	for l := range s.listeners {
		l.Close()
	}
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	if len(conns) == 0 {
		s.left.Do(func() { close(s.gone) })
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.leave()
	}
	var err error
	select {
	case <-s.gone:
	case <-ctx.Done():
		err = fmt.Errorf("shut down LMTP: transactions cut off: %w", ctx.Err())
	}
	s.cancel()
	s.queue.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.cut()
	}
	s.mu.Unlock()
	// Close marks go-smtp as done before its accept loop sees the closed queue,
	// and closes whatever is still open.
	s.smtp.Close()
	s.run.Wait()
	return err
}

// queue is the listener that go-smtp accepts from.
type queue struct {
	conns  chan *conn
	once   sync.Once
	closed chan struct{}
}

// put waits until go-smtp takes the connection, which is at once.
func (q *queue) put(c *conn) {
	select {
	case q.conns <- c:
	case <-q.closed:
		c.Close()
	}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error {
	q.once.Do(func() { close(q.closed) })
	return nil
}

func (q *queue) Addr() net.Addr { return &net.UnixAddr{Name: "lmtp", Net: "unix"} }

// smtpLog takes go-smtp's own complaints: a client that broke off, or a panic there.
type smtpLog struct{ log *slog.Logger }

func (l smtpLog) Printf(format string, v ...any) {
	l.log.Warn("LMTP connection broke", "error", fmt.Sprintf(format, v...))
}

func (l smtpLog) Println(v ...any) { l.log.Warn("LMTP connection broke", "error", fmt.Sprint(v...)) }
