package imapd

import (
	"net"
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
