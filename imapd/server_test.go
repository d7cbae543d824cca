package imapd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// TestStoreDone: sessions of a store that is no longer the master's hear BYE,
// wherever they wait.
func TestStoreDone(t *testing.T) {
	b := newBench(t, nil)
	waiting, idle, selected := b.login("alice"), b.login("alice"), b.login("bob")
	idle.ok("a SELECT INBOX")
	idle.send("b IDLE\r\n")
	idle.until("+ ")
	selected.ok("a SELECT INBOX")
	b.store.Stop()
	waiting.wantBye("[UNAVAILABLE]")
	idle.wantBye("[UNAVAILABLE]")
	selected.wantBye("[UNAVAILABLE]")
}

// TestShutdown: BYE to all, and nothing is accepted any more.
func TestShutdown(t *testing.T) {
	b := newBench(t, nil)
	c, idle, fresh := b.login("alice"), b.login("alice"), dial(t, b.plain)
	fresh.line()
	idle.send("b IDLE\r\n")
	idle.until("+ ")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := b.srv.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	c.wantBye("[UNAVAILABLE]")
	idle.wantBye("[UNAVAILABLE]")
	fresh.wantBye("[UNAVAILABLE]")
	if _, err := net.Dial("tcp", b.plain); err == nil {
		t.Error("a server that is shut down still accepts")
	}
}

// TestShutdownStuckClient: a client that does not read cannot hold Shutdown up.
func TestShutdownStuckClient(t *testing.T) {
	b := newBench(t, nil)
	b.deliver("alice", "Subject: big\r\n\r\n"+strings.Repeat("x", 20<<20))
	c := b.login("alice")
	c.ok("a SELECT INBOX")
	c.send("b FETCH 1 BODY.PEEK[]\r\n")
	c.r.Peek(1) // it has begun
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := b.srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown = %v", err)
	}
}

func TestCaps(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Limits.PerUserMax = 2; c.Limits.PerIPMax = 4 })
	one, two := b.login("alice"), b.login("alice")
	c := dial(t, b.plain)
	c.line()
	c.want("a LOGIN alice@example.test secret", "NO [LIMIT]")
	c.ok("b LOGIN bob@example.test secret")
	dial(t, b.plain).line()
	dial(t, b.plain).wantBye("[UNAVAILABLE] too many connections from your address")
	one.ok("q LOGOUT")
	one.tryLine()
	two.ok("n NOOP")

	b = newBench(t, func(c *Config) { c.Limits.ConnectionsMax = 1 })
	b.login("alice")
	dial(t, b.plain).wantBye("[UNAVAILABLE] too many connections")
}

func TestTimeouts(t *testing.T) {
	b := newBench(t, func(c *Config) {
		c.Timeouts.PreLogin = 100 * time.Millisecond
		c.Timeouts.Idle = 200 * time.Millisecond
	})
	c := dial(t, b.plain)
	c.line()
	c.send("a LOG") // slow before login
	c.wantBye("autologout")
	idle := b.login("alice")
	idle.wantBye("autologout")
}

// panics is a store of which one method is broken.
type panics struct{ storage.Store }

func (panics) Names(context.Context, storage.AccountID, string, string, func(storage.NameEntry) error) error {
	panic("broken on purpose")
}

type panicsLogin struct{ *bench }

func (p panicsLogin) Login(ctx context.Context, user string, try storage.Attempt) (Grant, error) {
	g, err := p.bench.Login(ctx, user, try)
	g.Store = panics{g.Store}
	return g, err
}

// TestLaw09PanicEndsOneSession: the others go on.
func TestLaw09PanicEndsOneSession(t *testing.T) {
	b := newBench(t, nil)
	addr := b.listen(b.serve(func(c *Config) { c.Login = panicsLogin{b} }), ListenerOptions{PlainLogin: true})
	one, two := dial(t, addr), dial(t, addr)
	for _, c := range []*wireClient{one, two} {
		c.line()
		c.ok("a LOGIN alice@example.test secret")
	}
	one.send("b LSUB \"\" *\r\n")
	if line, err := one.tryLine(); err == nil {
		t.Errorf("the session went on: %q", line)
	}
	two.want("b NOOP", "OK")
}

