package imapd

import (
	"crypto/tls"
	"net"
	"slices"
	"strings"
	"testing"
)

// wrapped hides the type of a connection.
type wrapped struct{ net.Conn }

type wrappedListener struct{ net.Listener }

func (l wrappedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return wrapped{c}, nil
}

// TestExploitTLSByType: whether a connection is encrypted is known, not guessed
// from its type.
func TestExploitTLSByType(t *testing.T) {
	b := newBench(t, nil)
	c := dial(t, b.strict)
	if got := c.line(); !strings.Contains(got, "LOGINDISABLED") || strings.Contains(got, "AUTH=") {
		t.Errorf("greeting without TLS: %s", got)
	}
	c.want("a LOGIN alice@example.test secret", "NO [PRIVACYREQUIRED]")
	c.want("b AUTHENTICATE PLAIN", "NO [PRIVACYREQUIRED]")
	c.send("c STARTTLS\r\nd LOGIN alice@example.test secret\r\n")
	c.wantBye("[CLIENTBUG]")

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { b.srv.Serve(wrappedListener{ln}, ListenerOptions{}); close(done) }()
	t.Cleanup(func() { ln.Close(); <-done })
	oracle := oracleStartTLS(t, ln.Addr().String())
	if err := oracle.Login("alice@example.test", "secret").Wait(); err != nil {
		t.Error(err)
	}
}

// TestStartTLS: what was known before is forgotten, and it is no longer offered
// (RFC 3501, section 6.2.1).
func TestStartTLS(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("STARTTLS", byState{"OK", badState, badState, badState})
	b.wantByState("STARTTLS x", byState{badState, badState, badState, badState})
	for _, addr := range []string{b.plain, b.strict} {
		plain := dial(t, addr)
		plain.line()
		if !slices.Contains(plain.capabilitiesOf(), "STARTTLS") {
			t.Error("STARTTLS is not offered")
		}
		plain.ok("a STARTTLS")
		c := newWireClient(t, tls.Client(plain.conn, &tls.Config{InsecureSkipVerify: true}))
		offered := c.capabilitiesOf()
		if slices.Contains(offered, "STARTTLS") || slices.Contains(offered, "LOGINDISABLED") || !slices.Contains(offered, "AUTH=PLAIN") {
			t.Errorf("with TLS: %q", offered)
		}
		c.says("b STARTTLS", "BAD")
		c.ok("c LOGIN alice@example.test secret")
		c.ok("d SELECT INBOX")
		c.ok("e LOGOUT")
	}
}

// TestStartTLSWithoutCertificate: a server that has none says so.
func TestStartTLSWithoutCertificate(t *testing.T) {
	b := newBench(t, nil)
	c := dial(t, b.listen(b.serve(func(c *Config) { c.TLS = nil }), ListenerOptions{PlainLogin: true}))
	c.line()
	if slices.Contains(c.capabilitiesOf(), "STARTTLS") {
		t.Error("STARTTLS is offered")
	}
	c.says("a STARTTLS", "NO [CANNOT]")
	c.ok("b LOGIN alice@example.test secret")
}

// TestStartTLSThatFails ends the connection: what comes is no command.
func TestStartTLSThatFails(t *testing.T) {
	c := dial(t, newBench(t, nil).plain)
	c.line()
	c.ok("a STARTTLS")
	c.send("b LOGIN alice@example.test secret\r\n")
	for line, err := c.tryLine(); err == nil; line, err = c.tryLine() {
		if strings.HasPrefix(line, "b ") {
			t.Errorf("it was answered: %q", line)
		}
	}
}
