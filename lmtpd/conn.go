package lmtpd

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"mailnode/storage"
)

const (
	// commandBytesMax is over RFC 5321, section 4.5.3.1.4 (512) with room for
	// UTF-8 addresses and parameters.
	commandBytesMax = 4096
	// outBytesMax is how many bytes of replies may wait for company.
	outBytesMax = 4096
)

// conn stands between the network and go-smtp. Read hands go-smtp one command
// line at a time; Write collects replies, which go out when a read would block
// (RFC 2920, section 3.2, asks for that); message bytes are read by a body.
type conn struct {
	net.Conn // the socket, or TLS on it
	commands
	server *Server
	tls    bool
	in     *bufio.Reader
	pace   *storage.Pace // of the message that is read, nil outside of one

	mu       sync.Mutex // guards what follows
	replies  replies
	leaving  bool // the server shuts down
	mail     bool // inside a transaction, MAIL to its last reply
	waiting  bool // blocked in the socket's Read
	detached bool // STARTTLS took the socket away
	closed   bool
}

// commands is what go-smtp gets to read.
type commands struct {
	pending  []byte   // rest of a command line that Read has not given away yet
	line     []byte   // its memory
	err      error    // final, for every read after it
	envelope envelope // of the last MAIL or RCPT that Read gave away
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{Conn: nc, server: s}
	c.in = bufio.NewReaderSize(wire{c}, 8<<10)
	c.replies.hostname, c.replies.sizeMax = s.cfg.Hostname, s.cfg.MessageBytesMax
	c.replies.startTLS = s.cfg.TLS != nil
	return c
}

// Read implements io.Reader for go-smtp: at most one command line. So go-smtp
// never holds bytes of a message, and what follows a command that ends the
// connection is never run.
func (c *conn) Read(p []byte) (int, error) {
	for len(c.pending) == 0 {
		if c.err != nil {
			return 0, c.err
		}
		if err := c.command(); err != nil {
			c.err = err
		}
	}
	n := copy(p, c.pending)
	c.pending = c.pending[n:]
	return n, nil
}

// command reads one command line, and does itself what go-smtp must not see.
func (c *conn) command() error {
	if c.quits() {
		return io.EOF
	}
	line, err := c.readLine()
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) && c.quits() {
			return io.EOF
		}
		return err
	}
	said := strings.TrimRight(string(line), " \t\r\n")
	verb, args, _ := strings.Cut(said, " ")
	verb = strings.ToUpper(verb)
	c.mu.Lock()
	c.replies.answer(verb)
	c.mu.Unlock()
	if strings.HasPrefix(verb, "BDAT") {
		// CHUNKING is not offered. The chunk that follows is not a command and
		// must not run as one, so nothing more is read from this client.
		c.say("502 5.5.1 CHUNKING is not offered, closing connection")
		return io.EOF
	}
	line = []byte(said + "\r\n") // white space at the end is let pass (RFC 5321, section 4.1.1); go-smtp says 501
	switch verb {
	case "MAIL":
		c.envelope = readMail(args)
		line = []byte("MAIL FROM:<>\r\n")
	case "RCPT":
		c.envelope = readRcpt(args, c.server.cfg.Postmaster)
		line = []byte(c.envelope.rcptLine(c.server.cfg.Hostname))
	case "STARTTLS":
		if args == "" && c.server.cfg.TLS != nil && !c.tls {
			return c.startTLS()
		}
	case "LHLO", "HELO", "EHLO", "DATA", "RSET", "NOOP", "VRFY", "EXPN", "HELP", "QUIT":
	default:
		// RFC 5321, section 4.2.4. go-smtp says 501 to what has not four letters,
		// 500 to an empty line.
		line = []byte("\r\n")
	}
	c.pending = line
	return nil
}

// readLine returns a line with its LF. A line that the connection's end cut off is
// no command. The line limit is an error that go-smtp answers before it closes.
func (c *conn) readLine() ([]byte, error) {
	c.line = c.line[:0]
	for {
		part, err := c.in.ReadSlice('\n')
		c.line = append(c.line, part...)
		switch {
		case err == nil && len(c.line) <= commandBytesMax:
			return c.line, nil
		case err == nil || errors.Is(err, bufio.ErrBufferFull):
			return nil, smtp.ErrTooLongLine
		default:
			return nil, err
		}
	}
}

