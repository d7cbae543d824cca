package imapd

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"mailnode/storage"
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

func TestFailedLogins(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Timeouts.BadLogin = 20 * time.Millisecond })
	c := dial(t, b.plain)
	c.line()
	began := time.Now()
	for range 3 {
		c.want("a LOGIN alice@example.test wrong", "NO [AUTHENTICATIONFAILED]")
	}
	if took := time.Since(began); took < 120*time.Millisecond {
		t.Errorf("three wrong passwords took %v, want at least 20+40+60 ms", took)
	}
	c.want("b LOGIN alice@example.test wrong", "NO [AUTHENTICATIONFAILED]")
	c.wantBye("too many failed logins")
}

// slowLogin changes the account between the proof of its password and the
// session's start.
type slowLogin struct {
	*bench
	change func(ctx context.Context, id storage.AccountID) error
}

func (p slowLogin) Login(ctx context.Context, user string, try storage.Attempt) (Grant, error) {
	g, err := p.bench.Login(ctx, user, try)
	return g, errors.Join(err, p.change(ctx, g.Account))
}

// TestClosedWhileLoggingIn: no session survives the new password or the deletion
// that it raced with.
func TestClosedWhileLoggingIn(t *testing.T) {
	b := newBench(t, nil)
	for _, tt := range []struct {
		user, bye string
		change    func(ctx context.Context, id storage.AccountID) error
	}{
		{"alice", "[EXPIRED]", func(ctx context.Context, id storage.AccountID) error { return b.store.SetPassword(ctx, id, "secret") }},
		{"bob", "[CONTACTADMIN]", b.store.DeleteAccount},
	} {
		c := dial(t, b.listen(b.serve(func(c *Config) { c.Login = slowLogin{b, tt.change} }), ListenerOptions{PlainLogin: true}))
		c.line()
		c.send("a LOGIN " + tt.user + "@example.test secret\r\n")
		c.wantBye(tt.bye)
	}
}

// TestExploitLiteralInLogin: a long literal is neither dropped nor read as an atom.
func TestExploitLiteralInLogin(t *testing.T) {
	b := newBench(t, nil)
	long := strings.Repeat("p", 5000)
	c := dial(t, b.plain)
	c.line()
	c.want("a LOGIN alice@example.test {5000+}\r\n"+long, "NO [AUTHENTICATIONFAILED]")
	c.want("b LOGIN {5000+}\r\n"+long+" secret", "NO [AUTHENTICATIONFAILED]")
	c.send("c LOGIN alice@example.test {5000}\r\n")
	c.until("+ ")
	c.send(long + "\r\n")
	c.until("c NO [AUTHENTICATIONFAILED]")
}

// failingLogin answers each user with an error of its own: "u3" has errs[3].
type failingLogin struct{ errs []error }

func (f failingLogin) Login(_ context.Context, user string, _ storage.Attempt) (Grant, error) {
	var i int
	if _, err := fmt.Sscanf(user, "u%d", &i); err != nil {
		return Grant{}, err
	}
	return Grant{}, f.errs[i]
}

// Each kind of error at a login, at the master and through a front node: only a
// refused password is a failed one, and nothing of ours makes a client believe
// that its user or the mail is gone (LAWS §7.4; RFC 5530, section 3).
func TestLaw07LoginFailsOnlyForTheUsersTrouble(t *testing.T) {
	of := func(kinds ...error) error {
		err := error(errors.New("log in"))
		for _, k := range kinds {
			err = storage.Errorf(k, "%w", err)
		}
		return err
	}
	cases := []struct {
		err   error
		here  string
		front string // "" is as here
	}{
		{of(storage.ErrAuth), "NO [AUTHENTICATIONFAILED]", ""},
		{of(storage.ErrAuth, storage.ErrUnavailable), "NO [UNAVAILABLE]", ""},
		{of(storage.ErrUnavailable, storage.ErrAuth), "NO [UNAVAILABLE]", ""},
		{of(storage.ErrNotFound), "NO [UNAVAILABLE]", ""},
		{of(storage.ErrNotFound, storage.ErrUnavailable), "NO [UNAVAILABLE]", ""},
		{of(storage.ErrUnavailable), "NO [UNAVAILABLE]", ""},
		{of(storage.ErrDiskFull), "NO [UNAVAILABLE]", ""},
		{of(storage.ErrCorrupt), "NO [UNAVAILABLE]", ""},
		{of(storage.ErrDiverged), "NO [UNAVAILABLE]", ""},
		{of(storage.ErrLimit), "NO [LIMIT]", ""},
		{of(storage.ErrNotMaster), "BYE [UNAVAILABLE]", "NO [UNAVAILABLE]"},
		{of(storage.ErrNotMaster, storage.ErrAuth), "BYE [UNAVAILABLE]", "NO [UNAVAILABLE]"},
		{context.DeadlineExceeded, "NO [UNAVAILABLE]", ""},
		{io.ErrUnexpectedEOF, "NO [SERVERBUG]", "NO [UNAVAILABLE]"},
	}
	var errs []error
	for _, c := range cases {
		errs = append(errs, c.err)
	}
	b := newBench(t, func(c *Config) { c.Login = failingLogin{errs} })
	front := b.front(ListenerOptions{PlainLogin: true})
	for i, tt := range cases {
		for at, want := range map[string]string{b.plain: tt.here, front: tt.front} {
			if want == "" {
				want = tt.here
			}
			c := dial(t, at)
			c.line()
			c.send(fmt.Sprintf("a LOGIN u%d pw\r\n", i))
			if got := c.line(); !strings.Contains(got, want) {
				t.Errorf("%v (front: %t): %q, want %s", tt.err, at == front, got, want)
			}
		}
	}
}