// TestMemoryIdle measures what a selected session with TLS holds in this process
// while its client is silent, and in IDLE. The client's half is in it as well.
func TestMemoryIdle(t *testing.T) {
	if testing.Short() {
		t.Skip("measures memory")
	}
	const conns = 150
	b := newBench(t, func(c *Config) { c.Limits.PerUserMax = 2 * conns })
	b.deliverMany("alice", 3)
	measure := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse + m.StackInuse)
	}
	plain := measure()
	var clients []*wireClient
	for range conns {
		c := b.login("alice")
		c.ok("a SELECT INBOX")
		c.ok("b UID FETCH 1:* (FLAGS BODY.PEEK[])")
		c.r = nil
		clients = append(clients, c)
	}
	waiting := measure()
	for _, c := range clients {
		c.send("i IDLE\r\n")
	}
	buf := make([]byte, 64)
	for _, c := range clients {
		if n, err := c.conn.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "+ ") {
			t.Fatalf("IDLE: %q, %v", buf[:n], err)
		}
	}
	idle := measure()
	perWaiting, perIdle := (waiting-plain)/conns, (idle-plain)/conns
	t.Logf("without TLS: waiting %d bytes, IDLE %d bytes per connection (both ends)", perWaiting, perIdle)
	if perIdle > 25<<10 {
		t.Errorf("an idle connection without TLS holds %d bytes", perIdle)
	}
}

// TestClosedAccount: sessions of an account that is deleted or disabled, or has a
// new password, hear BYE, wherever they wait, passed on or not; other users' go on,
// and nobody gets in again.
func TestClosedAccount(t *testing.T) {
	b := newBench(t, nil)
	front := b.front(ListenerOptions{PlainLogin: true})
	for name, end := range map[string]func(storage.AccountID) error{
		"deleted":  func(id storage.AccountID) error { return b.store.DeleteAccount(t.Context(), id) },
		"disabled": func(id storage.AccountID) error { return b.store.SetDisabled(t.Context(), id, true) },
		"renewed":  func(id storage.AccountID) error { return b.store.SetPassword(t.Context(), id, "new") },
	} {
		bye := "[CONTACTADMIN]"
		if name == "renewed" {
			bye = "[EXPIRED]"
		}
		a, err := b.store.CreateAccount(t.Context(), slot.Address(name+"@example.test"), "secret", 0)
		if err != nil {
			t.Fatal(err)
		}
		b.users[name] = a
		b.deliver(name, "Subject: x\r\n\r\nx\r\n")
		waiting, idle, selected, bob := b.login(name), b.login(name), b.login(name), b.login("bob")
		far := dial(t, front)
		far.line()
		far.ok("a LOGIN " + name + "@example.test secret")
		idle.ok("a SELECT INBOX")
		idle.send("b IDLE\r\n")
		idle.until("+ ")
		selected.ok("a SELECT INBOX")
		bob.ok("a SELECT INBOX")
		if err := end(a.ID); err != nil {
			t.Fatal(err)
		}
		for _, c := range []*wireClient{waiting, idle, selected, far} {
			c.wantBye(bye)
		}
		bob.ok("b FETCH 1:* FLAGS")
		if _, err := b.store.Authenticate(t.Context(), a.ID, storage.Attempt{Password: "secret"}); err == nil {
			t.Errorf("%s: the password is still good", name)
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
	const silentMax = 10
	b := newBench(t, func(c *Config) {
		c.Timeouts.Handshake = time.Minute
		c.Limits.PerIPMax = helloShare * silentMax
	})
	var silent []net.Conn
	for range silentMax + 1 {
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
