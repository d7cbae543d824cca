package imapd

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"mailnode/imapd/wire"
	"mailnode/storage"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a store on a file system in memory, and a server over it.
type bench struct {
	t      testing.TB
	store  *local.Master
	spool  *storage.SpoolDir
	srv    *Server
	plain  string // address where LOGIN without TLS is allowed
	strict string // where it is not
	tls    string // implicit TLS
	cert   *tls.Config
	users  map[string]storage.Account
	auth   Authenticator
}

// fixedWall makes dates come out the same each time.
func fixedWall() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func newBench(t testing.TB, adjust func(*Config)) *bench {
	t.Helper()
	b := &bench{t: t, users: map[string]storage.Account{}}
	fs := vfs.NewMem()
	b.spool = &storage.SpoolDir{FS: fs, Dir: "/"}
	quiet := slog.New(slog.DiscardHandler)
	res := local.NewResources(8 << 20)
	t.Cleanup(res.Close)
	clock := storage.SystemClock()
	clock.Wall = fixedWall
	sl, err := local.Open(local.Options{FS: fs, Dir: "/s007", Cluster: "test", Slot: 7, Logger: quiet, Clock: clock,
		Resources: res, Passwords: local.NewPasswords(2)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sl.Close() })
	if b.store, err = sl.Serve(context.Background(), 1, 0, local.NoGate{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.store.Stop)
	for _, name := range []string{"alice", "bob"} {
		a, err := b.store.CreateAccount(context.Background(), slot.Address(name+"@example.test"), "secret", 0)
		if err != nil {
			t.Fatal(err)
		}
		b.users[name] = a
	}
	b.auth = b
	b.cert = testTLS(t)
	b.srv = b.serve(adjust)
	b.plain = b.listen(b.srv, ListenerOptions{PlainLogin: true})
	b.strict = b.listen(b.srv, ListenerOptions{})
	b.tls = b.listen(b.srv, ListenerOptions{ImplicitTLS: true})
	return b
}

func (b *bench) serve(adjust func(*Config)) *Server {
	cfg := Config{Hostname: "mail.example.test", TLS: b.cert, Spool: b.spool, Login: b.auth,
		Timeouts: Timeouts{BadLogin: time.Millisecond}}
	if adjust != nil {
		adjust(&cfg)
	}
	srv := New(cfg)
	b.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		srv.Shutdown(ctx)
	})
	return srv
}

