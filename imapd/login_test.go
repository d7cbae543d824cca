package imapd

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"
)

// TestIdentities: the authorisation identity of AUTHENTICATE PLAIN may be written
// otherwise than the user (RFC 4616, section 2), and may not be another's.
func TestIdentities(t *testing.T) {
	b := newBench(t, nil)
	for _, tt := range []struct{ authzid, user, reply string }{
		{"", "alice@example.test", "OK"},
		{"alice@example.test", "alice@example.test", "OK"},
		{"ALICE@Example.Test", "alice@example.test", "OK"},
		{"alice@example.test", "Alice@EXAMPLE.test", "OK"},
		{"bob@example.test", "alice@example.test", "NO [AUTHORIZATIONFAILED]"},
		{"not an address", "alice@example.test", "NO [AUTHORIZATIONFAILED]"},
		{"alice@example.test", "not an address", "NO [AUTHORIZATIONFAILED]"},
	} {
		c := dial(t, b.plain)
		c.line()
		c.want("a AUTHENTICATE PLAIN "+base64.StdEncoding.EncodeToString([]byte(tt.authzid+"\x00"+tt.user+"\x00secret")), tt.reply)
	}
}

// TestChatterBeforeLogin: who says much and logs in never is cut off, and fills no
// log; who logs in may go on for ever.
func TestChatterBeforeLogin(t *testing.T) {
	var log bytes.Buffer
	b := newBench(t, func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	for _, chat := range []string{`ID ("name" "x")`, "ID NIL", "CAPABILITY", "NOOP", `LOGIN ""`, "NOSUCH"} {
		c := dial(t, b.plain)
		c.line()
		go io.WriteString(c.conn, strings.Repeat("a "+chat+"\r\n", 10*commandsMaxBefore))
		answers := 0
		for {
			line, err := c.tryLine()
			if err != nil || strings.HasPrefix(line, "* BYE [CLIENTBUG]") {
				break // what it has sent and nobody has read can cost it the BYE
			}
			if strings.HasPrefix(line, "a ") {
				answers++
			}
		}
		if answers > commandsMaxBefore {
			t.Errorf("%s was answered %d times, want at most %d", chat, answers, commandsMaxBefore)
		}
	}
	polite := dial(t, b.plain)
	polite.line()
	for range commandsMaxBefore {
		polite.ok("a NOOP")
	}
	polite.send("a NOOP\r\n")
	polite.wantBye("[CLIENTBUG] too many commands")
	for range 20 {
		c := dial(t, b.plain)
		c.line()
		for range 3 {
			c.ok(`a ID ("name" "x")`)
		}
		c.want("b LOGIN alice@example.test wrong", "NO [AUTHENTICATIONFAILED]")
		c.ok("c LOGIN alice@example.test secret")
		for range 2 * commandsMaxBefore {
			c.ok("d NOOP")
		}
		c.ok("e LOGOUT")
		c.tryLine()
	}
	if err := b.srv.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	// One line a connection, however often it repeats itself.
	for message, want := range map[string]int{"imap client": 21, "imap login refused": 20, `"imap login"`: 20} {
		if got := strings.Count(log.String(), message); got != want {
			t.Errorf("%q was logged %d times, want %d", message, got, want)
		}
	}
}

// TestRefusedBeforeTLS: a connection over a limit costs no handshake. Without TLS it
// hears why.
func TestRefusedBeforeTLS(t *testing.T) {
	for name, limit := range map[string]func(*Config){
		"too many connections from your address": func(c *Config) { c.Limits.PerIPMax = 1 },
		"too many connections":                   func(c *Config) { c.Limits.ConnectionsMax = 1 },
	} {
		b := newBench(t, limit)
		b.login("alice")
		dial(t, b.plain).wantBye("[UNAVAILABLE] " + name)
		conn, err := net.Dial("tcp", b.tls)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if got, _ := io.ReadAll(conn); len(got) != 0 { // it has sent no ClientHello, and waits for nobody's
			t.Errorf("%s: the port with TLS said %q", name, got)
		}
	}
}

// TestHandshakesAreBounded: of one client's silent connections the oldest go, and
// whoever speaks gets in beside them.
func TestHandshakesAreBounded(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Timeouts.Handshake = time.Minute })
	var silent []net.Conn
	for range handshakesPerIPMax + 1 {
		conn, err := net.Dial("tcp", b.tls)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		silent = append(silent, conn)
	}
	closed := make(chan struct{}, len(silent))
	for _, conn := range silent {
		go func() {
			conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := conn.Read(make([]byte, 1)); err == io.EOF || strings.Contains(fmt.Sprint(err), "reset") {
				closed <- struct{}{}
			}
		}()
	}
	<-closed
	oracleTLS(t, b)
}

// TestRefusedLeavesNothing: a refused connection is closed, and leaves no context
// behind at the server, however many come.
func TestRefusedLeavesNothing(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Limits.PerIPMax = 1 })
	b.login("alice")
	ours, theirs := net.Pipe()
	go io.Copy(io.Discard, ours)
	defer ours.Close()
	c := newSession(b.srv, theirs, "127.0.0.1")
	why := b.srv.register(c)
	if why == nil {
		t.Fatal("it was let in")
	}
	b.srv.refuse(c, why)
	if c.ctx.Err() == nil {
		t.Error("its context lives")
	}
	if _, err := theirs.Write(nil); err == nil {
		t.Error("it is open")
	}
}
