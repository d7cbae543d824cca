package imapd

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"time"

	"mailnode/imapd/wire"
	"mailnode/storage"
)

// state is a set of RFC 3501's session states (section 3).
type state uint8

const (
	notAuthenticated state = 1 << iota
	authenticated
	selected
	anyState = notAuthenticated | authenticated | selected
	loggedIn = authenticated | selected
)

// badMax is how many commands in a row may be BAD before the connection ends:
// whoever gets that far does not speak IMAP.
const badMax = 20

// session is one connection. Its goroutine owns all of it but what is marked.
type session struct {
	entry
	user
	srv *Server
	// ctx ends with the session, and while a command runs also when its client
	// is gone (watch.go) or the session has had to end for kickGrace. Its cause
	// is errGone or errKicked. Whatever takes long looks at it.
	ctx    context.Context
	cancel context.CancelCauseFunc
	conn   net.Conn                 // the socket under TLS; kick, watch and Shutdown use it too
	closed atomic.Pointer[byeError] // why it was kicked, when it is its account's end
	net    netConn
	r      *wire.Reader
	w      *wire.Writer
	view   *view        // nil: no mailbox is selected
	next   func() error // what goOn begins with; nil: it waits for a command
}

// entry is how a connection came in.
type entry struct {
	id          uint64
	ip          string // the client's address, "" when unknown
	counted     string // the fair.Network under which it counts in Server.perIP
	tls         bool   // the client's connection is encrypted
	implicitTLS bool
	plainLogin  bool
	commands    int  // before the login
	bad         int  // BAD commands in a row
	failed      int  // failed logins
	identified  bool // by ID
}

// user is who logged in; store is nil before that. Only the session's goroutine
// writes it, with Server.mu held.
type user struct {
	store   storage.Store
	account storage.AccountID
	proved  storage.Credential
	name    string
}

func newSession(s *Server, nc net.Conn, ip string) *session {
	c := &session{srv: s, conn: nc}
	c.id, c.ip = s.serial.Add(1), ip
	c.ctx, c.cancel = context.WithCancelCause(s.ctx)
	t := s.cfg.Timeouts
	c.net = netConn{nc: nc, write: t.Write, read: t.Read}
	c.r = wire.NewReader(&c.net, s.readPool)
	c.w = wire.NewWriter(&c.net, s.writePool)
	return c
}

func (c *session) log() *slog.Logger {
	return c.srv.cfg.Logger.With("conn", c.id, "client", c.ip, "user", c.name)
}

// kickGrace is how long the command of a session that must end may run on: most
// come to their own end, and their client hears how they ended.
const kickGrace = time.Second

// kick ends the session at its next wait, and a command that runs on for
// kickGrace between two of its responses. Any goroutine may call it.
func (c *session) kick() {
	c.net.kick(c.conn)
	time.AfterFunc(kickGrace, func() { c.cancel(errKicked) })
}

// closeAccount ends a session that its account may not have any more. Any
// goroutine may call it.
func (c *session) closeAccount(why *byeError) {
	c.closed.Store(why)
	c.kick()
}

func (c *session) close() {
	c.unselect()
	c.cancel(errGone)
	if c.w.Err() != nil {
		c.conn.Close() // nobody reads: TLS would try for seconds to say goodbye
	}
	c.net.nc.Close() // for TLS this tries to send close_notify
	c.conn.Close()
}

func (c *session) state() state {
	switch {
	case c.store == nil:
		return notAuthenticated
	case c.view == nil:
		return authenticated
	}
	return selected
}

// serveClient serves a connection that a listener has let in. The TLS handshake is
// done here, not in Accept: a silent client holds up only itself.
func (c *session) serveClient() error {
	c.net.absolute = time.Now().Add(c.srv.cfg.Timeouts.PreLogin)
	if c.implicitTLS {
		if err := c.handshake(); err != nil {
			return err
		}
	}
	c.w.Str("* OK [CAPABILITY ").Str(c.capabilities()).Str("] ").Str(c.srv.cfg.Hostname).Str(" IMAP server ready").CRLF()
	if err := c.w.Flush(); err != nil {
		return err
	}
	return c.loop()
}

// loop waits for a command, and serves those that have come.
func (c *session) loop() error {
	for {
		if err := c.waitCommand(); err != nil {
			return c.goodbye(err)
		}
		cmd, err := c.readCommand()
		if err == nil && cmd != nil {
			err = c.serveCommand(cmd)
		}
		if cmd != nil {
			c.srv.framePool.Put(cmd.text)
		}
		if err == nil {
			err = c.w.Flush()
		}
		if err != nil || c.r.Buffered() == 0 {
			return c.rest(err)
		}
	}
}

// rest says goodbye after an error; without one the session goes on waiting, on a
// small stack.
func (c *session) rest(err error) error {
	if err != nil && !errors.Is(err, errGoOn) {
		return c.goodbye(err)
	}
	return errGoOn
}

// goOn is a session's part in a fresh goroutine.
func (c *session) goOn() error {
	next := c.next
	if next == nil {
		return c.loop()
	}
	c.next = nil
	err := next()
	if err == nil {
		err = c.w.Flush()
	}
	return c.rest(err)
}

func (c *session) waitCommand() error {
	c.net.read = c.srv.cfg.Timeouts.Idle
	if c.store != nil {
		c.net.absolute = time.Time{}
	}
	if c.ended() {
		return errKicked
	}
	if err := c.r.Wait(); err != nil {
		return err
	}
	c.net.read = c.srv.cfg.Timeouts.Read
	if c.store != nil {
		c.net.absolute = time.Now().Add(c.srv.cfg.Timeouts.Command)
	}
	return nil
}

// ended reports whether the session must end although its client did nothing.
func (c *session) ended() bool { return c.net.kicked() }

// errLogout ends a session that has said BYE.
var errLogout = errors.New("session is over")

// connError is the connection's failure in the middle of a command.
type connError struct{ error }

func (e connError) Unwrap() error { return e.error }

// goodbye says BYE where an error allows it.
func (c *session) goodbye(err error) error {
	switch {
	case errors.Is(err, errLogout), errors.Is(err, io.EOF) && c.w.Err() == nil && c.r.Buffered() == 0:
		c.w.Flush()
		return nil
	case c.w.Err() != nil:
		return err
	case errors.Is(err, errKicked) && c.srv.down.Load():
		return c.bye("UNAVAILABLE", "server is shutting down")
	case errors.Is(err, errKicked) && c.closed.Load() != nil:
		why := c.closed.Load()
		return c.bye(why.code, why.text)
	case errors.Is(err, errKicked):
		return c.bye("UNAVAILABLE", "your mail has moved to another node, connect again")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return c.bye("", "autologout, nothing was heard for too long")
	}
	return err
}

// bye is the last thing that a session says.
func (c *session) bye(code, text string) error {
	c.w.Str("* BYE ")
	if code != "" {
		c.w.Byte('[').Str(code).Str("] ")
	}
	c.w.Str(text).CRLF()
	if err := c.w.Flush(); err != nil {
		return err
	}
	return errLogout
}

// pause waits for d, or until the session must end.
func (c *session) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.ctx.Done():
	}
}