// TestLogin: the forms of a name and a password, and what refuses them all alike
// (RFC 3501, section 6.2.3; RFC 5530, section 3).
func TestLogin(t *testing.T) {
	b := newBench(t, nil)
	b.wantByState("LOGIN alice@example.test secret", byState{"OK [CAPABILITY IMAP4rev1 ", badState, badState, badState})
	b.wantByState("LOGIN alice@example.test", byState{badState, badState, badState, badState})
	b.wantByState("LOGIN alice@example.test secret x", byState{badState, badState, badState, badState})
	if err := b.store.SetPassword(t.Context(), b.users["bob"].ID, `p "w\ {3}`); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ arguments, want string }{
		{`"alice@example.test" "secret"`, "OK"},
		{"{18}\r\nalice@example.test {6}\r\nsecret", "OK"},
		{"{18+}\r\nalice@example.test {6+}\r\nsecret", "OK"},
		{"ALICE@Example.Test secret", "OK"},
		{`bob@example.test "p \"w\\ {3}"`, "OK"},
		{"bob@example.test {9+}\r\np \"w\\ {3}", "OK"},
		{"alice@example.test Secret", "NO [AUTHENTICATIONFAILED] user or password is wrong"},
		{"nobody@example.test secret", "NO [AUTHENTICATIONFAILED] user or password is wrong"},
		{`"" ""`, "NO [AUTHENTICATIONFAILED] user or password is wrong"},
		{`alice@example.test ""`, "NO [AUTHENTICATIONFAILED] user or password is wrong"},
		{"nomaster@example.test secret", "NO [UNAVAILABLE]"},
		{"(alice) secret", "BAD"},
		{"alice@example.test NIL", "NO [AUTHENTICATIONFAILED]"}, // an atom, no value
	} {
		c := dial(t, b.plain)
		c.line()
		c.want("a LOGIN "+tt.arguments, tt.want)
		if tt.want != "OK" { // a refusal costs the session nothing but time
			c.want("b LOGIN alice@example.test secret", "OK")
		}
		c.ok("c SELECT INBOX")
		c.conn.Close()
	}
}

// TestAuthenticate: the exchange of RFC 3501, section 6.2.2, with PLAIN (RFC 4616),
// and with an initial response (RFC 4959).
func TestAuthenticate(t *testing.T) {
	b := newBench(t, nil)
	encoded := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	good := encoded("\x00alice@example.test\x00secret")
	b.wantByState("AUTHENTICATE PLAIN "+good, byState{"OK [CAPABILITY IMAP4rev1 ", badState, badState, badState})
	for _, tt := range []struct{ command, response, want string }{
		{"PLAIN", good, "OK"},
		{"plain", good, "OK"},
		{"PLAIN", "*", "BAD"}, // cancelled
		{"PLAIN", "", "BAD"},
		{"PLAIN", "=", "BAD"},
		{"PLAIN", "not base64!", "BAD"},
		{"PLAIN", good + " ", "BAD"},
		{"PLAIN", encoded("alice@example.test\x00secret"), "BAD"},
		{"PLAIN", encoded("\x00alice@example.test\x00secret\x00more"), "BAD"},
		{"PLAIN", encoded("\x00alice@example.test\x00wrong"), "NO [AUTHENTICATIONFAILED]"},
		{"PLAIN", encoded("\x00nomaster@example.test\x00x"), "NO [UNAVAILABLE]"},
		{"PLAIN " + good, "", "OK"},
		{"PLAIN =", "", "BAD"}, // empty
		{"PLAIN *", "", "BAD"},
		{"PLAIN " + good + " x", "", "BAD"},
		{"", "", "BAD"},
		{"CRAM-MD5", "", "NO [CANNOT]"},
		{"XOAUTH2 " + good, "", "NO [CANNOT]"},
	} {
		c := dial(t, b.plain)
		c.line()
		c.send("a AUTHENTICATE " + tt.command + "\r\n")
		if tt.command == "PLAIN" || tt.command == "plain" {
			if got := c.line(); got != "+ " {
				t.Errorf("the challenge of PLAIN is %q, want an empty one", got)
			}
			c.send(tt.response + "\r\n")
		}
		if got := c.line(); !strings.HasPrefix(got, "a "+tt.want) {
			t.Errorf("AUTHENTICATE %s, %q: %q, want %s", tt.command, tt.response, got, tt.want)
		}
		if tt.want != "OK" {
			c.want("b LOGIN alice@example.test secret", "OK")
		}
		c.ok("c SELECT INBOX")
		c.conn.Close()
	}
}