func (b *bench) listen(srv *Server, o ListenerOptions) string {
	b.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { srv.Serve(ln, o); close(done) }()
	b.t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

// Login implements Authenticator over the one store.
func (b *bench) Login(ctx context.Context, user string, try storage.Attempt) (Grant, error) {
	name, _, _ := strings.Cut(strings.ToLower(user), "@")
	if name == "nomaster" {
		return Grant{}, storage.Errorf(storage.ErrUnavailable, "no master")
	}
	a, ok := b.users[name]
	if !ok {
		return Grant{}, storage.Errorf(storage.ErrAuth, "unknown user")
	}
	proved, err := b.store.Authenticate(ctx, a.ID, try)
	return Grant{b.store, a.ID, proved}, err
}

func (b *bench) body(text string) *storage.Spool {
	sp := b.spool.New()
	io.WriteString(sp, text)
	return sp
}

func crlf(text string) string { return strings.ReplaceAll(text, "\n", "\r\n") }

func (b *bench) deliver(user, text string) {
	b.t.Helper()
	a := b.users[user]
	for _, err := range b.store.Deliver(context.Background(), storage.Delivery{Body: b.body(text), InternalDate: fixedWall(),
		Recipients: []storage.Recipient{{Account: a.ID, Address: a.Address}}}) {
		if err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bench) deliverMany(user string, n int) {
	for i := range n {
		b.deliver(user, fmt.Sprintf("From: a@example.test\r\nSubject: number %d\r\n\r\nbody %d\r\n", i+1, i+1))
	}
}

func testTLS(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// wireClient speaks raw IMAP.
type wireClient struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

func dial(t testing.TB, addr string) *wireClient {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return newWireClient(t, conn)
}

func newWireClient(t testing.TB, conn net.Conn) *wireClient {
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return &wireClient{t: t, conn: conn, r: bufio.NewReader(conn)}
}

// login dials, reads the greeting and logs in.
func (b *bench) login(user string) *wireClient {
	b.t.Helper()
	c := dial(b.t, b.plain)
	c.line()
	c.ok("l LOGIN " + user + "@example.test secret")
	return c
}

func (c *wireClient) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, s); err != nil {
		c.t.Fatal(err)
	}
}

// line reads one response, with its literals.
func (c *wireClient) line() string {
	c.t.Helper()
	s, err := c.tryLine()
	if err != nil {
		c.t.Fatalf("read response: %v after %q", err, s)
	}
	return s
}

func (c *wireClient) tryLine() (string, error) {
	var out strings.Builder
	for {
		line, err := c.r.ReadString('\n')
		out.WriteString(line)
		if err != nil {
			return out.String(), err
		}
		var n int64
		if i := strings.LastIndexByte(line, '{'); i < 0 || !strings.HasSuffix(line, "}\r\n") {
			return strings.TrimSuffix(out.String(), "\r\n"), nil
		} else if _, err := fmt.Sscanf(line[i:], "{%d}", &n); err != nil {
			return out.String(), err
		}
		if _, err := io.CopyN(&out, c.r, n); err != nil {
			return out.String(), err
		}
	}
}

// until reads up to and with the line that begins with prefix.
func (c *wireClient) until(prefix string) []string {
	c.t.Helper()
	var out []string
	for {
		line := c.line()
		out = append(out, line)
		if strings.HasPrefix(line, prefix) {
			return out
		}
	}
}

// cmd sends a command and returns all up to its tagged response.
func (c *wireClient) cmd(text string) []string {
	c.t.Helper()
	c.send(text + "\r\n")
	tag, _, _ := strings.Cut(text, " ")
	return c.until(tag + " ")
}

func (c *wireClient) ok(text string) []string {
	c.t.Helper()
	out := c.cmd(text)
	if last := out[len(out)-1]; !strings.Contains(last, " OK ") {
		c.t.Fatalf("%s: %s", text, strings.Join(out, "\n"))
	}
	return out[:len(out)-1]
}

// want sends a command whose tagged response must begin so (without the tag).
func (c *wireClient) want(text, reply string) {
	c.t.Helper()
	out := c.cmd(text)
	_, got, _ := strings.Cut(out[len(out)-1], " ")
	if !strings.HasPrefix(got, reply) {
		c.t.Errorf("%.100s: got %q, want %q", text, got, reply)
	}
}

// says sends a command whose untagged responses must be all but the last of want,
// in order, and whose tagged one must begin with the last (without the tag).
func (c *wireClient) says(text string, want ...string) {
	c.t.Helper()
	got := c.cmd(text)
	last := len(want) - 1
	if n := len(got) - 1; n == last {
		_, got[n], _ = strings.Cut(got[n], " ")
		if strings.HasPrefix(got[n], want[n]) {
			got[n] = want[n]
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		c.t.Errorf("%.100s: (-want +got)\n%s", text, diff)
	}
}

// byState is what a command is answered with before the login, behind it, and
// with a mailbox open by SELECT and by EXAMINE (RFC 3501, section 3).
type byState struct{ before, behind, selected, examined string }

const badState = "BAD" // not in this state

// wantByState sends a command in each state, as alice, to a session of its own.
func (b *bench) wantByState(command string, want byState) {
	b.t.Helper()
	for _, tt := range []struct{ how, open, want string }{
		{"before login", "", want.before}, {"logged in", "", want.behind},
		{"selected", "s SELECT INBOX", want.selected}, {"examined", "s EXAMINE INBOX", want.examined},
	} {
		c := dial(b.t, b.plain)
		c.line()
		if tt.how != "before login" {
			c.ok("l LOGIN alice@example.test secret")
		}
		if tt.open != "" {
			c.ok(tt.open)
		}
		got := c.cmd("a " + command)
		if answer := got[len(got)-1]; !strings.HasPrefix(answer, "a "+tt.want) {
			b.t.Errorf("%s, %s: %q, want %s", tt.how, command, answer, tt.want)
		}
		c.conn.Close()
	}
}

// pair opens two sessions of alice's with INBOX selected.
func (b *bench) pair() (one, two *wireClient) {
	b.t.Helper()
	one, two = b.login("alice"), b.login("alice")
	one.ok("s SELECT INBOX")
	two.ok("s SELECT INBOX")
	return one, two
}

// status asks for one number of a mailbox.
func (c *wireClient) status(mailbox, item string) (n int) {
	c.t.Helper()
	got := c.ok("st STATUS " + mailbox + " (" + item + ")")
	at := strings.LastIndex(got[0], "("+item+" ")
	if len(got) != 1 || at < 0 {
		c.t.Fatalf("STATUS %s (%s): %q", mailbox, item, got)
	}
	if _, err := fmt.Sscanf(got[0][at:], "("+item+" %d)", &n); err != nil {
		c.t.Fatalf("STATUS %s (%s): %q, %v", mailbox, item, got, err)
	}
	return n
}

// names lists the mailboxes that a pattern matches.
func (c *wireClient) names(pattern string) (names []string) {
	c.t.Helper()
	for _, line := range c.ok(`ls LIST "" ` + pattern) {
		_, name, _ := strings.Cut(line, ` "/" `)
		names = append(names, name)
	}
	return names
}

// wantBye reads to the end of the connection; its last line must be BYE with code.
func (c *wireClient) wantBye(code string) {
	c.t.Helper()
	last := ""
	for {
		line, err := c.tryLine()
		if err != nil {
			break
		}
		last = line
	}
	if !strings.HasPrefix(last, "* BYE "+code) {
		c.t.Errorf("the connection ended with %q, want BYE %s", last, code)
	}
}

func newTestDecoder(text string) *wire.Decoder { return wire.NewDecoder([]byte(text)) }

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

func newTestWriter(sent func(p []byte)) *wire.Writer {
	return wire.NewWriter(writerFunc(sent), wire.NewBuffers(wire.WriterBufferBytes))
}

func itoa(n int) string { return strconv.Itoa(n) }

// heapBytes is what lives now.
func heapBytes() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func (b *bench) makeMailboxes(user string, names ...string) {
	b.t.Helper()
	for _, n := range names {
		if _, err := b.store.CreateMailbox(context.Background(), b.users[user].ID, n, ""); err != nil {
			b.t.Fatal(err)
		}
	}
}
