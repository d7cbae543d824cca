package imapd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"mailnode/storage"
)

// waitingLogin is an Authenticator whose logins wait until they are let go or
// their context ends.
type waitingLogin struct {
	Authenticator
	began chan struct{}
	letGo chan struct{}
	ended chan error // what ended a context
}

func (l waitingLogin) Login(ctx context.Context, user string, try storage.Attempt) (Grant, error) {
	l.began <- struct{}{}
	select {
	case <-l.letGo:
		return l.Authenticator.Login(ctx, user, try)
	case <-ctx.Done():
		l.ended <- context.Cause(ctx)
		return Grant{}, ctx.Err()
	}
}

// door is a way into a server: plain, with TLS, or by way of another node.
type door struct {
	name string
	open func(t *testing.T, b *bench, login waitingLogin) net.Conn
}

func (b *bench) slow(login waitingLogin) *Server {
	return b.serve(func(c *Config) { c.Login = login })
}

func dialTCP(t *testing.T, address string) net.Conn {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// doors also has the peer port's TLS between the nodes.
var doors = []door{
	{"plain", func(t *testing.T, b *bench, login waitingLogin) net.Conn {
		return dialTCP(t, b.listen(b.slow(login), ListenerOptions{PlainLogin: true}))
	}},
	{"TLS", func(t *testing.T, b *bench, login waitingLogin) net.Conn {
		conn := dialTCP(t, b.listen(b.slow(login), ListenerOptions{ImplicitTLS: true}))
		return tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	}},
	{"passed on", func(t *testing.T, b *bench, login waitingLogin) net.Conn {
		ln, err := tls.Listen("tcp", "127.0.0.1:0", b.cert)
		if err != nil {
			t.Fatal(err)
		}
		master := b.slow(login)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				go master.ServePeer(conn)
			}
		}()
		t.Cleanup(func() { ln.Close(); <-done })
		front := b.serve(func(c *Config) {
			c.Login = elsewhere{func(ctx context.Context) (net.Conn, error) {
				d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
				return d.DialContext(ctx, "tcp", ln.Addr().String())
			}}
		})
		return dialTCP(t, b.listen(front, ListenerOptions{PlainLogin: true}))
	}},
}

func newWaitingLogin(b *bench) waitingLogin {
	return waitingLogin{b, make(chan struct{}, 1), make(chan struct{}), make(chan error, 1)}
}

// TestClientGone: a command ends with its client, although nothing is written to
// it, however the client goes.
func TestClientGone(t *testing.T) {
	ways := []struct {
		name string
		end  func(net.Conn)
	}{
		{"close", func(c net.Conn) { c.Close() }},
		{"reset", func(c net.Conn) { c.(*net.TCPConn).SetLinger(0); c.Close() }},
		{"close with commands behind", func(c net.Conn) { io.WriteString(c, "b NOOP\r\nc NOOP\r\n"); c.Close() }},
	}
	for _, d := range doors {
		for _, way := range ways {
			t.Run(d.name+", "+way.name, func(t *testing.T) {
				b := newBench(t, nil)
				login := newWaitingLogin(b)
				conn := d.open(t, b, login)
				c := newWireClient(t, conn)
				c.line()
				c.send("a LOGIN alice@example.test secret\r\n")
				<-login.began
				if over, ok := conn.(*tls.Conn); ok && way.name != "close with commands behind" {
					conn = over.NetConn()
				}
				way.end(conn)
				select {
				case err := <-login.ended:
					if !errors.Is(err, errGone) {
						t.Errorf("the command ended with %v, want %v", err, errGone)
					}
				case <-t.Context().Done():
				case <-time.After(20 * time.Second):
					t.Error("the command runs on although its client has gone")
				}
			})
		}
	}
}