// startTLS ends this connection for go-smtp and begins a new one on the same
// socket: whatever the client said before is forgotten, pipelined bytes included
// (RFC 3207, sections 4.2 and 6). The handshake happens at the first read.
func (c *conn) startTLS() error {
	c.say("220 2.0.0 ready to start TLS")
	if err := c.flush(); err != nil {
		return err
	}
	t := newConn(c.server, tls.Server(c.Conn, c.server.cfg.TLS))
	t.tls = true
	t.replies.startTLS = false
	t.replies.mute = true
	c.mu.Lock()
	c.detached = true
	c.mu.Unlock()
	c.server.swap(c, t)
	c.server.queue.put(t)
	return io.EOF
}

// Write implements io.Writer for go-smtp's replies.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.replies.add(p)
	full := len(c.replies.out) > outBytesMax
	c.mu.Unlock()
	if full {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// say is a reply of our own.
func (c *conn) say(reply string) {
	c.mu.Lock()
	c.replies.out = append(c.replies.out, reply+"\r\n"...)
	c.mu.Unlock()
}

func (c *conn) flush() error {
	c.mu.Lock()
	out := c.replies.out
	c.replies.out = nil
	c.mu.Unlock()
	if len(out) == 0 {
		return nil
	}
	c.Conn.SetWriteDeadline(time.Now().Add(c.server.cfg.Timeouts.Write))
	_, err := c.Conn.Write(out)
	return err
}

// wire is the socket as conn's buffer reads it.
type wire struct{ c *conn }

func (w wire) Read(p []byte) (int, error) {
	c := w.c
	if err := c.flush(); err != nil {
		return 0, err
	}
	now := time.Now()
	c.mu.Lock()
	if c.leaving && !c.mail {
		c.mu.Unlock()
		return 0, os.ErrDeadlineExceeded
	}
	c.waiting = true
	// Each read gets the whole time: a large message on a slow line is fine as
	// long as it moves (RFC 5321, section 4.5.3.2.5).
	wait := c.server.cfg.Timeouts.Read
	if c.pace != nil {
		wait = min(wait, c.server.cfg.Timeouts.Pace)
	}
	c.Conn.SetReadDeadline(now.Add(wait))
	if c.tls { // the first read does the handshake, which writes
		c.Conn.SetWriteDeadline(now.Add(c.server.cfg.Timeouts.Write))
	}
	c.mu.Unlock()
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	c.waiting = false
	c.mu.Unlock()
	if err == nil && c.pace != nil && c.pace.TooSlow(time.Since(now), n) {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

// quits says 421 when the server leaves and no transaction is open.
func (c *conn) quits() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.leaving || c.mail {
		return false
	}
	c.replies.out = append(c.replies.out, "421 4.3.2 "+c.server.cfg.Hostname+" shutting down, try again later\r\n"...)
	return true
}

// leave asks the connection to end after its transaction, at once when it waits
// for a command.
func (c *conn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaving = true
	if c.waiting && !c.mail {
		c.Conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// transaction reports whether a mail transaction is open.
func (c *conn) transaction(open bool) {
	c.mu.Lock()
	c.mail = open
	c.mu.Unlock()
}

// Close sends what is left to say and closes the socket.
func (c *conn) Close() error {
	c.mu.Lock()
	again, detached := c.closed, c.detached
	c.closed = true
	c.mu.Unlock()
	if again || detached {
		return nil
	}
	if c.server.base.Err() == nil { // else Shutdown waits for no client any more
		c.flush()
	}
	err := c.Conn.Close()
	c.server.forget(c)
	return err
}

// cut ends the connection under whoever is blocked in it.
func (c *conn) cut() {
	nc := c.Conn
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn() // tls.Conn.Close may wait
	}
	nc.Close()
}

// clientName is how a client is logged.
func clientName(a net.Addr) string {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().String()
	}
	return "local socket"
}
