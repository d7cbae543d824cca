package lmtpd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"mailnode/storage"
	"mailnode/storage/slot"
)

func startTLS(c *client) *client {
	tc := tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true})
	return &client{t: c.t, Conn: tc, in: bufio.NewReader(tc)}
}

// The 250 comes after Deliver has said that law 1 holds, not before.
func TestLaw01ReplyWaitsForDeliver(t *testing.T) {
	h := serve(t, nil)
	entered, release := make(chan struct{}), make(chan struct{})
	h.bag.deliver = func(_ context.Context, to []Recipient) []error {
		close(entered)
		<-release
		return make([]error, len(to))
	}
	c := h.greeted(t)
	c.send("MAIL FROM:<a@example.net>", "RCPT TO:<u1@example.org>", "DATA", "Subject: x\r\n\r\n.")
	c.want("250", "250", "354")
	<-entered
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if b, err := c.in.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("heard %q, %v before the message was durable", b, err)
	}
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	close(release)
	c.want("250 2.1.5 <u1@example.org>")
}

func TestDeliverIsDistrusted(t *testing.T) {
	for name, deliver := range map[string]func(context.Context, []Recipient) []error{
		"panic":   func(context.Context, []Recipient) []error { panic("deliver") },
		"too few": func(context.Context, []Recipient) []error { return []error{nil} },
		"none":    func(context.Context, []Recipient) []error { return nil },
		"late":    func(ctx context.Context, to []Recipient) []error { <-ctx.Done(); return fill(len(to), ctx.Err()) },
		"both kinds": func(_ context.Context, to []Recipient) []error {
			return fill(len(to), errors.Join(storage.ErrNotFound, storage.ErrUnavailable))
		},
		"other kinds": func(_ context.Context, to []Recipient) []error {
			return []error{storage.ErrCorrupt, storage.ErrDiverged}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := serve(t, func(c *Config) { c.Timeouts.Mail = 50 * time.Millisecond })
			h.bag.deliver = deliver
			c := h.greeted(t)
			c.send("MAIL FROM:<a@example.net>", "RCPT TO:<u1@example.org>", "RCPT TO:<u2@example.org>", "DATA", "\r\n.")
			c.want("250", "250", "250", "354", "451 4.3.0 <u1@example.org>", "451 4.3.0 <u2@example.org>")
			c.send("QUIT")
			c.want("221")
		})
	}
}

func TestTLS(t *testing.T) {
	h := serve(t, func(c *Config) { c.TLS = certificate(t) })
	c := h.greeted(t)
	c.send("STARTTLS")
	c.want("220 2.0.0")
	c = startTLS(c)
	c.send("MAIL FROM:<a@example.net>") // RFC 3207, section 4.2: all was forgotten
	c.want("503")
	c.send("LHLO client.example")
	if got := c.reply(); strings.Contains(got, "STARTTLS") || strings.Contains(got, "CHUNKING") {
		t.Errorf("LHLO inside TLS: %q", got)
	}
	c.send("STARTTLS", "MAIL FROM:<a@example.net>", "RCPT TO:<u1@example.org>", "DATA", "Subject: x\r\n\r\n.", "QUIT")
	c.want("502", "250", "250", "354", "250 2.1.5", "221")
	if got := h.bag.all()[0].body; !strings.Contains(got, " with LMTPS id ") {
		t.Errorf("stored %q", got)
	}
}

func TestConnectionBrokenInsideMessage(t *testing.T) {
	h := serve(t, nil)
	for _, text := range []string{"", "Subject: x\r\n\r\nhalf a li", "Subject: x\r\n\r\n.", "X: " + strings.Repeat("y", 800<<10) + "\r\n.\r"} {
		c := h.greeted(t)
		c.send("MAIL FROM:<a@example.net>", "RCPT TO:<u1@example.org>", "DATA")
		c.want("250", "250", "354")
		io.WriteString(c, text)
		c.Conn.(*net.TCPConn).CloseWrite()
		c.want("451 4.3.0")
		io.Copy(io.Discard, c.in)
	}
	if got := h.bag.all(); len(got) > 0 {
		t.Errorf("stored %+v, want nothing", got)
	}
}

func TestSlowClientIsCutOff(t *testing.T) {
	h := serve(t, func(c *Config) { c.Timeouts.Read = 50 * time.Millisecond })
	idle := dial(t, "tcp", h.addr)
	idle.want("220", "421 4.4.2")
	idle.wantEnd()
	c := h.greeted(t)
	c.send("MAIL FROM:<a@example.net>", "RCPT TO:<u1@example.org>", "DATA", "Subject: never ends")
	c.want("250", "250", "354", "451 4.3.0 <u1@example.org>", "421 4.4.2")
	c.wantEnd()
	if got := h.bag.all(); len(got) > 0 {
		t.Errorf("stored %+v, want nothing", got)
	}
}

