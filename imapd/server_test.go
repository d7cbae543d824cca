package imapd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"mailnode/storage"
	"mailnode/storage/slot"
)

func itoa(n int) string { return strconv.Itoa(n) }

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

// TestReplyTo: each kind has its code, and wrapping does not matter.
func TestReplyTo(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{storage.ErrNotFound, "NO [NONEXISTENT]"},
		{fmt.Errorf("%w: %w", errTarget, storage.ErrNotFound), "NO [TRYCREATE]"},
		{storage.ErrExists, "NO [ALREADYEXISTS]"},
		{storage.ErrOverQuota, "NO [OVERQUOTA]"},
		{storage.ErrLimit, "NO [LIMIT]"},
		{storage.ErrTooBig, "NO [LIMIT]"},
		{storage.ErrInvalid, "NO [CANNOT]"},
		{storage.ErrAuth, "NO [AUTHENTICATIONFAILED]"},
		{storage.ErrUnavailable, "NO [UNAVAILABLE]"},
		{storage.ErrDiskFull, "NO [UNAVAILABLE]"},
		{storage.ErrCorrupt, "NO [UNAVAILABLE]"},
		{storage.ErrNotMaster, "BYE [UNAVAILABLE]"},
		{context.Canceled, "BYE [UNAVAILABLE]"},
		{context.DeadlineExceeded, "NO [UNAVAILABLE]"},
		{io.ErrClosedPipe, "NO [SERVERBUG]"},
		// Of two kinds: an account that is not there any more, or a node that doubts.
		{storage.Errorf(storage.ErrUnavailable, "%w", storage.ErrNotFound), "NO [UNAVAILABLE]"},
		{storage.Errorf(storage.ErrNotMaster, "%w", storage.ErrNotFound), "BYE [UNAVAILABLE]"},
		{storage.Errorf(storage.ErrUnavailable, "%w", storage.ErrAuth), "NO [UNAVAILABLE]"},
		{storage.ErrDiverged, "NO [UNAVAILABLE]"},
	} {
		r, bye := replyTo(storage.Errorf(tt.err, "do something: %w", tt.err))
		got := r.status + " [" + r.code + "]"
		if bye != nil {
			got = "BYE [" + bye.code + "]"
		}
		if got != tt.want {
			t.Errorf("%v is answered with %s, want %s", tt.err, got, tt.want)
		}
	}
	for kind, want := range map[error]error{storage.ErrAuth: storage.ErrAuth, storage.ErrLimit: storage.ErrLimit, storage.ErrNotMaster: storage.ErrUnavailable} {
		if back := peerError(storage.KindName(kind), "x"); !errors.Is(back, want) || errors.Is(back, storage.ErrNotMaster) {
			t.Errorf("%v came back from a peer as %v, want %v", kind, back, want)
		}
	}
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

// TestMbsync runs a real client in both directions.
func TestMbsync(t *testing.T) {
	bin, err := exec.LookPath("mbsync")
	if err != nil {
		t.Skip("SKIPPED: mbsync is not installed (apt-get install isync); no real client was tried")
	}
	b := newBench(t, nil)
	b.deliverMany("alice", 20)
	dir := t.TempDir()
	host, port, _ := net.SplitHostPort(b.plain)
	conf := fmt.Sprintf(`IMAPStore far
Host %s
Port %s
User alice@example.test
Pass secret
SSLType None
AuthMechs LOGIN

MaildirStore near
Path %s/
Inbox %s/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Both
Expunge Both
SyncState *
`, host, port, dir, dir)
	file := filepath.Join(dir, "mbsyncrc")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if out, err := exec.CommandContext(ctx, bin, "-c", file, "-a").CombinedOutput(); err != nil {
			t.Fatalf("mbsync: %v\n%s", err, out)
		}
	}
	run()
	got, err := filepath.Glob(dir + "/INBOX/*/*")
	if err != nil || len(got) != 20 {
		t.Fatalf("mbsync fetched %d messages, %v", len(got), err)
	}
	// Upwards: a new message, a new folder, and one that is deleted here.
	if err := os.WriteFile(dir+"/INBOX/new/1.2.3", []byte("Subject: up\n\nfrom here\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(got[0]); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"cur", "new", "tmp"} {
		os.MkdirAll(dir+"/Work/"+sub, 0o700)
	}
	run()
	run()
	c := b.login("alice")
	if found := c.ok("a SELECT INBOX"); !strings.Contains(strings.Join(found, "\n"), "* 20 EXISTS") {
		t.Errorf("after 20 - 1 + 1 messages: %q", found)
	}
	if found := c.ok("b SEARCH SUBJECT up"); found[0] != "* SEARCH 20" {
		t.Errorf("the message from below: %q", found)
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
