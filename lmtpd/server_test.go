package lmtpd

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"mailnode/storage"
	"mailnode/storage/slot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mailbag is the node of these tests: it keeps what is delivered. The user's
// name says what happens to the mail.
type mailbag struct {
	mu      sync.Mutex
	kept    []kept
	deliver func(ctx context.Context, to []Recipient) []error // when set, instead of keeping
}

type kept struct {
	body string
	guid slot.GUID
	date time.Time
	to   []Recipient
}

func (m *mailbag) Resolve(_ context.Context, a slot.Address, bytes int64) (Recipient, error) {
	at := strings.LastIndexByte(string(a), '@')
	user, domain := string(a[:at]), a[at+1:]
	if domain != "example.org" {
		return Recipient{}, storage.Errorf(storage.ErrNotFound, "find address %q: unknown", a)
	}
	accounts := map[string]Recipient{
		"u1": {Account: 1, Slot: 0}, "narrow": {Account: 14}, "alias1": {Account: 1, Slot: 0}, "u2": {Account: 2, Slot: 1}, "u3": {Account: 3, Slot: 1},
		"full": {Account: 4}, "gone": {Account: 5}, "nodisk": {Account: 6}, "broken": {Account: 7}, "moved": {Account: 8},
		"big": {Account: 9}, "u1+own": {Account: 10}, "jürgen": {Account: 11}, "notmaster": {Account: 12}, `"john smith"`: {Account: 13},
	}
	switch user {
	case "down", "down+x":
		return Recipient{}, storage.Errorf(storage.ErrUnavailable, "find address %q: slot s003 has no master", a)
	case "lost":
		return Recipient{}, storage.Errorf(storage.ErrNotMaster, "find address %q: open loss", a)
	case "bug":
		panic("resolve")
	}
	if user == "narrow" && bytes > 1000 || user == "fullyet" {
		return Recipient{}, storage.Errorf(storage.ErrOverQuota, "account %q", a)
	}
	r, ok := accounts[user]
	if !ok {
		return Recipient{}, storage.Errorf(storage.ErrNotFound, "find address %q: unknown", a)
	}
	return r, nil
}

func (m *mailbag) Deliver(ctx context.Context, b storage.Body, date time.Time, to []Recipient) []error {
	if m.deliver != nil {
		return m.deliver(ctx, to)
	}
	text := make([]byte, b.Size())
	if _, err := b.ReadAt(text, 0); err != nil && err != io.EOF {
		return fill(len(to), err)
	}
	fates := map[storage.AccountID]error{
		4: storage.ErrOverQuota, 5: storage.ErrNotFound, 6: storage.ErrDiskFull, 7: errors.New("who knows"),
		8: storage.ErrUnavailable, 9: storage.ErrTooBig, 12: storage.ErrNotMaster,
	}
	errs := make([]error, len(to))
	var k kept
	for i, r := range to {
		if errs[i] = fates[r.Account]; errs[i] == nil {
			k.to = append(k.to, r)
		}
	}
	k.body, k.guid, k.date = string(text), b.GUID(), date
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(k.to) > 0 {
		m.kept = append(m.kept, k)
	}
	return errs
}

func (m *mailbag) all() []kept {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]kept(nil), m.kept...)
}

type harness struct {
	*Server
	bag    *mailbag
	fs     vfs.FS
	addr   string
	served chan error
}

// serve starts a server on a TCP port of the loopback and ends it with the test.
func serve(t *testing.T, change func(*Config)) *harness {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, l, change)
}

func serveOn(t *testing.T, l net.Listener, change func(*Config)) *harness {
	t.Helper()
	h := &harness{bag: &mailbag{}, fs: vfs.NewMem(), addr: l.Addr().String(), served: make(chan error, 1)}
	if err := h.fs.MkdirAll("spool", 0o700); err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Hostname: "mx.example.org", Mail: h.bag, Spool: &storage.SpoolDir{FS: h.fs, Dir: "spool"},
		Logger: slog.New(slog.DiscardHandler), MessageBytesMax: 1 << 20, Postmaster: "u3@example.org",
		Now: func() time.Time { return time.Date(2026, 11, 21, 3, 31, 7, 0, time.UTC) },
	}
	if change != nil {
		change(&cfg)
	}
	h.Server = New(cfg)
	go func() { h.served <- h.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if !h.isLeaving() {
			if err := h.Shutdown(ctx); err != nil {
				t.Error(err)
			}
		}
		if err := <-h.served; err != nil {
			t.Error(err)
		}
		if left, err := h.fs.List("spool"); err != nil || len(left) > 0 {
			t.Errorf("spool after the test: %q, %v; want it empty", left, err)
		}
	})
	return h
}

// client speaks LMTP and fails its test when the connection does not do as told.
type client struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

func dial(t *testing.T, network, addr string) *client {
	t.Helper()
	nc, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	return &client{t: t, Conn: nc, in: bufio.NewReader(nc)}
}

// greeted is a connection after LHLO.
func (h *harness) greeted(t *testing.T) *client {
	t.Helper()
	c := dial(t, "tcp", h.addr)
	c.want("220")
	c.send("LHLO client.example")
	c.want("250")
	return c
}

func (c *client) send(lines ...string) {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, strings.Join(lines, "\r\n")+"\r\n"); err != nil {
		c.t.Fatal(err)
	}
}

// reply returns one reply's lines, "" at the connection's end.
func (c *client) reply() string {
	var all strings.Builder
	for {
		line, err := c.in.ReadString('\n')
		all.WriteString(line)
		if err != nil || len(line) < 4 || line[3] != '-' {
			return all.String()
		}
	}
}

// want reads a reply for each prefix.
func (c *client) want(prefixes ...string) (last string) {
	c.t.Helper()
	for _, p := range prefixes {
		last = c.reply()
		if !strings.HasPrefix(last, p) || last == "" {
			c.t.Fatalf("reply %q, want %q", last, p)
		}
	}
	return last
}

func (c *client) wantEnd() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.in); len(rest) > 0 {
		c.t.Fatalf("got %q (%v), want the connection's end", rest, err)
	}
}

func certificate(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"mx.example.org"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

func unixListener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "lmtp"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}