func TestLargeMessageGoesThroughSpoolFile(t *testing.T) {
	h := serve(t, nil)
	c := h.greeted(t)
	text := strings.Repeat(strings.Repeat("z", 76)+"\r\n", 10_000)
	c.send("MAIL FROM:<a@example.net> SIZE=780018", "RCPT TO:<u1@example.org>", "DATA", "Subject: x", "", text+".")
	c.want("250", "250", "354", "250 2.1.5")
	k := h.bag.all()[0]
	if !strings.HasSuffix(k.body, text) || k.guid != slot.SumGUID([]byte(k.body)) {
		t.Errorf("stored %d bytes, GUID %s, want %s; ends as sent: %v", len(k.body), k.guid, slot.SumGUID([]byte(k.body)), strings.HasSuffix(k.body, text))
	}
}

func TestSpoolOnBrokenDisk(t *testing.T) {
	h := serve(t, func(c *Config) {
		c.Spool = &storage.SpoolDir{FS: errorfs.Wrap(vfs.NewMem(), errorfs.ErrInjected.If(errorfs.Writes)), Dir: "", LargeBytesMax: -1}
	})
	c := h.greeted(t)
	text := strings.Repeat(strings.Repeat("z", 76)+"\r\n", 10_000)
	c.send("MAIL FROM:<a@example.net>", "RCPT TO:<u1@example.org>", "DATA", "Subject: x", "", text+".", "NOOP")
	c.want("250", "250", "354", "451 4.3.0 <u1@example.org>", "250 2.0.0")
}

func TestWhoMayConnect(t *testing.T) {
	var refused atomic.Int64
	elsewhere := func(c *Config) {
		c.Allow = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		c.Metrics.Refused = func(reason string) {
			if reason == RefusedAddress {
				refused.Add(1)
			}
		}
	}
	h := serve(t, elsewhere)
	c := dial(t, "tcp", h.addr)
	c.want("421 4.7.1")
	c.wantEnd()
	if refused.Load() != 1 {
		t.Errorf("refused %d, want 1", refused.Load())
	}
	u := serveOn(t, unixListener(t), elsewhere)
	dial(t, "unix", u.addr).want("220")

	for addr, want := range map[string]bool{"192.0.2.9": true, "::ffff:192.0.2.9": true, "192.0.3.1": false, "127.0.0.1": false, "2001:db8::1": false} {
		if got := h.allowed(&net.TCPAddr{IP: net.ParseIP(addr)}); got != want {
			t.Errorf("allowed(%s): got %v, want %v", addr, got, want)
		}
	}
	for addr, want := range map[string]bool{"192.0.2.9": false, "127.0.0.2": true, "::1": true} {
		if got := New(Config{}).allowed(&net.TCPAddr{IP: net.ParseIP(addr)}); got != want {
			t.Errorf("allowed(%s) without a list: got %v, want %v", addr, got, want)
		}
	}
}

func TestConnectionCap(t *testing.T) {
	open := make(chan int, 10)
	h := serve(t, func(c *Config) {
		c.ConnectionsMax = 1
		c.TLS = certificate(t)
		c.Metrics.Connections = func(d int) { open <- d }
	})
	first := h.greeted(t)
	second := dial(t, "tcp", h.addr)
	second.want("421 4.3.2")
	second.wantEnd()
	first.send("STARTTLS") // keeps its place, and one only
	first.want("220")
	first = startTLS(first)
	first.send("LHLO again.example")
	first.want("250")
	dial(t, "tcp", h.addr).want("421 4.3.2")
	first.send("QUIT")
	first.want("221")
	first.Close()
	if a, b := <-open, <-open; a != 1 || b != -1 {
		t.Errorf("connections counted %d, %d", a, b)
	}
	h.greeted(t)
}