// TestHalfClosed: a client that shuts its own direction down behind LOGOUT hears
// all answers, also those of a command that takes long.
func TestHalfClosed(t *testing.T) {
	for _, d := range doors {
		t.Run(d.name, func(t *testing.T) {
			b := newBench(t, nil)
			b.deliver("alice", "Subject: x\r\n\r\n"+strings.Repeat("0123456789abcde\r\n", 100_000))
			login := newWaitingLogin(b)
			conn := d.open(t, b, login)
			c := newWireClient(t, conn)
			c.line()
			c.send("a LOGIN alice@example.test secret\r\n")
			<-login.began
			if d.name == "passed on" { // else the master would be told of the end before it is one
				close(login.letGo)
				c.until("a OK")
			}
			c.send("b SELECT INBOX\r\nc FETCH 1 BODY.PEEK[]\r\nd LOGOUT\r\n")
			if !closeWrite(conn) {
				t.Fatal("the client's connection has no half")
			}
			if d.name != "passed on" {
				c.until(strings.TrimSuffix(stillHere, "\r\n"))
				close(login.letGo)
			}
			c.until("d OK")
		})
	}
}

// TestKickEndsCommands: a server that stops ends a running command too, and says why.
func TestKickEndsCommands(t *testing.T) {
	b := newBench(t, nil)
	login := newWaitingLogin(b)
	srv := b.slow(login)
	c := newWireClient(t, dialTCP(t, b.listen(srv, ListenerOptions{PlainLogin: true})))
	c.line()
	c.send("a LOGIN alice@example.test secret\r\n")
	<-login.began
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if err := <-login.ended; !errors.Is(err, errKicked) {
		t.Errorf("the command ended with %v, want %v", err, errKicked)
	}
	c.wantBye("[UNAVAILABLE] server is shutting down")
}

// TestKickedThatReadsNothing: a client that reads nothing does not hold its
// session, nor a shutdown.
func TestKickedThatReadsNothing(t *testing.T) {
	b := newBench(t, nil)
	b.deliver("alice", "Subject: x\r\n\r\n"+strings.Repeat("0123456789abcde\r\n", 2_000_000))
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	c.send("b FETCH 1 BODY.PEEK[]\r\n")
	c.begins("* 1 FETCH")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := b.srv.Shutdown(ctx); err != nil {
		t.Errorf("%v: the session waited for its client", err)
	}
}

// begins reads the beginning of a response, and leaves the rest unread.
func (c *wireClient) begins(want string) {
	c.t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c.r, got); err != nil || string(got) != want {
		c.t.Fatalf("got %q, %v, want %q", got, err, want)
	}
}

// TestClosedAccountEndsCommand: the command of an account that is disabled ends
// between two responses, and says why.
func TestClosedAccountEndsCommand(t *testing.T) {
	b := newBench(t, nil)
	const messages = 20
	for range messages { // more than the kernel's buffers hold
		b.deliver("alice", "Subject: x\r\n\r\n"+strings.Repeat("0123456789abcde\r\n", 100_000))
	}
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	c.send("b FETCH 1:* BODY.PEEK[]\r\n")
	c.begins("* 1 FETCH")
	var s *session
	b.srv.mu.Lock()
	for s = range b.srv.sessions {
	}
	b.srv.mu.Unlock()
	if err := b.store.SetDisabled(context.Background(), b.users["alice"].ID, true); err != nil {
		t.Fatal(err)
	}
	<-s.ctx.Done() // before the client reads on
	c.wantBye("[CONTACTADMIN]")
}

// TestInterject: what is said beside the answers never comes inside of one.
func TestInterject(t *testing.T) {
	var sent strings.Builder
	w := newTestWriter(func(p []byte) { sent.Write(p) })
	w.Interject("* OK one\r\n")
	w.Str("* 1 FETCH (BODY[] ").LiteralSize(200_000).Str(strings.Repeat("x", 200_000))
	if sent.Len() < 100_000 {
		t.Fatalf("%d bytes are sent: the writer does not stand inside of a response", sent.Len())
	}
	w.Interject("* OK two\r\n")
	w.Str(")").CRLF()
	w.Flush()
	w.Interject("* OK three\r\n")
	if got, want := strings.ReplaceAll(sent.String(), "x", ""), "* OK one\r\n* 1 FETCH (BODY[] {200000}\r\n)\r\n* OK three\r\n"; got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
}
