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

	"github.com/emersion/go-imap/v2"

	"mailnode/storage"
)

// elsewhere sends everybody to another node.
type elsewhere struct {
	dial func(ctx context.Context) (net.Conn, error)
}

func (e elsewhere) Login(context.Context, string, storage.Attempt) (Grant, error) {
	return Grant{}, &Elsewhere{Dial: e.dial, Node: "n2"}
}

// front makes a server that passes everything on to b's over TCP.
func (b *bench) front(o ListenerOptions) string {
	b.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go b.srv.ServePeer(conn)
		}
	}()
	b.t.Cleanup(func() { ln.Close(); <-done })
	srv := b.serve(func(c *Config) {
		c.Login = elsewhere{func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", ln.Addr().String())
		}}
	})
	return b.listen(srv, o)
}

// TestPassOn: pipelined commands, literals of any size and IDLE work through the
// front node; a refused login leaves the client with the front node.
func TestPassOn(t *testing.T) {
	b := newBench(t, nil)
	front := b.front(ListenerOptions{PlainLogin: true})
	c := dial(t, front)
	c.line()
	c.want("a LOGIN alice@example.test wrong", "NO [AUTHENTICATIONFAILED]")
	c.want("b LOGIN nomaster@example.test x", "NO [UNAVAILABLE]")
	c.send("c LOGIN alice@example.test secret\r\nd SELECT INBOX\r\n")
	if got := c.until("c OK"); !strings.Contains(got[0], "[CAPABILITY IMAP4rev1") || !strings.Contains(got[0], "IDLE") {
		t.Errorf("the master's answer to LOGIN: %q", got)
	}
	c.until("d OK")
	body := strings.Repeat("0123456789abcdef\r\n", 30_000)
	c.want("e APPEND INBOX {"+itoa(len(body))+"+}\r\n"+body, "OK [APPENDUID")
	if got := c.ok("f FETCH 1 BODY.PEEK[]"); !strings.Contains(got[0], body) {
		t.Errorf("a body of %d bytes came back as %d", len(body), len(got[0]))
	}
	c.send("g IDLE\r\n")
	c.until("+ ")
	b.deliver("alice", "Subject: x\r\n\r\ny")
	c.until("* 2 EXISTS")
	c.send("DONE\r\n")
	c.until("g OK")
	// The master's goodbye passes, then both sides are closed.
	b.store.Stop()
	c.wantBye("[UNAVAILABLE]")
}

// TestPassOnTLS: the same for a client with TLS, with SASL.
func TestPassOnTLS(t *testing.T) {
	b := newBench(t, nil)
	b.deliverMany("alice", 3)
	conn, err := tls.Dial("tcp", b.front(ListenerOptions{ImplicitTLS: true}), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	c := newWireClient(t, conn)
	c.line()
	c.send("a AUTHENTICATE PLAIN\r\n")
	c.until("+ ")
	c.send("AGFsaWNlQGV4YW1wbGUudGVzdABzZWNyZXQ=\r\n")
	c.until("a OK")
	c.ok("b SELECT INBOX")
	if got := c.ok("c UID FETCH 1:* (FLAGS ENVELOPE)"); len(got) != 3 {
		t.Errorf("FETCH returned %d messages, want 3", len(got))
	}
	c.ok("d LOGOUT")
	if _, err := c.tryLine(); !errors.Is(err, io.EOF) {
		t.Errorf("after LOGOUT: %v, want the end", err)
	}
}

// TestPassOnShutdown: a front node that stops closes what it carries and writes
// nothing into it.
func TestPassOnShutdown(t *testing.T) {
	b := newBench(t, nil)
	ours, theirs := net.Pipe()
	srv := b.serve(func(c *Config) {
		c.Login = elsewhere{func(context.Context) (net.Conn, error) { return ours, nil }}
	})
	go b.srv.ServePeer(theirs)
	c := dial(t, b.listen(srv, ListenerOptions{PlainLogin: true}))
	c.line()
	c.ok("a LOGIN alice@example.test secret")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if line, err := c.tryLine(); line != "" || err == nil {
		t.Errorf("the front node wrote %q, %v", line, err)
	}
}

// TestPassOnDeadNode: our own trouble is never a failed password.
func TestPassOnDeadNode(t *testing.T) {
	b := newBench(t, nil)
	srv := b.serve(func(c *Config) {
		c.Login = elsewhere{func(context.Context) (net.Conn, error) { return nil, errors.New("no route") }}
	})
	c := dial(t, b.listen(srv, ListenerOptions{PlainLogin: true}))
	c.line()
	for range 10 {
		c.want("a LOGIN alice@example.test secret", "NO [UNAVAILABLE]")
	}
}

// TestServePeerRefuses: what is no request gets no session.
func TestServePeerRefuses(t *testing.T) {
	b := newBench(t, nil)
	for _, line := range []string{"{}\n", "a LOGIN x y\r\n", `{"v":9,"user":"YQ=="}` + "\n", strings.Repeat("x", 100_000)} {
		ours, theirs := net.Pipe()
		go func() { io.WriteString(ours, line) }()
		go b.srv.ServePeer(theirs)
		ours.SetDeadline(time.Now().Add(5 * time.Second))
		if got, _ := io.ReadAll(ours); strings.Contains(string(got), `"ok":true`) {
			t.Errorf("%.40q was answered with %s", line, got)
		}
		ours.Close()
	}
}

// TestOraclePassedOn: the independent client does not notice.
func TestOraclePassedOn(t *testing.T) {
	b := newBench(t, nil)
	c := oracleStartTLS(t, b.front(ListenerOptions{}))
	if err := c.Login("alice@example.test", "secret").Wait(); err != nil {
		t.Fatal(err)
	}
	app := c.Append("INBOX", 10, nil)
	io.WriteString(app, "Subject: x")
	if err := app.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := app.Wait(); err != nil {
		t.Fatal(err)
	}
	if sel, err := c.Select("INBOX", &imap.SelectOptions{ReadOnly: true}).Wait(); err != nil || sel.NumMessages != 1 {
		t.Errorf("select: %+v, %v", sel, err)
	}
}