// A client that takes all places of its address leaves those of others, and of
// the unix socket.
func TestPlacesPerAddress(t *testing.T) {
	refused := make(chan string, 10)
	limits := func(c *Config) {
		c.ConnectionsMax, c.PerIPMax = 4, 2
		c.Metrics.Refused = func(reason string) { refused <- reason }
	}
	h := serve(t, limits)
	from := func(ip string) *client {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		nc, err := d.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		return &client{t: t, Conn: nc, in: bufio.NewReader(nc)}
	}
	first, second := from("127.0.0.1"), from("127.0.0.1")
	first.want("220")
	second.want("220")
	third := from("127.0.0.1")
	third.want("421 4.3.2")
	third.wantEnd()
	from("127.0.0.2").want("220")
	from("127.0.0.3").want("220")
	last := from("127.0.0.4") // over the limit of all
	last.want("421 4.3.2")
	last.wantEnd()
	if a, b := <-refused, <-refused; a != RefusedPerIP || b != RefusedConnections {
		t.Errorf("refused for %q, then for %q", a, b)
	}

	u := unixListener(t)
	served := make(chan error, 1)
	go func() { served <- h.Serve(u) }()
	for range 4 {
		dial(t, "unix", u.Addr().String()).want("220")
	}
	over := dial(t, "unix", u.Addr().String())
	over.want("421 4.3.2")
	over.wantEnd()

	second.send("QUIT")
	second.want("221")
	second.wantEnd()
	from("127.0.0.1").want("220")
	if err := h.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if len(h.taken) != 0 {
		t.Errorf("places taken after all have left: %v", h.taken)
	}
}

func TestPostmasterIsRefusedClearly(t *testing.T) {
	h := serve(t, func(c *Config) { c.Postmaster = "" })
	c := h.greeted(t)
	c.send("MAIL FROM:<>", "RCPT TO:<postmaster>", "RCPT TO:<postmaster@example.org>")
	c.want("250", "550 5.1.1 nobody takes mail for <postmaster> without a domain", "550 5.1.1 no such user")
}

func TestShutdownWaitsForTransactions(t *testing.T) {
	h := serve(t, nil)
	idle, busy := h.greeted(t), h.greeted(t)
	busy.send("MAIL FROM:<a@example.net>", "RCPT TO:<u1@example.org>", "DATA")
	busy.want("250", "250", "354")
	done := make(chan error, 1)
	go func() { done <- h.Shutdown(context.Background()) }()
	idle.want("421 4.3.2")
	idle.wantEnd()
	if nc, err := net.Dial("tcp", h.addr); err == nil {
		nc.Close()
		t.Error("the listener still accepts")
	}
	select {
	case err := <-done:
		t.Fatalf("Shutdown returned %v inside a transaction", err)
	default:
	}
	// The message is taken; what was pipelined behind it is not.
	busy.send("Subject: x\r\n\r\n.", "MAIL FROM:<a@example.net>")
	busy.want("250 2.1.5", "421 4.3.2")
	busy.wantEnd()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := len(h.bag.all()); got != 1 {
		t.Errorf("%d messages stored, want 1", got)
	}
	if err := h.Shutdown(context.Background()); err == nil {
		t.Error("a second Shutdown succeeded")
	}
}

func TestShutdownCutsOff(t *testing.T) {
	h := serve(t, func(c *Config) { c.TLS = certificate(t) })
	entered := make(chan struct{})
	ended := make(chan error, 1)
	h.bag.deliver = func(ctx context.Context, to []Recipient) []error {
		close(entered)
		<-ctx.Done()
		ended <- ctx.Err()
		return fill(len(to), ctx.Err())
	}
	stuck, secret := h.greeted(t), h.greeted(t)
	secret.send("STARTTLS")
	secret.want("220")
	stuck.send("MAIL FROM:<a@example.net>", "RCPT TO:<u1@example.org>", "DATA", "\r\n.")
	stuck.want("250", "250", "354")
	<-entered
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := h.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v, want the deadline", err)
	}
	if err := <-ended; err == nil {
		t.Error("Deliver was not cancelled")
	}
	if got := stuck.reply(); strings.HasPrefix(got, "2") {
		t.Errorf("the client heard %q", got)
	}
}

func TestServeReturnsListenerTrouble(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	s := New(Config{})
	if err := s.Serve(l); err == nil || !strings.HasPrefix(err.Error(), "accept LMTP connections on ") {
		t.Errorf("Serve on a closed listener: %v", err)
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}

// Replies to pipelined commands leave together (RFC 2920, section 3.2).
func TestPipelinedReplies(t *testing.T) {
	h := serve(t, nil)
	c := h.greeted(t)
	c.send("MAIL FROM:<a@example.net>", "RCPT TO:<u1@example.org>", "RCPT TO:<u2@example.org>", "DATA")
	c.want("250")
	if got := strings.Count(string(must(c.in.Peek(c.in.Buffered()))), "\r\n"); got != 3 {
		t.Errorf("%d more replies came with the first, want 3", got)
	}
	c.want("250", "250", "354")
	c.send(".")
	c.want("250", "250")
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}
